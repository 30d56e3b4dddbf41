"""A file is replaced whole, through no link that somebody planted, and a fault of the disk has a name."""

import errno
import os

import pytest

from xland.atomic import explain, naming_faults, remove_parts, replace_file, replacing
from xland.errors import CheckpointError, StoreError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stays_and_nothing_is_left_when_the_writer_fails(tmp_path):
    path = replace_file(tmp_path / "a", b"old")

    def fail():
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_disk_that_fails_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch):
    path = replace_file(tmp_path / "a", b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"disk of .* is full.*What was there before is kept"):
        replace_file(path, b"new and longer", error=CheckpointError)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_link_with_the_name_of_the_file_is_replaced_and_not_followed(tmp_path):
    other = replace_file(tmp_path / "other", b"of somebody else")
    (tmp_path / "a").symlink_to(other)
    replace_file(tmp_path / "a", b"mine")
    assert other.read_bytes() == b"of somebody else"
    assert not (tmp_path / "a").is_symlink()


def test_a_planted_file_is_never_written_through(tmp_path, monkeypatch):
    victim = replace_file(tmp_path / "victim", b"precious")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 32)
    (tmp_path / f".a.{'0' * 32}.partial").symlink_to(victim)  # whose name nobody can guess
    with pytest.raises(StoreError, match="in the way"):
        replace_file(tmp_path / "a", b"attack")
    assert victim.read_bytes() == b"precious"


def test_text_is_written_as_utf8_with_the_rights_that_the_user_sets(tmp_path):
    before = os.umask(0o027)
    try:
        path = replace_file(tmp_path / "new" / "a", "Köppen")
    finally:
        os.umask(before)
    assert path.read_bytes() == "Köppen".encode()
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_file_before_is_kept_where_it_is_asked_for(tmp_path):
    path = replace_file(tmp_path / "a", b"one")
    replace_file(path, b"two", keep=tmp_path / "before")
    assert (path.read_bytes(), (tmp_path / "before").read_bytes()) == (b"two", b"one")


def test_parts_of_killed_writers_go_and_other_files_stay(tmp_path):
    for name in (f".a.{'f' * 32}.partial", f".b.{'f' * 32}.partial", "a"):
        (tmp_path / name).touch()
    remove_parts(tmp_path / "a")
    assert names(tmp_path) == [f".b.{'f' * 32}.partial", "a"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("x" * 300, "longer than the file system allows", id="name too long"),
        pytest.param("file/a", "in the way", id="below a file"),
        pytest.param("folder", "it is a folder", id="a folder"),
        pytest.param("loop/a", "in the way", id="a circle of links"),
    ],
)
def test_a_path_that_cannot_be_written_is_named_with_a_remedy(tmp_path, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError, match=message):
        replace_file(tmp_path / name, b"")


def test_errors_of_other_files_are_left_alone(tmp_path):
    fault = OSError(errno.EACCES, "Permission denied", "/somewhere/else")
    assert explain(fault, str(tmp_path / "a")) is None

    def elsewhere():
        with naming_faults(tmp_path / "a"):
            raise fault

    with pytest.raises(PermissionError):
        elsewhere()
