"""Blocks of a store: how dask blocks and Zarr chunks fit, the task that writes one, its journal.

Below :mod:`xland.store`, which says what is written where; nothing here is called by users.
"""

from __future__ import annotations

import math
import os
import socket
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import StoreError

LATTICE = ("time", "lat", "lon")
"""Dimensions along which the work is split; others are whole in every block."""

CHUNK_BYTES = 4 * 2**20
"""Most bytes of one chunk before compression."""

_BLOCK = 1024
_LINE = 64


def align(ds: xr.Dataset, chunks: Mapping[str, int] | None) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """Give all variables common blocks of whole Zarr chunks.

    Parameters
    ----------
    ds : Dataset
        Variables without one of the dimensions ``time``, ``lat``, ``lon`` are loaded; coordinates too.
    chunks : mapping of dimension to cells, optional
        Zarr chunks asked for; by default the largest that divide the dask blocks and hold at most
        ``CHUNK_BYTES``.

    Returns
    -------
    Dataset
        With dask arrays for every variable over the lattice.
    dict
        Zarr encoding (chunks, compressor) of each of these variables.

    Raises
    ------
    StoreError
        If ``chunks`` names an unknown dimension or a size below one.
    """
    from zarr.codecs import BloscCodec, ZstdCodec

    for dim, size in (chunks or {}).items():
        if dim not in ds.sizes or size < 1 or int(size) != size:
            known = ", ".join(map(str, ds.sizes))
            raise StoreError(f"chunks: {dim}={size} is not a whole number of cells along one of {known}")
    lazy = [str(name) for name, variable in ds.data_vars.items() if set(variable.dims) & set(LATTICE)]
    small = [name for name in ds.variables if name not in lazy and ds[name].chunks is not None]
    if small:
        ds = ds.assign({name: ds[name].compute() for name in small})
    if not lazy:
        return ds, {}
    ds = ds.assign({name: _chunked(ds[name]) for name in lazy})
    ds = ds.unify_chunks()
    whole: dict[Any, int] = {dim: -1 for name in lazy for dim in ds[name].dims if dim not in LATTICE}
    uneven: dict[Any, int] = {
        dim: (size * max(1, round(max(blocks) / size)) if size else min(max(blocks), _BLOCK))
        for dim, blocks in ds.chunksizes.items()
        if dim in LATTICE
        for size in [(chunks or {}).get(str(dim))]
        if not _fits(blocks, size, [ds[name] for name in lazy if dim in ds[name].dims], str(dim))
    }
    if whole or uneven:
        ds = ds.assign(
            {
                name: ds[name].chunk({d: c for d, c in {**whole, **uneven}.items() if d in ds[name].dims})
                for name in lazy
            }
        )
    encoding: dict[str, dict[str, Any]] = {}
    for name in lazy:
        array = ds[name]
        sizes = [
            min((chunks or {}).get(str(dim)) or _chunk(blocks, _limit(array, str(dim))), max(1, sum(blocks)))
            for dim, blocks in zip(array.dims, array.chunks or (), strict=True)
        ]
        floats = array.dtype.kind == "f"
        codec = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle") if floats else ZstdCodec(level=5)
        encoding[name] = {"chunks": tuple(sizes), "compressors": (codec,)}
        if not floats:
            # Chunks of nothing but zeros (ocean) are not written; zero is a class, not a missing value
            encoding[name]["_FillValue"] = None
    return ds, encoding


def _chunked(array: xr.DataArray) -> xr.DataArray:
    if array.chunks is not None:
        return array
    return array.chunk({dim: (1 if dim == "time" else _BLOCK) if dim in LATTICE else -1 for dim in array.dims})


