"""What a client may ask for: anything out of its range is refused by name."""

import json

import pytest

from unpinned.perf.options import ALL_SIZES, BUFFER_BYTES, TESTS, Options, default_size, parse_size


@pytest.mark.parametrize("test", TESTS)
def test_options_survive_the_wire(test):
    options = Options(test, default_size(test), duration=1.5, depth=7)
    assert Options.from_message(json.loads(json.dumps(options.as_dict()))) == options


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"test": "read_tp"}, "test"),
        ({"size": 0}, "size"),
        ({"size": 1 << 40}, "size"),
        ({"size": "8"}, "size"),
        ({"size": True}, "size"),
        ({"iterations": -1}, "iterations"),
        ({"depth": 1 << 20}, "depth"),
        ({"qps": 5000}, "qps"),
        ({"qps": 1000, "size": 1 << 29}, "size"),
        ({"mtu": 9000}, "mtu"),
        ({"memory": "huge"}, "memory"),
        ({"duration": float("nan")}, "duration"),
        ({"duration": "long"}, "duration"),
    ],
)
def test_a_stranger_cannot_ask_for_more(changed, named):
    message = {**Options("read_bw", 4096).as_dict(), **changed}
    with pytest.raises(ValueError, match=named):
        Options.from_message(message)


@pytest.mark.parametrize("message", [None, [], {}, {"test": "read_bw"}])
def test_what_is_no_request_is_refused(message):
    with pytest.raises(ValueError, match="options"):
        Options.from_message(message)


def test_the_buffer_is_bounded_whatever_the_depth():
    assert Options("read_bw", 8, depth=128).slots == 128
    large = Options("read_bw", 1 << 20, depth=4096)
    assert large.slots * large.stride == BUFFER_BYTES
    assert Options("read_bw", 1 << 28, depth=16).slots == 1
    assert Options("write_lat", 2).slots == 2
    assert Options("read_bw", 64, all_sizes=True).stride == ALL_SIZES[-1]


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5M", "0x10", "12Q"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="size"):
        parse_size(text)
