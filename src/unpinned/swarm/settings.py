"""What a caller may decide in a seed's place, by name, and between which bounds: outside of them a world cannot be.

The bounds are those of the tables that a word indexes, of the draws that are made below it (2**31), and of the transport's fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from unpinned.swarm import layout as S

SECOND: Final = 1_000_000_000
TENTH: Final = SECOND // 10  #: longer faults and flushes: the steps are used up before anybody gets anywhere
SOON: Final = 50_000  #: a wire or a device that is slower outlasts the shortest timeout, 1 ms, without a loss
TIMEOUT_LEAST: Final = 8
PARK_PART: Final = 4  #: the longest park is this part of the timeout


class SettingError(ValueError):
    """A setting that is none, or cannot be: names it and the reason."""


@dataclass(frozen=True)
class Setting:
    """One word of the configuration."""

    word: int
    least: int
    most: int
    what: str

    def demand(self, name: str, value: object) -> int:
        """The value, if a world can have it. Raises SettingError."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise SettingError(f"{name}: expected an integer, got {value!r}")
        if not self.least <= value <= self.most:
            raise SettingError(f"{name}={value}: must be between {self.least} and {self.most} ({self.what})")
        if name == "mtu" and value & (value - 1):
            raise SettingError(f"mtu={value}: must be a power of two ({self.what})")
        return value


def _switches(words: Mapping[str, tuple[int, str]]) -> dict[str, Setting]:
    return {name: Setting(word, 0, 1, what) for name, (word, what) in words.items()}


SETTINGS: Final[dict[str, Setting]] = {
    "mtu": Setting(S.C_MTU, 256, 1024, "path MTU, bytes"),
    "timeout": Setting(S.C_TIMEOUT, TIMEOUT_LEAST, 17, "transport timeout, verbs code: 4.096 us << code"),
    "retry": Setting(S.C_RETRY, 0, 7, "transport retries"),
    "rnr_retry": Setting(S.C_RNR_RETRY, 0, 7, "RNR retries, 7: without end"),
    "rnr_timer": Setting(S.C_RNR_TIMER, 0, 31, "min_rnr_timer of the imitated adapter, verbs code"),
    "loss": Setting(S.C_LOSS, 0, 65_536, "packets lost, in 65,536ths"),
    "repeat": Setting(S.C_REPEAT, 0, 65_536, "packets that come twice, in 65,536ths"),
    "late": Setting(S.C_LATE, 0, 65_536, "packets that are overtaken, in 65,536ths"),
    "touch_limit": Setting(S.C_TOUCH_LIMIT, 0, S.MASK_BITS, "packets that may be lost, repeated or late at all"),
    "slow": Setting(S.C_SLOW, 0, 256, "pages that take slow_ns, in 256ths"),
    "policy": Setting(S.C_POLICY, 0, 2, "0: everything now, 1: by cause, 2: by cause and batched"),
    "ops": Setting(S.C_OPS, 1, S.OPS, "operations of each direction"),
    "mix": Setting(
        S.C_MIX,
        0,
        8,
        "0: of all, 1: READs, 2: WRITEs, 3: atomics, 4: SENDs, 5 and 6: of all, 7: WRITE alone, 8: READ alone",
    ),
    "length": Setting(S.C_LENGTH, 0, S.SLOT_BYTES, "longest message, bytes"),
    "gap": Setting(S.C_GAP, 0, 1_000_000, "steps between invalidations, on average; 0: none"),
    "store_gap": Setting(S.C_STORE_GAP, 0, 1_000_000, "steps between stores of the CPU, on average; 0: none"),
    "workers": Setting(S.C_WORKERS, 1, 64, "fault workers of a host"),
    "profile": Setting(S.C_PROFILE, S.PROFILE_OURS, S.PROFILE_ADAPTER, "0: ours, 1: an adapter of today, imitated"),
    "park_ns": Setting(S.C_PARK_NS, 0, SECOND, "a request is parked at most, ns; a quarter of the timeout"),
    "delay_ns": Setting(S.C_DELAY_NS, 0, SOON, "the wire, one way, ns"),
    "jitter_ns": Setting(S.C_JITTER_NS, 0, SOON, "the wire, more than delay_ns at most, ns"),
    "round_ns": Setting(S.C_ROUND_NS, 0, SOON, "between two rounds of a device, ns"),
    "copy_ns": Setting(S.C_COPY_NS, 0, SOON, "a batch of copies at most, ns"),
    "minor_ns": Setting(S.C_MINOR_NS, 0, TENTH, "a fault without a disk, ns"),
    "major_ns": Setting(S.C_MAJOR_NS, 0, TENTH, "a fault from the swap, ns"),
    "slow_ns": Setting(S.C_SLOW_NS, 0, SECOND, "a slow page, ns"),
    "flush_ns": Setting(S.C_FLUSH_NS, 0, TENTH, "the device forgets its translations, ns"),
    "reread_ns": Setting(
        S.C_REREAD_NS, 0, SECOND, "the imitated adapter asks again for a dropped response, ns; 0: at its timeout"
    ),
    "think_ns": Setting(S.C_THINK_NS, 1, SECOND, "between two posts, ns"),
    **_switches(
        {
            "strict": (S.C_STRICT, "1: an operation that fails needs a reason of its own"),
            "unmaps": (S.C_UNMAPS, "1: pages may go for good"),
            "by_scan": (S.C_BY_SCAN, "1: what a look finds present is writable"),
            "serial": (S.C_SERIAL, "1: one fault of a host at a time"),
            "fixed": (S.C_FIXED, "1: roomy buffers, lengths as given, every operation at the same place"),
        }
    ),
}


def demand(settings: Mapping[str, object]) -> dict[str, int]:
    """The settings, if a world can have them all. Raises SettingError."""
    found = {}
    for name, value in settings.items():
        if name not in SETTINGS:
            raise SettingError(f"{name}: no such setting; there are {', '.join(sorted(SETTINGS))}")
        found[name] = SETTINGS[name].demand(name, value)
    longest = (4096 << found.get("timeout", TIMEOUT_LEAST)) // PARK_PART
    if found.get("park_ns", 0) > longest:
        raise SettingError(
            f"park_ns={found['park_ns']}: must be at most {longest}, a quarter of the timeout (set timeout, too)"
        )
    return found
