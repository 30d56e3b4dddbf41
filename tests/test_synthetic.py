from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xland.accessor  # noqa: F401 - registers .ai4land
from tests.worlds import tiny_checkpoint, tiny_configuration, tiny_inputs
from xland.datasets import static_predictors, synthetic_world
from xland.datasets.prepared import PREDICTORS
from xland.errors import DatasetError, GridError, TimeError
from xland.forcing.check import check
from xland.forcing.read import check_lattice, read_forcing
from xland.geo.grid import Grid, nesting_factor
from xland.geo.split import Part
from xland.models.inputs import published_inputs
from xland.totals.aggregation import aggregate_classes
from xland.training.data.material import gather
from xland.vocabulary import (
    CLASS_NAMES,
    CROPLAND,
    FOREST,
    LAND_CLASSES,
    LUH2_STATES,
    LUH_SECONDARY,
    OCEAN,
    STATE_CLASSES,
    URBAN,
    WATER,
)

FACTOR = 4
SHAPE = (128, 192)
YEARS = range(1990, 2015)


@pytest.fixture(scope="module")
def world():
    return synthetic_world(SHAPE, FACTOR, YEARS, seed=3)


def totals(forcing: xr.Dataset) -> dict[str, np.ndarray]:
    """Share of each class that the states know, in float64 and 0 where there is no data."""
    sums: dict[str, np.ndarray] = {}
    for state in LUH2_STATES:
        name = STATE_CLASSES[state]
        sums[name] = sums.get(name, 0) + np.nan_to_num(forcing[state].values.astype(np.float64))
    return sums


