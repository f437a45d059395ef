"""Both sources of mappings agree, with each other and with what was mapped."""

import os

import pytest

from support.memory import PAGE, mapped, memfd, protect
from unpinned.host import system
from unpinned.host.vmas import MAPS, Vma, _parsed, _queried, covered, vmas


def parsed(start: int, end: int) -> list[Vma]:
    with open(MAPS, "rb") as maps:
        return list(_parsed(maps, start, end))


def test_both_sources_agree_on_everything() -> None:
    with open(MAPS, "rb") as maps:
        everything = list(_queried(maps.fileno(), 0, 1 << 47))
    text = parsed(0, 1 << 47)
    assert len(everything) > 20
    # Between the two looks the interpreter may have mapped something.
    assert len(set(everything) ^ set(text)) <= 4


def test_fields_of_a_shared_file_and_of_private_memory() -> None:
    with memfd(4) as fd, mapped(4, shared=True, fd=fd) as shared, mapped(3) as private:
        status = os.fstat(fd)
        protect(shared + PAGE, PAGE, 1)
        found = vmas(shared + 10, shared + 3 * PAGE)
        assert [(vma.start, vma.offset, vma.writable) for vma in found] == [
            (shared, 0, True),
            (shared + PAGE, PAGE, False),
            (shared + 2 * PAGE, 2 * PAGE, True),
        ]
        assert all((vma.device, vma.inode) == (status.st_dev, status.st_ino) for vma in found)
        assert all(vma.shared and vma.readable and vma.name.startswith("/memfd:test") for vma in found)
        assert found[1].continues(found[0]) and found[2].continues(found[1]) and not found[2].continues(found[0])
        first = vmas(private, private + PAGE)[0]
        assert not first.shared and first.inode == 0 and first.start <= private < first.end


def test_holes() -> None:
    with mapped(8) as address:
        end = address + 8 * PAGE
        assert covered(vmas(address, end), address, end)
        system.unmap(address + 3 * PAGE, PAGE)
        assert not covered(vmas(address, end), address, end)
        assert covered(vmas(address, address + 3 * PAGE), address, address + 3 * PAGE)
        assert not covered(vmas(address + 3 * PAGE, end), address + 3 * PAGE, end)
        assert not covered([], address, end)


@pytest.mark.parametrize("name", ["plain", "two  spaces", "new\nline", "caf\u00e9"])
def test_names(name: str, tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), name)
    with open(path, "wb") as file:
        file.write(bytes(PAGE))
    fd = os.open(path, os.O_RDONLY)
    with mapped(1, shared=True, fd=fd, writable=False) as address:
        shown = path.replace("\n", "\\012")
        assert parsed(address, address + PAGE)[0].name == shown
        assert vmas(address, address + PAGE)[0].name in (path, shown)
    os.close(fd)
