from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from tests.scores.maps import on_grid, turned
from xland.errors import GridError, ModelError, RegionError, TimeError, VocabularyError
from xland.geo.grid import Grid
from xland.scores.reliability import assess_reliability
from xland.vocabulary import CLASS_NAMES, CROPLAND, FOREST, LAND_CLASSES, OCEAN, URBAN

WORLD = Grid.world(5)
CODES = list(LAND_CLASSES)
FLAT = np.isin(np.arange(WORLD.rows), np.flatnonzero(WORLD.latitude > -60))


def placed(values, resolution=5.0, north=90.0, west=-180.0):
    """Put values on cells, the classes by name."""
    made = on_grid(values, resolution, north, west)
    return made.assign_coords({"class": list(CLASS_NAMES)}) if "class" in made.dims else made


def drawn(seed=0):
    """Probabilities, and a map drawn from them."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2.0, size=(8, *WORLD.shape))
    scores[[OCEAN, 7]] = -30
    probability = np.exp(scores) / np.exp(scores).sum(axis=0)
    codes = (probability.cumsum(axis=0) < random.random(WORLD.shape)).sum(axis=0).astype(np.uint8)
    return placed(probability.astype(np.float32)), placed(codes)


def flat(probability, observed):
    """The cells that count, in a row, with their area."""
    area = np.broadcast_to(WORLD.cell_area()[:, None], WORLD.shape)
    counted = np.isin(observed.values, CODES) & FLAT[:, None]
    return probability.values[:, counted].astype(float), observed.values[counted], area[counted]


def eight_cells():
    """Two rows of four cells at the same distance from the equator; classes 2 and 4 share the probability."""
    sure = np.array([[0.95, 0.95, 0.85, 0.85], [0.65, 0.65, 0.65, 0.65]])
    values = np.zeros((8, 2, 4))
    values[CROPLAND], values[FOREST] = sure, 1 - sure
    codes = np.full((2, 4), CROPLAND, np.uint8)
    codes[0, 3] = codes[1, 2] = codes[1, 3] = FOREST
    return placed(values, 1.0, 1.0, 0.0), placed(codes, 1.0, 1.0, 0.0)


def test_eight_cells_by_hand():
    """0.95: 2 of 2 right; 0.85: 1 of 2; 0.65: 2 of 4."""
    found = assess_reliability(*eight_cells(), bins=10)
    assert found.confidence[[9, 8, 6]] == pytest.approx([0.95, 0.85, 0.65])
    assert found.accuracy[[9, 8, 6]] == pytest.approx([1, 0.5, 0.5])
    assert found.share[[9, 8, 6]] == pytest.approx([0.25, 0.25, 0.5])
    assert np.isnan(found.accuracy[[0, 5, 7]]).all()
    assert found.expected_calibration_error == pytest.approx(0.25 * 0.05 + 0.25 * 0.35 + 0.5 * 0.15)
    squares = 2 * np.array([0.05, 0.05, 0.15, 0.85, 0.35, 0.35, 0.65, 0.65]) ** 2
    assert found.brier == pytest.approx(squares.mean())
    assert found.coverage == pytest.approx([0.25, 0.5, 1.0])
    assert found.risk == pytest.approx([0, 0.25, 0.375])
    assert found.risk_coverage_area == pytest.approx(0.25 * 0 + 0.25 * 0.125 + 0.5 * 0.3125)
    # with one probability a bin the parts of the Brier score add up to it exactly
    reliability = 2 * (2 * 0.05**2 + 2 * 0.35**2 + 4 * 0.15**2) / 8
    resolution = 2 * (2 * (1 - 5 / 8) ** 2 + 6 * (1 / 2 - 5 / 8) ** 2) / 8
    parts = (found.brier_reliability, found.brier_resolution, found.brier_uncertainty)
    assert parts == pytest.approx((reliability, resolution, 2 * 5 / 8 * 3 / 8))
    assert found.brier == pytest.approx(reliability - resolution + found.brier_uncertainty)
    described = found.to_dict()
    assert (described["accuracy"][9], described["accuracy"][0]) == (1, None)
    assert described["class_errors"]["cropland"] == pytest.approx((0.1 + 0.7 + 0.6) / 8)
    assert "calibration error 0.1750" in str(found)


def test_all_scores_are_those_of_loops_over_cells_and_the_curve_that_of_scikit_learn():
    probability, observed = drawn()
    found = assess_reliability(probability, observed, bins=15)
    values, codes, area = flat(probability, observed)
    share = area / area.sum()
    truth = np.eye(8)[codes].T
    assert found.total == pytest.approx(area.sum())
    assert found.brier == pytest.approx((share * ((values - truth) ** 2).sum(axis=0)).sum())
    for code in range(8):
        place = np.minimum((values[code].astype(np.float64) * 15).astype(int), 14)
        gaps = np.bincount(place, (values[code] - truth[code]) * share, 15)
        assert found.class_errors[code] == pytest.approx(np.abs(gaps).sum())
    order = np.argsort(-values.max(axis=0))
    kept, wrong = share[order].cumsum(), (share * (values.argmax(axis=0) != codes))[order].cumsum()
    exact = np.interp(found.coverage, kept, wrong / kept)
    np.testing.assert_allclose(found.risk[found.coverage > 0.1], exact[found.coverage > 0.1], atol=0.01)
    assert found.risk_coverage_area == pytest.approx((share[order] * wrong / kept).sum(), abs=0.01)
    assert found.classwise_calibration_error == pytest.approx(found.class_errors[CODES].mean())
    pixels = assess_reliability(probability, observed, bins=10, weighting="pixels")
    right, sure = calibration_curve(values.argmax(axis=0) == codes, values.max(axis=0), n_bins=10)
    np.testing.assert_allclose(pixels.accuracy[pixels.share > 0], right, atol=1e-6)
    np.testing.assert_allclose(pixels.confidence[pixels.share > 0], sure, atol=1e-6)


def test_the_class_that_the_map_shows_is_judged():
    """A map that prefers urban: its confidence is the probability of urban, however small."""
    probability, observed = drawn(2)
    shown = xr.full_like(observed, URBAN)
    found = assess_reliability(probability, observed, decided=shown)
    values, codes, area = flat(probability, observed)
    assert np.nansum(found.confidence * found.share) == pytest.approx((values[URBAN] * area).sum() / area.sum())
    assert found.risk[-1] == pytest.approx(1 - area[codes == URBAN].sum() / area.sum())
    best = placed(probability.values.argmax(axis=0).astype(np.uint8))
    same = assess_reliability(probability, observed, decided=best)
    assert same.to_dict() == assess_reliability(probability, observed).to_dict()


@settings(max_examples=2)
@given(st.integers(0, 3), st.integers(9, 36), st.integers(20, 72), st.booleans())
def test_chunks_orientation_and_the_order_of_classes_change_nothing(seed, rows, columns, other):
    probability, observed = drawn(seed)
    expected = assess_reliability(probability, observed)
    lazy = probability.chunk({"lat": rows, "lon": columns, "class": 3})
    if other:
        lazy, observed = lazy.isel({"lat": slice(None, None, -1), "class": slice(None, None, -1)}), turned(observed)
    with dask.config.set(scheduler="sync"):
        found = assess_reliability(lazy, observed.chunk())
    assert found.brier == pytest.approx(expected.brier)
    np.testing.assert_allclose(found.accuracy, expected.accuracy)
    np.testing.assert_allclose(found.risk, expected.risk, atol=1e-12)


def test_a_part_of_the_globe_is_judged_where_both_are():
    probability, observed = drawn()
    with pytest.raises(RegionError, match="no cell is left to score"):
        assess_reliability(probability, observed, within=np.zeros(WORLD.shape, bool))
    part = probability.isel(lat=slice(4, 20), lon=slice(10, 40))
    found = assess_reliability(part, observed)
    inside = np.zeros(WORLD.shape, bool)
    inside[4:20, 10:40] = True
    masked = assess_reliability(probability, observed, within=inside)
    assert found.total == pytest.approx(masked.total)
    assert found.brier == pytest.approx(masked.brier)
    by_label = assess_reliability(part, observed, within=placed(inside))
    assert by_label.brier == pytest.approx(masked.brier)


def test_years_that_both_have_are_counted_together():
    pairs = [drawn(seed) for seed in (3, 4)]
    years = xr.Variable("time", [2000, 2001])
    probability, observed = (xr.concat(each, years) for each in zip(*pairs, strict=True))
    found = assess_reliability(probability.transpose("lat", "class", "time", "lon"), observed, decided=observed)
    single = [assess_reliability(*pair, domain="land") for pair in pairs]
    assert found.total == pytest.approx(sum(each.total for each in single))
    assert found.brier == pytest.approx(sum(e.brier * e.total for e in single) / found.total)
    with pytest.raises(TimeError, match="lacks 2000"):
        assess_reliability(probability, observed, decided=observed.isel(time=[1]))
    everything = assess_reliability(*pairs[0], domain="all")
    assert everything.total == pytest.approx(WORLD.cell_area().sum() * WORLD.columns)
    assert everything.total > single[0].total


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p, o: (p.isel({"class": slice(7)}), o), VocabularyError, "the 7 classes of .* must be ocean, urban"),
        (
            lambda p, o: (p.assign_coords({"class": list("abcdefgh")}), o),
            VocabularyError,
            "not a, b.*drop the coordinate",
        ),
        (lambda p, o: (p.isel({"class": 0}, drop=True), o), GridError, "needs one of classes, and no other"),
        (lambda p, o: (p * 0.5, o), ModelError, r"\d+ cells hold no probabilities .* they sum to 0\.5"),
        (lambda p, o: (p.where(p.lat < 40), o), ModelError, "NaN, below 0, or their sum is not 1"),
        (lambda p, o: (p, o.where(o != 4, 9)), VocabularyError, "observed map"),
        (lambda p, o: (p, o.isel(lat=slice(4, 30, 2), lon=slice(4, 60, 2))), GridError, "aggregate or regrid"),
        (lambda p, o: (p.isel(lon=slice(20)), o.isel(lon=slice(30, 50))), RegionError, "no cell in common"),
        (lambda p, o: (p.to_dataset(name="probability"), o), GridError, "probability is a Dataset; pass the DataArray"),
        (lambda p, o: (p.values, o), GridError, "probability is a ndarray; pass the DataArray"),
    ],
)
def test_maps_that_cannot_be_compared_are_named(change, error, message):
    with pytest.raises(error, match=message):
        assess_reliability(*change(*drawn()))


def test_choices_that_do_not_exist_are_named():
    for choice in ({"bins": 0}, {"weighting": "cells"}, {"domain": "sea"}):
        with pytest.raises(ModelError, match=next(iter(choice))):
            assess_reliability(*drawn(), **choice)
