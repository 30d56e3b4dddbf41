"""Models: shipped ones by name, others by folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

from xland.addresses import local_path
from xland.arguments import shown
from xland.errors import ModelError
from xland.models.checkpoint import CARD, Checkpoint, read_checkpoint
from xland.models.ensemble import Ensemble

DEFAULT_MODEL = "luh2-0p05"
_SHIPPED = Path(__file__).parent / "shipped"

Model = str | Path | Checkpoint | Ensemble | list[Any] | tuple[Any, ...]
"""What :func:`find_model` takes: a model, or a list of several that answer as one."""


def list_models() -> tuple[str, ...]:
    """Names of the models that ship with the package."""
    return tuple(sorted(path.parent.name for path in _SHIPPED.glob(f"*/{CARD}")))


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
    if model in list_models():
        return read_checkpoint(_SHIPPED / model)
    if not local_path(model, what="a model").is_dir():
        raise ModelError(
            f"there is no model {str(model)!r}: give the folder of a trained model or one of "
            f"{', '.join(list_models()) or 'none shipped'}"
        )
    return read_checkpoint(model)