def _limit(array: xr.DataArray, dim: str) -> int:
    """Most cells of a chunk along one dimension."""
    return math.isqrt(CHUNK_BYTES // array.dtype.itemsize) if dim in ("lat", "lon") else 1


def _chunk(blocks: Sequence[int], limit: int) -> int:
    """Size of the chunks that blocks along one dimension are made of."""
    if len(blocks) == 1:
        return max(1, math.ceil(blocks[0] / max(1, math.ceil(blocks[0] / limit))))
    common = math.gcd(*blocks[:-1])
    return max(size for size in range(1, min(common, limit) + 1) if common % size == 0)


def _fits(blocks: Sequence[int], size: int | None, arrays: list[xr.DataArray], dim: str) -> bool:
    """Whether blocks are made of whole chunks that are not absurdly small."""
    if size is not None:
        return all(block % size == 0 for block in blocks[:-1])
    if dim == "time" or len(blocks) == 1:
        return True
    enough = min(max(blocks), *(_limit(array, dim) for array in arrays)) / 8
    return all(_chunk(blocks, _limit(array, dim)) >= enough for array in arrays)


@dataclass(frozen=True)
class Group:
    """Variables over the same lattice dimensions, written together block by block."""

    dims: tuple[str, ...]
    variables: list[str]
    blocks: list[tuple[int, ...]]

    def write_flags(self, ds: xr.Dataset, writer: BlockWriter) -> da.Array:
        """Return a lazy array with one element for each block; computing an element writes its block."""
        letters = {dim: number for number, dim in enumerate(dict.fromkeys([*self.dims, *map(str, ds.dims)]))}
        arguments: list[Any] = []
        for dim, blocks in zip(self.dims, self.blocks, strict=True):
            numbers = np.stack([np.arange(len(blocks)), np.cumsum([0, *blocks[:-1]])], axis=1)
            place = da.from_array(numbers, chunks=(1, 2), name=f"place-{dim}-{da.core.tokenize(blocks)}")
            arguments += [place, (letters[dim], len(letters))]
        for name in self.variables:
            arguments += [ds[name].data, tuple(letters[str(dim)] for dim in ds[name].dims)]
        out = tuple(letters[dim] for dim in self.dims)
        return da.blockwise(
            writer,
            out,
            *arguments,
            name=f"write-{writer.run}-{'-'.join(self.dims)}",
            concatenate=True,
            align_arrays=False,
            adjust_chunks=dict.fromkeys(out, 1),
            dtype=np.bool_,
            meta=np.empty((0,) * len(out), dtype=np.bool_),
        )


def group_variables(ds: xr.Dataset) -> dict[str, Group]:
    """Group the lazy variables of an aligned Dataset by their lattice dimensions."""
    groups: dict[str, Group] = {}
    for name, array in ds.data_vars.items():
        dims = tuple(dim for dim in LATTICE if dim in array.dims)
        if array.chunks is None or not dims:
            continue
        blocks = [tuple(array.chunksizes[dim]) for dim in dims]
        groups.setdefault(",".join(dims), Group(dims, [], blocks)).variables.append(str(name))
    return groups


@dataclass(frozen=True)
class BlockWriter:
    """The task that writes one block of every variable of a group and then notes it in the journal.

    Parameters
    ----------
    partial : str
        Working folder of the store.
    data : str
        Name of the growing store in it.
    run : str
        Identity of this run; a block that starts after its run was broken off writes nothing.
    group : str
        Name of the group.
    variables : tuple of str
        Names of its variables, in the order of the arrays.
    """

    partial: str
    data: str
    run: str
    group: str
    variables: tuple[str, ...]

    @staticmethod
    def key(group: str, index: Sequence[int]) -> str:
        """Name of a block in the journal."""
        return f"{group}:{'.'.join(str(int(number)) for number in index)}"

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[np.bool_]:
        """Write the arrays that follow one ``[number, first cell]`` pair for each lattice dimension."""
        dims = self.group.split(",")
        places = {dim: place[0] for dim, place in zip(dims, arrays, strict=False)}
        if not Path(self.partial, f"active-{self.run}").exists():
            raise StoreError(f"the run that was to write into {self.partial} was broken off")
        for name, values in zip(self.variables, arrays[len(dims) :], strict=True):
            target, names = _open_array(str(Path(self.partial, self.data)), name)
            region = []
            for dim, length in zip(names, values.shape, strict=True):
                first = int(places[dim][1]) if dim in places else 0
                region.append(slice(first, first + length))
            target[tuple(region)] = values
        self._note(self.key(self.group, [places[dim][0] for dim in dims]))
        return np.ones((1,) * len(dims), dtype=np.bool_)

    def _note(self, key: str) -> None:
        """Append one line to this process's journal: a single write, so that it is there whole or not at all."""
        line = f"{zlib.crc32(key.encode()):08x} {key}".ljust(_LINE - 1) + "\n"
        journal = Path(self.partial, "journal", f"{self.run}-{socket.gethostname()}-{os.getpid()}")
        handle = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


def read_finished(partial: Path) -> set[str]:
    """Names of the blocks that are finished; lines that a crash cut off do not count."""
    finished = set()
    for journal in sorted((partial / "journal").glob("*")):
        for line in journal.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            digest, _, key = line.rstrip().partition(" ")
            if digest == f"{zlib.crc32(key.encode()):08x}":
                finished.add(key)
    return finished


def count_finished(partial: Path) -> int:
    """Count the lines of the journal: a quick figure for the progress bar."""
    return sum(journal.stat().st_size for journal in (partial / "journal").glob("*")) // _LINE


@lru_cache(maxsize=32)
def _open_array(store: str, name: str) -> tuple[Any, tuple[str, ...]]:
    """Open an array once in each process, with the names of its dimensions."""
    import zarr

    array: Any = zarr.open_array(store, path=name, mode="r+")
    return array, tuple(str(dim) for dim in array.metadata.dimension_names)
