"""Completion channels: a descriptor, an awaitable; and waits that sleep."""

import asyncio
import errno
import gc
import os
import resource
import select
import sys
import threading
import time

import pytest

from support.verbs import PATIENCE, End, connect, pair
from unpinned import verbs as v

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


@pytest.fixture
def ends(no_leaks):
    with pair(channel=True) as found:
        yield found


def test_an_armed_queue_makes_the_descriptor_readable_once(ends):
    a, b = ends
    channel = b.cq.comp_channel
    b.receive(0, 8, wr_id=1)
    b.receive(0, 8, wr_id=2)
    assert not select.select([channel], [], [], 0)[0]
    b.cq.req_notify()
    a.send(0, 8)
    assert select.select([channel], [], [], PATIENCE)[0]
    assert channel.get_cq_event(b.cq) is b.cq
    b.cq.ack_events(1)
    assert b.wait().wr_id == 1
    a.send(0, 8)
    b.wait()  # not armed: no event
    assert not select.select([channel.fd], [], [], 0)[0]
    with pytest.raises(TimeoutError):
        channel.get_cq_event(timeout=0.01)


def test_a_descriptor_beyond_1023_waits_too(no_leaks):
    """select() takes none of those, and a server has them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"RLIMIT_NOFILE is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    taken: list[int] = []
    try:
        while not taken or taken[-1] < 1024:
            taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        with pair(channel=True) as (a, b):
            channel = b.cq.comp_channel
            assert channel.fd > 1023
            with pytest.raises(TimeoutError):
                channel.get_cq_event(timeout=0.01)
            b.receive(0, 8)
            b.cq.req_notify()
            a.send(0, 8)
            assert channel.get_cq_event(timeout=PATIENCE) is b.cq
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_channel_for_which_there_is_no_descriptor_says_so_and_no_more(ends, monkeypatch):
    """What is left of it, when it is collected, has nothing to close."""
    later: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", later.append)

    def none_left(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "eventfd", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            v.CompChannel(ends[0].context)
    gc.collect()
    assert not later


def test_solicited_events_only(ends):
    a, b = ends
    for i in range(3):
        b.receive(0, 8, wr_id=i)
    b.cq.req_notify(solicited_only=True)
    a.send(0, 8)
    b.wait()
    assert not select.select([b.cq.comp_channel], [], [], 0)[0]
    a.send(0, 8, send_flags=v.IBV_SEND_SOLICITED | v.IBV_SEND_SIGNALED)
    assert b.cq.comp_channel.get_cq_event(timeout=PATIENCE) is b.cq


def test_one_channel_for_many_queues():
    with End.open().context as context:
        channel = v.CompChannel(context)
        pd = v.PD(context)
        mr = v.MR(pd, 4096)
        ends = []
        for _ in range(3):
            cq = v.CQ(context, 16, cq_context=object(), channel=channel)
            ends.append(End(context, pd, cq, v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq)), mr))
        connect(ends[0], ends[1])
        for end in ends:
            end.cq.req_notify()
        ends[1].receive(0, 8)
        ends[0].send(0, 8)
        found = {channel.get_cq_event(timeout=PATIENCE), channel.get_cq_event(timeout=PATIENCE)}
        assert found == {ends[0].cq, ends[1].cq}
        ends[1].cq.req_notify()
        ends[0].cq.req_notify()
        ends[1].receive(0, 8)
        ends[0].send(0, 8)
        with pytest.raises(OSError, match="another completion queue"):
            channel.get_cq_event(expected_cq=ends[2].cq, timeout=PATIENCE)


def test_events_can_be_awaited(ends):
    a, b = ends

    async def serve() -> list[int]:
        found = []
        for _ in range(20):
            b.cq.req_notify()
            got, wcs = b.cq.poll(8)
            while not got:
                assert await b.cq.comp_channel is b.cq
                got, wcs = b.cq.poll(8)
            found += [wc.wr_id for wc in wcs]
            if len(found) == 20:
                break
        return found

    async def ask() -> None:
        for _ in range(20):
            a.send(0, 8)
            await asyncio.sleep(0)

    async def both() -> list[int]:
        found, _ = await asyncio.wait_for(asyncio.gather(serve(), ask()), PATIENCE)
        return found

    for i in range(20):
        b.receive(0, 8, wr_id=i)
    assert asyncio.run(both()) == list(range(20))


def test_a_wait_ends_with_its_time(ends):
    began = time.monotonic()
    assert ends[0].cq.wait(1, 0.12) == (0, [])
    assert time.monotonic() - began >= 0.12


def test_a_wait_in_a_thread_ends_when_the_queue_is_closed(ends):
    a, _ = ends
    failures = []

    def wait() -> None:
        try:
            a.cq.wait()
        except OSError as error:
            failures.append(error.errno)

    thread = threading.Thread(target=wait)
    thread.start()
    a.cq.close()
    thread.join(PATIENCE)
    assert failures == [errno.ENODEV]


def test_without_a_channel_there_is_nothing_to_ask_for():
    with End.open().context as context, pytest.raises(ValueError, match="channel"):
        v.CQ(context, 8).req_notify()


def test_who_awaits_an_event_is_told_that_the_channel_is_closed(ends):
    """And what the loop watches under the number that was the channel's stays watched."""
    channel = v.CompChannel(ends[0].context)
    v.CQ(ends[0].context, 8, channel=channel).req_notify()

    async def serve() -> list[int | None]:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        waiting = [asyncio.ensure_future(channel.event()) for _ in range(2)]
        await asyncio.sleep(0)
        was = channel.fd
        reader, writer = os.pipe()
        channel.close()
        os.dup2(reader, was)
        loop.add_reader(was, heard.set)
        try:
            outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE)
            os.write(writer, b"x")
            await asyncio.wait_for(heard.wait(), PATIENCE)
            return [error.errno for error in outcomes if isinstance(error, OSError)]
        finally:
            loop.remove_reader(was)
            for fd in (reader, writer, was):
                os.close(fd)

    assert asyncio.run(serve()) == [errno.ENODEV] * 2
