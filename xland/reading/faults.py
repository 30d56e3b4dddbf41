"""Faults of files that show when values are read: libraries say little of them, so they get names here.

An array of xarray's that reads a file, or one that dask takes blocks of, is put into :class:`NamedReads`,
which turns whatever goes wrong into an error that says which variable of which file. Nothing is read for
that, and chunks keep their names.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from xland.addresses import without_password
from xland.errors import StoreError, XlandError

_LAYERS = (indexing.ExplicitlyIndexed, indexing.ImplicitToExplicitIndexingAdapter)


def unreadable(path: str | Path, kind: str, error: Exception) -> StoreError:
    """Return the named error of a file that its library cannot read: one line, without that library's advice."""
    return StoreError(
        f"{path} cannot be read as {kind}: {_reason(error)}; is it damaged, unfinished or of another format?"
    )


def with_named_reads(array: xr.DataArray, what: str) -> xr.DataArray:
    """Return an array of which faults of its file, when values are read, are a :class:`StoreError`.

    Parameters
    ----------
    array : DataArray
        As the caller has it, who keeps it as it is.
    what : str
        What it is, for messages.
    """
    data = named_reads(array.variable, what)
    return array if data is None else array.copy(deep=False, data=data)


def name_reads(ds: xr.Dataset) -> xr.Dataset:
    """Do the same, in place, for all variables of a Dataset that was just opened."""
    for name, variable in ds.variables.items():
        data = named_reads(variable, f"variable {name!r}")
        if data is not None:
            variable.data = data
    return ds


def named_reads(variable: xr.Variable, what: str) -> Any:
    """Return the values of a variable, of which faults are named when they are read; None if no file is read."""
    data = variable._data  # noqa: SLF001 - `.data` would read a file
    if isinstance(data, da.Array):
        return _with_named_sources(data, what)
    if isinstance(data, indexing.ExplicitlyIndexed) and not variable._in_memory and not _is_named(data):  # noqa: SLF001
        return indexing.LazilyIndexedArray(NamedReads(data, what))
    return None


class NamedReads(BackendArray):
    """An array of a file, reading which fails by name.

    Parameters
    ----------
    array : array
        One of xarray's that reads a file, or anything else that dask takes blocks of.
    what : str
        What it is, for messages.
    """

    __slots__ = ("array", "dtype", "shape", "what")

    def __init__(self, array: Any, what: str) -> None:
        self.array, self.what = array, what
        self.shape, self.dtype = tuple(array.shape), array.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a part."""
        try:
            if not isinstance(key, indexing.ExplicitIndexer):
                return np.asarray(self.array[key])
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)
        except (XlandError, MemoryError):
            raise
        except Exception as error:  # each library has errors of its own for each kind of damage
            raise StoreError(self._sentence(error)) from error

    async def async_getitem(self, key: Any) -> NDArray[Any]:
        """Read a part beside other work."""
        return await asyncio.to_thread(self.__getitem__, key)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        return np.asarray(self.array.oindex[indexing.OuterIndexer(key)].get_duck_array())

    def _sentence(self, error: Exception) -> str:
        file = file_of(self.array)
        where = "its file" if file is None else without_password(file)
        said = _reason(error) if file is None else without_password(_reason(error), of=file)
        return (
            f"{self.what}: values cannot be read from {where}: {said}; if the file is damaged, copy or download it "
            "anew; if it lies behind a network, try again"
        )


def file_of(data: Any) -> str | None:
    """Path or URL of what an array of xarray's reads, if it says so."""
    while isinstance(data, _LAYERS) and hasattr(data, "array"):
        data = data.array
    store = getattr(data, "datastore", None)
    manager = getattr(store, "_manager", None)
    for found in (getattr(store, "_filename", None), *getattr(manager, "_args", ())[:1]):
        if isinstance(found, str | Path):
            return str(found)
    zarr: Any = getattr(getattr(data, "_array", data), "store", None)
    zarr = getattr(zarr, "_store", zarr)  # of a store around another
    with suppress(AttributeError):
        return str(zarr.root) if hasattr(zarr, "root") else str(zarr.fs.unstrip_protocol(zarr.path))
    return None


def _with_named_sources(array: da.Array, what: str) -> da.Array | None:
    """Return a dask array whose sources, those that dask takes blocks of, fail by name; None if it has none."""
    layers = array.dask.layers if isinstance(array.dask, HighLevelGraph) else {}
    named: dict[Hashable, Any] = {}
    for name, layer in layers.items():
        if isinstance(layer, MaterializedLayer) and len(layer) == 1 and name in layer:
            source = _named_source(layer[name], what)
            if source is not None:
                named[name] = MaterializedLayer({name: source}, annotations=layer.annotations)
    if not named:
        return None
    graph = HighLevelGraph({**layers, **named}, array.dask.dependencies)
    return da.Array(graph, array.name, array.chunks, meta=array._meta)  # noqa: SLF001


def _named_source(source: Any, what: str) -> Any:
    is_array = all(hasattr(source, name) for name in ("shape", "dtype", "ndim", "__getitem__"))
    if not is_array or isinstance(source, np.ndarray | da.Array) or _is_named(source):
        return None
    return NamedReads(source, what)


def _is_named(data: Any) -> bool:
    while isinstance(data, _LAYERS):
        if isinstance(data, NamedReads):
            return True
        data = getattr(data, "array", None)
    return False


def _reason(error: Exception) -> str:
    said = str(error.__cause__ or error).strip() or type(error).__name__
    return re.split(r"\.\s|\n", re.sub(r"https?://\S+", "", said))[0].strip().rstrip(".")
