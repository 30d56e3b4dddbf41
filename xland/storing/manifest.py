"""The manifest of a store that is not finished yet: what it is of, to be compared when it is resumed.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from xland.errors import StoreError
from xland.storing.checksums import sha256

COMPLETE = "xland_complete"
"""Attribute of the root group: 0 while a store is being written, 1 once it is whole (NetCDF has no booleans)."""

FINGERPRINT = "xland_store_fingerprint"
"""Attribute of the root group: digest of what was written, compared on resuming."""

MANIFEST = "manifest.json"
"""Name of the manifest in the working folder."""

FORMAT = 2
"""Number of the layout of working folders that this release writes and goes on with."""

_INPUTS = "xland_inputs"  # an attribute of maps

_VALUES = "values"

_NEW_EACH_TIME = (
    "values drawn at random, and results of functions that dask cannot tell apart, are new each time: "
    "write them to a file first"
)

_DATA = re.compile(r"data-[0-9a-f]{32}\.zarr")
_FINGERPRINT = re.compile(r"[0-9a-f]{8,128}")

VOLATILE = frozenset({COMPLETE, FINGERPRINT, "history", "date_created", "date_modified"})
"""Attributes that may differ between two runs of the same work."""


def write_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Return the content of a manifest's file, which begins with a digest of the rest."""
    text = json.dumps(manifest)
    return json.dumps({"sha256": sha256(text.encode()), "manifest": text}).encode()


def parse_manifest(content: bytes, where: str) -> dict[str, Any]:
    """Return a manifest that was read; :class:`StoreError` if it is damaged or of another release."""
    try:
        read = json.loads(content)
        if isinstance(read, dict) and read.get("format") not in (None, FORMAT):
            raise StoreError(
                f"{where} was begun by another release of xland: finish it with that, or begin anew with overwrite=True"
            )
        text = read["manifest"]
        manifest: dict[str, Any] = json.loads(text)
        whole = (
            read["sha256"] == sha256(text.encode())
            and manifest["format"] == FORMAT
            and _DATA.fullmatch(manifest["data"])
            and _FINGERPRINT.fullmatch(manifest["fingerprint"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        whole = False
    if not whole:
        raise StoreError(f"{where} is damaged; begin anew with overwrite=True")
    return manifest


def count_blocks(manifest: Mapping[str, Any]) -> int:
    """Count the blocks that a store is made of."""
    return sum(math.prod(len(blocks) for blocks in group) for group in manifest["groups"].values())


def check_same(asked: dict[str, Any], begun: dict[str, Any], target: str) -> None:
    """Refuse to go on with a store that was begun as other work; the error says what differs."""
    parts, values = [], []
    for key in sorted(asked.keys() | begun.keys()):
        one, two = asked.get(key, {}), begun.get(key, {})
        # compared as text, in which NaN equals itself
        inner = {k for k in one.keys() | two.keys() if json.dumps(one.get(k)) != json.dumps(two.get(k))}
        if inner == {_VALUES}:
            values.append(key)
        elif inner:
            parts.append(f"{key} ({', '.join(sorted(inner - {_VALUES}))})")
    if not parts and not values:
        return
    inputs = [json.loads(work.get("attributes", {}).get(_INPUTS) or "{}") for work in (asked, begun)]
    others = sorted(name for name in inputs[0].keys() | inputs[1].keys() if inputs[0].get(name) != inputs[1].get(name))
    if others:
        parts.append(f"of the inputs, {', '.join(others)} ({_NEW_EACH_TIME})")
    elif not parts:  # values differ with all else that differs
        parts.append(f"values of {', '.join(values)} ({_NEW_EACH_TIME})")
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
        shape, type, blocks, chunks, attributes and the name of its dask array.
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
            entry[_VALUES] = str(variable.data.name)  # which dask derives from what they are computed from
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
