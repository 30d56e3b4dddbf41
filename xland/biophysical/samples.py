"""What a model of the vegetation is learned from: blocks of cells with target, shares of classes and climate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import unknown
from xland.biophysical.season import MONTHS, season_features
from xland.biophysical.specification import Response, Target
from xland.errors import ConfigurationError
from xland.records import Limits, Positive, check_entries, read_record, read_toml
from xland.sources.files import open_coarse
from xland.vocabulary import CLASS_NAMES, OCEAN, WATER, WRF_MODIS, WRF_USGS, class_code

CONFIGS = Path(__file__).parent / "configs"
SCHEMES = {"MODIS": WRF_MODIS, "USGS": WRF_USGS}
"""Legends of ``land_use_fraction``, by the attribute ``scheme`` of a file."""

_LARGEST = 2**18
_OFF = 1e-3  # by which shares may miss 1
_LEAST_LAND = 0.02
_Text = Annotated[str, Limits(1, 1000)]


@dataclass(frozen=True)
class Block:
    """Part of a file that is left out in turn: cells from west to east and south to north, degrees."""

    name: _Text
    file: _Text
    south: float = -90.0
    north: float = 90.0
    west: float = -180.0
    east: float = 180.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Parameters
    ----------
    steps, batch : int
        Steps, and cells a step. Blocks take part in proportion to the root of their cells.
    rate, decay : float
        Peak rate of a one-cycle schedule, and decay of AdamW.
    noise : float
        Standard deviation of the noise on normalised predictors, which keeps responses smooth in climate.
    seed : int
    """

    steps: Annotated[int, Limits(1, 10**6)] = 800
    batch: Annotated[int, Limits(1, 10**6)] = 400
    rate: Positive = 1e-2
    decay: Annotated[float, Limits(0)] = 1e-2
    noise: Annotated[float, Limits(0)] = 0.3
    seed: Annotated[int, Limits(0, 2**31)] = 0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)


@dataclass(frozen=True)
class VegetationConfiguration:
    """Everything that fixes a training; ``folder`` holds the files of the blocks."""

    name: _Text
    target: Target
    blocks: tuple[Block, ...]
    folder: str = "."
    title: str = ""
    licence: str = "Apache-2.0"
    notes: str = ""
    response: Response = field(default_factory=Response)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)
        names = [block.name for block in self.blocks]
        if len(set(names)) < max(len(names), 2):
            raise ConfigurationError("a training needs two blocks or more, each with a name of its own")


@dataclass(frozen=True)
class Cells:
    """Cells of a block: target and climate of each month, and shares of their land."""

    target: NDArray[np.float32]
    shares: NDArray[np.float32]
    features: NDArray[np.float32]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]


