"""Several trained models put together into one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xland.errors import ModelError
from xland.models import find_model
from xland.models.checkpoint import Checkpoint, save_checkpoint
from xland.models.networks.architecture import Architecture

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
    networks = ensemble.networks()
    first = networks[0].architecture
    for member, network in zip(ensemble.members, networks, strict=True):
        if replace(network.architecture, members=1) != replace(first, members=1):
            raise ModelError(
                f"models to be joined must be built alike, but {member.name!r} ({member.folder}) is "
                f"{_differences(network.architecture, first)} of {ensemble.members[0].name!r}; "
                "downscale with a list of models instead"
            )
    bodies = [body for network in networks for body in network.bodies]
    joined = DownscalingNetwork(ensemble.inputs, Architecture(**{**first.to_dict(), "members": len(bodies)}))
    for own, body in zip(joined.bodies, bodies, strict=True):
        own.load_state_dict(body.state_dict())
    card = {entry: value for entry, value in ensemble.members[0].card.items() if entry not in _OF_ONE}
    card |= {
        "name": name or card["name"],
        "members": [each for member in ensemble.members for each in _training(member)],
    }
    if ensemble.coverage is not None:
        card["coverage"] = ensemble.coverage.to_dict()
    return save_checkpoint(folder, joined, card)


def _differences(found: Any, wanted: Any) -> str:
    own, other = found.to_dict(), wanted.to_dict()
    return ", ".join(
        f"{name} {own[name]} in place of {other[name]}"
        for name in own
        if name != "members" and own[name] != other[name]
    )


def _training(member: Checkpoint) -> list[dict[str, Any]]:
    """How each network of a model was trained."""
    if "members" in member.card:
        return list(member.card["members"])
    kept = {entry: member.card[entry] for entry in _TRAINING if entry in member.card}
    return [{"name": member.name, "weights_sha256": member.digest, **kept}]
