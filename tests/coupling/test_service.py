"""The service answers as the emulator does, refuses what is too large by name, and goes on after hostile requests."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from netCDF4 import Dataset

from xland.coupling.service import ServiceLimits, make_service, read_constraint, serve
from xland.errors import MissingDependencyError, RequestError

pytest.importorskip("xpublish_opendap", reason="the extra serve is not installed")
pytest.importorskip("xpublish_edr", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

MAP = "/datasets/land-use"


@contextmanager
def running(emulator, **limits):
    """The address of a service on loopback, which ends with the ``with``."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(make_service(emulator, ServiceLimits(**limits)), port=0, log_level="critical")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)


@pytest.fixture
def emulator(make):
    return make()


@pytest.fixture
def address(emulator):
    with running(emulator) as found:
        yield found


def get(address, path, **query):
    return httpx.get(address + path, params=query, timeout=60)


def opened(answer):
    assert answer.status_code == 200, answer.text
    return xr.open_dataset(io.BytesIO(answer.content), engine="h5netcdf").load()


def test_netcdf_and_xarray_read_the_map_of_the_emulator_over_opendap(address, emulator):
    url = f"{address}{MAP}/opendap"
    with xr.open_dataset(url, engine="netcdf4") as ds:
        part = ds.land_use.sel(time="2001").isel(lat=slice(3, 10), lon=slice(5, 18)).load()
    expected = emulator.codes(2001, emulator.grid)
    np.testing.assert_array_equal(part.values[0], expected[3:10, 5:18])
    with Dataset(url) as ds:
        assert ds["land_use"][1, 4, 7] == expected[4, 7]
        np.testing.assert_array_equal(ds["land_use"][1, 2:9:3, 1:20:4], expected[2:9:3, 1:20:4])


def test_edr_gives_a_point_and_an_area(address, emulator):
    lat, lon = emulator.grid.latitude[5], emulator.grid.longitude[7]
    query = {"datetime": "2001-01-01", "parameter-name": "land_use"}
    point = get(address, f"{MAP}/edr/position", coords=f"POINT({lon} {lat})", **query)
    assert point.json()["ranges"]["land_use"]["values"] == [int(emulator.codes(2001, emulator.grid)[5, 7])]
    size = 3 * emulator.grid.resolution
    corners = [(lon - size, lat - size), (lon + size, lat - size), (lon + size, lat + size), (lon - size, lat - size)]
    polygon = f"POLYGON(({','.join(f'{x} {y}' for x, y in corners)}))"
    assert get(address, f"{MAP}/edr/area", coords=polygon, **query).status_code == 200


def test_fields_are_those_of_the_emulator(address, emulator):
    region = (0.0, 0.0, 40.0, 40.0)
    same = opened(get(address, "/fields", time="2001", bbox="0,0,40,40", variables="land_use,cvh"))
    expected = emulator.field(2001, region, ["land_use", "cvh"])
    np.testing.assert_array_equal(same.land_use, expected.land_use)
    np.testing.assert_array_equal(same.cvh, expected.cvh)
    coarse = opened(get(address, "/fields", time="2001-07-01", bbox="0,0,40,40", step=20, variables="shares"))
    assert coarse.shares.shape[1:] == (2, 2)


