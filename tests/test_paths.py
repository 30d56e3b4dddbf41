"""Whatever leads to a file has one form; a file is replaced whole, and through no link that somebody planted."""

import errno
import io
import os
from pathlib import Path

import fsspec
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from xland.errors import AddressError, CheckpointError, StoreError, XlandError
from xland.paths import (
    address_of,
    explain,
    is_url,
    local_path,
    naming_faults,
    remove_parts,
    replace_file,
    replacing,
    without_password,
)


@pytest.mark.parametrize("give", [str, Path], ids=["str", "Path"])
def test_a_tilde_is_the_home_folder_and_other_paths_count_from_the_working_folder(give, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert address_of(give("~/maps.zarr")) == "/home/somebody/maps.zarr"
    assert local_path(give("maps.zarr")) == Path.cwd() / "maps.zarr"


@pytest.mark.parametrize(
    "url", ["file:///data/a b.nc", "local:///data/a b.nc", "file:///data/a%20b.nc", "FILE://localhost/data/a b.nc/"]
)
def test_file_urls_are_paths(url):
    assert address_of(url) == "/data/a b.nc"
    assert not is_url(url)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_the_url_of_a_path_is_that_path(name):
    path = Path("/data", name, "maps.zarr")
    assert address_of(path.as_uri()) == address_of(path) == str(path)
    assert address_of(fsspec.FSMap(str(path), fsspec.filesystem("file"))) == str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file://maps.zarr", "three slashes"),
        ("file:/data/maps.zarr", "one slash"),
        ("s3:/bucket/maps.zarr", "one slash"),
        ("s3://", "is a URL without a path"),
        ("zip::maps.zarr", "does not end in a URL"),
        (" ", "is not a path"),
        ("memory:///", "is a URL without a path"),
        ("~nobody-has-this-name/maps.zarr", "a user who does not exist"),
    ],
)
def test_what_would_make_a_folder_of_a_strange_name_is_refused(text, said):
    with pytest.raises(AddressError, match=said):
        address_of(text)


@pytest.mark.parametrize("url", ["s3://bucket/maps.zarr", "https://example.org/x", "simplecache::s3://bucket/a.nc"])
def test_urls_stay_as_they_are(url):
    assert address_of(url + "/") == url
    assert is_url(url)
    with pytest.raises(AddressError, match="a report has to be on this machine"):
        local_path(url, what="a report")


def test_a_url_that_lost_a_slash_in_a_path_is_not_taken_for_a_folder():
    with pytest.raises(AddressError, match="give it as text, 's3://"):
        address_of(Path("s3://bucket/maps.zarr"))


def test_mappers_and_local_stores_lead_to_what_they_are_of(tmp_path):
    assert address_of(fsspec.get_mapper("memory://maps.zarr")) == "memory:///maps.zarr"
    assert address_of(fsspec.get_mapper(str(tmp_path))) == str(tmp_path)
    assert address_of(zarr.storage.LocalStore(tmp_path)) == str(tmp_path)


def test_a_store_of_zarr_that_lives_in_one_process_is_refused_with_its_url():
    with pytest.raises(AddressError, match=r"give its URL, 'memory:///a\.zarr'"):
        address_of(zarr.storage.FsspecStore.from_url("memory://a.zarr"))


def test_options_of_a_file_system_are_named_and_never_shown():
    fs = fsspec.filesystem("memory", skip_instance_cache=True, secret="s3cr3t")  # noqa: S106
    with pytest.raises(AddressError, match="was made with secret") as raised:
        address_of(fsspec.FSMap("/maps.zarr", fs))
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    "thing",
    [None, {}, 5, b"maps.zarr", io.BytesIO(), zarr.storage.MemoryStore(), "", "a\0b", ["maps.zarr"]],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_not_an_address_is_refused_by_name(thing):
    with pytest.raises(AddressError, match=r"neither a path nor a URL|is not a path"):
        address_of(thing)
    assert issubclass(AddressError, StoreError)


@given(st.text())
def test_any_text_is_an_address_or_refused_by_name(text):
    try:
        address = address_of(text)
    except XlandError:
        return
    assert is_url(address) or Path(address).is_absolute()
    assert address_of(address) == address


@given(st.text(st.characters(codec="ascii", exclude_characters="/?#@[]\0"), min_size=1))
def test_passwords_never_stand_in_messages(password):
    shown = without_password(f"https://user:{password}@example.org/maps.zarr?token={password}")
    assert shown == "https://example.org/maps.zarr"


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
