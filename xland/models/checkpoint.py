"""Models on disk: a folder with ``weights.safetensors`` and a JSON card; never a pickle."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import numpy as np

from xland.arguments import guess, shown
from xland.draws.octaves import Grain
from xland.errors import CheckpointError, ModelError, XlandError
from xland.models.applicability import Applicability, Coverage, StaticSample
from xland.models.calibration import Calibration
from xland.models.inputs import InputSpec
from xland.models.networks.architecture import Architecture
from xland.paths import local_path, replace_file
from xland.records import Limits, check_entries, open_plain, read_json, read_record

if TYPE_CHECKING:
    from torch import nn

    from xland.models.networks.unet import DownscalingNetwork

WEIGHTS = "weights.safetensors"
CARD = "card.json"
APPLICABILITY = "applicability.safetensors"
FORMAT = 1
_LARGEST_CARD = 2**22
_LARGEST_HEADER = 2**22
_LARGEST_FILE = 2**31
_SMALL = 2**26  # bytes up to which a file that does not fit is read to find out whether it was altered
_REQUIRED = ("name", "inputs", "architecture", "weights_sha256")
_OPTIONAL = (
    "title", "licence", "notes", "decision", "calibration", "draws", "coverage", "applicability", "static_sample",
)  # fmt: skip
_BYTES = {"F16": 2, "F32": 4, "I64": 8}
_UNCHANGED = Calibration((), ())
_networks: dict[str, nn.Module] = {}
_lock = threading.Lock()

Network = TypeVar("Network", bound="nn.Module")
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor that a file must hold."""


@dataclass(frozen=True)
class TrainingInputs:
    """What a card says about the file of training inputs beside the weights."""

    typical_distance: Annotated[float, Limits(1e-12, 1e12)]
    threshold: Annotated[float, Limits(0, 1e12)]
    prototypes: Annotated[int, Limits(1, 10**6)]
    sha256: Annotated[str, Limits(64, 64)]

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose card has been read and checked.

    Small and picklable: it travels to Dask workers in place of the weights, which each process
    reads once.

    Parameters
    ----------
    folder : path
    card : mapping
        All entries of the card; those below are also there.
    name, title, licence, notes : str
        The licence is that of the weights.
    inputs : InputSpec
        Channels, classes, factor and windows.
    architecture : Architecture
        Kind and size of the network.
    digest : str
        SHA-256 of the weights.
    decision : tuple of float
        Offsets of the log-probability of each class with which a map chooses one; 0 where the card does not say.
    calibration : Calibration
        How class scores are scaled before the softmax; not at all where the card does not say.
    grain : Grain or None
        How maps are drawn from the probabilities; None where the card does not say.
    coverage : Coverage or None
        Coarse cells that had data in the training; None where the card does not say.
    training_inputs : TrainingInputs or None
        What the card says about the file of training inputs.
    static_sample : StaticSample or None
        Static predictors of the training at some places; None for those that xland provides.
    """

    folder: Path
    card: Mapping[str, Any]
    name: Annotated[str, Limits(1, 200)]
    inputs: InputSpec
    architecture: Architecture
    digest: Annotated[str, Limits(64, 64)]
    title: str = ""
    licence: str = ""
    notes: str = ""
    decision: tuple[Annotated[float, Limits(-50, 50)], ...] = ()
    calibration: Calibration = _UNCHANGED
    grain: Grain | None = None
    coverage: Coverage | None = None
    training_inputs: TrainingInputs | None = None
    static_sample: StaticSample | None = None

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
        classes = len(self.inputs.classes)
        if "decision" not in self.card:
            object.__setattr__(self, "decision", (0.0,) * classes)
        for name, numbers in (("decision", self.decision), ("calibration", self.calibration.scale)):
            if len(numbers) != classes and name in ("decision", *self.card):
                raise CheckpointError(f"{name} must hold {classes} numbers, one a class, not {len(numbers)}")
        if self.grain is not None and len(self.grain.weights) != classes:
            raise CheckpointError(f"draws must hold the weights of {classes} classes, not {len(self.grain.weights)}")
        if self.static_sample is not None and self.static_sample.channels != len(self.inputs.static):
            raise CheckpointError(
                f"static_sample must hold {len(self.inputs.static)} channels, not {self.static_sample.channels}"
            )
        self.architecture.check_windows(self.inputs)

    @property
    def applicability(self) -> Applicability | None:
        """Training inputs to measure the distance from; None where the model has none. Read from a file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        entry = self.training_inputs
        if entry is None:
            return None
        path = self.folder / APPLICABILITY
        shape = (entry.prototypes, self.inputs.coarse_channels + len(self.inputs.static))
        try:
            prototypes = load(read_verified(path, entry.sha256, {"prototypes": ("F16", shape)}))["prototypes"]
            if not np.isfinite(prototypes).all():
                raise CheckpointError("they are not finite")
        except (CheckpointError, SafetensorError) as error:
            raise CheckpointError(
                f"the training inputs {path} or their entry in the model card are damaged: run `xland calibrate` "
                f"again ({error})"
            ) from error
        return Applicability(prototypes.astype(np.float32), entry.typical_distance, entry.threshold)

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
        return load_once(json.dumps(fixed, sort_keys=True), lambda: _load_network(self))


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
    return _checkpoint(folder, read_card(folder))


