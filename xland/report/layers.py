"""The layers that a store of maps may hold beside its classes, and how a reader should look at them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, TimeError
from xland.geo.orientation import orient
from xland.outputs import OUTPUTS
from xland.reading.variables import map_years


@dataclass(frozen=True)
class Layer:
    """A layer of numbers: its name on the page, what to look for, and its fixed range, if it has one."""

    title: str
    look: str
    ends: tuple[float, float] | None = None


def drawn_fields() -> dict[str, Layer]:
    """Return the layers that are drawn, in this order: those of the store, and one that is made from the forcing."""
    stored = {
        each.name: Layer(each.long_name.capitalize(), each.look, tuple(each.attributes.get("valid_range", ())) or None)
        for each in OUTPUTS.values()
        if each.look
    }
    made = Layer(
        "Largest difference from the coarse shares", "Bright cells have more or less of a class than the forcing."
    )
    return {**stored, "coarse difference": made}


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
        ``probability`` and those of :func:`drawn_fields` that are there. Without ``margin`` it is made
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
    found = {
        name: _at(predicted[name], year, name)
        for name in ("probability", *drawn_fields())
        if name in predicted.data_vars
    }
    if "probability" in found and "margin" not in found:
        classes = _class_dimension(found["probability"])
        found["margin"] = xr.apply_ufunc(
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
