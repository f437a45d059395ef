"""The file that is served: made once, kept, checked; never half of one."""

import os

import numpy as np
import pytest

from unpinned.demo import files
from unpinned.demo.contents import Tag, matches, word
from unpinned.demo.units import parse_size


@pytest.fixture
def said(tmp_path, monkeypatch):
    monkeypatch.setenv("UNPINNED_CACHE_DIR", str(tmp_path))
    return []


def test_a_file_is_made_once_with_words_that_say_where_they_stand(said, tmp_path):
    source = files.made(5 << 20, said.append)
    assert source.path.parent == tmp_path and source.size_bytes == 5 << 20 and source.made
    assert matches(np.fromfile(source.path, "<i8"), word(Tag.FILE))
    again = files.made(5 << 20, said.append)
    assert again == source and len(said) == 1
    assert not source.changed()


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 1 << 20), lambda path: path.write_bytes(bytes(4 << 20))])
def test_a_damaged_file_is_made_anew(said, damage):
    source = files.made(4 << 20, said.append)
    damage(source.path)
    assert source.changed()
    assert matches(np.fromfile(files.made(4 << 20, said.append).path, "<i8"), word(Tag.FILE))
    assert len(said) == 2


def test_a_full_disk_is_one_sentence_and_leaves_nothing(said, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for 4 MiB in .*--size"):
        files.made(4 << 20, said.append)
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_nothing(said, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.made(4 << 20, said.append)
    assert os.listdir(tmp_path) == []


def test_a_temporary_file_has_no_name(said, tmp_path):
    fd = files.temporary(8192)
    assert os.fstat(fd).st_size == 8192 and os.listdir(tmp_path) == []
    os.close(fd)


@pytest.mark.parametrize(("make", "error"), [(lambda path: None, FileNotFoundError), (lambda path: path.touch(), OSError),
                                             (lambda path: path.mkdir(), OSError)])  # fmt: skip
def test_a_user_s_file_that_cannot_be_served(tmp_path, make, error):
    path = tmp_path / "file"
    make(path)
    with pytest.raises(error, match="file"):
        files.users(str(path))


@pytest.mark.parametrize("text", ["", "G", "-1", "0", "1Q", "nan", "inf"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError):
        parse_size(text)
