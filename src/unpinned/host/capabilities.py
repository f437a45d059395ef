"""What this kernel and this container allow: every facility is tried out on a page or a socket of the probe's own.

`probe_all` returns one `Capability` each, in the order in which a reader of `unpinned doctor` meets them. A probe returns what it
found (a short text) or raises OSError, whose text then says what was refused; it leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unpinned.compiled.folding import lanes
from unpinned.host import datagrams as D
from unpinned.host import layout as L
from unpinned.host import owned, pagemap, system, udp
from unpinned.host.userfaultfd import Userfaultfd
from unpinned.host.vmas import procmap_query_works


@dataclass(frozen=True)
class Capability:
    """One facility: whether it is there, what was found, what its lack costs and how to get it."""

    name: str
    available: bool
    detail: str
    cost: str
    remedy: str


@dataclass(frozen=True)
class _Probe:
    name: str
    attempt: Callable[[], str]
    cost: str
    remedy: str

    def run(self) -> Capability:
        try:
            return Capability(self.name, True, self.attempt(), self.cost, self.remedy)
        except OSError as error:
            return Capability(self.name, False, error.strerror or str(error), self.cost, self.remedy)


def probe_all() -> list[Capability]:
    """Try everything; about 20 ms."""
    return [probe.run() for probe in _PROBES]


def probe(name: str) -> Capability:
    """Try one facility by its name. KeyError when there is none of that name."""
    return {probe.name: probe for probe in _PROBES}[name].run()


# --- the machine -------------------------------------------------------------------------------------------------


def _kernel() -> str:
    release = platform.release()
    if platform.system() != "Linux":
        raise OSError(errno.ENOSYS, f"{platform.system()} is not Linux")
    return f"Linux {release} on {platform.machine()}"


def _cores() -> str:
    count = len(os.sched_getaffinity(0))
    if count < 2:
        raise OSError(errno.EAGAIN, "one core")
    return f"{count} cores"


def _crc() -> str:
    width = lanes()
    if not width:
        raise OSError(errno.ENOSYS, "tables, no carry-less multiplication")
    return f"carry-less multiplication, {width} lane{'s' if width > 1 else ''} wide"


# --- the notifier --------------------------------------------------------------------------------------------------


def _userfaultfd() -> str:
    source = Userfaultfd.open()
    source.close()
    return "unmap, move and discard events, user mode only"


def _userfaultfd_events() -> str:
    """Unmap a watched page in a thread, as an application would, and read the event."""
    source = Userfaultfd.open()
    try:
        address = system.map_anonymous(system.PAGE)
        reason = source.register(address, address + system.PAGE)
        if reason:
            system.unmap(address, system.PAGE)
            raise OSError(errno.EINVAL, reason)
        thread = threading.Thread(target=system.unmap, args=(address, system.PAGE))
        thread.start()
        kind = os.read(source.fd, 32)[0] if system.readable(source.fd, 5) else 0
    finally:
        source.close()  # also wakes the thread
    thread.join()
    if kind != L.EVENT_UNMAP:
        raise OSError(errno.EIO, f"an munmap was reported as event {kind}")
    return "an munmap was reported"


def _userfaultfd_files() -> str:
    source = Userfaultfd.open()
    try:
        with open(__file__, "rb") as file:
            address = system.map_private(file.fileno(), system.PAGE)
        try:
            reason = source.register(address, address + system.PAGE)
            source.unregister(address, address + system.PAGE)
        finally:
            system.unmap(address, system.PAGE)
    finally:
        source.close()
    if reason:
        raise OSError(errno.EINVAL, reason)
    return "mappings of regular files can be watched"


# --- pages ---------------------------------------------------------------------------------------------------------


def _pagemap_scan() -> str:
    pagemap.close_scratch(pagemap.scan_scratch(L.MODE_IOCTL))
    return "residency by range"


def _pagemap_file() -> str:
    pagemap.close_scratch(pagemap.scan_scratch(L.MODE_FILE))
    return "residency by page"


def _procmap_query() -> str:
    if not procmap_query_works():
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
    return "mappings by address"


def _populate() -> str:
    with _page() as address:
        system.advise(address, system.PAGE, pagemap.MADV_POPULATE_WRITE)
    return "pages are brought in by range"


def _pageout() -> str:
    with _page() as address:
        system.advise(address, system.PAGE, system.MADV_PAGEOUT)
    return "a process can ask for its pages to be taken"


def _process_vm() -> str:
    """Copies that must work, and one where nothing is mapped, which must be an error."""
    system.check_copies()
    cell = ctypes.create_string_buffer(8)
    try:
        system.copy_call("process_vm_readv", 1, ctypes.addressof(cell), 8)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return "copies that answer EFAULT instead of a signal"
    raise OSError(errno.EIO, "process_vm_readv: address 1 could be read")


def _memfd() -> str:
    array = owned.empty(1, "i8")
    array[0] = 1
    return "sealed memory, mapped twice"


def _alias() -> str:
    shared = mmap.mmap(-1, system.PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    other = system.alias(address, system.PAGE)
    shared[0] = 7
    same = ctypes.string_at(other, 1) == b"\x07"
    system.unmap(other, system.PAGE)
    if not same:
        raise OSError(errno.EIO, "mremap(address, 0, length) made no alias")
    return "shared mappings of the application get an alias"


def _swap() -> str:
    total = _meminfo("SwapTotal")
    if not total:
        raise OSError(errno.ENOENT, "no swap space")
    return f"{total >> 20} MiB, {_meminfo('SwapFree') >> 20} MiB free"


def _locked() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with _page() as address:
        system.lock(address, system.PAGE)
    if soft == resource.RLIM_INFINITY or _capable(14):  # CAP_IPC_LOCK
        return "no limit"
    return f"{soft >> 10} KiB for this process"


def _cgroup() -> str:
    """The memory limit that this process runs under, v2 or v1."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, group in lines:
        if "memory" in controllers.split(","):
            return _limit(Path("/sys/fs/cgroup/memory"), group, "memory.limit_in_bytes", "v1")
    for _, controllers, group in lines:
        if not controllers:
            return _limit(Path("/sys/fs/cgroup"), group, "memory.max", "v2")
    raise OSError(errno.ENOENT, "no memory controller")


