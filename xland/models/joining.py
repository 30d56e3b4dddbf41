"""Several trained models put together into one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from xland.errors import ModelError
from xland.models import find_model
from xland.models.checkpoint import Checkpoint, save_checkpoint

_TRAINING = ("training", "validation", "energy")
"""Entries of a card that say how its model was trained."""

_OF_ONE = ("calibration", "decision", "applicability", "scores", "validation", "energy", "coverage")
"""Entries of a card that do not hold for several models together."""


def join(models: Sequence[str | Path | Checkpoint], folder: str | Path, *, name: str | None = None) -> Checkpoint:
    """Put several trained models into one, which answers with the mean of their class scores.

    Such a model is used, shipped and written about as one, and costs as many times the network as it has members.
    What its members say of their own certainty does not hold for all of them together: run
    :func:`xland.training.learn.calibrating.calibrate` on it.

    Parameters
    ----------
    models : sequence of str, path or Checkpoint
        Two or more, of the same inputs and the same architecture, from trainings that differ: in their seed,
        for example, or their objective. Models that were joined before count with all of their members.
    folder : path
        Where the model is written; a model in it is replaced.
    name : str, optional
        By default that of the first.

    Returns
    -------
    Checkpoint
        Its card is that of the first, with an entry ``members`` that says how each was trained.

    Raises
    ------
    ModelError
        If there are fewer than two, one is given twice, or inputs or architectures differ; the entries are named.
    CheckpointError
        If a model is damaged, or the folder cannot be written.
    """
    from xland.models.networks.unet import DownscalingNetwork

    ensemble = find_model(list(models))
    if len(ensemble.members) < 2:
        raise ModelError(f"{len(ensemble.members)} model cannot be joined: give two or more")
    first = ensemble.members[0]
    wanted = {**first.architecture.to_dict(), "members": None}
    for member in ensemble.members:
        own = {**member.architecture.to_dict(), "members": None}
        different = [
            f"{entry} {own[entry]} in place of {wanted[entry]}" for entry in own if own[entry] != wanted[entry]
        ]
        if different:
            raise ModelError(
                f"models to be joined must be built alike, but {member.name!r} ({member.folder}) is "
                f"{', '.join(different)} of {first.name!r}; downscale with a list of models instead"
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
        card["coverage"] = ensemble.coverage.to_dict()
    return save_checkpoint(folder, joined, card)
