"""Telling one input from another without reading it.

Values in memory are known by a digest of themselves. What lies in a file and was not read yet is known by the
file, its size and time of change, and by what was chosen of it. The same holds for the names that dask gives to
such data, which ``chunk`` would otherwise draw at random for NetCDF files: importing this module teaches dask.
What neither says is new each time, so two inputs are never taken for one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.base import normalize_token, tokenize
from dask.tokenize import normalize_object
from xarray.core.indexing import ExplicitIndexer, ExplicitlyIndexed

_ROOTS = ("zarr.json", ".zarray", ".zmetadata", ".zgroup")


def identities_of(**given: xr.Dataset | xr.DataArray | None) -> dict[str, str]:
    """Return the identity of each input that is there, by its name."""
    return {name: identity_of(each) for name, each in given.items() if each is not None}


def identity_of(given: xr.Dataset | xr.DataArray) -> str:
    """Tell one input from another without reading it.

    Values in memory count as they are; those of a dask array by its name, which dask derives from what it is
    made of; others by their file and what was chosen of it. So do fill values, ranges and units, which make others of
    the same numbers.
    """
    ds = given if isinstance(given, xr.Dataset) else given.to_dataset(name="map")
    plain = (int, float, np.generic, np.ndarray, list)
    variables = []
    # a store without consolidated metadata lists them in another order each time it is opened
    for name, variable in sorted(ds.variables.items(), key=lambda item: str(item[0])):
        if variable.chunks is not None:
            content = str(variable.data.name)
        else:  # xarray has no public way to ask whether asking for values would read a file
            content = tokenize(variable.values if variable._in_memory else variable._data)  # noqa: SLF001
        encoded = {str(key): str(value) for key, value in variable.encoding.items() if isinstance(value, plain)}
        declared = [{str(key): str(value) for key, value in variable.attrs.items()}, encoded]
        shape = [list(map(str, variable.dims)), list(variable.shape), str(variable.dtype)]
        variables.append([str(name), *shape, content, declared])
    return digest_of([variables, {str(key): str(value) for key, value in ds.attrs.items()}])


def digest_of(content: Any) -> str:
    """SHA-256 of anything that JSON can represent; of other things their text counts."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def source_file(given: xr.Dataset | xr.DataArray) -> Path | None:
    """Return the file on this machine that something was opened from, if it says so and the file is there."""
    source = given.encoding.get("source")
    if not isinstance(source, str | Path) or not str(source):
        return None
    path = Path(source)
    return path if path.is_file() else None


@normalize_token.register(ExplicitlyIndexed)
def _normalise(data: Any) -> Any:
    """Say what xarray has not read yet, for dask's names: the layers around a file, and the file."""
    layers = []
    while isinstance(data, ExplicitlyIndexed) and hasattr(data, "array"):
        # what a layer does to the array within: its key, its function
        names = {name for kind in type(data).__mro__ for name in getattr(kind, "__slots__", ())}
        state = {name: getattr(data, name) for name in names if hasattr(data, name)}
        state |= getattr(data, "__dict__", {})
        state.pop("array", None)
        plain = {k: (type(v).__name__, v.tuple) if isinstance(v, ExplicitIndexer) else v for k, v in state.items()}
        layers.append((type(data).__qualname__, sorted((name, normalize_token(v)) for name, v in plain.items())))
        data = data.array
    origin = _origin(data)
    return (layers, normalize_object(data) if origin is None else origin)


def _origin(data: Any) -> Any:
    """Say which variable of which file an array of xarray's backends reads; None for others."""
    store = getattr(data, "datastore", None)
    file = getattr(store, "_filename", None) or next(iter(getattr(getattr(store, "_manager", None), "_args", ())), None)
    if isinstance(file, str | Path):
        name = (str(data.variable_name), str(getattr(store, "_group", None)))
        return type(data).__qualname__, name, str(data.dtype), data.shape, _stamp(Path(file))
    array = getattr(data, "_array", None)
    if type(data).__name__ == "ZarrArrayWrapper" and array is not None:
        stamp = None
        if (root := getattr(array.store, "root", None)) is not None:
            stamp = [
                _stamp(Path(root, array.path)),
                *(_stamp(Path(root, folder, n)) for folder in ("", array.path) for n in _ROOTS),
            ]
        return type(data).__qualname__, normalize_token(array.store), array.path, str(data.dtype), data.shape, stamp
    return None


def _stamp(path: Path) -> tuple[str, int, int] | str:
    """Name, size and time of change of a file; of what is not on this machine, the name."""
    try:
        found = path.stat()
    except OSError:
        return str(path)
    return str(path.resolve()), found.st_size, found.st_mtime_ns
