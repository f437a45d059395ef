"""The shared page: what one process writes another reads; every name has a word of its own."""

import os

from unpinned.demo.channel import Channel, Gone
from unpinned.demo.ledger import ACTIONS, CHUNKS, SLOTS, Ledger


def test_a_second_process_sees_every_word():
    ledger = Ledger.create()
    other = Ledger(os.dup(ledger.fd))
    for number, name in enumerate(ledger.counters()):
        ledger[name] = number + 1
    for region in range(3):
        ledger.set_step(region, CHUNKS - 1, 1000 + region)
    for slot in range(SLOTS):
        ledger.set_slot(slot, 1 + slot)
        ledger.set_shots(slot, 50 + slot)
    ledger.set_invalidations(list(range(11)))
    ledger.note("fork", 5, 9)
    assert list(other.counters().values()) == list(range(1, len(other.counters()) + 1))
    assert [other.step(region, CHUNKS - 1) for region in range(3)] == [1000, 1001, 1002]
    assert [(other.slot(slot), other.shots(slot)) for slot in range(SLOTS)] == [(1 + slot, 50 + slot) for slot in range(SLOTS)]
    assert other.invalidations()[:11] == list(range(11))
    assert other.events() == [("fork", 5, 9)]
    other.close()
    ledger.close()
    ledger.close()


def test_a_full_list_of_events_only_counts():
    ledger = Ledger.create()
    for number in range(9000):
        ledger.note(ACTIONS[number % len(ACTIONS)], number, number)
    events = ledger.events()
    assert len(events) == 8192 and events[-1] == (ACTIONS[8191 % len(ACTIONS)], 8191, 8191)
    ledger.close()


def test_messages_arrive_whole_in_order_and_the_end_is_told():
    one, other = Channel.pair()
    for number in range(3):
        one.send(number=number, text="ä" * 2000)
    assert [other.expect(1.0, "it")["number"] for _ in range(3)] == [0, 1, 2]
    assert other.receive(0.0) is None
    one.close()
    try:
        other.receive(1.0)
    except Gone:
        pass
    else:
        raise AssertionError("the end was not told")
    other.close()
