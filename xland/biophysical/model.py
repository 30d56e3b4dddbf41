"""Models of the vegetation on disk: a folder with ``weights.safetensors`` and a JSON card; never a pickle."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xland.arguments import guess
from xland.biophysical.season import FEATURES, MONTHS
from xland.biophysical.specification import Reach, Response, Target
from xland.errors import CheckpointError, ModelError
from xland.models.applicability import Applicability
from xland.models.checkpoint import CARD, WEIGHTS, read_verified
from xland.paths import local_path, replace_file
from xland.records import Limits, read_json, read_record
from xland.vocabulary import CLASS_NAMES

if TYPE_CHECKING:
    from xland.biophysical.network import ResponseNetwork

DEFAULT_MODEL = "leaf-area"
_SHIPPED = Path(__file__).parent / "shipped"
_FORMAT = 1
_LARGEST_CARD = 2**20
_AT_ONCE = 2**13  # cells whose hidden units are in memory at once
_REQUIRED = ("name", "target", "response", "coverage", "weights_sha256")
_SHOWN = ("title", "licence", "notes")
_NEVER = ("ocean", "water")  # classes without vegetation

_networks: dict[str, ResponseNetwork] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class BiophysicalModel:
    """A model of a variable of the vegetation: the sum over classes of share times response.

    Small and picklable: the weights are read once a process.

    Parameters
    ----------
    folder : path
    card : mapping
        All entries of the card.
    name, title, licence, notes : str
    target : Target
    response : Response
        Size of the network.
    reach : Reach
    digest : str
        SHA-256 of the weights.
    """

    folder: Path
    card: Mapping[str, Any]
    name: Annotated[str, Limits(1, 200)]
    target: Target
    response: Response
    reach: Reach
    digest: Annotated[str, Limits(64, 64)]
    title: str = ""
    licence: str = ""
    notes: str = ""

    @classmethod
    def load(cls, model: str | Path | BiophysicalModel = DEFAULT_MODEL) -> BiophysicalModel:
        """Return a shipped model by its name, or another one by its folder.

        Raises
        ------
        ModelError
            If neither a shipped model nor a folder has that name.
        CheckpointError
            If the card is damaged.
        """
        if isinstance(model, BiophysicalModel):
            return model
        known = sorted(path.parent.name for path in _SHIPPED.glob(f"*/{CARD}"))
        folder = _SHIPPED / model if model in known else local_path(model, what="a model")
        path = folder / CARD
        if not path.exists():
            raise ModelError(
                f"there is no model {str(model)!r}{guess(model, known) or '.'} Give the folder of a model that "
                f"`xland train` wrote or one of {', '.join(known) or 'none shipped'}"
            )
        return _from_card(folder, read_json(path, _LARGEST_CARD, CheckpointError))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of shares and responses."""
        return CLASS_NAMES

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the predictors of the season."""
        return FEATURES

    @property
    def coverage(self) -> Applicability:
        """Climates that were learned from."""
        return Applicability(self._network().prototypes.numpy(), self.reach.typical, self.reach.threshold)

    def responses(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return the value of each class in each month, ``(cells, 12, classes)``; NaN where a predictor is NaN.

        ``features`` (cells, 12, predictors) are those of :func:`xland.biophysical.season.season_features`.
        """
        return self.members(features).mean(axis=0)

    def predict(self, shares: ArrayLike, features: ArrayLike) -> NDArray[np.float32]:
        """Return the target of each month, ``(cells, 12)``: the sum over classes of share times response.

        ``shares`` (cells, classes) are those of the land of a cell; they sum to at most 1.
        """
        return _weighed(_shares(shares), self.responses(features))

    def spread(self, shares: ArrayLike, features: ArrayLike) -> NDArray[np.float32]:
        """Return the standard deviation of the members' predictions, ``(cells, 12)``."""
        answers = np.stack([_weighed(_shares(shares), each) for each in self.members(features)])
        return answers.std(axis=0)

    def dissimilarity(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return how far each climate is from those learned from, ``(cells,)``; NaN where a predictor is NaN.

        A climate is outside of what was learned where it is above ``reach.threshold``.
        """
        found = self._network().standard(_checked(features)).astype(np.float32)
        return self.coverage.distance(found.T[:, :, None], np.zeros((0, len(found), 1), np.float32))[:, 0]

    def members(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return the answer of each member, ``(members, cells, 12, classes)``."""
        import torch

        cells, network = torch.from_numpy(_checked(features)), self._network()
        with torch.inference_mode():
            parts = [network(part).numpy() for part in cells.split(_AT_ONCE)]
        return np.concatenate(parts, axis=1)

    def _network(self) -> ResponseNetwork:
        key = f"{self.folder.resolve()} {self.digest} {self.card['response']}"
        with _lock:
            if key not in _networks:
                _networks[key] = _load(self)
            return _networks[key]


def save_model(folder: Path | str, network: ResponseNetwork, card: Mapping[str, Any]) -> BiophysicalModel:
    """Write a model folder; each file is complete or absent, and the card comes last."""
    from safetensors.torch import save

    folder = local_path(folder, what="a model")
    weights = save({name: each.detach().contiguous() for name, each in network.state_dict().items()})
    full = {"format": _FORMAT, **card, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    content = (json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    _from_card(folder, json.loads(content))
    replace_file(folder / WEIGHTS, weights, error=CheckpointError)
    replace_file(folder / CARD, content, error=CheckpointError)
    return BiophysicalModel.load(folder)


def _from_card(folder: Path, card: Any) -> BiophysicalModel:
    path = folder / CARD
    if not isinstance(card, dict):
        raise CheckpointError(f"{path} must hold one JSON object")
    if missing := [name for name in _REQUIRED if name not in card]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}: it is not the card of a model of the vegetation")
    if card.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has format {card.get('format')!r}; this version of xland reads {_FORMAT}")
    entries = {name: card[name] for name in (*_REQUIRED, *_SHOWN) if name in card}
    entries |= {"digest": entries.pop("weights_sha256"), "reach": entries.pop("coverage")}
    return read_record(BiophysicalModel, {**entries, "folder": folder, "card": card}, str(path), CheckpointError)


def _load(model: BiophysicalModel) -> ResponseNetwork:
    import torch
    from safetensors.torch import load

    network = network_of(model.response, model.target, model.reach.prototypes)
    expected = {name: ("F32", tuple(each.shape)) for name, each in network.state_dict().items()}
    content = read_verified(model.folder / WEIGHTS, model.digest, expected)
    state = load(content)
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{model.folder / WEIGHTS}: {name} is NaN or infinite")
    network.load_state_dict(state)
    return network.eval().requires_grad_(requires_grad=False)


def network_of(response: Response, target: Target, prototypes: int) -> ResponseNetwork:
    """Return a network with random weights."""
    from xland.biophysical.network import ResponseNetwork

    alive = [name not in _NEVER for name in CLASS_NAMES]
    return ResponseNetwork(response, FEATURES, alive, target.most, prototypes)


def _weighed(shares: NDArray[np.float32], responses: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.einsum("nc,nmc->nm", shares, responses)


def _shares(shares: ArrayLike) -> NDArray[np.float32]:
    found = np.asarray(shares, np.float32)
    if found.ndim != 2 or found.shape[1] != len(CLASS_NAMES):
        raise ModelError(f"shares must be (cells, {len(CLASS_NAMES)}), one a class, not {found.shape}")
    return found


def _checked(features: ArrayLike) -> NDArray[np.float32]:
    found = np.asarray(features, np.float32)
    if found.ndim != 3 or found.shape[1:] != (MONTHS, len(FEATURES)):
        raise ModelError(f"features must be (cells, {MONTHS}, {len(FEATURES)}), not {found.shape}")
    return found
