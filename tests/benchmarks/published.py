"""The published inputs in miniature: a synthetic world as a training store, and the same content expanded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

import xland
from xland.datasets import synthetic_world
from xland.models.inputs import published_inputs
from xland.models.networks.unet import Architecture
from xland.training.configuration import Augmentation, Configuration, Data, Schedule
from xland.training.data.loader import PatchDataset, Place
from xland.training.data.patches import make_patches

FIRST = 1961
PATCH = 256


@dataclass(frozen=True)
class Size:
    """Fine cells along a side of the world, and its maps."""

    cells: int
    maps: int

    @property
    def years(self) -> tuple[int, ...]:
        """Years of the maps that are learned from; the priors and the second step begin one before."""
        return tuple(range(FIRST, FIRST + self.maps))


FULL = Size(800, 40)
QUICK = Size(400, 8)


def configuration(size: Size, width: int = 16, **schedule: Any) -> Configuration:
    """Return the 35 published channels with a U-Net of depth 4."""
    usual = {"patch": PATCH, "patch_stride": 25, "epochs": 1, "candidates": 2000}
    return Configuration(
        name="published-in-miniature",
        title="The published inputs on a synthetic world",
        data=Data(forcing="synthetic", forcing_years=size.years, target_years=size.years),
        inputs=published_inputs(),
        architecture=Architecture(width=width, depth=4),
        schedule=Schedule(**{**usual, **schedule}),
        split_seed=0,  # the world lies in training and validation cells
    )


def write_store(folder: Path, size: Size) -> str:
    """Write the training store."""
    cells, years = (size.cells, size.cells), (FIRST - 1, *size.years)
    world = synthetic_world(cells, published_inputs().factor, years, seed=0)
    path = folder / "store.zarr"
    given = {"forcing": world.forcing, "target": world.land_use, "static": world.static}
    xland.prepare(configuration(size), path, progress=False, **given)
    return str(path)


def write_expanded(folder: Path, store: str) -> dict[str, str]:
    """Write the content of a store on the fine grid in single precision: stacked, and an array a variable.

    Both with zarr's own compressor. Chunks of the stacked array hold all channels of a patch of a year, those of
    the others a patch of a year.
    """
    source = xland.open_training_store(store)
    inputs, (rows, columns) = source.inputs, source.shape
    coarse = [f"{channel.name}_{step}" for step in range(len(inputs.steps)) for channel in inputs.coarse]
    names = [*coarse, *(channel.name for channel in inputs.static), "prior", "target"]
    paths = {"stacked": str(folder / "stacked.zarr"), "variables": str(folder / "variables.zarr")}
    shape, chunk = (len(source.years), len(names), rows, columns), (1, len(names), PATCH, PATCH)
    stacked = zarr.create_array(paths["stacked"], shape=shape, chunks=chunk, dtype="f4")
    for year in range(len(source.years)):
        sample = source.read([Place(year, slice(0, rows), slice(0, columns))])[0]
        low = sample["coarse"].repeat(inputs.factor, axis=1).repeat(inputs.factor, axis=2)[:, :rows, :columns]
        maps = [sample[name][None].astype(np.float32) for name in ("prior", "target")]
        stacked[year] = np.concatenate([low, sample["static"].astype(np.float32), *maps])
    whole = xr.DataArray(da.from_zarr(stacked), {"channel": names}, ("time", "channel", "lat", "lon"))
    apart = whole.to_dataset("channel").chunk(time=1, lat=PATCH, lon=PATCH)
    apart.to_zarr(paths["variables"], zarr_format=3)
    return paths


def dataset(store: str, cache: int, patch: int = PATCH) -> PatchDataset:
    """Return all patches of all years of a store, their prior masked as in training."""
    source = xland.open_training_store(store, cache=cache)
    patches = make_patches(source.grid, patch, source.inputs.factor, source.inputs.factor)
    return PatchDataset(source, patches, augmentation=Augmentation())
