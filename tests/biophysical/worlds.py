"""An untrained model of the leaf area, a climate and maps: small, and different from place to place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xland.geo.grid import Grid
from xland.vocabulary import CLASS_NAMES, flag_attributes

PLACE = Grid(0.05, 45.0, 8.0, 20, 30)
"""Cells of 0.05 degree, in 4 x 6 cells of 0.25 degree."""

TARGET = {"name": "lai", "units": "1", "most": 8.0, "standard_name": "leaf_area_index", "long_name": "leaf area index"}


def untrained_model(folder: Path, **target: Any) -> Any:
    """A model of three members whose answers vary with the climate, and which has learned that of one place."""
    import torch

    from xland.biophysical import model
    from xland.biophysical.season import season_features
    from xland.biophysical.specification import Reach, Response, Target

    response = Response(hidden=8, members=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = model.network_of(response, Target(**{**TARGET, **target}), 1)
    features = season_features(*months(np.array([40.0]), np.array([10.0]))[..., 0, 0][:, None], np.array([40.0]))
    network.mean.copy_(torch.from_numpy(features.mean(axis=(0, 1))))
    network.scale.copy_(torch.from_numpy(np.abs(features).mean(axis=(0, 1)) + 1))
    network.prototypes.copy_(torch.from_numpy(network.standard(features).astype(np.float32)))
    reach = Reach(prototypes=1, typical=1.0, threshold=0.05)
    card = {"name": "untrained", "licence": "Apache-2.0", "target": {**TARGET, **target}}
    card |= {"response": vars(response), "coverage": vars(reach)}
    return model.save_model(folder, network, card)


def months(latitude: np.ndarray, longitude: np.ndarray, warming: float = 0.0) -> np.ndarray:
    """Temperature (degrees Celsius) and precipitation (mm) of a year, (2, 12, latitudes, longitudes)."""
    north, east = np.meshgrid(latitude, longitude, indexing="ij")
    season = np.cos(2 * np.pi * (np.arange(12) - 6.5) / 12)[:, None, None]
    tas = 25 - 0.4 * np.abs(north) + warming + 0.3 * np.abs(north) * np.sign(north) * season + np.sin(east / 3)
    pr = 60 + 30 * np.cos(np.deg2rad(5 * east)) + 20 * np.sin(np.deg2rad(10 * north)) * season
    return np.stack([tas, np.broadcast_to(pr, tas.shape)])


def climate(
    latitude: np.ndarray | None = None, longitude: np.ndarray | None = None, years: tuple[int, ...] = (2000, 2001)
) -> xr.Dataset:
    """Monthly climate in the units of CMIP, warmer from year to year, around the place of the maps."""
    lat = np.arange(42.5, 47, 1.0) if latitude is None else latitude
    lon = np.arange(6.5, 12, 1.0) if longitude is None else longitude
    tas, pr = np.concatenate([months(lat, lon, 0.5 * (year - 2000)) for year in years], axis=1)
    time = np.array([f"{year}-{month:02d}-16" for year in years for month in range(1, 13)], "datetime64[s]")
    days = xr.DataArray(time, dims="time").dt.days_in_month.values[:, None, None]
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {
            "tas": (dims, tas + 273.15, {"units": "K", "standard_name": "air_temperature"}),
            "pr": (dims, pr / 86_400 / days, {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}),
        },
        {
            "time": time,
            "lat": ("lat", lat, {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": ("lon", lon, {"standard_name": "longitude", "units": "degrees_east"}),
        },
    )


def maps(grid: Grid = PLACE, years: tuple[int, ...] = (2000, 2001), seed: int = 0) -> xr.DataArray:
    """Class codes of all eight classes, (time, lat, lon)."""
    codes = np.random.default_rng(seed).integers(0, len(CLASS_NAMES), (len(years), *grid.shape)).astype(np.uint8)
    coords = {
        "time": ("time", list(years), {"standard_name": "time"}),
        "lat": ("lat", grid.latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", grid.longitude, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    return xr.DataArray(codes, coords, ("time", "lat", "lon"), "land_use", flag_attributes())


def shares(codes: xr.DataArray) -> xr.DataArray:
    """The same as shares of 0 and 1, (time, class, lat, lon)."""
    values = (codes.values[:, None] == np.arange(len(CLASS_NAMES))[:, None, None]).astype(np.float32)
    dims = ("time", "class", "lat", "lon")
    return xr.DataArray(values, {**codes.coords, "class": list(CLASS_NAMES)}, dims, "probability")
