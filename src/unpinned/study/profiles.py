"""HCA profiles: how long a device and its driver take. Data, each figure with where it comes from.

Sources: [A] "Page Fault Support for Network Controllers", ASPLOS 2017 (220 us for 4 KB, 350 us for 4 MB, some 90 % of it in
the firmware) · [B] PART, TPDS 2022 (minor fault at the destination: 38 us) · [C] linux-mm, 2011: a hardware sync of tens of
milliseconds · [D] a GPU's shoot-down: 4.2 us for one entry, 4.4 us for all · [E] this project's own device, measured
(`live.toml`, which names the benchmarks) · [G] a guess of the right order, the same for all profiles.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import Final

from unpinned.study import layout as S


@dataclass(frozen=True)
class Profile:
    """Times in ns."""

    name: str
    title: str
    report: int  #: from the miss until the host knows
    report_page: int  #: and more for each page that the fault covers
    resume: int  #: from the host's answer until the request goes on
    flush: int  #: the device forgets all its translations
    scan: int = 1_000  #: one look at the host's page table [E]
    scan_page: int = 20  #: [E]
    minor: int = 750  #: bring in a page without a disk: the kernel's part of a missing page [G]
    major: int = 130_000  #: from a swap file [E]
    major_page: int = 8_000  #: each further page of the same chunk: swap's own read-ahead [G]
    copy: int = 330  #: a page of DMA at 100 Gb/s [G]
    walk: int = 500  #: a walk of the table in host memory, on a miss of the translation cache [G]
    wire: int = 3_000  #: a round trip on an idle network [G]
    notify: int = 300  #: a notifier call, on the CPU [G]
    page: int = 150  #: the CPU's own work for a page of an operation [G]
    write_back: int = 2_000  #: the reclaim daemon's share of writing a page out [G]
    scanners: int = 4  #: faults under way in the device at once
    workers: int = 4
    tlb: int = 16_384  #: entries of the translation cache [G]; 0: none, the table is all there is
    sees_write: bool = True  #: a fault learns the write right with the page (drivers); False: the page map does not say

    def write(self, s: S.Block) -> None:
        """Put the times into a study block."""
        for word, value in (
            (S.T_REPORT, self.report), (S.T_REPORT_PAGE, self.report_page), (S.T_SCAN, self.scan),
            (S.T_SCAN_PAGE, self.scan_page), (S.T_MINOR, self.minor), (S.T_MAJOR, self.major),
            (S.T_MAJOR_PAGE, self.major_page), (S.T_RESUME, self.resume), (S.T_FLUSH, self.flush), (S.T_COPY, self.copy),
            (S.T_WALK, self.walk), (S.T_WIRE, self.wire), (S.T_NOTIFY, self.notify), (S.T_PAGE, self.page),
            (S.T_WRITE_BACK, self.write_back), (S.FIRMWARE_SCAN, int(self.sees_write)),
        ):  # fmt: skip
            s[word] = value

    @property
    def fault_4k(self) -> int:
        """What a fault on one resident page takes, by these figures, ns."""
        return self.report + self.scan + self.resume + self.report_page + self.scan_page


_FIRMWARE: Final = Profile(
    name="firmware",
    title="an HCA whose firmware handles faults (220 us)",
    report=215_873,
    report_page=107,
    resume=3_000,
    flush=4_400,
)
_INLINE: Final = Profile(
    name="inline",
    title="faults handled in line (38 us)",
    report=34_973,
    report_page=7,
    resume=2_000,
    flush=4_400,
)
_MAILING_LIST: Final = replace(_FIRMWARE, name="mailing-list", title="a hardware sync of 20 ms", flush=20_000_000)


def _live() -> Profile:
    """This project's own device, as `live.toml` has it."""
    data = tomllib.loads(resources.files("unpinned.study").joinpath("live.toml").read_text())
    known = {field.name for field in fields(Profile)}
    return Profile(**{name: value for name, value in data.items() if name in known})


def profiles() -> dict[str, Profile]:
    """Every profile by name."""
    return {profile.name: profile for profile in (_FIRMWARE, _INLINE, _MAILING_LIST, _live())}
