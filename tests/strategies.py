"""Hypothesis strategies: small LUH2-like Datasets in many orders, ranges, chunkings and namings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from xland.geo.grid import Grid
from xland.vocabulary import LUH2_STATES

NAMINGS = (
    ("lat", "lon", "time"),
    ("latitude", "longitude", "time"),
    ("y", "x", "year"),
    ("nav_lat", "nav_lon", "t"),
    ("rows", "columns", "steps"),  # found through their CF attributes only
)
_CF = {
    "lat": {"standard_name": "latitude", "units": "degrees_north"},
    "lon": {"standard_name": "longitude", "units": "degrees_east"},
    "time": {"standard_name": "time"},
}


@dataclass(frozen=True)
class Layout:
    """How a Dataset may lie: all of these say the same thing by label."""

    names: tuple[str, str, str] = NAMINGS[0]
    latitude_ascending: bool = False
    west: float | None = None
    """Where a global field starts, in its own numbers (0 for 0..360); None leaves longitude as it is."""
    order: tuple[str, ...] = ("time", "lat", "lon")
    chunks: tuple[int, int, int] | None = None

    def apply(self, canonical: xr.Dataset) -> xr.Dataset:
        """Lay a canonical Dataset out like this."""
        ds = canonical.sortby("lat") if self.latitude_ascending else canonical
        if self.west is not None:
            shifted = (ds["lon"] - self.west) % 360 + self.west
            ds = ds.assign_coords(lon=shifted.assign_attrs(ds["lon"].attrs)).sortby("lon")
        ds = ds.transpose(*self.order)
        ds = ds.rename(dict(zip(("lat", "lon", "time"), self.names, strict=True)))
        if self.chunks is not None:
            ds = ds.chunk(dict(zip(self.names, self.chunks, strict=True)))
        return ds


def canonical_states(
    grid: Grid, years: tuple[int, ...] = (2015,), *, seed: int = 0, names: tuple[str, ...] = LUH2_STATES
) -> xr.Dataset:
    """Valid states on a grid: shares that sum to at most 1, and no data in about a third of the cells."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(len(names) + 1, 0.3), (len(years), *grid.shape))
    shares[:, generator.random(grid.shape) < 0.3] = np.nan
    values = np.moveaxis(shares[..., :-1], -1, 0).astype(np.float32)
    return xr.Dataset(
        {name: (("time", "lat", "lon"), values[i], {"units": "1"}) for i, name in enumerate(names)},
        coords={
            "time": ("time", list(years), _CF["time"]),
            "lat": ("lat", grid.latitude, _CF["lat"]),
            "lon": ("lon", grid.longitude, _CF["lon"]),
        },
    )


def grids(*, world: bool | None = None) -> st.SearchStrategy[Grid]:
    """Small grids: global ones, and regions, some of which pass the date line."""
    whole = st.sampled_from([Grid.world(30), Grid.world(45)])
    parts = st.builds(
        lambda rows, columns, row, column: Grid(0.25, 60 - 0.25 * row, -180 + 0.25 * column, rows, columns),
        rows=st.integers(2, 5),
        columns=st.integers(2, 7),
        row=st.integers(0, 300),
        column=st.one_of(st.integers(0, 1439), st.integers(1434, 1439)),
    )
    return whole if world is True else parts if world is False else st.one_of(whole, parts)


@st.composite
def layouts(draw: st.DrawFn, grid: Grid) -> Layout:
    """Layouts that a Dataset on this grid may have."""
    starts: list[float | None] = [None]
    if grid.is_global:
        starts += [0.0, -180.0, -30.0 if 30 % grid.resolution == 0 else -45.0]
    else:
        starts += [0.0, -180.0]  # a region that passes Greenwich or the date line is then torn apart
    chunk = st.one_of(st.just(-1), st.integers(1, 5))
    return Layout(
        names=draw(st.sampled_from(NAMINGS)),
        latitude_ascending=draw(st.booleans()),
        west=draw(st.sampled_from(starts)),
        order=tuple(draw(st.permutations(("time", "lat", "lon")))),
        chunks=draw(st.one_of(st.none(), st.tuples(chunk, chunk, chunk))),
    )


@st.composite
def laid_out_pairs(draw: st.DrawFn, **arguments: Any) -> tuple[xr.Dataset, xr.Dataset]:
    """A canonical Dataset, and the same in some other layout."""
    grid = draw(grids(world=arguments.pop("world", None)))
    arguments.setdefault("years", (2014, 2015))
    canonical = canonical_states(grid, seed=draw(st.integers(0, 2**16)), **arguments)
    return canonical, draw(layouts(grid)).apply(canonical)
