"""Protection domains: a queue pair and the regions it may use belong to the same one."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unpinned.verbs import enums as e
from unpinned.verbs.context import Context, Resource
from unpinned.verbs.errors import ArgumentError, coded, instance, integer
from unpinned.verbs.wr import SGE

if TYPE_CHECKING:
    from unpinned.verbs.mr import MR


class PD(Resource):
    """A protection domain of *creator*. Closing it closes its queue pairs and regions."""

    _what = "protection domain"

    @coded
    def __init__(self, creator: Context) -> None:
        super().__init__()
        instance("creator", creator, Context)
        self.context = creator
        self._device = creator.device
        self.handle = next(self._device.pds)
        self._open = True  # it is only a number: nothing to give back
        self._belong_to(creator)

    @coded
    def advise_mr(self, advise: int, flags: int, sg_list: Sequence[SGE]) -> int:
        """Bring pages in before they are asked for (IBV_ADVISE_MR_ADVICE_*); 0.

        With IBV_ADVISE_MR_FLAG_FLUSH it has happened on return, for all of *sg_list*; without it is begun in the
        background, as far as the device has faults to spare. Owned memory that nobody has written reads as zeros and is not made
        for a read: ask for writing to have it made.

        OSError: ENOENT when an lkey is no region of this domain, EINVAL when a piece is not inside its region, EPERM for a
        write to one that may not be written, EFAULT when a page could not be brought in (with FLUSH).
        """
        advice = integer("advise", advise, 0, e.IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT)
        wait = bool(integer("flags", flags, 0, e.IBV_ADVISE_MR_FLAG_FLUSH))
        write = advice == e.IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE
        device = self.device
        instance("sg_list", sg_list, Sequence)
        pieces = [(self._region_of(i, piece), piece) for i, piece in enumerate(sg_list)]
        for mr, _ in pieces:
            if write and not mr.access & e.IBV_ACCESS_LOCAL_WRITE:
                raise PermissionError(errno.EPERM, f"sg_list: region {mr.lkey:#x} may not be written")
        for mr, piece in pieces:
            if piece.length and mr.on_demand:
                resident_only = advice == e.IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT
                device.regions.prefetch(mr.region, piece.addr, piece.length, write=write, resident_only=resident_only, wait=wait)
        return 0

    def _region_of(self, index: int, piece: SGE) -> MR:
        instance(f"sg_list[{index}]", piece, SGE)
        mr = next((mr for mr in self._made_from_this() if getattr(mr, "lkey", None) == piece.lkey and not mr.closed), None)
        if mr is None:
            raise FileNotFoundError(errno.ENOENT, f"sg_list[{index}]: no region of this domain has lkey {piece.lkey:#x}")
        found: MR = mr  # type: ignore[assignment]
        if not found.covers(piece.addr, piece.length):
            raise ArgumentError(f"sg_list[{index}]", f"{piece} is not inside its region")
        return found

    def __repr__(self) -> str:
        return f"<PD {self.handle}{', closed' if self.closed else ''}>"


