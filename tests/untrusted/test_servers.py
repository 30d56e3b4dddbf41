from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from contextlib import suppress

import numpy as np
import pytest
import xarray as xr

from tests.untrusted.maps import maps
from xland.catalogs import open_entry
from xland.errors import StoreError
from xland.sources.files import open_coarse
from xland.store.reading import open_store, verify
from xland.store.writing import write

pytest.importorskip("aiohttp", reason="stores behind http need aiohttp")
from fsspec.implementations.http import HTTPFileSystem


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and what no server should do."""

    def do_GET(self):
        place = self.path.split("/")[1]
        if place in ("endless", "drip", "list"):
            found = place != "list" or self.path.endswith("m.zarr")
            self.send_response(200 if found else 404)
            self.end_headers()
            part = {"endless": b" " * 2**16, "drip": b" ", "list": b"<a href='x'>" * 2**12}[place]
            with suppress(OSError):
                while found and not self.server.ended.wait(0.02 if place == "drip" else 0):
                    self.wfile.write(part)
        elif place == "away":
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/away/").split("|")[0].replace("!", "//"))
            self.end_headers()
        elif place == "silent":
            self.server.ended.wait(60)
        else:
            self.server.headers_seen.append(dict(self.headers))
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    for name in ("CONNECT_SECONDS", "SILENT_SECONDS", "METADATA_SECONDS"):  # however busy the machine is
        monkeypatch.setattr(f"xland.untrusted.servers.{name}", 100.0)
    HTTPFileSystem.clear_instance_cache()  # whose sessions have the limits of an earlier test
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    server.daemon_threads, server.headers_seen, server.ended = True, [], threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


def opened(tmp_path, url, driver="zarr"):
    (tmp_path / "c.yaml").write_text(f"sources: {{m: {{driver: {driver}, args: {{urlpath: '{url}'}}}}}}")
    return open_entry(tmp_path / "c.yaml", "m", allowed_schemes=("http",))


def test_a_file_behind_a_url_is_compared_with_the_digest_in_the_catalog(served, tmp_path, monkeypatch):
    maps().to_netcdf(tmp_path / "m.nc")
    digest = hashlib.sha256((tmp_path / "m.nc").read_bytes()).hexdigest()
    url = f"http://127.0.0.1:{served.server_port}/m.nc"

    def entry(digest):
        text = f"sources: {{m: {{driver: netcdf, args: {{urlpath: '{url}'}}, metadata: {{digest: {digest}}}}}}}"
        (tmp_path / "c.yaml").write_text(text)
        return open_entry(tmp_path / "c.yaml", "m", allowed_schemes=("http",))

    for opened_file in (entry(digest), opened(tmp_path, url, "netcdf")):
        with opened_file as found:
            xr.testing.assert_equal(found.load(), maps())
    with pytest.raises(StoreError, match="not what was published: its digest is not abc"):
        entry("abc")
    monkeypatch.setattr("xland.catalogs.finding.TOTAL_SECONDS", -1.0)
    with pytest.raises(StoreError, match=r"m\.nc was not read within .* copy it here"):
        entry(digest)


def test_a_host_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9/m\.zarr.* cannot be read"):
        opened(tmp_path, "http://127.0.0.1:9/m.zarr")
    with pytest.raises(StoreError, match="cannot be read"):
        opened(tmp_path, "http://127.0.0.1:9/m.nc", "netcdf")


READERS = [opened, lambda _, url: open_store(url), lambda _, url: verify(url), lambda _, url: open_coarse(url)]
readers = pytest.mark.parametrize("reader", READERS, ids=["open_entry", "open_store", "verify", "open_coarse"])


@pytest.mark.parametrize(
    ("place", "limit", "named"),
    [
        ("silent", {"SILENT_SECONDS": 0.2}, "cannot be read"),
        ("endless", {"MOST_METADATA": 2**20}, "larger than 1048576 bytes"),
        ("drip", {"METADATA_SECONDS": 0.3}, "did not send all of its answer in time|cannot be read"),
        ("list", {}, "larger than 4194304 bytes"),
    ],
)
@readers
def test_an_answer_that_takes_too_long_or_is_too_large_is_given_up(
    served, tmp_path, monkeypatch, reader, place, limit, named
):
    for name, value in limit.items():
        monkeypatch.setattr(f"xland.untrusted.servers.{name}", value)
    if place == "list" and reader is READERS[2]:
        named = "is not a Zarr store"  # what has no table of digests is not verified, so its list is not asked for
    with pytest.raises(StoreError, match=named):
        reader(tmp_path, f"http://127.0.0.1:{served.server_port}/{place}/m.zarr")


@pytest.mark.parametrize(
    ("to", "named"),
    [("ftp:!x/y", "redirects to ftp://"), ("http:!10.0.0.1:9/x", "private network"), ("file:!/etc", "file://")],
)
@readers
def test_redirections_to_what_was_not_allowed_are_refused(served, tmp_path, to, named, reader):
    with pytest.raises(StoreError, match=named):
        reader(tmp_path, f"http://127.0.0.1:{served.server_port}/away/{to}|")


def test_passwords_stand_in_no_message_nor_in_its_causes(served, tmp_path):
    for url in (
        f"http://user:s3cr3t@127.0.0.1:{served.server_port}/none.zarr?token=s3cr3t",
        "http://u:s3cr3t@127.0.0.1:9/a",
    ):
        with pytest.raises(StoreError) as caught:
            opened(tmp_path, url)
        error: BaseException | None = caught.value
        while error is not None:
            assert "s3cr3t" not in str(error)
            error = error.__cause__


@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated metadata")
@pytest.mark.parametrize("digests", [True, False], ids=["with digests", "of others"])
def test_a_store_that_is_opened_by_its_url_is_read_within_the_same_limits(served, tmp_path, monkeypatch, digests):
    if digests:
        write(maps().chunk(), tmp_path / "m.zarr", progress=False)
    else:
        maps().to_zarr(tmp_path / "m.zarr", zarr_format=3, consolidated=False)
    url = f"http://127.0.0.1:{served.server_port}/m.zarr"
    found = open_store(url)
    for each in (found, opened(tmp_path, url)):
        np.testing.assert_array_equal(each["land_use"], maps()["land_use"])
    monkeypatch.setattr("xland.untrusted.servers.MOST_BYTES", 4)
    with pytest.raises(StoreError, match="larger than 4 bytes"):
        found["land_use"].load()
