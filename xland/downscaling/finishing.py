"""From probabilities to the outputs that are asked for, and from their lazy arrays to a Dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.downscaling.conserving import BlockTargets
from xland.errors import ModelError
from xland.geo.grid import Grid
from xland.geo.years import index_by
from xland.models.checkpoint import Checkpoint
from xland.models.ensemble import Ensemble
from xland.outputs import OUTPUTS, Output, Pixels
from xland.vocabulary import OCEAN, class_coordinates

if TYPE_CHECKING:
    from torch import Tensor


def check_outputs(outputs: Sequence[Output], model: Checkpoint | Ensemble, *, totals: bool) -> None:
    """Refuse outputs that a model cannot give; :class:`ModelError` says why."""
    for output in outputs:
        if output.needs == "members" and len(model.members) < 2:
            raise ModelError(
                f"the output {output.name!r} needs several models, and {model.name!r} is one: "
                f"give more, model=['a', 'b'], or leave {output.name!r} out"
            )
        if output.needs == "applicability" and model.applicability is None:
            raise ModelError(
                f"the output {output.name!r} is a distance to the training inputs, which the model {model.name!r} does "
                f"not contain: add them with `xland calibrate`, or leave {output.name!r} out"
            )
        if output.needs == "totals" and not totals:
            raise ModelError(
                f"the output {output.name!r} says where totals could not be kept: choose how with totals=, too"
            )


def dataset_of(
    arrays: Mapping[str, da.Array],
    target: Grid,
    years: tuple[int, ...],
    outputs: Sequence[Output],
    model: Checkpoint | Ensemble,
    *,
    exact: bool = False,
) -> xr.Dataset:
    """Put lazy arrays on a grid into a Dataset with CF attributes; ``exact`` probabilities are not packed."""
    variables: dict[str, xr.Variable] = {}
    classes = model.inputs.classes
    ordered = [each for each in OUTPUTS.values() if each in outputs]
    for output in ordered:
        dims = ("time", "class", "lat", "lon") if output.classes else ("time", "lat", "lon")
        attributes = output.attributes_for(classes)
        if output.needs == "applicability" and model.applicability is not None:
            attributes["threshold"] = model.applicability.threshold
        encoding = {} if exact and output.classes else dict(output.encoding)
        variables[output.name] = xr.Variable(dims, arrays[output.name], attributes, encoding)
    coordinates: dict[str, Any] = {
        "time": ("time", np.array(years, dtype=np.int64)),
        "lat": ("lat", target.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", target.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }
    if any(output.classes for output in ordered):
        coordinates |= class_coordinates(classes)
    return index_by(xr.Dataset(variables, coordinates), "class_name")


@dataclass(frozen=True, eq=False)
class Finishing:
    """How probabilities become outputs.

    Parameters
    ----------
    outputs : tuple of Output
    decision : tuple of float
        Added to the log-probability of each class where one is chosen; empty where nothing is added.
    targets : BlockTargets, optional
        Coarse totals that the block keeps.
    """

    outputs: tuple[Output, ...] = (OUTPUTS["land_use"],)
    decision: tuple[float, ...] = ()
    targets: BlockTargets | None = None

    def fill(
        self,
        results: dict[str, NDArray[Any]],
        members: Sequence[Tensor],
        at: slice,
        land: NDArray[np.bool_],
        distance: Callable[[], NDArray[np.float32]],
    ) -> None:
        """Compute the outputs of some rows of the block, ``at``, from the probabilities of each member there."""
        values, codes = _mean(members), None
        if not math.isfinite(float(values.sum())):
            count = int((~values.isfinite()).any(dim=0).sum())
            raise ModelError(
                f"the network gives no finite probability in {count} pixels: its weights, or the mean and scale of its "
                "channels, are damaged; train it again, or fetch it from where it came from"
            )
        unmet = np.full(land.shape, np.nan, np.float32)
        if self.targets is not None:
            values, codes, unmet = self.targets.fit(values, at, land, self.decision)
        if codes is None:
            codes = _most_probable(values, self.decision)
        pixels = Pixels(values, members, codes, unmet, distance)
        for output in self.outputs:
            layer = output.compute(pixels)
            layer = layer if isinstance(layer, np.ndarray) else layer.cpu().numpy()
            part = results[output.name][..., at, :]
            np.copyto(part, layer, where=land, casting="same_kind")


def ocean(shape: tuple[int, int], classes: int, outputs: Sequence[Output]) -> dict[str, NDArray[Any]]:
    """Return the outputs of a block without land."""
    results = {}
    for output in outputs:
        size = (classes, *shape) if output.classes else shape
        results[output.name] = np.full(size, output.sea, dtype=output.dtype)
        if output.classes:
            results[output.name][OCEAN] = 1
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
