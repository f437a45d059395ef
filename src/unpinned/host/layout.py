"""Scratch words of the live world's kernels: what each one needs besides the blocks and the arena.

Every thread that runs a kernel owns its scratch (``int64[:]``, made by the ``*_scratch`` function beside the
kernel) and keeps it alive; kernels put raw addresses of it into what they hand to the kernel of the machine.
"""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]
Arena = NDArray[np.uint8]

PAGE: Final = mmap.PAGESIZE
PAGE_MASK: Final = ~(PAGE - 1)

# ---- copies (`copies.execute`) ---------------------------------------------------------------------------------
COPY_PID: Final = 0  # whose memory process_vm touches: this process
COPY_UFFD: Final = 1  # the descriptor of the process's notifier, 0: none
COPY_CALLS: Final = 2  # process_vm calls made, ever
COPY_BYTES: Final = 3  # bytes they copied, ever
COPY_DIRECT_BYTES: Final = 4  # bytes copied without a system call, ever
COPY_FAILED: Final = 5  # descriptors that met a bad address, ever
COPY_SLOW: Final = 6  # steps longer than SLOW_NS: the copy slept (or lost the CPU), ever
COPY_SLOW_NS: Final = 7  # time these took, ns
COPY_COUNT: Final = 8  # descriptors of the current system call
COPY_ARENAS: Final = 9  # and its iovecs into the arena
COPY_CELL: Final = 10  # operand of an atomic
COPY_AT_RISK: Final = 11  # bytes copied from or to PATH_FOREIGN memory while a change of mappings was under way, ever
COPY_HOLED: Final = 12  # so many places of the list of holes are in use, or were
COPY_HOLE_NEXT: Final = 13  # which one goes next
COPY_HOLE_BYTES: Final = 14  # bytes read from holes, ever
COPY_SPENT: Final = 15  # time that the last step took, ns
COPY_ZEROS: Final = 16  # a run of copies of zeros goes on here (`zeros`), -1: none does
COPY_ZEROS_END: Final = 17  # and so far there is nothing
COPY_SCAN: Final = 18  # address of the driver's scratch for scans, 0: nothing is noted as untouched
COPY_UNTOUCHED_LAST: Final = 19  # which range was noted last
COPY_REGIONS: Final = 20  # iovecs into the region of the current system call, seams included
COPY_REGION: Final = 21  # these: of each descriptor one, and one for the seam before it, 2 words each
IOVECS: Final = 64  # descriptors of one system call
COPY_ARENA: Final = COPY_REGION + 4 * IOVECS  # iovecs into the arena: IOVECS of 2 words
COPY_INDEX: Final = COPY_ARENA + 2 * IOVECS  # the descriptors of the current system call
COPY_UPTO: Final = COPY_INDEX + IOVECS  # how many bytes the call has copied when each is done
COPY_SUMS: Final = COPY_UPTO + IOVECS  # of each descriptor: the CRC of what was read, -1: nobody has summed it
SUMS: Final = 2048  # most descriptors of a batch that have one
COPY_HOLES: Final = COPY_SUMS + SUMS  # `holes`: HOLES times end, start, file
HOLES: Final = 64
HOLE_WORDS: Final = 3
COPY_UNTOUCHED: Final = COPY_HOLES + HOLES * HOLE_WORDS  # `zeros`: UNTOUCHED times start, end
UNTOUCHED: Final = 16
COPY_WORDS: Final = COPY_UNTOUCHED + 2 * UNTOUCHED
SUMMED: Final = 1024  # bytes: fewer are not summed while they are copied
SLOW_NS: Final = 1_000_000
SEAM: Final = 64  # pieces of the arena that are no further apart are copied as one: the headers of a packet fit between

# ---- residency (`pagemap.scan`) --------------------------------------------------------------------------------
SCAN_MODE: Final = 0  # MODE_*
SCAN_FD: Final = 1  # /proc/self/pagemap, -1 with MODE_MINCORE
SCAN_ARGUMENT: Final = 2  # struct pm_scan_arg, 12 words
SCAN_MAPS: Final = 14  # /proc/self/maps, -1 where PROCMAP_QUERY is unknown
SCAN_UNTOUCHED: Final = 15  # up to where the last look found private memory that was never touched (`nearby`), 0: none
SCAN_VECTOR: Final = 16  # struct page_region: SCAN_REGIONS of 3 words; or what the file or mincore answered
SCAN_REGIONS: Final = 64
SCAN_WORDS: Final = SCAN_VECTOR + 3 * SCAN_REGIONS
MODE_IOCTL: Final = 0  # PAGEMAP_SCAN, Linux 6.7
MODE_FILE: Final = 1  # bit 63 of the words in /proc/self/pagemap
MODE_MINCORE: Final = 2  # mincore(2): counts what the page cache holds, mapped or not

# ---- notifications (`userfaultfd.read_events`) -------------------------------------------------------------------
EVENT_KIND: Final = 0  # EVENT_*
EVENT_START: Final = 1  # first address concerned
EVENT_END: Final = 2  # first address behind it
EVENT_NEW: Final = 3  # where a REMAP moved it, else 0
EVENT_WORDS: Final = 4
EVENTS: Final = 64  # messages one call takes
NOTIFY_WORDS: Final = EVENTS * EVENT_WORDS
EVENT_FORK: Final = 0x13
EVENT_REMAP: Final = 0x14
EVENT_REMOVE: Final = 0x15
EVENT_UNMAP: Final = 0x16

# ---- datagrams (`datagrams.receive_many`, `datagrams.send`) --------------------------------------------------------
U_FD: Final = 0
U_FAMILY: Final = 1  # AF_INET or AF_INET6 of the socket
U_SCOPE: Final = 2  # interface of link-local addresses, 0 none
U_SLOTS: Final = 3  # buffers one receive call may fill
U_GSO: Final = 4  # 1: the kernel cuts a burst into datagrams, 0: one call a datagram
U_SENDS: Final = 5  # system calls that sent, ever
U_RECEIVES: Final = 6  # system calls that received something, ever
U_TX_HEADER: Final = 8  # struct msghdr, 7 words
U_TX_IOVEC: Final = 16  # 2 words
U_TX_CONTROL: Final = 18  # control message with the segment size, 3 words
U_TX_NAME: Final = 22  # struct sockaddr_in or sockaddr_in6, 4 words
U_RX: Final = 32  # results: RX_WORDS a slot; behind them, for all slots, what the kernel fills (see datagrams)
RX_BYTES: Final = 0  # received; 0: the datagram was longer than the buffer and is lost
RX_SEGMENT: Final = 1  # length of each datagram in the burst but the last; RX_BYTES when it is one datagram
RX_HI: Final = 2  # sender, the two big-endian halves of an IPv6 or IPv4-mapped address
RX_LO: Final = 3
RX_PORT: Final = 4
RX_WORDS: Final = 8
U_SLOT_WORDS: Final = 30  # of one slot in all: result 8, mmsghdr 8, sockaddr 4, iovec 2, control 8
BURST_BYTES: Final = 1 << 16  # what one datagram or GRO burst can hold: the stride of receive buffers
SEGMENTS_MAX: Final = 64  # datagrams of one outgoing burst (UDP_MAX_SEGMENTS of kernels before 6.8)
BURST_SEND_MAX: Final = 65_487  # bytes of one outgoing burst: to the kernel it is one IP packet
MAPPED_PREFIX: Final = 0xFFFF << 32  # LO of ::ffff:0.0.0.0
