"""The layers that a store of maps may contain beside its classes, and how a reader should look at them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, TimeError
from xland.geo.orientation import orient
from xland.outputs import OUTPUTS
from xland.reading.variables import map_years


class Layer(NamedTuple):
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
    look = "Bright cells have more or less of a class than the forcing."
    return {**stored, "coarse difference": Layer("Largest difference from the coarse shares", look)}


def extra_layers(predicted: xr.DataArray | xr.Dataset, year: int | None) -> dict[str, xr.DataArray]:
    """Return ``probability`` and those of :func:`drawn_fields` that a Dataset has, for one year; none of a plain map.

    Without ``margin`` it is made from the probabilities, lazily. Raises :class:`TimeError` if a layer of several steps
    lacks the year, :class:`GridError` if the probabilities do not have exactly one dimension of classes.
    """
    if not isinstance(predicted, xr.Dataset):
        return {}
    names = [name for name in ("probability", *drawn_fields()) if name in predicted.data_vars]
    found = {name: _at(predicted[name], year, name) for name in names}
    if "probability" in found and "margin" not in found:
        probability = found["probability"]
        spare = [dim for dim in probability.dims if dim not in {"time", "lat", "lon"}]
        if len(spare) != 1:
            raise GridError(
                f"the layer 'probability' has the dimensions {', '.join(map(str, probability.dims))}: beside time, lat "
                "and lon it needs one of classes, and no other"
            )
        found["margin"] = xr.apply_ufunc(
            _margin,
            probability.chunk({spare[0]: -1}),
            input_core_dims=[spare],
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
        raise TimeError(f"the layer {name!r} has {len(years)} years, but not {year}")
    return data.isel(time=[years.index(year)])


def _margin(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    second, best = np.moveaxis(np.partition(probability, -2, axis=-1)[..., -2:], -1, 0)
    return (best - second).astype(np.float32)
