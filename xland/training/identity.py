"""What fixes the losses of a training: its configuration and its data, and how those of two trainings differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from xland.batches.patches import Patches
from xland.training.configuration import Configuration
from xland.training.material import Material

# entries that do not change a loss, and may differ in a training that is resumed
_FREE = {"title", "notes", "licence"}
_FREE_SCHEDULE = {"workers", "checkpoint_every", "report_every", "compile"}


def identify(configuration: Configuration, material: Material, patches: Patches | None = None) -> dict[str, Any]:
    """Describe everything that the losses of a training depend on.

    Parameters
    ----------
    configuration : Configuration
        With normalised inputs.
    material : Material
    patches : Patches, optional
        Those to learn from, where they do not follow from the configuration.

    Returns
    -------
    dict
        JSON-ready: the entries of the configuration; ``sources``, as the card names the data; and
        ``arrays``, a SHA-256 of the content of each.
    """
    entries = {name: value for name, value in configuration.to_dict().items() if name not in _FREE}
    entries["schedule"] = {name: value for name, value in entries["schedule"].items() if name not in _FREE_SCHEDULE}
    part = hashlib.sha256(np.ascontiguousarray(material.part).data).hexdigest()
    hashes = {**material.source.hashes, "part": part}
    if patches is not None:
        corners = np.stack([patches.rows, patches.columns]).astype(np.int64)
        hashes["patches"] = f"{patches.size} {hashlib.sha256(corners.data).hexdigest()}"
    described = {**entries, "sources": _without_tokens(material.description), "arrays": hashes}
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def differences(own: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name the entries in which two trainings differ, with both values: ``schedule.batch (8 there, 4 here)``.

    Parameters
    ----------
    own, other : dict
        What :func:`identify` returned here, and for the other training.
    """
    here, there = dict(_entries(own)), dict(_entries(other))
    return [
        f"{name} ({_short(there, name)} there, {_short(here, name)} here)"
        for name in dict.fromkeys((*here, *there))
        if name not in here or name not in there or here[name] != there[name]
    ]


def _without_tokens(described: dict[str, Any]) -> dict[str, Any]:
    """Leave dask's tokens out: those change when a store is copied, and the content has its hashes."""
    return {
        name: {key: value for key, value in source.items() if key != "token"} if isinstance(source, dict) else source
        for name, source in described.items()
    }


def _entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Single values with their path; of channels, their order and the entries of each by its name."""
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        yield path, [each["name"] for each in value]
        for each in value:
            yield from _entries(
                {name: entry for name, entry in each.items() if name != "name"}, f"{path}.{each['name']}"
            )
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _entries(entry, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _short(entries: dict[str, Any], name: str) -> str:
    if name not in entries:
        return "absent"
    text = json.dumps(entries[name], ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:50]}..."
