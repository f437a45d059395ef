"""Campaigns: one function called for many pieces of work, on all cores or on a cluster, stopped and resumed at will.

``run(plan)`` is the whole interface. A `Plan` names a function and the arguments of each call; results are plain data
(what JSON can hold) and go to a file as they come, so a campaign that was stopped (Ctrl-C, a crash, the machine) goes on
where it was. Pieces run in processes: an embedded Dask cluster of this machine's cores, somebody's Dask scheduler, or, for
one worker, in this process.

It knows nothing of what it runs and imports nothing of the project but its version.
"""

from unpinned.campaign.executors import CampaignError
from unpinned.campaign.record import RecordError
from unpinned.campaign.runner import Plan, Report, run

__all__ = ["CampaignError", "Plan", "RecordError", "Report", "run"]
