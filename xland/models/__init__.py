"""Models: shipped ones by name, others by folder."""

from __future__ import annotations

from pathlib import Path

from xland.errors import ModelError
from xland.models.checkpoint import CARD, Checkpoint, read_checkpoint

DEFAULT_MODEL = "luh2-0p05"
_SHIPPED = Path(__file__).parent / "shipped"


def list_models() -> tuple[str, ...]:
    """Names of the models that ship with the package."""
    return tuple(sorted(path.parent.name for path in _SHIPPED.glob(f"*/{CARD}")))


def find_model(model: str | Path | Checkpoint = DEFAULT_MODEL) -> Checkpoint:
    """Return a model by the name of a shipped one, or by the folder that holds it.

    Raises
    ------
    ModelError
        If neither a shipped model nor a folder has that name; the message lists the shipped ones.
    CheckpointError
        If the folder's card is damaged.
    """
    if isinstance(model, Checkpoint):
        return model
    if not isinstance(model, str | Path):
        raise ModelError(f"model must be the name of a shipped one or a folder, not {model!r}")
    if isinstance(model, str) and model in list_models():
        return read_checkpoint(_SHIPPED / model)
    if not Path(model).is_dir():
        raise ModelError(
            f"there is no model {str(model)!r}: give the folder of a trained model or one of "
            f"{', '.join(list_models()) or 'none shipped'}"
        )
    return read_checkpoint(model)
