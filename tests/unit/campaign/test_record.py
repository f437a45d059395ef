"""The file of a campaign: what was done is kept, what was cut short is not believed, what is another's is refused."""

import json

import pytest

from unpinned.campaign.record import FORMAT, Record, RecordError, fingerprint

HEADER = {"campaign": "sums", "pieces": 3}


def test_results_are_there_again(tmp_path):
    path = tmp_path / "sums.jsonl"
    first = Record(path, HEADER)
    first.add(2, {"sum": 5})
    first.add(0, [1, 2])
    first.close()
    assert Record(path, HEADER).results == {2: {"sum": 5}, 0: [1, 2]}


@pytest.mark.parametrize("rest", ['{"piece": 1, "res', '{"piece": 1, "result": 7}', "[]\n", "\x00\x00\n"])
def test_a_line_cut_short_is_dropped_and_written_over(tmp_path, rest):
    path = tmp_path / "sums.jsonl"
    first = Record(path, HEADER)
    first.add(0, 1)
    first.close()
    with path.open("a") as file:
        file.write(rest)
    again = Record(path, HEADER)
    assert again.results == {0: 1}
    again.add(1, 8)
    again.close()
    assert [json.loads(line) for line in path.read_text().splitlines()][1:] == [
        {"piece": 0, "result": 1},
        {"piece": 1, "result": 8},
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello\n", "not the record of a campaign"),
        ('{"format": "else"}\n', "not the record of a campaign"),
        (json.dumps({"format": FORMAT, "campaign": "products", "pieces": 3}) + "\n", "'products', not 'sums'"),
        (json.dumps({"format": FORMAT, "campaign": "sums", "pieces": 4}) + "\n", "pieces is 4, not 3"),
    ],
)
def test_another_s_file_is_refused_and_left_alone(tmp_path, text, says):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(RecordError, match=says):
        Record(path, HEADER)
    assert path.read_text() == text


@pytest.mark.parametrize("code", [{"code": "older"}, {}])
def test_the_record_of_other_code_is_refused_and_left_alone(tmp_path, code):
    """Its results would pass for this code's: of the same campaign otherwise, or of a time when records did not say."""
    path = tmp_path / "sums.jsonl"
    first = Record(path, HEADER | code)
    first.add(0, 1)
    first.close()
    before = path.read_text()
    with pytest.raises(RecordError, match=r"begun with other code \((older|None); this is newer\).*begin a new record"):
        Record(path, {"code": "newer", **HEADER})
    assert path.read_text() == before


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = Record(None, HEADER)
    record.add(0, 1)
    record.close()
    assert record.results == {0: 1} and not list(tmp_path.iterdir())


def test_the_fingerprint_covers_function_and_arguments():
    pieces = [{"a": 1, "b": 2}, {"a": 2}]
    assert fingerprint("m:f", pieces) == fingerprint("m:f", [{"b": 2, "a": 1}, {"a": 2}])
    assert len({fingerprint("m:f", pieces), fingerprint("m:g", pieces), fingerprint("m:f", pieces[::-1])}) == 3
