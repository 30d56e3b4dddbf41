"""Telling one input from another without reading it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import xarray as xr
from dask.base import tokenize


def identities_of(**given: xr.Dataset | xr.DataArray | None) -> dict[str, str]:
    """Return the identity of each input that is there, by its name."""
    return {name: identity_of(each) for name, each in given.items() if each is not None}


def identity_of(given: xr.Dataset | xr.DataArray) -> str:
    """Tell one input from another without reading it.

    Values in memory count as they are; those of a file by its path, size and time of change; those
    of a dask array by its name, which dask derives from what it is made of.
    """
    ds = given if isinstance(given, xr.Dataset) else given.to_dataset(name="map")
    path = Path(str(ds.encoding.get("source", "")))
    file = [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else []
    variables = [
        [str(name), list(map(str, variable.dims)), list(variable.shape), str(variable.dtype), _content(variable)]
        # a store without consolidated metadata lists them in another order each time it is opened
        for name, variable in sorted(ds.variables.items(), key=lambda item: str(item[0]))
    ]
    return digest_of([file, variables, {str(key): str(value) for key, value in ds.attrs.items()}])


def _content(variable: xr.Variable) -> str:
    if variable.chunks is not None:
        return str(variable.data.name)
    # xarray has no public way to ask whether asking for values would read a file
    return tokenize(variable.values) if variable._in_memory else "file"  # noqa: SLF001


def digest_of(content: Any) -> str:
    """SHA-256 of anything that JSON can hold; of other things their text counts."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
