"""The judges of bytes: each must find what is stale, foreign or misplaced. These are the demo's canaries."""

import numpy as np
import pytest

from unpinned.demo import contents as C
from unpinned.demo import places
from unpinned.demo.ledger import Ledger


@pytest.fixture
def ledger():
    made = Ledger.create()
    yield made
    made.close()


def filled(tag, generation, offset, size=4096):
    words = np.empty(size // 8, np.int64)
    C.fill(words, C.word(tag, generation, offset // 8))
    return words.view(np.uint8)


PLACE = places.Place(places.ARRAY, 0, 0, 8 << 20, 4 << 20, 7 << 20)
OFFSET = (1 << 20) + 8192


def judged(ledger, found, before, after):
    ledger.set_step(0, 1, after)
    return places.stepped_expectation(PLACE, ledger, found, OFFSET, before)


def test_right_bytes_pass_in_every_step(ledger):
    now, zero = filled(C.Tag.ARRAY, 2, OFFSET), np.zeros(4096, np.uint8)
    assert judged(ledger, now, 6, 6) == ""
    assert judged(ledger, now, 6, 7) == judged(ledger, zero, 6, 7) == ""
    mixed = np.concatenate([zero[:2048], filled(C.Tag.ARRAY, 3, OFFSET)[2048:]])
    assert judged(ledger, mixed, 8, 8) == judged(ledger, mixed, 6, 9) == ""


@pytest.mark.parametrize(
    ("found", "before", "after", "named"),
    [
        (filled(C.Tag.ARRAY, 1, OFFSET), 6, 6, "generation 1"),  # stale
        (filled(C.Tag.ARRAY, 2, OFFSET), 8, 8, "generation 2"),  # discarded before it was asked for
        (filled(C.Tag.ARRAY, 3, OFFSET), 6, 7, "generation 3"),  # from the future
        (np.zeros(4096, np.uint8), 6, 6, "zero"),  # lost
        (filled(C.Tag.ARRAY, 2, OFFSET + 8), 6, 6, "word"),  # another place
        (filled(C.Tag.OTHER, 0, OFFSET), 6, 6, "mapped there instead"),  # foreign
        (filled(C.Tag.PRIVATE, 2, OFFSET), 6, 9, "private"),
    ],
)
def test_wrong_bytes_are_found_and_named(ledger, found, before, after, named):
    assert named in judged(ledger, found, before, after)


def test_what_the_peer_wrote_is_exactly_of_one_generation():
    assert places.written_expectation(filled(C.Tag.PEER, 4, 0), 0, 4) == ""
    assert "generation 3" in places.written_expectation(filled(C.Tag.PEER, 3, 0), 0, 4)


def test_a_made_file_is_checked_by_formula():
    check = places.file_expectation("/nosuch/file", made=True)
    assert check(filled(C.Tag.FILE, 0, 65536), 65536) == ""
    assert "word" in check(filled(C.Tag.FILE, 0, 65536), 0)


def test_a_user_s_file_is_checked_against_itself(tmp_path):
    path = tmp_path / "file"
    content = bytes(range(256)) * 100
    path.write_bytes(content)
    check = places.file_expectation(str(path), made=False)
    found = np.frombuffer(content[300:5000], np.uint8).copy()
    assert check(found, 300) == ""
    found[17] ^= 1
    assert check(found, 300) == "byte 317 of the file is another"
    path.write_bytes(b"")
    assert check(found, 300) == "the file has become shorter"


@pytest.mark.parametrize("size_mib", [16, 64, 256])
@pytest.mark.parametrize("name", [places.ARRAY, places.PRIVATE])
def test_zones_are_whole_chunks_and_fill_the_region(name, size_mib):
    read_bytes, write_bytes = places.zones(name, size_mib << 20)
    assert 0 < read_bytes < write_bytes <= size_mib << 20
    assert read_bytes % places.CHUNK_BYTES == write_bytes % places.CHUNK_BYTES == 0
    assert (write_bytes < size_mib << 20) == (name == places.ARRAY)
