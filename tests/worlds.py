"""A small deterministic world to learn from: coarse states, static fields and fine maps that agree.

The whole globe on 4 degrees (coarse) and 1 degree (fine, factor 4). Coarse states are the exact area
shares of the fine maps' classes; cropland spreads a little from year to year; ocean, lakes and ice are
there. One degree is coarse enough for tests and fine enough to hold all 6 x 12 degree cells of the split.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xland.geo.grid import Grid, class_shares
from xland.models.checkpoint import Checkpoint, save_checkpoint
from xland.models.inputs import Channel, InputSpec
from xland.vocabulary import (
    CLASS_NAMES,
    CROP_STATES,
    CROPLAND,
    FOREST,
    GRASS_SHRUB,
    OCEAN,
    OTHER,
    PASTURE,
    URBAN,
    WATER,
    flag_attributes,
)

FACTOR = 4
COARSE = Grid.world(4)
FINE = Grid.world(1)

_SPLIT_STATES = {
    "forest": {"primf": 0.625, "secdf": 0.375},
    "grass_shrub": {"primn": 0.75, "secdn": 0.25},
    "pasture": {"pastr": 0.5, "range": 0.5},
    "urban": {"urban": 1.0},
    "cropland": {"c3ann": 0.5, "c3nfx": 0.125, "c3per": 0.125, "c4ann": 0.125, "c4per": 0.125},
}


def tiny_inputs(prior: str = "none", steps: tuple[int, ...] = (0,)) -> InputSpec:
    """Seven coarse and three static channels of the tiny world; windows of 40 cells, stride 20."""
    return InputSpec(
        coarse=(
            Channel("forest", ("primf", "secdf")),
            Channel("cropland", CROP_STATES),
            Channel("pasture", ("pastr", "range")),
            Channel("grass_shrub", ("primn", "secdn")),
            Channel("urban", ("urban",), "sqrt"),
            Channel("secma", ("secma",), "log1p", mean=3.5, scale=1.0, optional=True),
            Channel("has_data", ()),
        ),
        static=(
            Channel("elevation", ("elevation",), "signed_sqrt", mean=20.0, scale=20.0),
            Channel("abs_latitude", ("abs_latitude",), mean=45.0, scale=25.0),
            Channel("land_share", ("land_share",)),
        ),
        steps=steps,
        prior=prior,
        factor=FACTOR,
        resolution=FINE.resolution,
        window=40,
        stride=20,
    )


def tiny_world(years: tuple[int, ...] = (2000, 2001), seed: int = 0) -> tuple[xr.Dataset, xr.Dataset, xr.DataArray]:
    """Coarse states (time, lat, lon), static fields (lat, lon) and class codes (time, lat, lon).

    The maps of a year depend on the year and the seed alone, not on which others are asked for.
    """
    coarse, static, maps = _world(tuple(years), seed)
    return coarse.copy(deep=True), static.copy(deep=True), maps.copy(deep=True)


@lru_cache(maxsize=8)
def _world(years: tuple[int, ...], seed: int) -> tuple[xr.Dataset, xr.Dataset, xr.DataArray]:
    random = np.random.default_rng(seed)
    sea, relief, wet, suited, pasture, town = (_field(random, high) for high in (3, 12, 25, 40, 30, 60))
    land = (sea > -0.4) & (FINE.latitude[:, None] > -80)
    latitude = np.abs(FINE.latitude)[:, None] * np.ones(FINE.columns)
    height = 400 + 1500 * np.maximum(relief, -0.2) ** 2 + 800 * (sea + 0.4)
    elevation = np.where(land, np.minimum(height, 8848), 0.0)
    maps = []
    for year in years:
        codes = np.full(FINE.shape, GRASS_SHRUB, dtype=np.uint8)
        codes[wet > 0.2] = FOREST
        codes[pasture > 0.9] = PASTURE
        codes[suited > 0.8 - 0.1 * (year - 2000)] = CROPLAND
        codes[(latitude > 68) | (wet < -1.3)] = OTHER
        codes[(town > 1.9) & (latitude < 65)] = URBAN
        codes[relief < -2.0] = WATER
        codes[~land] = OCEAN
        maps.append(codes)
    stacked = np.stack(maps)
    fine = {"lat": ("lat", FINE.latitude, _LAT), "lon": ("lon", FINE.longitude, _LON)}
    time = {"time": ("time", list(years), {"standard_name": "time", "long_name": "calendar year"})}
    land_use = xr.DataArray(stacked, {**time, **fine}, ("time", "lat", "lon"), "land_use", flag_attributes())
    static = xr.Dataset(
        {
            "elevation": (("lat", "lon"), elevation.astype(np.float32), {"units": "m"}),
            "abs_latitude": (("lat", "lon"), latitude.astype(np.float32), {"units": "degrees"}),
            "land_share": (("lat", "lon"), np.where(land, 0.5 + 0.5 * (sea > 0), 0).astype(np.float32), {"units": "1"}),
        },
        coords=fine,
    )
    return _coarse(stacked, time), static, land_use


def tiny_network(inputs: InputSpec | None = None, seed: int = 0, **architecture: Any) -> Any:
    """An untrained network of width 4 and depth 2 whose most probable classes vary from place to place."""
    return deepcopy(_network(inputs or tiny_inputs(), seed, tuple(architecture.items())))


@lru_cache(maxsize=32)
def _network(inputs: InputSpec, seed: int, architecture: tuple[tuple[str, Any], ...]) -> Any:
    import torch

    from xland.models.networks.unet import Architecture, DownscalingNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DownscalingNetwork(inputs, Architecture(**{"width": 4, "depth": 2, **dict(architecture)}))
        random = np.random.default_rng(seed)
        size, batch = inputs.window, 8
        coarse = random.normal(size=(batch, inputs.coarse_channels, size // inputs.factor, size // inputs.factor))
        static = random.normal(size=(batch, len(inputs.static), size, size))
        tensors = torch.from_numpy(coarse.astype(np.float32)), torch.from_numpy(static.astype(np.float16))
        with torch.no_grad():
            for _ in range(20):
                network(*tensors)  # lets the batch normalisation see values of this size
        network.eval()
        with torch.no_grad():
            scores = network(*tensors)
            for body in network.bodies:
                body.head.bias -= scores.mean(dim=(0, 2, 3))
    return network


def tiny_checkpoint(
    folder: Path | str, inputs: InputSpec | None = None, seed: int = 0, **architecture: Any
) -> Checkpoint:
    """Write the folder of an untrained model whose maps hold several classes."""
    return save_checkpoint(
        folder,
        tiny_network(inputs, seed, **architecture),
        {"name": f"tiny-{seed}", "title": "An untrained model of the tests", "licence": "Apache-2.0"},
    )


def tiny_configuration(inputs: InputSpec | None = None, **schedule: Any) -> Any:
    """A configuration that trains a tiny U-Net on the tiny world in a second or two."""
    from xland.models.networks.unet import Architecture
    from xland.training.configuration import Configuration, Data, Schedule

    usual = {"epochs": 2, "batch": 3, "patch": 40, "patch_stride": 20, "candidates": 24, "learning_rate": 2e-2}
    return Configuration(
        name="tiny",
        title="A model of the tests",
        data=Data(forcing="tiny.nc", target="tiny-maps.nc", static="tiny-static.nc"),
        inputs=inputs or tiny_inputs(),
        architecture=Architecture(width=4, depth=2),
        schedule=replace(Schedule(), **{**usual, **schedule}),
    )


_LAT = {"standard_name": "latitude", "units": "degrees_north"}
_LON = {"standard_name": "longitude", "units": "degrees_east"}


def _field(random: np.random.Generator, highest: float) -> np.ndarray:
    """Smooth noise of unit variance on the sphere, without a seam: waves up to a number round the globe."""
    lat, lon = np.deg2rad(FINE.latitude)[:, None], np.deg2rad(FINE.longitude)[None, :]
    place = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) + 0 * lon])
    total = np.zeros(FINE.shape)
    for _ in range(12):
        wave = random.normal(size=3)
        wave *= random.uniform(1, highest) / np.linalg.norm(wave)
        total += np.cos(np.tensordot(wave, place, 1) + random.uniform(0, 2 * np.pi))
    return total / np.sqrt(6)


def _coarse(maps: np.ndarray, time: dict[str, Any]) -> xr.Dataset:
    shares = np.stack([class_shares(codes, FACTOR, FINE.cell_area(), len(CLASS_NAMES)) for codes in maps], axis=1)
    empty = shares[OCEAN] == 1
    dims = ("time", "lat", "lon")
    variables = {}
    for name, states in _SPLIT_STATES.items():
        for state, part in states.items():
            values = np.where(empty, np.nan, part * shares[CLASS_NAMES.index(name)])
            variables[state] = (dims, values.astype(np.float32), {"units": "1"})
    age = np.where(empty, np.nan, 20 + 60 * shares[FOREST])
    variables["secma"] = (dims, age.astype(np.float32), {"units": "years"})
    variables["secmb"] = (dims, (age / 10).astype(np.float32), {"units": "kg m-2"})
    coords = {**time, "lat": ("lat", COARSE.latitude, _LAT), "lon": ("lon", COARSE.longitude, _LON)}
    return xr.Dataset(variables, coords)
