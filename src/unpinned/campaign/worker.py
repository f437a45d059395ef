"""What a worker of the embedded cluster does first: leave Ctrl-C to the process that started it.

A terminal sends SIGINT to every process of the foreground. The campaign answers it by closing the cluster; a worker that
died of it by itself would be one that failed.
"""

import signal


def dask_setup(worker: object) -> None:
    """Called by Dask in the main thread of each worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
