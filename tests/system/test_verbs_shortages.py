"""Where descriptors, memory or threads end: at the opening, and long after it."""

import pytest

from support.python import run_python
from support.scripts import TESTS, run

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


def test_a_context_that_finds_no_descriptor_left_says_so_and_leaves_none():
    """Nor does it go on with less than this kernel can do: a shortage passes."""
    printed = run("""
import resource
from support.leaks import holdings, leaked
from unpinned.host import layout as H
def had(device): return device.notifier.refused, device._scratch[2][H.SCAN_MODE]
plenty = had(a.context.device)
a.context.close()
b.context.close()
before, hard = holdings(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(64)]  # a limit is one of numbers: fill the gaps
limit = taken[-1] + 1
failures = 0
while True:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit + failures, hard))
    try:
        context = v.Context()
        break
    except OSError as error:
        assert "Too many open files" in str(error), error
        failures += 1
assert had(context.device) == plenty
context.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
for fd in taken: os.close(fd)
assert not leaked(before), leaked(before)
print(failures)
""")
    assert int(printed) >= 4


def test_a_first_context_that_finds_no_descriptor_left_leaves_none_either():
    """The first array and the first call of each kernel want descriptors of their own: at the opening, or at its undoing."""
    printed = run_python("""
import os, resource
from support.leaks import holdings, leaked
from unpinned import verbs as v
from unpinned.compiled import build
build.ensure()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
def first(more):
    before, context = holdings(), None
    last = max(before.descriptors) + 1  # the listing's own is closed by now
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + more, hard))
    try:
        context = v.Context()
        v.MR(v.PD(context), 4096)
        opened = True
    except OSError as error:
        assert "Too many open files" in str(error), error
        opened = False
    if context is not None:
        context.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    error = None
    assert not leaked(before), leaked(before)
    return opened
outcomes = []
for more in range(12):
    pid = os.fork()
    if pid == 0:
        os._exit(first(more))
    outcomes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert outcomes[-1] in (0, 1), more
print(sorted(outcomes) == outcomes, outcomes.count(0) >= 5, outcomes[-1])
""", path=TESTS)
    assert printed == "True True 1\n"


@pytest.mark.parametrize("left", [None, 1, 0])
def test_a_process_that_takes_its_own_descriptors_away_lives_on_and_ends(left):
    """As a sandbox does. With fewer than two the kernel lets nobody poll two, and an munmap waits for who polls."""
    printed = run_python(f"""
import resource, threading
from support.leaks import holdings, leaked
from support.memory import mapped
from support.verbs import ALL, pair
from unpinned import verbs as v
from unpinned.host import system
before, (soft, hard) = holdings(), resource.getrlimit(resource.RLIMIT_NOFILE)
with mapped(16) as memory:
    with pair(buffer=1 << 16) as (a, b):
        mr = v.MR(b.pd, 1 << 16, ALL, address=memory)
        limit = {left}
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(holdings().descriptors) if limit is None else limit, hard))
        for _ in range(3):
            a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 0, 8192)
            a.wait()
            discard = threading.Thread(target=system.advise, args=(memory, 4096, system.MADV_DONTNEED), daemon=True)
            discard.start()
            discard.join(20)
            assert not discard.is_alive(), "nobody read the event"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not leaked(before), leaked(before)
print("lived")
""", path=TESTS)
    assert printed == "lived\n"


def test_a_context_that_finds_no_memory_or_no_thread_says_so_and_leaves_none():
    """Wherever memory ends, also in the first instruction of a thread that should open it."""
    printed = run("""
import resource, errno
from pathlib import Path
from support.leaks import holdings, leaked
a.context.close()
b.context.close()
before, nolimit = holdings(), resource.RLIM_INFINITY
refusals = set()
def attempt():
    try:
        v.Context().close()
        return True
    except OSError as error:
        refusals.add(errno.errorcode[error.errno])
for room in [*range(0, 256, 8), *range(256, 1280, 64), None]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (nolimit if room is None else used + (room << 20), nolimit))
    opened = attempt()
assert opened
resource.setrlimit(resource.RLIMIT_AS, (nolimit, nolimit))
assert not leaked(before), leaked(before)
if os.geteuid() == 0:  # whom the limit does not hold
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
assert not attempt()
assert not leaked(before), leaked(before)
print(sorted(refusals))
""")
    assert printed == "['EAGAIN', 'ENOMEM']\n"
