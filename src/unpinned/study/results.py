"""What a run counted, as named figures: times in us, shares of one, everything else counts."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unpinned.paging import layout as P
from unpinned.paging.causes import Cause
from unpinned.study import layout as S

VIOLATIONS: Final = {
    "freed": S.V_FREED, "write": S.V_WRITE, "stale": S.V_STALE, "lost": S.V_LOST, "protocol": S.V_PROTOCOL,
}  # fmt: skip
"""By name, the word that counts it; `layout` says which invariant each one breaks."""


def bucket_value(bucket: int) -> float:
    """The middle of a histogram's bucket, ns.

    >>> bucket_value(5), bucket_value(128), bucket_value(129)
    (5.0, 129.0, 131.0)
    """
    if bucket < 2 * S.HISTOGRAM_STEPS:
        return float(bucket)
    octave = bucket // S.HISTOGRAM_STEPS - 1
    return (bucket - octave * S.HISTOGRAM_STEPS + 0.5) * (1 << octave)


def percentile(words: NDArray[np.int64], share: float) -> float:
    """The value (ns) below or at which `share` of what was measured lies; 0 when nothing was."""
    counts = words[: S.HISTOGRAM_MAX]
    total = int(counts.sum())
    if total == 0:
        return 0.0
    bucket = int(np.searchsorted(np.cumsum(counts), max(1, np.ceil(share * total))))
    return min(bucket_value(bucket), float(words[S.HISTOGRAM_MAX]))


def spread(words: NDArray[np.int64], name: str) -> dict[str, float]:
    """Mean, p50, p99, p99.9 and the largest of a histogram, in us."""
    count = max(1, int(words[S.HISTOGRAM_COUNT]))
    made = {f"{name}_mean": float(words[S.HISTOGRAM_SUM]) / count}
    made |= {f"{name}_{label}": percentile(words, share) for label, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}
    made[f"{name}_max"] = float(words[S.HISTOGRAM_MAX])
    return {key: round(value / 1e3, 3) for key, value in made.items()}


def read(s: S.Block, devices: list[P.Block], seconds: float) -> dict[str, Any]:
    """All figures of a finished run."""
    virtual = max(1, int(s[S.NOW]))
    totals = [P.view(p, "totals")[0] for p in devices]

    def total(name: str) -> int:
        return sum(int(each[name]) for each in totals)

    by_cause = np.sum([each["invalidations"] for each in totals], axis=0)
    used = float(s[S.M_FRAME_NS]) / virtual
    registered = int(s[S.PAGES])
    streams = int(s[S.STREAMS]) * int(s[S.DEVICES])
    made: dict[str, Any] = {
        "virtual_ms": round(virtual / 1e6, 3),
        "seconds": round(seconds, 4),
        "events": int(s[S.EVENTS]),
        "requests": int(s[S.M_ACCESSES]),
        "page_accesses": int(s[S.M_PAGES]),
        "hit_share": round(int(s[S.M_HITS]) / max(1, int(s[S.M_ACCESSES])), 6),
        "errors": int(s[S.M_ERRORS]),
        "requests_per_s": round(int(s[S.M_ACCESSES]) / virtual * 1e9, 1),
        "stall_share": round(int(s[S.M_STALL_NS]) / virtual / max(1, streams), 6),
        "faults": total("faults_read") + total("faults_write"),
        "fault_retries": total("retries"),
        "major": int(s[S.M_MAJOR]),
        "swap_out": int(s[S.M_SWAP_OUT]),
        "flushes": total("flushes"),
        "operations": int(s[S.M_OPS]),
        "operation_pages": int(s[S.M_OP_PAGES]),
        "refused": int(s[S.M_REFUSED]),
        "blocked_share": round(int(s[S.M_BLOCKED_NS]) / virtual, 6),
        "touch_waits": int(s[S.M_TOUCH_WAITS]),
        "pages_zapped": total("pages_zapped"),
        "pages_downgraded": total("pages_downgraded"),
        "pages_deferred": total("pages_deferred"),
        "hot_evicted": int(s[S.M_HOT_EVICTED]),
        "invalidations": int(by_cause.sum()),
        "frames_mean": round(used, 1),
        "frames_max": int(s[S.M_FRAMES_MAX]),
        "held_mean": round(float(s[S.M_HELD_NS]) / virtual, 1),
        "held_max": int(s[S.M_HELD_MAX]),
        "saved_share": round(1.0 - used / registered, 6),
        "script_ms": round(int(s[S.M_SCRIPT_NS]) / 1e6, 3),
        "pinned_stale": int(s[S.V_PINNED]),
        "violations": sum(int(s[word]) for word in VIOLATIONS.values()),
    }
    made |= {f"violations_{name}": int(s[word]) for name, word in VIOLATIONS.items()}
    made |= {f"invalidations_{Cause(i).name.lower()}": int(count) for i, count in enumerate(by_cause) if i}
    for kind, name in ((S.H_LATENCY, "latency_us"), (S.H_BLOCKED, "blocked_us"), (S.H_FAULT, "fault_us")):
        made |= spread(S.histogram(s, kind), name)
    return made
