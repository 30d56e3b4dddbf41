"""The manifest of a store that is not finished yet: what it is of, to be compared when it is resumed.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from xland.errors import StoreError

COMPLETE = "xland_complete"
"""Attribute of the root group: false while a store is being written, true once it is whole."""

FINGERPRINT = "xland_store_fingerprint"
"""Attribute of the root group: digest of what was written, compared on resuming."""

MANIFEST = "manifest.json"
"""Name of the manifest in the working folder."""

VOLATILE = frozenset({COMPLETE, FINGERPRINT, "history", "date_created", "date_modified"})
"""Attributes that may differ between two runs of the same work."""


def count_blocks(manifest: Mapping[str, Any]) -> int:
    """Count the blocks that a store is made of."""
    return sum(math.prod(len(blocks) for blocks in group) for group in manifest["groups"].values())


def check_same(asked: dict[str, Any], begun: dict[str, Any], target: str) -> None:
    """Refuse to go on with a store that was begun as other work; the error says what differs."""
    parts = []
    for key in sorted(asked.keys() | begun.keys()):
        one, two = asked.get(key, {}), begun.get(key, {})
        # compared as text, in which NaN equals itself
        inner = sorted(k for k in one.keys() | two.keys() if json.dumps(one.get(k)) != json.dumps(two.get(k)))
        if inner:
            parts.append(f"{key} ({', '.join(inner)})")
    if not parts:
        return
    raise StoreError(
        f"the unfinished store of {target} was begun with other inputs or settings; different: {'; '.join(parts)}. "
        "Resume with what it was begun with, or begin anew with overwrite=True"
    )


def describe_work(ds: xr.Dataset, encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what is being written, without computing it: two equal descriptions are the same work.

    Parameters
    ----------
    ds : Dataset
        Aligned by :func:`xland.storing.blocks.align`.
    encoding : mapping
        Zarr encoding of its lazy variables.

    Returns
    -------
    dict
        JSON-ready: attributes, the coordinates' digests, and for each variable its dimensions,
        shape, type, blocks, chunks and attributes.
    """
    described: dict[str, Any] = {"attributes": _plain({k: v for k, v in ds.attrs.items() if k not in VOLATILE})}
    for name, variable in ds.variables.items():
        entry: dict[str, Any] = {
            "dims": list(variable.dims),
            "shape": list(variable.shape),
            "dtype": str(variable.dtype),
            "attributes": _plain(variable.attrs),
        }
        if str(name) in encoding:
            entry["blocks"] = _plain(ds[name].chunks)
            entry["chunks"] = list(encoding[str(name)]["chunks"])
            if "shards" in encoding[str(name)]:
                entry["shards"] = list(encoding[str(name)]["shards"])
        else:
            entry["digest"] = tokenize(np.asarray(variable.values).tolist())
        described[f"variable {name}"] = entry
    return described


def _plain(value: Any) -> Any:
    """Turn attributes into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
