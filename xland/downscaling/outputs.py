"""What a downscaling returns: variables, their attributes, and how they follow from probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import items_of
from xland.downscaling.conserving import BlockTargets
from xland.errors import ModelError
from xland.geo.grid import Grid
from xland.geo.years import index_by
from xland.models.checkpoint import Checkpoint
from xland.models.ensemble import Ensemble
from xland.vocabulary import OCEAN, class_coordinates, flag_attributes

if TYPE_CHECKING:
    from torch import Tensor


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
        Layers of :data:`OUTPUTS`, see :func:`xland.downscaling.graph.block_years`.
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


LAYERS = ("land_use", "probability", "confidence", "entropy", "spread", "unmet")
"""What can be taken from the probabilities of a block."""

_OCEAN = {"confidence": 1.0, "entropy": 0.0, "spread": 0.0, "applicability": np.nan, "unmet": np.nan}


@dataclass(frozen=True, eq=False)
class Finishing:
    """How probabilities become layers.

    Parameters
    ----------
    layers : tuple of str
        Of :data:`LAYERS`.
    decision : tuple of float
        Added to the log-probability of each class where one is chosen; empty where nothing is added.
    targets : BlockTargets, optional
        Coarse totals that the block keeps.
    """

    layers: tuple[str, ...] = ("land_use",)
    decision: tuple[float, ...] = ()
    targets: BlockTargets | None = None

    def fill(
        self, results: dict[str, NDArray[Any]], members: Sequence[Tensor], at: slice, land: NDArray[np.bool_]
    ) -> None:
        """Take what is wanted from the probabilities of some rows.

        Parameters
        ----------
        results : dict of str to array
            Layers of the whole block, of which rows ``at`` are filled.
        members : sequence of (classes, rows, columns) tensor
            Probabilities of each model of an ensemble, or of the only one.
        at : slice
            Rows of the block; whole coarse cells.
        land : (rows, columns) array of bool
        """
        values, codes = _mean(members), None
        if not math.isfinite(float(values.sum())):
            count = int((~values.isfinite()).any(dim=0).sum())
            raise ModelError(
                f"the network gives no finite probability in {count} pixels: its weights, or the mean and scale of its "
                "channels, are damaged; train it again, or fetch it from where it came from"
            )
        unmet: NDArray[np.float32] | float = np.nan
        if self.targets is not None:
            values, codes, unmet = self.targets.fit(values, at, land, self.decision)
        if codes is None:
            codes = _most_probable(values, self.decision)
        for name, array in results.items():
            if name == "probability":
                array[:, at] = np.where(land, values.cpu().numpy(), array[:, at])
            elif name == "unmet":
                array[at] = np.where(land, unmet, array[at])
            else:
                layer = codes if name == "land_use" else _TAKE[name](values, members, codes)
                array[at] = np.where(land, layer.cpu().numpy(), array[at])


def ocean(shape: tuple[int, int], classes: int, layers: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the layers of a block without land."""
    results: dict[str, NDArray[Any]] = {}
    for name in layers:
        if name == "land_use":
            results[name] = np.full(shape, OCEAN, dtype=np.uint8)
        elif name == "probability":
            results[name] = np.zeros((classes, *shape), dtype=np.float32)
            results[name][OCEAN] = 1
        else:
            results[name] = np.full(shape, _OCEAN[name], dtype=np.float32)
    return results


def _mean(members: Sequence[Tensor]) -> Tensor:
    if len(members) == 1:
        return members[0]
    import torch

    return torch.stack(list(members)).mean(dim=0)


def _most_probable(values: Tensor, decision: Sequence[float] = ()) -> Tensor:
    """Code of the largest probability, each times ``exp(decision)``; the lower code where two are equal."""
    import torch

    if decision:
        values = values * torch.tensor(decision, device=values.device).exp()[:, None, None]
    if values.is_cuda:
        return values.argmax(dim=0).to(torch.uint8)
    # torch needs three times as long for this on a CPU, and argmax ten times
    layers = values.numpy()
    best = layers[0].copy()
    code = np.zeros(best.shape, dtype=np.uint8)
    for number, layer in enumerate(layers[1:], 1):
        np.copyto(code, number, where=layer > best)
        np.maximum(best, layer, out=best)
    return torch.from_numpy(code)


def _margin(values: Tensor, members: Sequence[Tensor], codes: Tensor) -> Tensor:  # noqa: ARG001
    """Difference between the two largest probabilities."""
    best, second = values.topk(2, dim=0).values
    return best - second


def _entropy(values: Tensor, members: Sequence[Tensor], codes: Tensor) -> Tensor:  # noqa: ARG001
    """Shannon entropy as a share of its largest value."""
    return -(values * values.clamp_min(1e-12).log()).sum(dim=0).clamp_max_(0) / float(np.log(len(values)))


def _spread(values: Tensor, members: Sequence[Tensor], codes: Tensor) -> Tensor:  # noqa: ARG001
    """Return the standard deviation between members of the probability of the class on the map."""
    import torch

    chosen = codes.long()[None]
    return torch.stack([member.gather(0, chosen)[0] for member in members]).std(dim=0, correction=0)


_TAKE = {"confidence": _margin, "entropy": _entropy, "spread": _spread}
