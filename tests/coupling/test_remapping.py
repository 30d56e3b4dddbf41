"""Areas of classes are the same on every grid; weights are exact and computed once."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xland.coupling import remapping
from xland.coupling.grids import Cells, Gaussian, HEALPix, Regular, as_grid
from xland.coupling.remapping import residual, weights_of
from xland.errors import GridError, RegionError
from xland.geo.grid import EARTH_RADIUS, Grid
from xland.geo.regridding import area_mean

WORLD = Grid.world(1)
AREA = WORLD.cell_area()
SPHERE = 4 * np.pi * EARTH_RADIUS**2
CODES = np.random.default_rng(1).integers(0, 8, WORLD.shape).astype(np.uint8)
HERE = np.bincount(CODES.ravel(), np.repeat(AREA, WORLD.columns), 8)


def icosahedron(levels: int) -> Cells:
    """Triangles with corners at both poles, as a model on an icosahedral mesh has them."""
    ring = np.deg2rad(np.arange(5) * 72.0)
    height = np.arctan(0.5)
    upper, lower = ([(lon + turn, lat) for lon in ring] for turn, lat in ((0, height), (np.pi / 5, -height)))
    places = [(0, np.pi / 2), *upper, *lower, (0, -np.pi / 2)]
    points = np.array([(np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)) for a, b in places])
    faces = [(0, 1 + k, 1 + (k + 1) % 5) for k in range(5)] + [(11, 6 + k, 6 + (k + 1) % 5) for k in range(5)]
    faces += [(1 + k, 6 + k, 1 + (k + 1) % 5) for k in range(5)] + [
        (6 + k, 6 + (k + 1) % 5, 1 + (k + 1) % 5) for k in range(5)
    ]
    triangles = points[np.array(faces)]
    for _ in range(levels):
        a, b, c = np.moveaxis(triangles, 1, 0)
        ab, bc, ca = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a + b, b + c, c + a))
        triangles = np.concatenate([np.stack(t, axis=1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    lat = np.rad2deg(np.arctan2(triangles[..., 2], np.hypot(triangles[..., 0], triangles[..., 1])))
    return Cells(np.rad2deg(np.arctan2(triangles[..., 1], triangles[..., 0])), lat)


GRIDS = {
    "regular": lambda: Regular(1.5),
    "finer": lambda: Regular(0.4),
    "healpix": lambda: HEALPix(16),
    "ring": lambda: HEALPix(7, nested=False),
    "octahedral": lambda: Gaussian("O24"),
    "full": lambda: Gaussian("F10"),
    "mesh": lambda: icosahedron(3),
    "few": lambda: icosahedron(0),
}


@pytest.mark.parametrize("name", GRIDS)
def test_each_class_has_the_same_area_on_every_grid(name):
    if name in ("healpix", "ring"):
        pytest.importorskip("healpy", reason="needs the extra healpix")
    grid = GRIDS[name]()
    weights = weights_of(grid, WORLD)
    found = weights.areas(CODES, AREA, 8)
    assert np.abs(found.sum(axis=0) / HERE - 1).max() < 1e-6
    assert residual(found, CODES, weights, AREA) < 1e-6
    assert np.abs(weights.covered() - 1).max() < 1e-6
    assert (found.sum(axis=1) > 0).all()


def test_cells_have_the_area_of_spherical_triangles():
    grid = icosahedron(2)
    lon, lat = (np.deg2rad(each) for each in grid.corners(0, grid.count))
    a, b, c = np.moveaxis(np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1), 1, 0)
    top = np.abs((a * np.cross(b, c)).sum(1))
    exact = 2 * np.arctan2(top, 1 + (a * b).sum(1) + (b * c).sum(1) + (c * a).sum(1)) * EARTH_RADIUS**2
    assert np.allclose(weights_of(grid, WORLD).areas(CODES, AREA, 8).sum(axis=1), exact, rtol=1e-6)


@given(st.integers(1, 40), st.floats(-180, 180), st.floats(-89, 60))
def test_a_regular_grid_agrees_with_overlaps_along_latitude_and_longitude(size, west, south):
    step = size * 0.37
    region = (west, south, west + 2 * step, min(south + 2 * step, south + 2 * ((90 - south) / 2)))
    if region[3] - south < 2 * step - 1e-9:
        return
    grid = Regular(step, region)
    target = Grid(step, region[3], west, 2, 2)
    exact = area_mean((CODES == 3).astype(float), WORLD, target) * target.cell_area()[:, None]
    assert np.allclose(
        weights_of(grid, WORLD).areas(CODES, AREA, 8)[:, 3], exact.ravel(), rtol=1e-5, atol=1e-7 * AREA.max()
    )


def test_a_cell_round_a_pole_and_one_across_the_date_line_are_whole():
    cap = Cells([[0.0, 90, 180, 270]], [[80.0] * 4])
    across = Cells([[170.0, -170, -170, 170]], [[10.0, 10, -10, -10]])
    for grid, reach in ((cap, (80, 90)), (across, (-10, 10))):
        total = weights_of(grid, WORLD).areas(CODES, AREA, 8).sum()
        band = (np.sin(np.deg2rad(reach[1])) - np.sin(np.deg2rad(reach[0]))) * SPHERE / 2
        share = 1 if grid is cap else 20 / 360
        # edges are great circles: a square cap is smaller than the band, a cell between parallels larger
        assert 0.6 < total / (band * share) < 1.1
    assert weights_of(cap, WORLD).covered()[-1] == 0


def test_a_region_of_the_map_is_enough_for_the_cells_in_it():
    part = WORLD.window(slice(20, 70), slice(330, 360))
    grid = Regular(2.5, (160, 30, 175, 60))
    rows, columns = slice(20, 70), slice(330, 360)
    small = weights_of(grid, part).areas(CODES[rows, columns], part.cell_area(), 8)
    assert np.allclose(small, weights_of(grid, WORLD).areas(CODES, AREA, 8))


def test_weights_are_computed_once_and_damaged_ones_again(tmp_path, monkeypatch):
    grid = Regular(3.0)
    first = weights_of(grid, WORLD, tmp_path)
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(remapping, "_compute", None)
        again = weights_of(grid, WORLD, tmp_path)
    assert np.array_equal(first.whole, again.whole)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert np.array_equal(first.whole, weights_of(grid, WORLD, tmp_path).whole)


def test_meshes_are_read_in_both_forms():
    grid = icosahedron(1)
    lon, lat = grid.corners(0, grid.count)
    scrip = xr.Dataset(
        {
            "grid_corner_lon": (("n", "k"), np.deg2rad(lon), {"units": "radians"}),
            "grid_corner_lat": (("n", "k"), np.deg2rad(lat), {"units": "radians"}),
        }
    )
    nodes = np.arange(lon.size).reshape(lon.shape) + 1.0
    padded = np.concatenate([nodes, np.full((grid.count, 1), -1.0)], axis=1)
    topology = {"cf_role": "mesh_topology", "node_coordinates": "x lat_y", "face_node_connectivity": "faces"}
    ugrid = xr.Dataset(
        {
            "mesh": ((), 0, topology),
            "x": ("node", lon.ravel()),
            "lat_y": ("node", lat.ravel()),
            "faces": (("n", "k"), padded, {"start_index": 1, "_FillValue": -1}),
        }
    )
    for ds in (scrip, ugrid):
        found = weights_of(Cells.from_mesh(ds), WORLD).areas(CODES, AREA, 8)
        assert np.allclose(found, weights_of(grid, WORLD).areas(CODES, AREA, 8), rtol=1e-9)


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        (lambda: Cells([[0.0, 10, 10, 0], [5, 15, 15, 5]], [[0.0, 0, 10, 10]] * 2), "overlap each other"),
        (lambda: Cells([[0.0, 10, 10, 0]] * 2, [[0.0, 0, 10, 10]] * 2), "overlap each other"),
        (lambda: Cells([[0.0, 10, 0, 10]], [[0.0, 10, 10, 0]]), "crosses itself"),
    ],
)
def test_cells_that_overlap_or_cross_themselves_are_refused(grid, text):
    with pytest.raises(GridError, match=text):
        weights_of(grid(), WORLD)


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        (lambda: Cells([[0.0, 10, 10]], [[0.0, 0, 91]]), "-90 to 90"),
        (lambda: Cells([[0.0, 10]], [[0.0, 0]]), "3 or more"),
        (lambda: Cells([[0.0, 10, np.nan]], [[0.0, 0, 1]]), "fewer than three"),
        (lambda: Cells([[0.0, 10, np.inf]], [[0.0, 0, 1]]), "finite"),
        (lambda: Cells.from_mesh(xr.Dataset()), "not a mesh"),
        (lambda: Regular(0.7), "do not divide"),
        (lambda: Regular(1.0, (0, 10, 10, -10)), "empty"),
        (lambda: Regular(float("nan")), "finite"),
        (lambda: Regular(1e-4), "cells, more than"),
        (lambda: Gaussian("N32"), "columns"),
        (lambda: Gaussian("X1"), "O320"),
        (lambda: Gaussian("N1", (4,)), "2 rows"),
        (lambda: HEALPix(6), "power of 2"),
        (lambda: HEALPix(4, cells=[1, 1]), "twice"),
        (lambda: as_grid("globes"), "Region"),
    ],
)
def test_grids_that_cannot_be_are_refused_by_name(grid, text):
    with pytest.raises((GridError, RegionError), match=text):
        grid()
