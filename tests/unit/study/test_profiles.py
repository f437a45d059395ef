"""Profiles from files: what they say, what they leave to their base, and what is refused."""

from dataclasses import replace
from importlib import resources

import pytest

from unpinned.study import layout as S
from unpinned.study.profiles import TIME_MAX, Profile, ProfileError, dumps, from_file, loads, profiles

WHOLE = 'name = "mine"\ntitle = "t"\nreport = 1\nreport_page = 2\nresume = 3\nflush = 4\n'


def test_what_a_file_does_not_say_is_its_base_s():
    made = loads('name = "mine"\nbase = "firmware"\nreport = 90_000\ntlb = 0\nsees_write = false\n', title="t")
    assert made == replace(profiles()["firmware"], name="mine", title="t", report=90_000, tlb=0, sees_write=False)


def test_without_a_base_the_guesses_are_the_same_for_all():
    assert loads(WHOLE) == Profile("mine", "t", 1, 2, 3, 4)


def test_the_live_profile_may_be_a_base():
    assert loads('name = "mine"\ntitle = "t"\nbase = "live"') == replace(profiles()["live"], name="mine", title="t")


def test_a_file_without_a_name_has_the_file_s(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text('base = "inline"\n')
    made = from_file(str(path))
    assert (made.name, made.title) == ("card", "from card.toml")


@pytest.mark.parametrize("word", ["2.5e5", "250_000", "0x3D090"])
def test_a_whole_number_however_it_is_written(word):
    assert loads(WHOLE + f"wire = {word}\n").wire == 250_000


@pytest.mark.parametrize(
    "line, said",
    [
        ("speed = 1", "speed: unknown field (base, name, title, report"),
        ('flush = "4 us"', "flush: expected a whole number, got '4 us'"),
        ("flush = true", "flush: expected a whole number, got True"),
        ("flush = 0.5", "flush: expected a whole number, got 0.5"),
        ("flush = nan", "flush: expected a whole number, got nan"),
        ("flush = inf", "flush: expected a whole number, got inf"),
        ("flush = -1", f"flush: -1 is not between 0 and {TIME_MAX} ns"),
        (f"flush = {TIME_MAX + 1}", "flush: "),
        ("workers = 0", "workers: 0 is not between 1 and 64"),
        ("scanners = 65", "scanners: 65 is not between 1 and 64"),
        ("tlb = 2_000_000", "tlb: 2000000 is not between 0 and 1048576"),
        ("tlb = 100", "tlb: 100 is not a power of two"),
        ("sees_write = 1", "sees_write: expected true or false, got 1"),
        ("name = 3", "name: expected a line of text"),
        ('name = ""', "name: expected a line of text"),
        ('title = "a\\nb"', "title: expected a line of text"),
        ('base = "nobody"', "base: no profile 'nobody'; there are firmware, inline, mailing-list, live"),
        ("base = [1]", "base: no profile [1]"),
        ("flush =", "a profile is TOML: "),
    ],
)
def test_what_cannot_be_names_the_field_and_the_reason(line, said):
    lines = [each for each in WHOLE.splitlines() if each.split()[0] != line.split()[0]]
    with pytest.raises(ProfileError) as error:
        loads("\n".join([*lines, line]))
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("name", ["name", "title", "report", "report_page", "resume", "flush"])
def test_what_no_base_has_must_be_there(name):
    lines = [each for each in WHOLE.splitlines() if each.split()[0] != name]
    with pytest.raises(ProfileError, match=f"^{name}: missing"):
        loads("\n".join(lines))


@pytest.mark.parametrize("name", list(profiles()))
def test_a_name_that_is_taken_is_refused_with_the_file_s(name, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "{name}"\nbase = "firmware"\n')
    with pytest.raises(ProfileError, match=f"mine.toml: name: '{name}' is taken"):
        from_file(str(path))


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="mine.toml: "):
        from_file(str(path))


@pytest.mark.parametrize("profile", profiles().values(), ids=profiles())
def test_what_is_written_is_read_back(profile):
    text = dumps(profile, {"flush": "measured"}, "one\n\ntwo")
    assert loads(text) == profile
    assert text.startswith("# one\n#\n# two\nname = ")
    assert f"flush = {profile.flush:_}  # measured\n" in text


def test_every_figure_reaches_the_block():
    """All times, one apart, are found in the header again, each once."""
    made = {
        name: 1_000_003 + i
        for i, name in enumerate(
            "report report_page resume flush scan scan_page minor major major_page copy walk wire notify page write_back".split()
        )
    }
    s = S.create(pages=1, frames=1, devices=1, streams=0, scanners=1, workers=1, cpus=0, tlb=1)
    Profile("x", "x", **made).write(s)
    assert sorted(s[(s > 1_000_000) & (s < 1_000_100)].tolist()) == sorted(made.values())


def test_each_figure_of_the_live_profile_says_where_it_is_from():
    lines = resources.files("unpinned.study").joinpath("live.toml").read_text().splitlines()
    for line in lines:
        if not line.startswith(("#", "name", "title")):
            assert line.partition("  # ")[2].startswith(("measured: ", "none: ", "by construction: ", "a guess")), line


def test_a_file_that_is_not_text_is_said_to_be_none(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xdc\xff")
    with pytest.raises(ProfileError, match="mine.toml: a profile is TOML, and text$"):
        from_file(str(path))
