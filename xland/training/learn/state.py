"""The state of a training at any step: one safetensors file, written atomically; the last two are kept."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xland.errors import CheckpointError, CheckpointWarning, ConfigurationError
from xland.models.checkpoint import CARD
from xland.models.networks.unet import DownscalingNetwork
from xland.paths import check_place, remove_parts, replace_file
from xland.training.data.material import differences
from xland.untrusted.folders import open_plain
from xland.vocabulary import CLASS_NAMES

STATE = "state.safetensors"
PREVIOUS = "state-before.safetensors"
_FORMAT = "3"


@dataclass
class Progress:
    """How far a training has come; ``history`` has the figures of epochs, ``losses`` those of the unfinished one."""

    epoch: int = 0
    step: int = 0
    best_merit: float = float("-inf")
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    energy: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Learner:
    """What a training changes: the network, the moving average of its weights, and the optimiser."""

    network: DownscalingNetwork
    average: DownscalingNetwork
    optimizer: torch.optim.Optimizer


def has_state(folder: Path) -> bool:
    """Whether a folder holds a state, damaged or not."""
    return (folder / STATE).exists() or (folder / PREVIOUS).exists()


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot be written, or that has a state or a model which nobody wants to resume."""
    check_place(folder, CheckpointError)
    if resume:
        return
    if has_state(folder):
        raise ConfigurationError(
            f"{folder} holds a training state: pass resume=True to go on, or choose another folder"
        )
    if (folder / CARD).exists():
        raise ConfigurationError(f"{folder} holds a model, which is not replaced: remove it, or choose another folder")


def save_state(folder: Path, learner: Learner, progress: Progress, identity: dict[str, Any]) -> None:
    """Write learner, progress and the identity of the training into one file; the file from before is kept as well."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for prefix, module in (("network", learner.network), ("average", learner.average)):
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    for number, entry in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in entry.items()}
    # safetensors refuses tensors that share memory
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = {"format": _FORMAT, "progress": json.dumps(vars(progress)), "identity": json.dumps(identity)}
    metadata["sha256"] = _digest(tensors, metadata)
    remove_parts(folder / STATE)
    replace_file(folder / STATE, save(tensors, metadata=metadata), keep=folder / PREVIOUS, error=CheckpointError)


def load_state(folder: Path, learner: Learner, identity: dict[str, Any]) -> Progress:
    """Restore what :func:`save_state` wrote last.

    Where the newest file is damaged, the one from before takes its place, with a CheckpointWarning. A CheckpointError
    says that both are, or that the state is of another training, and which entries differ.
    """
    try:
        tensors, metadata = _read_last(folder)
        different = differences(identity, json.loads(metadata["identity"]))
        if different:
            raise CheckpointError(
                f"the training state in {folder} belongs to another configuration or other data; choose another output "
                f"folder or start without resume. Different are:\n{different}"
            )
        _restore(learner, tensors)
        return _progress_of(metadata)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"the training state in {folder} is not one that xland wrote ({type(error).__name__}: {said:.200}); "
            "delete it to start again, or choose another output folder"
        ) from error


def _restore(learner: Learner, tensors: dict[str, Tensor]) -> None:
    """Give network, average and optimiser their tensors; various errors if these are not theirs."""
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        parts[prefix][rest] = tensor
    for name, module in (("network", learner.network), ("average", learner.average)):
        if parts[name].keys() != module.state_dict().keys():  # torch lets counts of batches be missing
            raise ValueError(f"it has other weights than the {name}")
        module.load_state_dict(parts[name])
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in parts["optimizer"].items():
        number, _, entry = name.partition(".")
        state.setdefault(int(number), {})[entry] = tensor
    learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": state})
    for parameter, averages in learner.optimizer.state.items():  # a step would fail on those of other parameters
        shapes = {name: tuple(values.shape) for name, values in averages.items()}
        if shapes != {"step": (), "exp_avg": (own := tuple(parameter.shape)), "exp_avg_sq": own}:
            raise ValueError(f"the optimizer has {shapes} for a parameter of the shape {own}")


def _progress_of(metadata: dict[str, str]) -> Progress:
    values, usual = json.loads(metadata["progress"]), vars(Progress())
    kinds, expected = ({name: type(each) for name, each in entries.items()} for entries in (values, usual))
    if not kinds.items() <= expected.items() or not all(isinstance(figures, dict) for figures in values["history"]):
        raise ValueError(f"the progress has other entries than {', '.join(usual)}")
    # earlier versions numbered the classes
    codes = {f"iou_{code}": f"iou_{name}" for code, name in enumerate(CLASS_NAMES)}
    history = [{codes.get(name, name): value for name, value in figures.items()} for figures in values["history"]]
    return Progress(**values | {"history": history})


def _read_last(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    newest, before = folder / STATE, folder / PREVIOUS
    # a process that was killed between two renames leaves only the one before, which is whole
    candidates = [path for path in (newest, before) if path.exists()] or [newest]
    faults = []
    for path in candidates:
        try:
            found = _read(path)
        except CheckpointError as error:
            faults.append(error)
            continue
        if faults:
            # else the next state would push out the good one and keep the damaged
            before.replace(newest)
            warnings.warn(
                f"{faults[0]}; it is replaced by the one before, and the training goes on after step "
                f"{_progress_of(found[1]).step}",
                CheckpointWarning,
                stacklevel=2,
            )
        return found
    many = "both" if len(faults) > 1 else "it"
    raise CheckpointError(f"{'; '.join(map(str, faults))}; delete {many} to start again") from faults[-1]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with open_plain(path), safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the training state {path} is damaged: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"the training state {path} has format {metadata.get('format')!r}; this version of xland reads {_FORMAT!r}"
        )
    if metadata.pop("sha256", None) != _digest(tensors, metadata):
        raise CheckpointError(f"the training state {path} is damaged: its SHA-256 is not the one it was written with")
    return tensors, metadata


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
