"""What a downscaling gives: its variables, their attributes, and how they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xland.arguments import items_of
from xland.errors import ModelError
from xland.grid import Grid
from xland.models.checkpoint import Checkpoint
from xland.models.ensemble import Ensemble
from xland.vocabulary import class_coordinates, flag_attributes
from xland.years import index_by

OUTPUTS = {
    "land_use": ("land_use",),
    "probability": ("probability",),
    "confidence": ("confidence", "entropy"),
    "spread": ("spread",),
    "applicability": ("applicability",),
    "conservation": ("unmet",),
}
"""What can be asked for, and the variables that it gives."""

PACKED = {"dtype": "uint8", "scale_factor": 0.004, "_FillValue": 255}
"""How shares from 0 to 1 are stored: in steps of 1/250, as CF packed data."""

_HALF = {**PACKED, "scale_factor": 0.002}
"""How shares from 0 to 1/2 are stored."""

_THEMATIC = {"coverage_content_type": "thematicClassification"}

_Look = tuple[str, list[float] | None, Mapping[str, Any]]

_LOOKS: Mapping[str, _Look] = MappingProxyType({
    "probability": ("probability of the land-use class", [0.0, 1.0], PACKED),
    "confidence": ("difference between the two largest class probabilities", [0.0, 1.0], PACKED),
    "entropy": ("entropy of the class probabilities as a share of its largest value", [0.0, 1.0], PACKED),
    "spread": ("standard deviation between models of the probability of the class on the map", [0.0, 0.5], _HALF),
    # without an upper end, and equal in all fine cells of a coarse one: compressed, floats take little room
    "unmet": ("share of the coarse cell that could not be given the class asked for", [0.0, 1.0], {}),
    "applicability": ("distance of the coarse cell to the training inputs (dissimilarity index)", None, {}),
})  # fmt: skip
"""Of each share or distance: its long name, its valid range and how it is stored."""


def choose_outputs(outputs: str | Sequence[str]) -> tuple[str, ...]:
    """Return what is asked for as names in :data:`OUTPUTS`; :class:`ModelError` for others."""
    wanted = (outputs,) if isinstance(outputs, str) else items_of(outputs, "outputs", ModelError)
    unknown = [name for name in wanted if not isinstance(name, str) or name not in OUTPUTS]
    if unknown or not wanted:
        said = ", ".join(map(str, unknown)) or "(none given)"
        raise ModelError(f"unknown outputs {said}; choose from {', '.join(OUTPUTS)}")
    return wanted


def check_model(outputs: Sequence[str], model: Checkpoint | Ensemble) -> None:
    """Refuse outputs that a model cannot give; :class:`ModelError` says why."""
    if "spread" in outputs and len(model.members) < 2:
        raise ModelError(
            f"the output 'spread' is how far several models disagree, and {model.name!r} is one: "
            "give more, model=['a', 'b'], or leave 'spread' out"
        )
    if "applicability" in outputs and model.applicability is None:
        raise ModelError(
            f"the output 'applicability' is a distance to the training inputs, which the model {model.name!r} does "
            "not hold: add them with `xland calibrate`, or leave 'applicability' out"
        )


def layers_of(outputs: Sequence[str]) -> tuple[str, ...]:
    """Variables that outputs need, the class map first."""
    return tuple(dict.fromkeys(["land_use", *(layer for name in outputs for layer in OUTPUTS[name])]))


def dataset_of(
    arrays: Mapping[str, da.Array],
    target: Grid,
    years: tuple[int, ...],
    outputs: tuple[str, ...],
    model: Checkpoint | Ensemble,
    *,
    exact: bool = False,
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
    model : Checkpoint or Ensemble
        Says what the classes are, and where its applicability ends.
    exact : bool
        Whether probabilities are stored as they are: steps of 0.004 would not keep coarse totals.
    """
    variables: dict[str, xr.Variable] = {}
    classes = model.inputs.classes
    for name in (layer for output in OUTPUTS if output in outputs for layer in OUTPUTS[output]):
        dims = ("time", "class", "lat", "lon") if name == "probability" else ("time", "lat", "lon")
        if name == "land_use":
            variables[name] = xr.Variable(dims, arrays[name], {**flag_attributes(classes), **_THEMATIC})
            continue
        long_name, valid, encoding = _LOOKS[name]
        content = "modelResult" if name == "probability" else "qualityInformation"
        attributes: dict[str, Any] = {"long_name": long_name, "units": "1", "coverage_content_type": content}
        attributes |= {} if valid is None else {"valid_range": valid}
        encoding = {} if exact and name == "probability" else encoding
        if name == "applicability" and model.applicability is not None:
            attributes["threshold"] = model.applicability.threshold
        variables[name] = xr.Variable(dims, arrays[name], attributes, dict(encoding))
    coordinates: dict[str, Any] = {
        "time": ("time", np.array(years, dtype=np.int64)),
        "lat": ("lat", target.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", target.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }
    if "probability" in outputs:
        coordinates |= class_coordinates(classes)
    return index_by(xr.Dataset(variables, coordinates), "class_name")
