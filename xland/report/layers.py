"""The layers that a store of maps may hold beside its classes, and how a reader should look at them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, TimeError
from xland.geo.orientation import orient
from xland.reading.variables import map_years


@dataclass(frozen=True)
class Layer:
    """A layer of numbers: its name on the page, what to look for, and its fixed range, if it has one."""

    title: str
    look: str
    ends: tuple[float, float] | None = None


FIELDS: Mapping[str, Layer] = MappingProxyType({
    "confidence": Layer(
        "Confidence",
        "Dark places are nearly undecided between two classes. Look whether the map is wrong there.",
        (0.0, 1.0),
    ),
    "entropy": Layer("Entropy", "In bright places many classes are possible: expect errors there.", (0.0, 1.0)),
    "spread": Layer("Spread", "In bright places the models of the ensemble disagree."),
    "applicability": Layer(
        "Distance to the training data",
        "Bright places are unlike all training data: trust the map least there.",
    ),
    "unmet": Layer(
        "Coarse shares that could not be met",
        "Anything but the darkest colour is a cell whose coarse shares are impossible on its land.",
    ),
    "coarse difference": Layer(
        "Largest difference from the coarse shares",
        "Bright cells have more or less of a class than the forcing.",
    ),
})  # fmt: skip
"""Layers that are drawn, in this order. The last is made from the forcing, the others are read from the store."""


def extra_layers(predicted: xr.DataArray | xr.Dataset, year: int | None) -> dict[str, xr.DataArray]:
    """Return the layers of a Dataset for one year, by name; none of a plain map.

    Parameters
    ----------
    predicted : DataArray or Dataset
    year : int or None
        Taken where a layer has several time steps.

    Returns
    -------
    dict of str to DataArray
        ``probability`` and those of :data:`FIELDS` that are there. Without ``confidence`` it is made
        from the probabilities, lazily.

    Raises
    ------
    TimeError
        If a layer lacks the year.
    GridError
        If the probabilities have no dimension of classes, or others beside it.
    """
    if not isinstance(predicted, xr.Dataset):
        return {}
    found = {name: _at(predicted[name], year, name) for name in ("probability", *FIELDS) if name in predicted.data_vars}
    if "probability" in found and "confidence" not in found:
        classes = _class_dimension(found["probability"])
        found["confidence"] = xr.apply_ufunc(
            _margin,
            found["probability"].chunk({classes: -1}),
            input_core_dims=[[classes]],
            dask="parallelized",
            output_dtypes=[np.float32],
        )
    return found


def _at(layer: xr.DataArray, year: int | None, name: str) -> xr.DataArray:
    data, _ = orient(layer, what=f"layer {name!r}")
    if data.sizes.get("time", 1) == 1:
        return data
    years = map_years(data, f"layer {name!r}")
    if year not in years:
        raise TimeError(f"the layer {name!r} holds {len(years)} years, but not {year}")
    return data.isel(time=[years.index(year)])


def _class_dimension(probability: xr.DataArray) -> Hashable:
    spare = [dim for dim in probability.dims if dim not in {"time", "lat", "lon"}]
    if len(spare) != 1:
        raise GridError(
            f"the layer 'probability' has the dimensions {', '.join(map(str, probability.dims))}: beside time, lat and "
            "lon it needs one of classes, and no other"
        )
    return spare[0]


def _margin(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    best = probability.max(axis=-1)
    first = probability == best[..., None]
    second = np.where(first, -np.inf, probability).max(axis=-1)
    return np.where(first.sum(axis=-1) > 1, 0, best - second).astype(np.float32)