# --- the wire ------------------------------------------------------------------------------------------------------


def _bursts() -> str:
    """Three datagrams in one call, on loopback."""
    with _pair() as (sender, receiver):
        control = [(D.SOL_UDP, D.UDP_SEGMENT, struct.pack("=H", 100))]
        sender.sendmsg([bytes(300)], control, 0, receiver.getsockname())
        for _ in range(3):
            if len(receiver.recv(1000)) != 100:
                raise OSError(errno.EIO, "a burst was not cut up")
    return "one call sends up to 64 datagrams"


def _whole_bursts() -> str:
    with _pair() as (sender, receiver):
        receiver.setsockopt(D.SOL_UDP, D.UDP_GRO, 1)
        control = [(D.SOL_UDP, D.UDP_SEGMENT, struct.pack("=H", 100))]
        sender.sendmsg([bytes(300)], control, 0, receiver.getsockname())
        data, answer, _, _ = receiver.recvmsg(1000, 64)
        if len(data) != 300 or not any(kind == D.UDP_GRO for _, kind, _ in answer):
            raise OSError(errno.EIO, "a burst did not arrive whole")
    return "one call receives up to 64 KiB"


def _buffers() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        granted = udp.grow(sock, socket.SO_RCVBUF, udp.SO_RCVBUFFORCE, udp.BUFFER_BYTES)
    text = f"{granted >> 10} KiB of receive buffer"
    if granted < udp.BUFFER_BYTES:
        raise OSError(errno.EPERM, text)
    return text


def _ipv6() -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
    return "loopback"


# --- helpers -------------------------------------------------------------------------------------------------------


@contextmanager
def _page() -> Iterator[int]:
    address = system.map_anonymous(system.PAGE)
    try:
        yield address
    finally:
        system.unmap(address, system.PAGE)


@contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender and a bound receiver that waits a second at most."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(1)
        yield sender, receiver


def _meminfo(name: str) -> int:
    """A line of /proc/meminfo, bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) << 10
    return 0


def _capable(capability: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> capability & 1)
    return False


def _limit(root: Path, group: str, name: str, version: str) -> str:
    """The limit of *group*, or of the root as a container sees it."""
    for file in (root / group.lstrip("/") / name, root / name):
        if file.exists():
            text = file.read_text().strip()
            # v1 says "no limit" with a number near 2**63.
            free = text == "max" or int(text) >= 1 << 60
            return f"{version}, no limit" if free else f"{version}, limit {int(text) >> 20} MiB"
    return f"{version}, no limit"


_SECCOMP = "allow {} in the seccomp profile".format
_NEWER = "a newer kernel: Linux {} has it".format
_PROBES = (
    _Probe("kernel", _kernel, "nothing works", "run on Linux"),
    _Probe("cores", _cores, "the firmware thread and the application take turns", "allow two (taskset, cpuset)"),
    _Probe("userfaultfd", _userfaultfd, "unmaps are noticed at the next copy only", _SECCOMP("userfaultfd")),
    _Probe("unmap events", _userfaultfd_events, "unmaps are noticed at the next copy only", _NEWER("5.7")),
    _Probe("file events", _userfaultfd_files, "unmaps of mapped files are noticed late", _NEWER("6.7")),
    _Probe("PAGEMAP_SCAN", _pagemap_scan, "asking what is resident is ten times slower", _NEWER("6.7")),
    _Probe("pagemap", _pagemap_file, "mincore stands in: a copy may sleep on a fault", "mount /proc"),
    _Probe("PROCMAP_QUERY", _procmap_query, "registering reads all of /proc/self/maps, untouched pages are mapped", _NEWER("6.11")),
    _Probe("populate", _populate, "faults bring in pages one by one", _NEWER("5.14")),
    _Probe("process_vm", _process_vm, "private memory and files cannot be registered", _SECCOMP("process_vm_readv")),
    _Probe("sealed memory", _memfd, "unpinned.empty does not work", _SECCOMP("memfd_create")),
    _Probe("aliases", _alias, "shared mappings are treated like private ones", _SECCOMP("mremap")),
    _Probe("pageout", _pageout, "the demo cannot swap out on purpose", _NEWER("5.4")),
    _Probe("swap", _swap, "anonymous memory beyond RAM ends in the OOM killer", "swapon a file"),
    _Probe("locked memory", _locked, "pinned regions are refused", "ulimit -l, LimitMEMLOCK=, CAP_IPC_LOCK"),
    _Probe("memory cgroup", _cgroup, "none: only tests use it", "mount the memory controller"),
    _Probe("UDP bursts out", _bursts, "one system call a datagram", _NEWER("4.18")),
    _Probe("UDP bursts in", _whole_bursts, "one system call a datagram", _NEWER("5.0")),
    _Probe("socket buffers", _buffers, "less data in flight", "CAP_NET_ADMIN, or raise net.core.rmem_max"),
    _Probe("IPv6", _ipv6, "IPv4 only", "enable IPv6 on lo"),
    _Probe("fast CRC-32", _crc, "checksums at 2 GB/s instead of 8 or more", "a CPU with pclmulqdq or pmull"),
)
