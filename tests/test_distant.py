"""The protocol for distant places and periods: what it leaves out, how it pushes forcings, what it counts."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks import left_out, preindustrial
from tests.worlds import COARSE, FACTOR, FINE, tiny_checkpoint, tiny_configuration, tiny_inputs, tiny_world
from xland.geo.split import CONTINENTS, Part, divide, find_cells
from xland.training.data.material import gather
from xland.vocabulary import CROP_STATES, CROPLAND, LUH2_STATES, OTHER, flag_attributes

USED = (*CROP_STATES, "pastr", "range", "urban")
STEPS = dict(zip(preindustrial.SCALES, range(len(preindustrial.SCALES)), strict=True))


@pytest.fixture(scope="module")
def forcing():
    return tiny_world((2000,))[0]


def totals(data, names, year=0):
    return sum(data[name].isel(time=year).values.astype(np.float64) for name in names)


@settings(max_examples=4)
@given(st.floats(0, 1))
def test_a_pushed_forcing_keeps_the_total_of_each_cell_and_gives_what_is_free_to_primary_land(forcing, scale):
    pushed = preindustrial.push_back(forcing, (1.0, scale))
    np.testing.assert_allclose(totals(pushed, LUH2_STATES, 1), totals(forcing, LUH2_STATES), atol=1e-6)
    np.testing.assert_allclose(totals(pushed, USED, 1), scale * totals(forcing, USED), atol=1e-6)
    for name in ("primf", "primn"):
        gained = pushed[name].isel(time=1).values - forcing[name].isel(time=0).values
        assert np.nanmin(gained) >= -1e-6
    for name in LUH2_STATES:
        np.testing.assert_allclose(pushed[name].isel(time=0), forcing[name].isel(time=0), atol=1e-7)


def test_what_is_free_is_shared_as_natural_land_is_and_is_no_forest_where_there_is_none():
    cells = {name: np.zeros((1, 2, 2), np.float32) for name in LUH2_STATES}
    cells["c3ann"][:] = [[[0.4, 0.4], [0.4, np.nan]]]
    cells["secdf"][0, 0, 0], cells["primn"][0, 0, 0] = 0.45, 0.15
    cells["primf"][0, 0, 1] = 0.6
    for name in set(LUH2_STATES) - {"c3ann"}:
        cells[name][0, 1, 1] = np.nan
    place = {"time": [2015], "lat": [0.5, -0.5], "lon": [0.5, 1.5]}
    given = xr.Dataset({name: (("time", "lat", "lon"), v, {"units": "1"}) for name, v in cells.items()}, place)
    half = preindustrial.push_back(given, (0.5,)).isel(time=0)
    np.testing.assert_allclose(half["primf"], [[0.15, 0.8], [0, np.nan]], atol=1e-6)
    np.testing.assert_allclose(half["primn"], [[0.2, 0], [0.2, np.nan]], atol=1e-6)


def test_what_rises_is_counted_where_it_is_known_and_more_than_half_a_pixel():
    shares = [np.array([[0.5, 0.2, 0.1, 0.3]]), np.array([[0.4, 0.3, 0.101, 0.9]]), np.array([[0.5, 0.1, 0.0, 0.0]])]
    known = np.array([[True, True, True, False]])
    found = preindustrial.rise(shares, known, np.ones((1, 1)), least=0.02)
    assert found == {"cells": round(2 / 3, 5), "area": round(0.2 / 0.8, 5)}
    assert preindustrial.rise([0 * shares[0]] * 2, known, np.ones((1, 1)), 0.02) == {"cells": 0.0, "area": 0.0}


def obedient(pushed, rows, columns):
    """Maps and probabilities whose cropland is that of the forcing, to the pixel."""
    part = pushed.isel(lat=rows, lon=columns)
    cropland = np.stack([np.nan_to_num(totals(part, CROP_STATES, year)) for year in range(part.sizes["time"])])
    number = np.rint(cropland * FACTOR**2).repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)
    order = np.arange(FACTOR**2).reshape(FACTOR, FACTOR)
    pixel = np.tile(order, (part.sizes["lat"], part.sizes["lon"]))
    codes = np.where(pixel < number, CROPLAND, OTHER).astype(np.uint8)
    fine = FINE.window(*(slice(FACTOR * each.start, FACTOR * each.stop) for each in (rows, columns)))
    place = {"time": part["time"], "lat": fine.latitude, "lon": fine.longitude}
    likely = xr.DataArray((codes == CROPLAND).astype(np.float32), place, ("time", "lat", "lon"))
    return xr.Dataset(
        {
            "land_use": xr.DataArray(codes, place, ("time", "lat", "lon"), attrs=flag_attributes()),
            "probability": likely.expand_dims({"class_name": ["cropland"]}, 1),
        }
    )


def test_maps_that_follow_their_forcing_never_rise_and_agree_with_it(forcing):
    pushed = preindustrial.push_back(forcing)
    found = preindustrial.score(obedient(pushed, slice(8, 20), slice(30, 70)), pushed)
    assert found["cells"] > 20
    assert found["rise"] == found["rise_of_probability"] == {"cells": 0.0, "area": 0.0}
    np.testing.assert_allclose(found["cropland_shown"], found["cropland_asked"], atol=0.02)
    np.testing.assert_allclose(found["cropland_asked"], found["cropland_asked"][0] * np.array(list(STEPS)), atol=1e-3)
    assert max(found["off_by"]) < 1 / FACTOR**2


def test_maps_in_the_wrong_order_rise(forcing):
    pushed = preindustrial.push_back(forcing)
    fine = obedient(pushed, slice(8, 20), slice(30, 70))
    turned = fine.isel(time=slice(None, None, -1)).assign_coords(time=fine["time"])
    found = preindustrial.score(turned, pushed)
    assert found["rise"]["cells"] > 0.5
    assert found["rise"]["area"] > 1
    rows = preindustrial.preindustrial_table([{"region": "here", "way": way, **found} for way in preindustrial.WAYS])
    assert [row.split(" | ")[0] for row in rows.splitlines()[2:]] == [
        "| here, none",
        "| here, fractions",
        "| here, map",
        "| here, map within a pixel",
    ]


def test_a_model_answers_pushed_forcings_and_totals_can_be_kept(forcing, tmp_path):
    model = tiny_checkpoint(tmp_path / "model", tiny_inputs())
    static = tiny_world((2000,))[1]
    regions = {"here": (32.0, 34.0, 56.0, 50.0)}
    (plain,) = preindustrial.respond(forcing, model, regions, "plain", static)
    (kept,) = preindustrial.respond(forcing, model, regions, "map", static)
    assert plain["region"] == "here"
    assert plain["cells"] == kept["cells"] > 0
    assert max(kept["off_by"]) <= max(plain["off_by"])
    assert len(plain["cropland_likely"]) == len(preindustrial.SCALES)


@pytest.mark.parametrize("seed", [0, 3])
def test_boxes_are_the_cells_that_serve_for_the_test(seed):
    part = divide(FINE, seed, southern_limit=-90)
    found = np.zeros(FINE.shape, dtype=bool)
    for west, south, east, north in preindustrial.held_out_boxes(seed):
        rows = (FINE.latitude > south) & (FINE.latitude < north)
        found[np.ix_(rows, (FINE.longitude > west) & (FINE.longitude < east))] = True
    np.testing.assert_array_equal(found, part == Part.TEST)


@pytest.fixture(scope="module")
def tiny(forcing):
    _, static, maps = tiny_world((2000,))
    return gather(tiny_configuration(), forcing=forcing, static=static, target=maps)


def test_places_are_continents_and_the_tenths_with_least_and_most_cropland(tiny, forcing):
    _, material = tiny
    cropland = left_out.cropland_of(forcing)
    places = left_out.places_to_leave_out(material, cropland)
    assert [*places][:-2] == [*CONTINENTS]
    np.testing.assert_array_equal(places["africa"], find_cells(COARSE, CONTINENTS["africa"]))
    used = np.isfinite(cropland) & (material.part != Part.NONE)
    least, most = places["least-cropland"] & used, places["most-cropland"] & used
    assert cropland[least].max() <= cropland[used & ~least].min()
    assert cropland[most].min() >= cropland[used & ~most].max()
    assert most.sum() == pytest.approx(used.sum() / 10, abs=1)
