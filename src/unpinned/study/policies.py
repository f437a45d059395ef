"""What is compared: a policy table of `paging`, and how the host uses it.

`pin` has no notifier at all. `zap-now` is what mlx5 and rxe do: every cause alike, one device after the other, no aging.
The others look at the cause, start all devices before they wait for any, and let the device's accessed bits keep a page.
`blind` defers without looking at the cause: unsafe, and here to show what that costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unpinned.paging.policy import MODEL, POLICIES, Policy, PolicyError


@dataclass(frozen=True)
class StudyPolicy:
    """One policy of the study."""

    name: str
    title: str
    table: Policy
    pinned: bool = False
    two_phase: bool = True
    aging: bool = True

    @property
    def unsafe(self) -> str:
        """Why no host can make it safe; empty when one can."""
        rows = self.table.unsafe()
        return "; ".join(f"{cause.name}: {why}" for cause, why in rows.items())


STUDY_POLICIES: Final[dict[str, StudyPolicy]] = {
    policy.name: policy
    for policy in (
        StudyPolicy("pin", "pinned: no notifier, no faults", POLICIES["zap_everything"], pinned=True),
        StudyPolicy("zap-now", "every cause alike: zap, flush, wait (mlx5, rxe)", POLICIES["zap_everything"], two_phase=False, aging=False),
        StudyPolicy("by-cause", "downgrade, refuse, or zap, by cause", POLICIES["by_cause"]),
        StudyPolicy("batching", "by cause, and one flush for many", POLICIES["by_cause_batching"]),
        StudyPolicy("blind", "one flush for many, whatever the cause", POLICIES["blind_batching"]),
    )
}  # fmt: skip


def read(path: str) -> Policy:
    """The policy of a file. Raises PolicyError (ValueError) naming file and field, OSError when it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if not text.strip():
            raise PolicyError("the file is empty; expected name, default or causes")
        return Policy.loads(text)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise PolicyError(f"{path}: a policy is TOML or JSON, and text") from None


def from_file(path: str) -> StudyPolicy:
    """The user's policy, which the model must be able to keep. Raises as `read`."""
    table = read(path)
    try:
        table.validate(MODEL)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None
    if table.name in STUDY_POLICIES:
        raise PolicyError(f"{path}: name: {table.name!r} is taken by a policy that is there ({', '.join(STUDY_POLICIES)})")
    return StudyPolicy(table.name, f"from {Path(path).name}", table)
