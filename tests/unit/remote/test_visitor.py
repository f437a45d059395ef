"""A server's side of a conversation, without a socket: who gets in, what they may ask, what ends it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpinned.remote import messages as M
from unpinned.remote.admission import Admission, Bucket, Limits
from unpinned.remote.errors import RemoteError
from unpinned.remote.visitor import State, Visitor

TOKEN = "correct horse battery staple"


class Guesthouse:
    """Remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def welcome(self):
        return {"arrays": []}

    def open(self, visitor, request):
        self.asked.append(("open", request.get("qps")))
        if request.get("qps") == "too many":
            raise RemoteError("no more")
        return {"qps": []}

    def close(self, visitor, numbers):
        self.asked.append(("close", numbers))

    def explain(self, name):
        return f"about {name}"

    def prefetch(self, name, ranges):
        self.asked.append(("prefetch", name, ranges))


def arrive(token=TOKEN, host="192.0.2.1", admission=None, now=0.0):
    visitor = Visitor(Guesthouse(), admission or Admission(Limits()), token, host, now)
    return visitor, M.Reader(1 << 20).feed(visitor.greeting())[0]


def say(visitor, message, now=0.0):
    return M.Reader(1 << 20).feed(visitor.receive(M.encode(message), now))


def hello(greeting, token=TOKEN, **changes):
    nonce = M.nonce()
    return {"unpinned": 1, "nonce": nonce, "proof": M.proof(token, "client", greeting["nonce"], nonce), **changes}


def guest():
    visitor, greeting = arrive()
    say(visitor, hello(greeting))
    assert visitor.state is State.GUEST
    return visitor


def test_who_knows_the_token_gets_in_and_can_tell_that_we_do():
    visitor, greeting = arrive()
    message = hello(greeting)
    (welcome,) = say(visitor, message)
    assert visitor.state is State.GUEST
    assert M.proves(welcome["proof"], TOKEN, "server", greeting["nonce"], message["nonce"])


@pytest.mark.parametrize("changes", [{"proof": "00" * 32}, {"proof": None}, {"unpinned": 2}, {"nonce": 7}, {"nonce": "x" * 500}])
def test_who_does_not_is_told_one_sentence(changes):
    visitor, greeting = arrive()
    (answer,) = say(visitor, hello(greeting, **changes))
    assert visitor.state is State.GONE and set(answer) == {"error"}
    assert not visitor.house.asked


def test_a_proof_cannot_be_used_again():
    visitor, greeting = arrive()
    message = hello(greeting)
    say(visitor, message)
    other, _ = arrive()
    say(other, message)
    assert other.state is State.GONE


def test_guessing_is_slowed_down_host_by_host():
    admission = Admission(Limits(wrong_max=3))
    for _ in range(3):
        visitor, greeting = arrive(admission=admission)
        say(visitor, hello(greeting, "wrong wrong"))
    visitor, greeting = arrive(admission=admission)
    (answer,) = say(visitor, hello(greeting))
    assert "too many wrong tokens" in answer["error"] and visitor.state is State.GONE
    other, greeting = arrive(admission=admission, host="192.0.2.2")
    say(other, hello(greeting))
    assert other.state is State.GUEST
    patient, greeting = arrive(admission=admission, now=100.0)
    say(patient, hello(greeting), now=100.0)
    assert patient.state is State.GUEST


def test_requests_are_answered_by_number_and_notes_are_not_answered():
    visitor = guest()
    assert say(visitor, {"op": "explain", "id": 7, "name": "x"}) == [{"id": 7, "reason": "about x"}]
    assert say(visitor, {"op": "prefetch", "id": 0, "name": "x", "ranges": [1, 2, 3, 4]}) == []
    assert say(visitor, {"op": "close", "id": 1, "qps": [5]}) == [{"id": 1}]
    assert say(visitor, {"op": "open", "id": 2, "qps": "too many"}) == [{"id": 2, "error": "no more"}]
    assert visitor.house.asked == [("prefetch", "x", [(1, 2), (3, 4)]), ("close", [5]), ("open", "too many")]


@pytest.mark.parametrize(
    "request_",
    [
        {}, {"op": "nonsense", "id": 1}, {"op": "explain", "id": -1, "name": "x"}, {"op": "explain", "id": 1},
        {"op": "explain", "id": 1, "name": "x" * 300}, {"op": "close", "id": 1, "qps": [1 << 30]},
        {"op": "close", "id": 1, "qps": 3}, {"op": "prefetch", "id": 1, "name": "x", "ranges": [0] * 1000}, {"op": ["explain"], "id": 1},
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_ends_the_visit(request_):
    visitor = guest()
    (answer,) = say(visitor, request_)
    assert set(answer) == {"error"} and visitor.state is State.GONE


def test_too_many_requests_end_the_visit():
    visitor = guest()
    for _ in range(2000):
        if visitor.state is State.GONE:
            break
        say(visitor, {"op": "close", "id": 0, "qps": []})
    assert visitor.state is State.GONE


@given(st.binary(max_size=2000), st.booleans())
def test_no_bytes_do_more_than_end_the_visit(data, inside):
    visitor = guest() if inside else arrive()[0]
    answer = visitor.receive(data, 0.0)
    assert len(answer) < 400
    if not inside:
        assert visitor.state is not State.GUEST and not visitor.house.asked


def test_a_bucket_fills_at_its_rate():
    bucket = Bucket(10.0, 3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(0.0) == pytest.approx(0.1)
    assert bucket.take(0.11) and not bucket.take(0.11)


def test_only_so_many_hosts_are_remembered():
    admission = Admission(Limits())
    for i in range(5000):
        admission.failed(f"host{i}", 0.0)
    assert len(admission._wrong) <= 1024
