"""Models on disk: a folder with ``weights.safetensors`` and a JSON card; never a pickle."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from xland.addresses import local_path
from xland.arguments import shown
from xland.atomic import replace_file
from xland.errors import CheckpointError, ModelError, XlandError
from xland.models.applicability import Applicability, check_entry, pack, unpack
from xland.models.calibration import Calibration
from xland.models.coverage import Coverage
from xland.models.inputs import InputSpec
from xland.models.networks.architecture import Architecture
from xland.models.weights import LARGEST, read_verified
from xland.records import Limits, check_entries, read_json, read_record

if TYPE_CHECKING:
    from xland.models.networks.unet import DownscalingNetwork

WEIGHTS = "weights.safetensors"
CARD = "card.json"
APPLICABILITY = "applicability.safetensors"
_FORMAT = 1
_LARGEST_CARD = 2**22
Digest = Annotated[str, Limits(64, 64)]
_networks: dict[str, DownscalingNetwork] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class _Card:
    """Entries of a card that are read; others are for people."""

    name: Annotated[str, Limits(1, 200)]
    inputs: InputSpec
    architecture: Architecture
    weights_sha256: Digest
    title: str = ""
    licence: str = ""
    notes: str = ""
    decision: tuple[Annotated[float, Limits(-50, 50)], ...] | None = None

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
        classes = len(self.inputs.classes)
        if self.decision is not None and len(self.decision) != classes:
            raise CheckpointError(f"decision must hold {classes} numbers, one a class, not {len(self.decision)}")
        self.architecture.check_windows(self.inputs)


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
    def architecture(self) -> Architecture:
        """Kind and size of the network."""
        return Architecture.from_dict(self.card["architecture"])

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
        values = self.card.get("decision")
        return (0.0,) * len(self.inputs.classes) if values is None else tuple(map(float, values))

    @property
    def applicability(self) -> Applicability | None:
        """Training inputs to measure the distance from; None where the model has none. Read from a file."""
        entry = self.card.get("applicability")
        if entry is None:
            return None
        channels = self.inputs.coarse_channels + len(self.inputs.static)
        return unpack(_named_by(entry, self.folder / APPLICABILITY), entry, channels)

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
    if not path.exists():
        raise ModelError(f"{folder} is not a model: it holds no {CARD}")
    return _checked(folder, read_json(path, _LARGEST_CARD, CheckpointError))


def _checked(folder: Path, card: Any) -> Checkpoint:
    """Return the model of a card; :class:`CheckpointError` if anything in it is wrong."""
    path = folder / CARD
    if not isinstance(card, dict):
        raise CheckpointError(f"{path} must hold one JSON object")
    missing = [each.name for each in fields(_Card) if each.default is MISSING and each.name not in card]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    if card.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has format {shown(card.get('format'))}; this version of xland reads {_FORMAT}")
    own = {each.name: card[each.name] for each in fields(_Card) if each.name in card}
    read_record(_Card, own, str(path), CheckpointError)
    checkpoint = Checkpoint(folder, card)
    try:
        # reading them is the check
        checkpoint.calibration, checkpoint.coverage  # noqa: B018
        if card.get("applicability") is not None:
            check_entry(card["applicability"])
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
    content = _as_json(folder, full)
    _replace(folder / WEIGHTS, weights, _present_digest(folder))
    replace_file(folder / CARD, content, error=CheckpointError)
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
    card = _as_json(checkpoint.folder, {**checkpoint.card, **entries})
    if applicability is not None:
        _replace(path, content, _digest_of(checkpoint.card.get("applicability")))
    replace_file(checkpoint.folder / CARD, card, error=CheckpointError)
    if applicability is not None:
        _before(path).unlink(missing_ok=True)
    return read_checkpoint(folder)


def _as_json(folder: Path, card: Mapping[str, Any]) -> bytes:
    """Return the content of a card that can be read again; else nothing is written, and the model there stays."""
    try:
        content = (json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the card of {folder} was not written: {error}") from error
    if len(content) > _LARGEST_CARD:
        raise CheckpointError(
            f"the card of {folder} was not written: {len(content)} bytes are more than are read again"
        )
    _checked(folder, json.loads(content))
    return content


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
        if digest is None or not path.is_file() or path.stat().st_size > LARGEST:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
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
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from xland.models.networks.unet import DownscalingNetwork

    path = _named_by({"sha256": checkpoint.digest}, checkpoint.folder / WEIGHTS)
    try:
        with torch.device("meta"):  # knows the shapes and holds no value
            network = DownscalingNetwork(checkpoint.inputs, checkpoint.architecture)
    except (XlandError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.folder / CARD}: no network can be built from it: {error}") from error
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    expected = {name: (kinds[each.dtype], tuple(each.shape)) for name, each in network.state_dict().items()}
    content = read_verified(path, checkpoint.digest, expected)
    try:
        # copies begin where torch has all tensors begin; from elsewhere products may be rounded differently
        state = {name: tensor.clone() for name, tensor in load(content).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} is NaN or infinite in {int((~tensor.isfinite()).sum())} places")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise CheckpointError(f"{path}: {name} is a variance, but below 0 in {int((tensor < 0).sum())} places")
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(requires_grad=False)