def test_requests_that_make_no_sense_are_refused_by_name(address):
    refusals = [
        ("/fields", {"time": "1492", "bbox": "0,0,40,40"}, 400, "TimeError"),
        ("/fields", {"time": "2001", "bbox": "0,0,40"}, 400, "RegionError"),
        ("/fields", {"time": "2001", "bbox": "a,b,c,d"}, 400, "RequestError"),
        ("/fields", {"time": "2001", "bbox": "0,0,40,40", "variables": "sheep"}, 400, "ModelError"),
        ("/fields", {"time": "2001", "bbox": "0,0,40,40", "step": "-1"}, 400, "GridError"),
        ("/fields", {"time": "2001", "bbox": "0,0,40,40", "healpix": "8"}, 400, "RegionError"),
        (f"{MAP}/opendap.dods?land_use[{'9' * 5000}:0:0]", {}, 400, "RequestError"),
        ("/" + "x" * 9000, {}, 414, "RequestError"),
    ]
    for path, query, status, name in refusals:
        answer = httpx.get(address + path, params=query or None, timeout=60)
        assert (answer.status_code, answer.json()["error"]) == (status, name), path[:80]
    for coords in ("NONSENSE", "POINT(10 200)", "POINT(1e400 0)", "POINT EMPTY"):
        assert get(address, f"{MAP}/edr/position", coords=coords).json()["error"] == "RegionError", coords
    assert httpx.post(f"{address}{MAP}/edr/position", content=b"x" * 100_000).status_code == 405
    assert get(address, "/health").json()["status"] == "ok"


def test_what_reads_too_much_of_the_map_is_refused_before_it_is_computed(make, monkeypatch):
    emulator, computed = make(), []
    monkeypatch.setattr(emulator, "codes", lambda *each: computed.append(each))
    with running(emulator, cells=100) as address:
        for path, query in (
            (f"{MAP}/opendap.dods", {}),
            (f"{MAP}/edr/position", {"coords": "POINT(10 10)", "parameter-name": "land_use"}),
            (f"{MAP}/edr/area", {"coords": "POLYGON((-170 -80, 170 -80, 170 80, -170 -80))"}),
            ("/fields", {"time": "2001", "step": 20}),
            ("/fields", {"time": "2001", "healpix": 8}),
        ):
            answer = get(address, path, **query)
            assert answer.status_code == 413, path
            assert answer.json()["error"] == "RequestError"
    assert computed == []


def test_more_requests_than_may_wait_are_told_to_come_back_and_slow_ones_are_given_up(make, monkeypatch):
    emulator, go = make(), threading.Event()
    compute = emulator.codes
    monkeypatch.setattr(emulator, "codes", lambda *each: go.wait(60) and compute(*each))
    query = {"time": "2001", "bbox": "0,0,40,40"}
    with running(emulator, at_once=1, waiting=1) as address, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(get, address, "/fields", **query) for _ in range(3)]
        while not any(each.done() for each in answers):
            time.sleep(0.01)
        go.set()
        assert sorted(each.result().status_code for each in answers) == [200, 200, 503]
    go.clear()
    with running(emulator, seconds=0.2) as address:
        assert get(address, "/fields", **query).status_code == 504
        go.set()


def test_a_failure_within_is_an_answer_and_is_counted(make, monkeypatch):
    emulator = make()

    def fail(*_):
        raise OSError("secret path")

    with running(emulator) as address:
        monkeypatch.setattr(emulator, "codes", fail)
        answer = get(address, "/fields", time="2001", bbox="0,0,40,40")
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert 'xland_requests_total{status="500"} 1.0' in get(address, "/metrics").text


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=3))
def test_a_constraint_counts_the_cells_that_its_slices_have(slices):
    text = "land_use.land_use" + "".join(f"[{first}:{step}:{last}]" for first, step, last in slices)
    asked, turned = read_constraint(text, (10, 10, 10))
    values = np.empty((10, 10, 10))[tuple(slice(first, last + 1, step) for first, step, last in slices)]
    assert asked == values.size
    assert turned == "land_use.land_use" + "".join(f"[{first}:{last}:{step}]" for first, step, last in slices)


def test_a_constraint_without_the_map_reads_nothing_of_it():
    assert read_constraint("time,lat[3]", (3, 4, 5)) == (0, "time,lat[3:3:1]")
    assert read_constraint("", (3, 4, 5))[0] == 60


def test_limits_that_make_no_sense_and_missing_packages_are_named(world, model, monkeypatch):
    with pytest.raises(RequestError, match="cells"):
        serve(world[0], model, cells=0)
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(MissingDependencyError, match="extra serve"):
        serve(world[0], model)