@st.composite
def arguments(draw):
    factor = draw(st.integers(1, 8))
    sides = st.integers(max(2, -(-32 // factor)), 64 // factor)
    first = draw(st.integers(850, 2400))
    return {
        "shape": (factor * draw(sides), factor * draw(sides)),
        "factor": factor,
        "years": sorted(draw(st.sets(st.integers(first, first + 12), min_size=1, max_size=3))),
        "seed": draw(st.integers(0, 2**32)),
        "resolution": draw(st.sampled_from([0.25, 0.5, 1.0])),
    }


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arguments())
def test_states_add_up_to_the_classes_of_the_maps_and_the_same_arguments_give_the_same_world(chosen):
    world, factor = synthetic_world(**chosen), chosen["factor"]
    shares, sums = aggregate_classes(world.land_use, factor), totals(world.forcing)
    blocks = world.land_use.coarsen(lat=factor, lon=factor).construct(lat=("row", "y"), lon=("column", "x"))
    for name, total in sums.items():
        np.testing.assert_allclose(total, shares[name], atol=3e-7)
        if chosen["resolution"] == 0.25:  # where the cells of a block have about the same area
            cells = (blocks == CLASS_NAMES.index(name)).sum(("y", "x"))
            np.testing.assert_array_equal(np.rint(total * factor**2), cells)
    unknown = sum(shares[name] for name in CLASS_NAMES if name not in sums)
    np.testing.assert_allclose(sum(sums.values()), 1 - unknown, atol=1e-6)
    for year in world.land_use.values:
        assert set(np.unique(year)) == {OCEAN, WATER, *LAND_CLASSES}
    again = synthetic_world(**chosen)
    for name in ("forcing", "land_use", "static"):
        xr.testing.assert_identical(getattr(again, name), getattr(world, name))


def blocks(fine):
    """Coarse rows and columns, and the fine cells within each."""
    return fine.coarsen(lat=FACTOR, lon=FACTOR).construct(lat=("row", "y"), lon=("column", "x"))


def test_years_left_out_are_simulated_and_another_seed_gives_another_world(world):
    some = synthetic_world(SHAPE, FACTOR, (1990, 1993), seed=3)
    xr.testing.assert_equal(some.land_use, world.land_use.sel(time=[1990, 1993]))
    xr.testing.assert_equal(some.forcing, world.forcing.sel(time=[1990, 1993]))
    other = synthetic_world(SHAPE, FACTOR, (1990,), seed=4)
    assert (other.land_use.values != world.land_use.values[:1]).mean() > 0.3


def test_some_land_changes_each_year_and_rests_then_sea_and_lakes_stay_and_towns_only_grow(world):
    codes = world.land_use.values
    shares = (codes[1:] != codes[:-1]).sum(axis=(1, 2)) / np.count_nonzero(codes[0] != OCEAN)
    assert 0.01 < shares.min() < shares.max() < 0.03
    there_and_back = (codes[1:-1] != codes[:-2]) & (codes[2:] == codes[:-2])
    assert not there_and_back.any()
    assert (codes[-1] == codes[0])[codes[0] != OCEAN].mean() > 0.5
    for code in (OCEAN, WATER):
        assert ((codes == code) == (codes[0] == code)).all()
    towns = codes == URBAN
    assert (towns[1:] >= towns[:-1]).all()
    assert towns[-1].sum() > 1.2 * towns[0].sum()
    for each in (codes[0], codes[-1]):
        land = (each[:, 1:] != OCEAN) & (each[:, :-1] != OCEAN)
        assert (each[:, 1:] == each[:, :-1])[land].mean() > 0.75, "patches are several cells wide"


def test_primary_land_never_grows_secondary_land_ages_and_oceans_have_no_data(world):
    for name in ("primf", "primn"):
        assert (world.forcing[name].diff("time").fillna(0) <= 0).all()
    still = (blocks(world.land_use == world.land_use[0])).all(("y", "x")).values
    undisturbed = still[:5].all(axis=0) & ((world.forcing["secdf"] + world.forcing["secdn"]).values[0] > 0)
    age, carbon = (world.forcing[name].values[:5, undisturbed] for name in ("secma", "secmb"))
    assert undisturbed.any()
    np.testing.assert_allclose(np.diff(age, axis=0), 1, rtol=1e-4)
    assert (carbon[4] > carbon[0]).all()
    ocean = blocks(world.land_use == OCEAN).all(("y", "x")).values
    assert 0.05 < ocean[0].mean() < 0.5
    for name in (*LUH2_STATES, *LUH_SECONDARY):
        np.testing.assert_array_equal(np.isnan(world.forcing[name]), ocean)


def test_forest_retreats_near_cropland_and_cropland_lies_on_gentle_slopes(world):
    from scipy.ndimage import uniform_filter

    codes = world.land_use.values
    forest = codes[:-1] == FOREST
    near = np.stack([uniform_filter((each == CROPLAND).astype(float), 5) > 0.1 for each in codes[:-1]])[forest]
    lost = (codes[1:] != FOREST)[forest]
    assert lost[near].mean() > 1.5 * lost[~near].mean()
    slope = blocks(world.static["slope"].where(world.static["land_share"] > 0))
    relative = slope - slope.mean(("y", "x"))
    assert relative.where(blocks(world.land_use[0]) == CROPLAND).mean() < 0


def test_the_forcing_passes_the_checks(world):
    table = check(world.forcing, model=None, static=world.static, progress=False)
    assert not [finding for finding in table.findings if finding.severity in ("error", "warning")]


@pytest.mark.parametrize(
    ("shape", "factor", "resolution"),
    [((100, 150), 25, 0.25), ((180, 360), 3, 3.0), ((66, 33), 3, 7.5), ((32, 32), 1, 0.1)],
)
def test_worlds_lie_on_the_lattice_and_nest(shape, factor, resolution):
    world = synthetic_world(shape, factor, [2000], resolution=resolution)
    coarse = read_forcing(world.forcing).grid
    fine = Grid.from_centres(world.static["lat"].values, world.static["lon"].values)
    check_lattice(coarse)
    assert nesting_factor(fine, coarse) == factor
    assert fine.shape == shape
    assert coarse.resolution == pytest.approx(resolution)
    for name in ("lat", "lon"):
        xr.testing.assert_identical(world.static[name], world.land_use[name])


def test_names_units_types_and_ranges_are_those_of_the_real_data(world):
    assert list(world.forcing) == [*LUH2_STATES, *LUH_SECONDARY]
    assert {name: world.forcing[name].attrs["units"] for name in LUH_SECONDARY} == dict(LUH_SECONDARY)
    assert {each.name for each in PREDICTORS} <= set(world.static), static_predictors.__name__
    assert set(published_inputs().static_variables) <= set(world.static)
    for each in PREDICTORS:
        assert world.static[each.name].attrs["units"] == each.units
    assert world.land_use.name == "land_use"
    assert world.land_use.attrs["flag_meanings"].split() == list(CLASS_NAMES)
    assert "Invented" in world.forcing.attrs["comment"]
    assert "seed=3" in world.static.attrs["source"]
    kinds = {array.dtype for array in (*world.forcing.values(), *world.static.values())}
    assert (kinds, world.land_use.dtype) == ({np.dtype("float32")}, np.dtype("uint8"))
    for array in world.static.values():
        assert np.isfinite(array).all(), array.name
    land = world.land_use[0].values != OCEAN
    np.testing.assert_array_equal(world.static["land_share"].values, land)
    zones = sum(world.static[name].values for name in world.static if name.startswith("koppen_"))
    np.testing.assert_array_equal(zones, land)
    assert (world.static["clay"] + world.static["sand"]).max() <= 95.001


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shape": (64, 66)}, GridError, "64 x 66 fine cells cannot be grouped by 4 x 4: choose multiples of 4"),
        ({"shape": (64,)}, GridError, r"two whole numbers, rows and columns, not \(64,\)"),
        ({"shape": (28, 64)}, GridError, r"28 x 64 fine cells are too few .* needs 32, and two coarse cells \(8\)"),
        ({"shape": (64, 64), "factor": 64}, GridError, r"two coarse cells \(128\), in each direction"),
        ({"shape": (4000, 64)}, GridError, r"1000 x 16 coarse cells of 0.25 degree are more than the globe has \(720"),
        ({"factor": 0}, GridError, "factor .* whole number of at least 1, not 0"),
        ({"resolution": 0.7}, GridError, r"180 degrees must hold a whole number of coarse cells, not 257.143 \(0.7\)"),
        ({"years": []}, TimeError, r"at least one year, such as years=range\(1980, 2020\)"),
        ({"years": [2000.5]}, TimeError, "must be whole numbers, not 2000.5"),
        ({"years": [2001, 2000]}, TimeError, "not sorted: 2001 is followed by 2000"),
        ({"years": [10]}, TimeError, "outside 850 to 2500: 10"),
        ({"seed": 1.5}, DatasetError, "seed .* whole number of at least 0, not 1.5"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        synthetic_world(**{"shape": (64, 64), "factor": 4, "years": [2000], **changes})


def test_it_is_downscaled_and_learned_from_like_any_forcing(tmp_path):
    # large enough in degrees for all parts of the split, on the grid of the tiny inputs
    world = synthetic_world((120, 240), 4, range(2000, 2003), resolution=4.0)
    model = tiny_checkpoint(tmp_path / "model", tiny_inputs())
    maps = world.forcing.ai4land.downscale(model=model, static=world.static, years=2001)["land_use"].compute()
    np.testing.assert_allclose(maps["lat"], world.land_use["lat"])
    sea = world.static["land_share"].values == 0
    assert (maps.values[0, sea] == OCEAN).all()
    assert np.unique(maps.values[0, ~sea]).size > 2
    data = {"forcing": world.forcing, "target": world.land_use[1:], "static": world.static, "prior": world.land_use}
    _, material = gather(tiny_configuration(tiny_inputs(prior="one_hot", steps=(0, -1))), **data)
    assert {Part.TRAIN, Part.VALIDATION} <= {Part(part) for part in np.unique(material.part)}