def list_vegetation() -> tuple[str, ...]:
    """Names of the configurations that ship with the package."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.toml")))


def read_vegetation(source: str | Path) -> VegetationConfiguration | None:
    """Read a configuration by name or path; None if it is not one of a target of numbers."""
    path = CONFIGS / f"{source}.toml" if str(source) in list_vegetation() else Path(source)
    if not path.is_file():
        return None
    values = read_toml(path, _LARGEST, ConfigurationError)
    if "target" not in values:
        return None
    found = read_record(VegetationConfiguration, values, str(path), ConfigurationError)
    if not Path(found.folder).is_absolute():
        found = replace(found, folder=str(path.parent / found.folder))
    return found


def read_blocks(configuration: VegetationConfiguration, folder: str | Path | None = None) -> dict[str, Cells]:
    """Read the blocks of a configuration by name, from its folder or another one."""
    place = Path(configuration.folder if folder is None else folder)
    return {block.name: read_block(place / block.file, block, configuration.target) for block in configuration.blocks}


def read_block(path: Path, block: Block, target: Target) -> Cells:
    """Read the cells of a block that have a target.

    A file has the target (month, lat, lon), ``land_use_fraction`` (category, lat, lon) whose attribute ``scheme`` names
    its legend, and may have ``tas`` (degC) and ``pr`` (mm a month); else today's climate is taken.
    """
    with open_coarse(path) as opened:
        ds = xr.decode_cf(opened, decode_times=False)
        wanted = [target.name, "land_use_fraction"]
        if missing := [name for name in wanted if name not in ds]:
            raise ConfigurationError(f"{path} lacks {', '.join(missing)}")
        inside = (ds.lat >= block.south) & (ds.lat < block.north) & (ds.lon >= block.west) & (ds.lon < block.east)
        names = [*wanted, *(name for name in ("tas", "pr") if name in ds)]
        ds = ds[names].where(inside, drop=True).load()
    if not ds.sizes["lat"] * ds.sizes["lon"] or ds.sizes.get("month") != MONTHS:
        raise ConfigurationError(f"{path} has no cells in the block {block.name!r}, or not {MONTHS} months")
    if not {"tas", "pr"} <= set(ds.data_vars):
        from xland.datasets import monthly_climate

        ds = ds.merge(monthly_climate().sel(lat=ds.lat, lon=ds.lon, method="nearest").drop_vars(["lat", "lon"]))
    values, shares = (_rows(ds[name]) for name in (target.name, "land_use_fraction"))
    _check(values, target, path)
    shares = _class_shares(shares, ds, path)
    latitude, longitude = (each.ravel() for each in np.meshgrid(ds.lat, ds.lon, indexing="ij"))
    features = season_features(_rows(ds["tas"]), _rows(ds["pr"]), latitude)
    land = 1 - shares[:, [OCEAN, WATER]].sum(axis=1)
    known = np.isfinite(values).all(axis=1) & np.isfinite(features).all(axis=(1, 2)) & (land > _LEAST_LAND)
    known &= np.isfinite(shares).all(axis=1)
    if not known.any():
        raise ConfigurationError(f"{path}: no cell of the block {block.name!r} has {target.name}, land and climate")
    shares, land = shares[known], land[known]
    shares[:, [OCEAN, WATER]] = 0
    part = (shares / land[:, None]).astype(np.float32)
    return Cells(values[known].astype(np.float32), part, features[known], latitude[known], longitude[known])


def _rows(values: xr.DataArray) -> NDArray[np.float64]:
    other = next(name for name in values.dims if name not in ("lat", "lon"))
    ordered = values.transpose("lat", "lon", other).to_numpy()
    return ordered.reshape(-1, ordered.shape[-1]).astype(np.float64)


def _check(values: NDArray[np.float64], target: Target, path: Path) -> None:
    wrong = (values < target.least) | (values > target.most)
    if wrong.any():
        raise ConfigurationError(
            f"{path}: {target.name} is outside of {target.least:g} to {target.most:g} {target.units} in "
            f"{int(wrong.any(axis=1).sum())} cells, {float(np.nanmin(values)):g} to {float(np.nanmax(values)):g}: "
            "declare fill values, or correct the range of [target]"
        )


def _class_shares(fractions: NDArray[np.float64], ds: xr.Dataset, path: Path) -> NDArray[np.float64]:
    """Return shares of the classes, ``(cells, classes)``, from those of the categories of a legend."""
    scheme: Any = ds.attrs.get("scheme", "MODIS")
    if scheme not in SCHEMES:
        raise ConfigurationError(f"{path}: {unknown('scheme', scheme, SCHEMES)}")
    legend, codes = SCHEMES[scheme], ds["category"].to_numpy().tolist()
    if strange := [code for code in codes if code not in legend]:
        raise ConfigurationError(f"{path}: categories {strange[:8]} are not of the legend {scheme}")
    shares = np.zeros((len(fractions), len(CLASS_NAMES)))
    for column, code in enumerate(codes):
        shares[:, class_code(legend[code])] += fractions[:, column]
    off = np.abs(shares.sum(axis=1) - 1) > _OFF
    if off.any():
        raise ConfigurationError(f"{path}: land_use_fraction does not sum to 1 in {int(off.sum())} cells")
    return shares
