"""From probabilities to layers: what is taken from rows that all their windows have gone into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import ModelError
from xland.inference.targets import BlockTargets
from xland.vocabulary import OCEAN

if TYPE_CHECKING:
    from torch import Tensor

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
