"""The state of a training between two epochs: one safetensors file, written atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xland.errors import CheckpointError
from xland.models.checkpoint import write_atomically

STATE = "state.safetensors"


@dataclass
class Progress:
    """How far a training has come."""

    epoch: int = 0
    step: int = 0
    best_merit: float = float("-inf")
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(
    folder: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, key: str
) -> None:
    """Write weights, moving average, optimiser and progress into one file."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for prefix, module in (("network", network), ("average", average)):
        tensors |= {f"{prefix}.{name}": value.contiguous() for name, value in module.state_dict().items()}
    for number, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value).clone() for name, value in entry.items()}
    # safetensors refuses tensors that share memory
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    metadata = {"progress": json.dumps(vars(progress)), "configuration": key}
    write_atomically(folder / STATE, save(tensors, metadata=metadata))


def load_state(
    folder: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, key: str
) -> Progress:
    """Restore what :func:`save_state` wrote.

    Raises
    ------
    CheckpointError
        If the file is damaged or belongs to another configuration.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / STATE
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] | None = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the training state {path} is damaged: {error}; delete it to start again") from error
    if metadata is None or metadata.get("configuration") != key:
        raise CheckpointError(
            f"{path} belongs to another configuration or other data; "
            "choose another output folder or start without resume"
        )
    network.load_state_dict(_part(tensors, "network."))
    average.load_state_dict(_part(tensors, "average."))
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in _part(tensors, "optimizer.").items():
        number, _, entry = name.partition(".")
        state.setdefault(int(number), {})[entry] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Progress(**json.loads(metadata["progress"]))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
