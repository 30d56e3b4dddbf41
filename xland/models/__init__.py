"""Models: shipped ones by name, others by folder; several put together into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, overload

from xland.arguments import shown
from xland.errors import ModelError
from xland.models.checkpoint import (
    Checkpoint,
    model_folder,
    read_checkpoint,
    refuse_model,
    save_checkpoint,
    shipped_models,
)
from xland.models.ensemble import Ensemble

DEFAULT_MODEL = "luh2-0p05"
_SHIPPED = Path(__file__).parent / "shipped"

_TRAINING = ("training", "validation", "energy")  # entries of a card that say how its model was trained
# entries of a card that do not hold for several models together
_OF_ONE = ("calibration", "decision", "draws", "applicability", "scores", "validation", "energy", "coverage")

Model = str | Path | Checkpoint | Ensemble | list[Any] | tuple[Any, ...]
"""What :func:`find_model` takes: a model, or a list of several that answer as one."""


def list_models() -> tuple[str, ...]:
    """Names of the models that ship with the package."""
    return shipped_models(_SHIPPED)


@overload
def find_model(model: str | Path | Checkpoint = DEFAULT_MODEL) -> Checkpoint: ...


@overload
def find_model(model: Ensemble | list[Any] | tuple[Any, ...]) -> Ensemble: ...


@overload
def find_model(model: Model) -> Checkpoint | Ensemble: ...


def find_model(model: Model = DEFAULT_MODEL) -> Checkpoint | Ensemble:
    """Return a model by the name of a shipped one, or by its folder; several as an ensemble.

    Parameters
    ----------
    model : str, path or Checkpoint; or a list of them
        A list gives an :class:`~xland.models.ensemble.Ensemble`, whatever its length.

    Raises
    ------
    ModelError
        If neither a shipped model nor a folder has that name; the message lists the shipped ones. If the
        members of an ensemble do not read and write the same, or one is given twice.
    CheckpointError
        If a folder's card is damaged.
    """
    if isinstance(model, Checkpoint | Ensemble):
        return model
    if isinstance(model, list | tuple):
        return Ensemble(tuple(member for each in model for member in find_model(each).members))
    if not isinstance(model, str | Path):
        raise ModelError(f"model must be the name of a shipped one or a folder, not {shown(model)}")
    return read_checkpoint(model_folder(model, _SHIPPED))


def join(
    models: Sequence[str | Path | Checkpoint], folder: str | Path, *, name: str | None = None, overwrite: bool = False
) -> Checkpoint:
    """Put several trained models into one, which answers with the mean of their class scores.

    The joined model is one model. Its cost is the sum of the costs of its members. The calibration of the members is
    not valid for the joined model: run :func:`xland.training.learn.calibrating.calibrate` on it.

    Parameters
    ----------
    models : sequence of str, path or Checkpoint
        Two or more, of the same inputs and the same architecture, from trainings that differ: in their seed,
        for example, or their objective. Models that were joined before count with all of their members.
    folder : path
        Where the model is written.
    name : str, optional
        By default that of the first.
    overwrite : bool
        Replace a model that is in the folder.

    Returns
    -------
    Checkpoint
        Its card is that of the first, with an entry ``members`` that says how each was trained.

    Raises
    ------
    ModelError
        If there are fewer than two, one is given twice, or inputs or architectures differ; the entries are named.
    CheckpointError
        If a model is damaged, the folder cannot be written, or it holds a model and overwrite is not set.
    """
    from xland.models.networks.unet import DownscalingNetwork

    if not overwrite:
        refuse_model(folder)
    ensemble = find_model(list(models))
    if len(ensemble.members) < 2:
        raise ModelError(f"{len(ensemble.members)} model cannot be joined: give two or more")
    first = ensemble.members[0]
    wanted = asdict(replace(first.architecture, members=1))
    for member in ensemble.members:
        own = asdict(replace(member.architecture, members=1))
        different = [
            f"{entry} {value} and not {wanted[entry]}" for entry, value in own.items() if value != wanted[entry]
        ]
        if different:
            raise ModelError(
                f"models to be joined must have the same architecture as {first.name!r}, but {member.name!r} "
                f"({member.folder}) has {', '.join(different)}; downscale with a list of models instead"
            )
    bodies = [body for member in ensemble.members for body in member.network().bodies]
    joined = DownscalingNetwork(ensemble.inputs, replace(first.architecture, members=len(bodies)))
    for empty, body in zip(joined.bodies, bodies, strict=True):
        empty.load_state_dict(body.state_dict())
    card = {entry: value for entry, value in first.card.items() if entry not in _OF_ONE}
    card |= {"name": name or first.name, "members": []}
    for member in ensemble.members:
        kept = {entry: member.card[entry] for entry in _TRAINING if entry in member.card}
        trained = {"name": member.name, "weights_sha256": member.digest, **kept}
        card["members"] += member.card.get("members", [trained])
    if ensemble.coverage is not None:
        card["coverage"] = asdict(ensemble.coverage)
    return save_checkpoint(folder, joined, card)
