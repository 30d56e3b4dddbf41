from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.benchmarks.allocation import FACTOR, fitted, fractions_error, lines, material
from xland.geo.grid import Grid
from xland.totals.maps import fit_map
from xland.vocabulary import CLASS_NAMES


@pytest.fixture(scope="module")
def rivals():
    (found,) = lines(cells=2, runs=1)
    return found["rivals"]


def test_no_assignment_of_scipy_is_more_probable(rivals):
    assert rivals["optimal"]["log_probability"] == pytest.approx(rivals["scipy"]["log_probability"], abs=1e-5)


def test_a_greedy_pass_is_less_probable(rivals):
    assert rivals["greedy"]["log_probability"] < rivals["optimal"]["log_probability"]


def test_chunks_of_the_benchmark_change_nothing():
    probability, targets, area = material(11)
    whole = fit_map(probability, targets, FACTOR, area, np.ones(probability.shape[1:], np.bool_)).codes
    assert (fitted(probability, targets, area).compute() == whole).all()


def test_errors_count_where_totals_can_be_kept_and_the_other_cells_are_listed():
    coarse = Grid(0.25, 60.25, 10.0, 2, 2)
    fine = coarse.refine(5)
    values = np.zeros((8, *fine.shape))
    values[4] = 1
    probability = xr.DataArray(
        values,
        {"class": list(CLASS_NAMES), "lat": fine.latitude, "lon": fine.longitude},
        ("class", "lat", "lon"),
    )
    shares = {name: (("lat", "lon"), np.full(coarse.shape, 1.0 * (name == "forest"))) for name in CLASS_NAMES}
    forcing = xr.Dataset(shares, {"lat": coarse.latitude, "lon": coarse.longitude}).assign_coords(time=2015)
    forcing["forest"][0, 1] = 0.5
    forcing["cropland"][0, 1] = 0.5
    unmet = xr.DataArray(
        [[0.0, 0.25], [0.0, np.nan]], {"lat": coarse.latitude, "lon": coarse.longitude}, ("lat", "lon")
    )
    found = fractions_error(probability, unmet, forcing)
    assert found["largest_error"] < 1e-9
    assert found["feasible_cells"] == 2
    assert found["infeasible"] == [(60.125, 10.375, 0.25)]
