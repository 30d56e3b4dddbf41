"""Whatever leads to a file or store has one form; what does not is refused by name."""

import io
from pathlib import Path

import fsspec
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from xland.addresses import address_of, is_url, local_path, without_password
from xland.errors import AddressError, StoreError, XlandError


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
        ("s3://", "leads nowhere"),
        ("zip::maps.zarr", "does not end in a URL"),
        (" ", "is not a path"),
        ("memory:///", "leads nowhere"),
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
