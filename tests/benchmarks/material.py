"""What the runs read: LUH2 as a Zarr of several years, and regions of the 0.05 degree globe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

DATA = Path(os.environ.get("XLAND_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
LUH2 = DATA / "luh2_2015" / "states_2015.nc"
YEARS = (2014, 2015, 2016)


@dataclass(frozen=True)
class Place:
    """A region to map, in degrees (west, south, east, north), None for the globe, and what it is."""

    box: tuple[float, float, float, float] | None
    note: str


SQUARE = Place(
    (12.25, -26.0, 114.75, 76.5),
    "2050 x 2050 cells (2048 in whole coarse cells), rows 1350-3400, columns 3845-5895 of the 0.05 degree globe: the "
    "square of this size that holds most land, 63 %; 311 of its 361 windows touch land",
)
ALL_LAND = Place(
    (7.25, 28.25, 137.25, 68.25),
    "800 x 2600 cells, Europe to Manchuria: 182 of 184 windows touch land, so next to nothing can be skipped",
)
GLOBE = Place(None, "3600 x 7200 cells, the globe")
QUARTER = Place((-20.0, 0.0, 160.0, 90.0), "1800 x 3600 cells, a quarter of the globe with most of its land")
SMALL = Place((84.25, 42.75, 114.25, 72.75), "600 x 600 cells of Siberia, all land: a quick look")
TINY = Place((91.75, 50.25, 106.75, 65.25), "300 x 300 cells of Siberia, a quarter of the other: a quick look")


def write_forcing(path: Path) -> Path:
    """Write the states of LUH2 2015 for three years, one chunk a variable and year as in the file that was released."""
    import numpy as np
    import xarray as xr

    with xr.open_dataset(LUH2, decode_times=False) as opened:
        states = opened.drop_vars("time").load()
    years = xr.DataArray(np.array(YEARS), dims="time", attrs={"standard_name": "time", "long_name": "calendar year"})
    states = states.drop_encoding().isel(time=[0] * len(YEARS)).assign_coords(time=years)
    states.chunk(time=1, lat=-1, lon=-1).to_zarr(path, zarr_format=3, consolidated=False)
    return path
