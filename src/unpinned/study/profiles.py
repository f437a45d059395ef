"""HCA profiles: how long a device and its driver take. Data, each figure with where it comes from.

Sources: [A] "Page Fault Support for Network Controllers", ASPLOS 2017 (220 us for 4 KB, 350 us for 4 MB, some 90 % of it in
the firmware) · [B] PART, TPDS 2022 (minor fault at the destination: 38 us) · [C] linux-mm, 2011: a hardware sync of tens of
milliseconds · [D] a GPU's shoot-down: 4.2 us for one entry, 4.4 us for all · [E] this project's own device, measured
(`live.toml`, which names what measured each figure) · [G] a guess of the right order, the same for all profiles.

A profile in a file is TOML with the names of `Profile`, times in ns. What it does not say is what `base` says (a profile
of these), or, without one, what is marked [E] and [G] below; the other times must be given::

    name = "mine"
    base = "firmware"
    report = 90_000
    flush = 1_200
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

from unpinned.study import layout as S

TIME_MAX: Final = 1 << 40  # ns: a third of an hour


class ProfileError(ValueError):
    """A profile that cannot be: names the field and the reason."""


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
_BASES: Final = {profile.name: profile for profile in (_FIRMWARE, _INLINE, _MAILING_LIST)}


def _live() -> Profile:
    """This project's own device, as `live.toml` has it."""
    return loads(resources.files("unpinned.study").joinpath("live.toml").read_text())


def profiles() -> dict[str, Profile]:
    """Every profile by name."""
    return {profile.name: profile for profile in (*_BASES.values(), _live())}


# --- files ---------------------------------------------------------------------------------------------------------------


def from_file(path: str) -> Profile:
    """The user's profile. Raises ProfileError naming file, field and reason; OSError when it cannot be read."""
    try:
        text = Path(path).read_text()
        return loads(text, taken=profiles(), name=Path(path).stem, title=f"from {Path(path).name}")
    except UnicodeDecodeError:
        raise ProfileError(f"{path}: a profile is TOML, and text") from None
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def loads(text: str, *, taken: Collection[str] = (), name: str = "", title: str = "") -> Profile:
    """Read a profile. *taken*: names that it may not have; *name*, *title*: what it has when it does not say.

    Raises ProfileError naming the field and the reason.
    """
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"a profile is TOML: {error}") from None
    values = _base(data.pop("base", None)) | {"name": name, "title": title}
    kinds = {field.name: field.type for field in fields(Profile)}
    for field, value in data.items():
        if field not in kinds:
            raise ProfileError(f"{field}: unknown field (base, {', '.join(kinds)})")
        values[field] = _CHECKS[kinds[field]](field, value)
    for each in fields(Profile):
        if values.get(each.name, each.default) in (MISSING, ""):
            raise ProfileError(f"{each.name}: missing, and there is no base that has it")
    if values["name"] in taken:
        raise ProfileError(f"name: {values['name']!r} is taken by a profile that is there ({', '.join(taken)})")
    return Profile(**values)


def dumps(profile: Profile, notes: Mapping[str, str], header: str) -> str:
    """The text that `loads` reads back: *header* as comments, a line a field, *notes* behind them by field."""
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    for name, value in asdict(profile).items():
        word = f"{value:_}" if type(value) is int else f'"{value}"' if isinstance(value, str) else str(value).lower()
        lines.append(f"{name} = {word}" + (f"  # {notes[name]}" if name in notes else ""))
    return "\n".join(lines) + "\n"


def _base(word: Any) -> dict[str, Any]:
    if word is None:
        return {}
    known = _BASES if word != "live" else profiles()  # which is read itself, and has no base
    if not isinstance(word, str) or word not in known:
        raise ProfileError(f"base: no profile {word!r}; there are {', '.join(profiles())}")
    return asdict(known[word])


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 80 or '"' in value or "\\" in value:
        raise ProfileError(f"{field}: expected a line of text of at most 80 characters without quotes, got {value!r}")
    return value


def _number(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise ProfileError(f"{field}: expected a whole number, got {value!r}")
    least, most = S.LIMITS.get(field, (0, TIME_MAX))
    if field == "tlb":
        least = 0  # no cache
    if not least <= value <= most:
        what = "" if field in S.LIMITS else " ns"
        raise ProfileError(f"{field}: {value} is not between {least} and {most}{what}")
    if field == "tlb" and int(value) & int(value) - 1:
        raise ProfileError(f"{field}: {value} is not a power of two")
    return int(value)


def _truth(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ProfileError(f"{field}: expected true or false, got {value!r}")
    return value


_CHECKS: Final[dict[Any, Any]] = {"str": _text, "int": _number, "bool": _truth}
"""By what a field is."""
