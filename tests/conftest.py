"""Fixtures that every test may use. What they lend and take back is in `support`."""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest
from hypothesis import HealthCheck, settings

from support import Missing, cgroup, leaks, need_root, network, swap

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that: tests of Ctrl-C would send it
# to processes that cannot hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT") == "1"
FIXED_SEED = 1

# No deadline: the first call of a kernel compiles it, and machines differ. print_blob: a failure
# prints the line that replays it.
settings.register_profile(
    "unpinned",
    deadline=None,
    print_blob=True,
    max_examples=25 if INTERPRETED else 100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unpinned")


# --- seeds -------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="the fresh seed of a run that failed")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        config.option.seed = secrets.randbits(32)


def pytest_report_header(config: pytest.Config) -> str:
    mode = "interpreted" if INTERPRETED else "compiled"
    bounds = ", bounds checked" if os.environ.get("NUMBA_BOUNDSCHECK") == "1" else ""
    return f"unpinned: kernels {mode}{bounds}; seeds: fixed {FIXED_SEED}, fresh {config.option.seed}"


@pytest.fixture(params=["fixed", "fresh"])
def seed(request: pytest.FixtureRequest) -> int:
    """A regression (always the same seed) and a fuzz run (a new one); a failure prints both."""
    return FIXED_SEED if request.param == "fixed" else request.config.option.seed


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.failed:
        modes = ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")
        mode = "".join(f"{name}=1 " for name in modes if os.environ.get(name) == "1")
        report.sections.append(("replay", f"{mode}pytest --seed {item.config.option.seed} '{item.nodeid}'"))


# --- modes -------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="kernels run interpreted (NUMBA_DISABLE_JIT=1)")
    for item in items:
        if INTERPRETED and "compiled_only" in item.keywords:
            item.add_marker(skip)


# --- the machine -------------------------------------------------------------------------


@pytest.fixture
def borrow() -> Iterator[Callable[[AbstractContextManager], object]]:
    """Enter a context manager of `support` until the test ends, or skip with its reason."""
    with ExitStack() as stack:

        def enter(manager: AbstractContextManager) -> object:
            try:
                return stack.enter_context(manager)
            except Missing as missing:
                pytest.skip(str(missing))

        yield enter


@pytest.fixture
def root() -> None:
    """Skip unless the tests run as root."""
    try:
        need_root()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def _swap_or_reason() -> Iterator[swap.Swap | str]:
    with ExitStack() as stack:
        try:
            yield stack.enter_context(swap.swap_file())
        except Missing as missing:
            yield str(missing)


@pytest.fixture
def swap_space(_swap_or_reason: swap.Swap | str) -> swap.Swap:
    """At least 256 MiB of swap, switched on once a session and off at its end."""
    if isinstance(_swap_or_reason, str):
        pytest.skip(_swap_or_reason)
    return _swap_or_reason


@pytest.fixture
def memory_cgroup(borrow: Callable) -> Callable[[int], cgroup.MemoryCgroup]:
    """Call with a limit in bytes to get a memory cgroup that ends with the test."""
    return lambda limit_bytes: borrow(cgroup.memory_cgroup(limit_bytes))


@pytest.fixture
def hosts(borrow: Callable) -> network.Pair:
    """Two network namespaces with a veth pair between them, MTU 9000."""
    return borrow(network.namespace_pair())


@pytest.fixture
def no_leaks() -> Iterator[leaks.Holdings]:
    """Fail if the test leaves threads or descriptors behind. Ask for it before other fixtures."""
    with leaks.no_leaks() as before:
        yield before
