"""Models on disk: a folder with ``weights.safetensors`` and a JSON card; never a pickle.

The card says everything needed to use and to judge the model: inputs, architecture, data, split,
scores beside baselines, versions, licence, and the hash of the weights. Reading a card needs no
torch; only :meth:`Checkpoint.network` does.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xland.addresses import local_path
from xland.atomic import replace_file
from xland.errors import CheckpointError, ModelError, XlandError
from xland.inputs import InputSpec
from xland.models.applicability import Applicability, pack, unpack
from xland.models.calibration import Calibration, read_numbers
from xland.models.coverage import Coverage

if TYPE_CHECKING:
    from xland.models.unet import DownscalingNetwork

WEIGHTS = "weights.safetensors"
CARD = "card.json"
APPLICABILITY = "applicability.safetensors"
_FORMAT = 1
_REQUIRED = ("name", "inputs", "architecture", "weights_sha256")
_networks: dict[str, DownscalingNetwork] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose card has been read and checked.

    Small and picklable: it travels to Dask workers in place of the weights, which each process
    reads once.
    """

    folder: Path
    card: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self.card["name"])

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, as the card gives it."""
        return str(self.card["weights_sha256"])

    @property
    def inputs(self) -> InputSpec:
        """Channels, classes, factor and windows of the model."""
        return InputSpec.from_dict(self.card["inputs"])

    @property
    def coverage(self) -> Coverage | None:
        """Coarse cells that had data in the training; None where the card does not say."""
        values = self.card.get("coverage")
        return None if values is None else Coverage.from_dict(values)

    @property
    def calibration(self) -> Calibration:
        """How class scores are scaled before the softmax; not at all where the card does not say."""
        values, classes = self.card.get("calibration"), len(self.inputs.classes)
        return Calibration.none(classes) if values is None else Calibration.from_dict(values, classes)

    @property
    def decision(self) -> tuple[float, ...]:
        """Offsets of the log-probability of each class with which a map chooses one; 0 where the card does not say."""
        classes = len(self.inputs.classes)
        if "decision" not in self.card:
            return (0.0,) * classes
        return read_numbers(self.card, "decision", classes, "decision")

    @property
    def applicability(self) -> Applicability | None:
        """Training inputs to measure the distance from; None where the model has none. Read from a file."""
        entry = self.card.get("applicability")
        return None if entry is None else unpack(_named_by(entry, self.folder / APPLICABILITY), entry)

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return str(self.card.get("licence", ""))

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """The model itself, as the only member; see :class:`xland.models.ensemble.Ensemble`."""
        return (self,)

    @property
    def identity(self) -> str:
        """SHA-256 of all that fixes probabilities and maps: weights, inputs, architecture, calibration, decision."""
        entries = ("weights_sha256", "inputs", "architecture", "calibration", "decision")
        fixed = {name: self.card.get(name) for name in entries}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()

    def network(self) -> DownscalingNetwork:
        """Return the network in evaluation mode; loaded and verified once a process.

        Raises
        ------
        CheckpointError
            If the weights are missing, truncated, altered, a pickle, or of another shape.
        """
        # the weights alone do not fix a network, and a damaged copy must not pass for the one loaded before
        fixed = [str(self.folder.resolve()), self.digest, self.card["inputs"], self.card["architecture"]]
        key = json.dumps(fixed, sort_keys=True)
        with _lock:
            if key not in _networks:
                _networks[key] = _load_network(self)
            return _networks[key]


def read_checkpoint(folder: Path | str) -> Checkpoint:
    """Read and check the card of a model folder.

    Raises
    ------
    ModelError
        If there is no such folder or card.
    CheckpointError
        If the card is damaged, lacks an entry or has another format.
    """
    folder = local_path(folder, what="a model")
    path = folder / CARD
    if not path.is_file():
        raise ModelError(f"{folder} is not a model: it holds no {CARD}")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be read as JSON: {error}") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{path} must hold one JSON object")
    missing = [name for name in _REQUIRED if name not in card]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    if card.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has format {card.get('format')!r}; this version of xland reads {_FORMAT}")
    checkpoint = Checkpoint(folder, card)
    try:
        # reading them is the check
        checkpoint.inputs, checkpoint.calibration, checkpoint.decision  # noqa: B018
    except XlandError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return checkpoint


def save_checkpoint(folder: Path | str, network: DownscalingNetwork, card: Mapping[str, Any]) -> Checkpoint:
    """Write a model folder; each file is complete or absent, and the card comes last.

    Parameters
    ----------
    folder : path
        Created if need be; a model in it is replaced.
    network : DownscalingNetwork
        Its inputs, architecture and weights are written.
    card : mapping
        Further entries of the card; ``name`` is required.
    """
    from safetensors.torch import save

    folder = local_path(folder, what="a model")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    weights = save(state, metadata={"format": "xland"})
    full = {
        "format": _FORMAT,
        **card,
        "inputs": network.inputs.to_dict(),
        "architecture": network.architecture.to_dict(),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    _replace(folder / WEIGHTS, weights, _present_digest(folder))
    replace_file(folder / CARD, _as_json(full), error=CheckpointError)
    _before(folder / WEIGHTS).unlink(missing_ok=True)
    if "applicability" not in full:
        (folder / APPLICABILITY).unlink(missing_ok=True)
        _before(folder / APPLICABILITY).unlink(missing_ok=True)
    return read_checkpoint(folder)


def update_card(
    folder: Path | str, entries: Mapping[str, Any], *, applicability: Applicability | None = None
) -> Checkpoint:
    """Add entries, scores for example, to the card of a model, all of them or, if it breaks off, none.

    Parameters
    ----------
    folder : path
    entries : mapping
        Replace those of the same name.
    applicability : Applicability, optional
        Training inputs to keep beside the weights.
    """
    checkpoint = read_checkpoint(folder)
    path = checkpoint.folder / APPLICABILITY
    if applicability is not None:
        content, entry = pack(applicability)
        entries = {**entries, "applicability": entry}
        _replace(path, content, _digest_of(checkpoint.card.get("applicability")))
    replace_file(checkpoint.folder / CARD, _as_json({**checkpoint.card, **entries}), error=CheckpointError)
    if applicability is not None:
        _before(path).unlink(missing_ok=True)
    return read_checkpoint(folder)


def _as_json(card: Mapping[str, Any]) -> bytes:
    return (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()


def _replace(path: Path, content: bytes, digest: str | None) -> None:
    """Write a file that the next card is about; that of the present card, known by its hash, stays beside it.

    Until the next card is there, the one before is read with the file that it was written with.
    """
    # what an earlier writer left, who broke off before the card, is no file of the present card
    replace_file(path, content, keep=_before(path) if _has_hash(path, digest) else None, error=CheckpointError)


def _before(path: Path) -> Path:
    """Where the file of the present card waits for the next card."""
    return path.with_name(f".{path.stem}-before{path.suffix}")


def _named_by(entry: Any, path: Path) -> Path:
    """Return the file that an entry of the card names by its hash, wherever a writer who broke off left it."""
    kept = _before(path)
    return kept if _has_hash(kept, _digest_of(entry)) else path


def _has_hash(path: Path, digest: str | None) -> bool:
    try:
        return digest is not None and hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False  # it is not there, or no more


def _digest_of(entry: Any) -> str | None:
    return str(entry["sha256"]) if isinstance(entry, Mapping) and "sha256" in entry else None


def _present_digest(folder: Path) -> str | None:
    """Return the hash of the weights that the card in a folder is about; None without a card that can be read."""
    try:
        return read_checkpoint(folder).digest
    except ModelError:
        return None


def _load_network(checkpoint: Checkpoint) -> DownscalingNetwork:
    from safetensors import SafetensorError
    from safetensors.torch import load

    from xland.models.unet import Architecture, DownscalingNetwork

    path = _named_by({"sha256": checkpoint.digest}, checkpoint.folder / WEIGHTS)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"the weights {path} cannot be read: {error.strerror}") from error
    # safetensors begin with the length of a JSON object in eight bytes, which may look like a pickle's mark
    if (content[:1] == b"\x80" and content[8:9] not in (b"", b"{")) or content[:4] == b"PK\x03\x04":
        raise CheckpointError(f"{path} is a pickle, which could run any code; only safetensors are read")
    if hashlib.sha256(content).hexdigest() != checkpoint.digest:
        raise CheckpointError(
            f"{path} ({len(content)} bytes) is truncated or altered: its SHA-256 is not the one in the card; "
            "fetch the model again"
        )
    try:
        architecture = Architecture.from_dict(dict(checkpoint.card["architecture"]))
        network = DownscalingNetwork(checkpoint.inputs, architecture)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.folder / CARD}: no network can be built from it: {error}") from error
    try:
        state = load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        name = next(n for n in sorted(expected.keys() | found.keys()) if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{path} does not fit its card: {name} has shape {found.get(name)}, expected {expected.get(name)}; "
            "the channels or the architecture differ"
        )
    network.load_state_dict(state)
    return network.eval().requires_grad_(requires_grad=False)
