"""The published inputs in miniature: a synthetic world as a training store, and the same content expanded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import xland
from xland.datasets import synthetic_world
from xland.models.inputs import published_inputs
from xland.models.networks.unet import Architecture
from xland.training.configuration import Augmentation, Configuration, Data, Schedule
from xland.training.data.loader import PatchDataset, Place
from xland.training.data.patches import make_patches
from xland.training.data.stored import StoredArrays

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
    world = _world(size)
    path = folder / "store.zarr"
    xland.prepare(
        configuration(size),
        path,
        forcing=world.forcing,
        target=world.land_use,
        static=world.static,
        progress=False,
    )
    return str(path)


def write_expanded(folder: Path, store: str) -> dict[str, str]:
    """Write the content of a store on the fine grid in single precision: stacked, and an array a variable.

    Both with zarr's own compressor. Chunks of the stacked array hold all channels of a patch of a year, those of
    the others a patch of a year.
    """
    source = xland.open_training_store(store)
    rows, columns = source.shape
    names = channel_names(source)
    shape = (len(source.years), len(names), rows, columns)
    chunk = (1, len(names), min(PATCH, rows), min(PATCH, columns))
    paths = {"stacked": str(folder / "stacked.zarr"), "variables": str(folder / "variables.zarr")}
    stacked = zarr.create_array(paths["stacked"], shape=shape, chunks=chunk, dtype="f4")
    group = zarr.create_group(paths["variables"])
    dims = ("time", "lat", "lon")
    apart = {
        name: group.create_array(
            name, shape=(shape[0], *shape[2:]), chunks=(1, *chunk[2:]), dtype="f4", dimension_names=dims
        )
        for name in names
    }
    for year in range(len(source.years)):
        whole = expand_sample(source.read([Place(year, slice(0, rows), slice(0, columns))])[0], source)
        stacked[year] = whole
        for name, layer in zip(names, whole, strict=True):
            apart[name][year] = layer
    zarr.consolidate_metadata(group.store)
    return paths


def expand_sample(sample: dict[str, Any], source: StoredArrays) -> np.ndarray:
    """All channels of a sample on the fine grid, ``(channels, rows, columns)`` float32, target last."""
    factor, (rows, columns) = source.inputs.factor, sample["target"].shape
    coarse = sample["coarse"].repeat(factor, axis=1).repeat(factor, axis=2)[:, :rows, :columns]
    maps = [sample[name][None].astype(np.float32) for name in ("prior", "target")]
    return np.concatenate([coarse, sample["static"].astype(np.float32), *maps])


def channel_names(source: StoredArrays) -> list[str]:
    """Names of the channels of :func:`expand_sample`."""
    inputs = source.inputs
    coarse = [f"{channel.name}_{step}" for step in range(len(inputs.steps)) for channel in inputs.coarse]
    return [*coarse, *(channel.name for channel in inputs.static), "prior", "target"]


def dataset(store: str, cache: int, patch: int = PATCH) -> PatchDataset:
    """Return all patches of all years of a store, their prior masked as in training."""
    source = xland.open_training_store(store, cache=cache)
    patches = make_patches(source.grid, patch, source.inputs.factor, source.inputs.factor)
    return PatchDataset(source, patches, augmentation=Augmentation())


def _world(size: Size) -> Any:
    years = (FIRST - 1, *size.years)
    return synthetic_world((size.cells, size.cells), published_inputs().factor, years, seed=0)
