"""What a downscaling gives: its variables, their attributes, and how they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xland.errors import ModelError
from xland.grid import Grid
from xland.inputs import InputSpec
from xland.vocabulary import flag_attributes

OUTPUTS = {"land_use": ("land_use",), "probability": ("probability",), "confidence": ("confidence", "entropy")}
"""What can be asked for, and the variables that it gives."""

PACKED = {"dtype": "uint8", "scale_factor": 0.004, "_FillValue": 255}
"""How shares from 0 to 1 are stored: in steps of 1/250, as CF packed data."""

_LONG_NAMES = {
    "probability": "probability of the land-use class",
    "confidence": "difference between the two largest class probabilities",
    "entropy": "entropy of the class probabilities as a share of its largest value",
}


def choose_outputs(outputs: str | Sequence[str]) -> tuple[str, ...]:
    """Return what is asked for as names in :data:`OUTPUTS`; :class:`ModelError` for others."""
    wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
    unknown = [name for name in wanted if name not in OUTPUTS]
    if unknown or not wanted:
        raise ModelError(f"unknown outputs {', '.join(unknown) or '(none given)'}; choose from {', '.join(OUTPUTS)}")
    return wanted


def layers_of(outputs: Sequence[str]) -> tuple[str, ...]:
    """Variables that outputs need, the class map first."""
    return tuple(dict.fromkeys(["land_use", *(layer for name in outputs for layer in OUTPUTS[name])]))


def dataset_of(
    arrays: Mapping[str, da.Array],
    target: Grid,
    years: tuple[int, ...],
    outputs: tuple[str, ...],
    inputs: InputSpec,
) -> xr.Dataset:
    """Put lazy arrays on a grid into a Dataset with CF attributes.

    Parameters
    ----------
    arrays : mapping of str to Array
        Layers of :data:`OUTPUTS`, see :func:`xland.inference.graph.block_years`.
    target : Grid
    years : tuple of int
    outputs : tuple of str
        Names in :data:`OUTPUTS`.
    inputs : InputSpec
        Says what the classes are.
    """
    variables: dict[str, xr.Variable] = {}
    for name in (layer for output in OUTPUTS if output in outputs for layer in OUTPUTS[output]):
        dims = ("time", "class", "lat", "lon") if name == "probability" else ("time", "lat", "lon")
        if name == "land_use":
            variables[name] = xr.Variable(dims, arrays[name], flag_attributes(inputs.classes))
        else:
            attributes = {"long_name": _LONG_NAMES[name], "units": "1", "valid_range": [0.0, 1.0]}
            variables[name] = xr.Variable(dims, arrays[name], attributes, PACKED)
    coordinates: dict[str, Any] = {
        "time": ("time", np.array(years, dtype=np.int64), {"long_name": "calendar year"}),
        "lat": ("lat", target.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", target.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }
    if "probability" in outputs:
        coordinates["class"] = ("class", list(inputs.classes))
    return xr.Dataset(variables, coordinates)