def shipped_models(folder: Path) -> tuple[str, ...]:
    """Names of the models in a folder of the package."""
    return tuple(sorted(path.parent.name for path in folder.glob(f"*/{CARD}")))


def model_folder(model: str | Path, shipped: Path) -> Path:
    """Return the folder of a model that is shipped in a folder of the package, or a user's own."""
    known = shipped_models(shipped)
    folder = shipped / model if model in known else local_path(model, what="a model")
    if not folder.is_dir():
        raise ModelError(
            f"there is no model {str(model)!r}{guess(model, known) or '.'} Give the folder of a trained model or one "
            f"of {', '.join(known) or 'none shipped'}"
        )
    return folder


def read_card(folder: Path) -> Any:
    """Return what a model folder holds as its card, for :func:`card_entries`; ModelError if there is none."""
    if not (folder / CARD).exists():
        raise ModelError(f"{folder} is not a model: it holds no {CARD}")
    return read_json(folder / CARD, _LARGEST_CARD, CheckpointError)


def card_entries(folder: Path, card: Any, required: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    """Return entries of a card, with the card, the folder and the digest of the weights, for :func:`read_record`."""
    path = folder / CARD
    if not isinstance(card, dict):
        raise CheckpointError(f"{path} must hold one JSON object")
    if missing := [name for name in required if name not in card]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    if card.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {shown(card.get('format'))}; this version of xland reads {FORMAT}")
    card = {name: value for name, value in card.items() if value is not None or name not in optional}
    entries = {name: card[name] for name in (*required, *optional) if name in card}
    return entries | {"folder": folder, "card": card, "digest": entries.pop("weights_sha256")}


def _checkpoint(folder: Path, card: Any) -> Checkpoint:
    entries = card_entries(folder, card, _REQUIRED, _OPTIONAL)
    for entry, name, parts in (
        ("applicability", "training_inputs", None),
        ("calibration", "calibration", tuple(each.name for each in fields(Calibration))),
        ("draws", "grain", ("spacings", "weights")),
    ):
        if entry in entries:
            found = entries.pop(entry)
            if parts and isinstance(found, dict):  # cards also say how it was fitted
                found = {part: found[part] for part in parts if part in found}
            entries[name] = found
    if isinstance(grain := entries.get("grain"), dict) and isinstance(grain.get("weights"), list):
        grain["weights"] = [tuple(each) if isinstance(each, list) else each for each in grain["weights"]]
    return read_record(Checkpoint, entries, str(folder / CARD), CheckpointError)


def card_content(folder: Path, card: Mapping[str, Any]) -> bytes:
    """Return a card as it is written; CheckpointError if it could not be read again."""
    try:
        content = (json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the card of {folder} was not written: {error}") from error
    if len(content) > _LARGEST_CARD:
        raise CheckpointError(
            f"the card of {folder} was not written: {len(content)} bytes are more than are read again"
        )
    return content


def refuse_model(folder: Path | str) -> None:
    """Refuse a folder that holds a model, which would be replaced."""
    if (local_path(folder, what="a model") / CARD).exists():
        raise CheckpointError(f"{folder} holds a model: pass overwrite=True to replace it, or choose another folder")


def save_checkpoint(folder: Path | str, network: DownscalingNetwork, card: Mapping[str, Any]) -> Checkpoint:
    """Write a model folder with further entries of the card, which comes last; each file is whole or absent."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    weights = save(state, metadata={"format": "xland"})
    full = {
        "format": FORMAT,
        **card,
        "inputs": asdict(network.inputs),
        "architecture": asdict(network.architecture),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return _write(local_path(folder, what="a model"), full, {WEIGHTS: weights})


def update_card(
    folder: Path | str, entries: Mapping[str, Any], *, applicability: Applicability | None = None
) -> Checkpoint:
    """Add entries, and training inputs beside the weights, to a model: all of them or, if it breaks off, none."""
    from safetensors.numpy import save

    checkpoint = read_checkpoint(folder)
    card, files = {**checkpoint.card, **entries}, {}
    if applicability is not None:
        content = save({"prototypes": applicability.prototypes.astype(np.float16)})
        digest = hashlib.sha256(content).hexdigest()
        entry = TrainingInputs(applicability.typical, applicability.threshold, len(applicability.prototypes), digest)
        files[APPLICABILITY], card["applicability"] = content, asdict(entry)
    return _write(checkpoint.folder, card, files)


def _write(folder: Path, card: Mapping[str, Any], files: Mapping[str, bytes]) -> Checkpoint:
    """Write files and then the card about them; until then, the card before it is read with its own files."""
    content = card_content(folder, card)
    written = _checkpoint(folder, json.loads(content))
    present: dict[str, str] = {}
    with suppress(ModelError):  # there is none that can be read
        old = read_checkpoint(folder)
        present = {WEIGHTS: old.digest} | ({APPLICABILITY: old.training_inputs.sha256} if old.training_inputs else {})
    for name, part in files.items():
        path = folder / name
        # what an earlier writer left, who broke off before the card, does not belong to the present card
        keep = _before(path) if _has_hash(path, present.get(name)) else None
        replace_file(path, part, keep=keep, error=CheckpointError)
    replace_file(folder / CARD, content, error=CheckpointError)
    gone = [folder / APPLICABILITY, _before(folder / APPLICABILITY)] if written.training_inputs is None else []
    for path in (*gone, *(_before(folder / name) for name in files)):
        path.unlink(missing_ok=True)
    return written


def _before(path: Path) -> Path:
    """Where the file of the present card waits for the next card."""
    return path.with_name(f".{path.stem}-before{path.suffix}")


def _has_hash(path: Path, digest: str | None) -> bool:
    try:
        if digest is None or not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False  # it is not there, or no longer


def load_once(key: str, load: Callable[[], Network]) -> Network:
    """Return the network of a key, which each process loads once."""
    with _lock:
        if key not in _networks:
            _networks[key] = load()
        return cast("Network", _networks[key])


def _load_network(checkpoint: Checkpoint) -> DownscalingNetwork:
    import torch

    from xland.models.networks.unet import DownscalingNetwork

    try:
        with torch.device("meta"):  # knows the shapes and holds no value
            network = DownscalingNetwork(checkpoint.inputs, checkpoint.architecture)
    except (XlandError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.folder / CARD}: no network can be built from it: {error}") from error
    return load_weights(checkpoint.folder / WEIGHTS, checkpoint.digest, network)


def load_weights(path: Path, digest: str, network: Network) -> Network:
    """Give a network its weights, which are verified and finite, and return it in evaluation mode."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    kinds = {torch.float32: "F32", torch.int64: "I64"}
    expected = {name: (kinds[each.dtype], tuple(each.shape)) for name, each in network.state_dict().items()}
    content = read_verified(path, digest, expected)
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


def read_verified(path: Path, digest: str, expected: Tensors) -> bytes:
    """Return a safetensors file that has these tensors and this SHA-256; a writer who broke off may have renamed it."""
    path = _before(path) if _has_hash(_before(path), digest) else path
    with open_plain(path, CheckpointError) as (file, size):
        start = file.read(8 + _LARGEST_HEADER)
        # safetensors begin with the length of a JSON object in eight bytes, which may look like a pickle's mark
        if (start[:1] == b"\x80" and start[8:9] not in (b"", b"{")) or start[:4] == b"PK\x03\x04":
            raise CheckpointError(f"{path} is a pickle, which could run any code; only safetensors are read")
        fault = _fault(start, size, expected)
        if fault is not None and size > _SMALL:
            raise CheckpointError(f"{path} {fault}")
        content = start + file.read(max(size - len(start), 0))
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(
            f"{path} ({len(content)} bytes) is truncated or altered: its SHA-256 is not the one in the card; "
            "fetch the model again"
        )
    if fault is not None:
        raise CheckpointError(f"{path} {fault}")
    return content


def _fault(start: bytes, size: int, expected: Tensors) -> str | None:
    """Say what is wrong with a file of ``size`` bytes that begins with ``start``; the library checks the rest."""
    if size > _LARGEST_FILE:
        return f"has {size} bytes, more than the {_LARGEST_FILE} that are read"
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(_LARGEST_HEADER, size - 8):
        return "is not a safetensors file: its header has no possible length"
    try:
        header: Any = dict(json.loads(start[8 : 8 + length]))
    except (ValueError, TypeError, RecursionError):
        return "is not a safetensors file: its header cannot be read"
    header.pop("__metadata__", None)
    for name in sorted(header.keys() | expected.keys()):
        found = header.get(name)
        said = (found.get("dtype"), found.get("shape")) if isinstance(found, dict) else None
        wanted = (expected[name][0], list(expected[name][1])) if name in expected else None
        if said != wanted:
            described = [
                "is missing" if each is None else f"has shape {shown(each[1])} of {shown(each[0])}"
                for each in (said, wanted)
            ]
            return (
                f"does not fit its card: {name[:100]} {described[0]}, expected {described[1]}; the channels or the "
                "architecture differ"
            )
    values = sum(_BYTES[kind] * math.prod(shape) for kind, shape in expected.values())
    if size != 8 + length + values:
        return f"is not a safetensors file: it has {size} bytes, and its header asks for {8 + length + values}"
    return None
