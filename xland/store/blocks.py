"""Blocks of a store: how dask blocks, Zarr chunks and shards fit, and the task that writes one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import is_count
from xland.errors import StoreError
from xland.geo.orientation import find_dimension
from xland.reading.variables import with_named_reads
from xland.store.storage import RecordingStore, zarr_store
from xland.store.workplace import note
from xland.untrusted.folders import files_at

ROLES = ("time", "latitude", "longitude")
"""The dimensions along which the work is split, whatever they are called; others are whole in every block."""

CHUNK_BYTES = 4 * 2**20
"""Most bytes of one chunk before compression."""

SHARDED_BYTES = 2**18
"""The same for a chunk that is with others in one file."""

MOST_FILES = 10_000
"""A variable with more chunks than this has those of a block in one file unless the caller says otherwise."""

_BLOCK = 1024


def align(
    ds: xr.Dataset, chunks: Mapping[str, int] | None, shards: bool | None = False
) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """Give all variables over the lattice dask arrays with common blocks of whole Zarr chunks, and load the others.

    Return the Dataset, and the Zarr encoding (chunks, shards, compressor) of each variable over the lattice. By default
    chunks are the largest that divide the dask blocks and have at most ``CHUNK_BYTES``, in a shard ``SHARDED_BYTES``.
    With ``shards`` all chunks of a block go to one file; None does so for stores that have more than ``MOST_FILES``
    chunks of a variable, several to a block. StoreError for unknown dimensions and sizes.
    """
    if not isinstance(chunks, Mapping | None):
        raise StoreError(f"chunks must be cells by dimension, such as {{'lat': 600, 'lon': 600}}, not {chunks!r:.80}")
    asked = dict(chunks or {})
    for name, count in asked.items():
        if name not in ds.sizes or not is_count(count):
            known = ", ".join(map(str, ds.sizes))
            raise StoreError(f"chunks: {name}={count} is not a whole number of cells along one of {known}")
    lattice = lattice_of(ds)
    lazy = [str(name) for name, variable in ds.data_vars.items() if set(variable.dims) & lattice.keys()]
    named = {n: with_named_reads(ds[n], f"variable {n!r}") for n in ds.variables if n in lazy or ds[n].chunks}
    ds = ds.assign({name: array if name in lazy else array.compute() for name, array in named.items()})
    if not lazy:
        return ds, {}
    ds = _with_common_blocks(ds, lazy, lattice, asked)
    encoding = {name: _encoding(ds[name], lattice, asked, sharded=False) for name in lazy}
    if shards is None:
        shards = any(
            math.prod(math.ceil(length / size) for length, size in zip(ds[n].shape, each["chunks"], strict=True))
            > max(MOST_FILES, math.prod(ds[n].data.numblocks))
            for n, each in encoding.items()
        )
    if shards:
        even: dict[Any, int] = {}  # blocks of one size, as all shards are
        for dim, found in ds.chunksizes.items():
            if len(set(found[:-1])) > 1 or found[-1] > found[0]:
                cells = asked.get(str(dim), 1)
                even[dim] = math.ceil(max(found) / cells) * cells
        ds = ds.assign(ds[lazy].chunk(even))
        encoding = {name: _encoding(ds[name], lattice, asked, sharded=True) for name in lazy}
    return ds, encoding


def _with_common_blocks(
    ds: xr.Dataset, lazy: list[str], lattice: Mapping[Hashable, str], asked: Mapping[str, int]
) -> xr.Dataset:
    """Give variables the same blocks along each dimension, made of whole chunks that are not absurdly small."""
    for name in lazy:
        if ds[name].chunks is None:
            blocks = {d: (1 if lattice[d] == "time" else _BLOCK) if d in lattice else -1 for d in ds[name].dims}
            ds = ds.assign({name: ds[name].chunk(blocks)})
    ds = ds.unify_chunks()
    chosen: dict[Any, int] = {dim: -1 for name in lazy for dim in ds[name].dims if dim not in lattice}
    for dim, found in ds.chunksizes.items():
        if dim not in lattice:
            continue
        size = asked.get(str(dim))
        limit = math.isqrt(CHUNK_BYTES // max(ds[name].dtype.itemsize for name in lazy if dim in ds[name].dims))
        if size is not None:
            fits = all(block % size == 0 for block in found[:-1])
        else:
            fits = lattice[dim] == "time" or len(found) == 1 or _chunk(found, limit) >= min(max(found), limit) / 8
        if not fits:
            chosen[dim] = size * max(1, round(max(found) / size)) if size else min(max(found), _BLOCK)
    return ds.assign(ds[lazy].chunk(chosen))


def lattice_of(ds: xr.Dataset) -> dict[Hashable, str]:
    """Find the dimensions along which the work is split, and what each of them is (:data:`ROLES`), in that order."""
    found: dict[Hashable, str] = {}
    for role in ROLES:
        dim = find_dimension(ds, role)
        if dim is not None:
            found[dim] = role
    return found


def _encoding(
    array: xr.DataArray, lattice: Mapping[Hashable, str], asked: Mapping[str, int], *, sharded: bool
) -> dict[str, Any]:
    """Return the Zarr encoding of a variable: whole chunks make up a block."""
    from zarr.codecs import ZstdCodec

    known = [dim for dim in array.dims if lattice.get(dim) in ("latitude", "longitude")]
    others = [dim for dim in array.dims if dim not in lattice]
    # chunks have many cells along two dimensions: where latitude and longitude are not known, the last ones but time
    horizontal = {*known, *others[len(others) - min(2 - len(known), len(others)) :]}
    sizes, width = [], array.dtype.itemsize
    for dim, blocks in zip(array.dims, array.chunks or (), strict=True):
        size = asked.get(str(dim)) or _chunk(blocks, math.isqrt(CHUNK_BYTES // width) if dim in horizontal else 1)
        if sharded and dim not in asked:
            smaller = math.isqrt(SHARDED_BYTES // width) if dim in horizontal else 1
            # blocks without a good divisor keep their larger chunks
            size = divisor if (divisor := _chunk(blocks, smaller)) >= smaller / 8 else size
        sizes.append(min(size, max(1, sum(blocks))))
    floats = array.dtype.kind == "f"
    # checksums that other readers compare, too; GDAL knows none behind Blosc
    codec = ZstdCodec(level=3 if floats else 5, checksum=True)
    encoding: dict[str, Any] = {"chunks": tuple(sizes), "compressors": (codec,)}
    if sharded:
        first = [each[0] for each in array.chunks or ()]
        encoding["shards"] = tuple(size * math.ceil(b / size) for b, size in zip(first, sizes, strict=True))
    if not floats and "_FillValue" not in array.attrs:
        # Chunks of nothing but zeros (ocean) are not written; zero is a class, not a missing value
        encoding["_FillValue"] = None
    return encoding


def _chunk(blocks: Sequence[int], limit: int) -> int:
    """Size of the chunks that blocks along one dimension are made of."""
    if len(blocks) == 1:
        return max(1, math.ceil(blocks[0] / max(1, math.ceil(blocks[0] / limit))))
    common = math.gcd(*blocks[:-1])
    return max(size for size in range(1, min(common, limit) + 1) if common % size == 0)


@dataclass(frozen=True)
class Group:
    """Variables over the same lattice dimensions, written together block by block; ``timed`` if the first is time."""

    dims: tuple[str, ...]
    variables: list[str]
    blocks: list[tuple[int, ...]]
    timed: bool


def group_variables(ds: xr.Dataset) -> dict[str, Group]:
    """Group the lazy variables of an aligned Dataset by their lattice dimensions."""
    groups: dict[str, Group] = {}
    lattice = lattice_of(ds)
    for name, array in ds.data_vars.items():
        dims = tuple(str(dim) for dim in lattice if dim in array.dims)
        if array.chunks is None or not dims:
            continue
        group = Group(dims, [], [tuple(array.chunksizes[dim]) for dim in dims], timed=lattice[dims[0]] == "time")
        # named by roles, as dimensions may be called anything
        groups.setdefault(",".join(lattice[dim] for dim in dims), group).variables.append(str(name))
    return groups


def write_flags(ds: xr.Dataset, group: Group, writer: BlockWriter) -> da.Array:
    """Return a lazy array with one element for each block of a group; computing an element writes its block."""
    letters = {dim: number for number, dim in enumerate(dict.fromkeys([*group.dims, *map(str, ds.dims)]))}
    arguments: list[Any] = []
    for dim, blocks in zip(group.dims, group.blocks, strict=True):
        numbers = np.stack([np.arange(len(blocks)), np.cumsum([0, *blocks[:-1]])], axis=1)
        place = da.from_array(numbers, chunks=(1, 2), name=f"place-{dim}-{da.core.tokenize(blocks)}")
        arguments += [place, (letters[dim], len(letters))]
    for name in group.variables:
        arguments += [ds[name].data, tuple(letters[str(dim)] for dim in ds[name].dims)]
    out = tuple(letters[dim] for dim in group.dims)
    return da.blockwise(
        writer,
        out,
        *arguments,
        name=f"write-{writer.run}-{'-'.join(group.dims)}",
        concatenate=True,
        align_arrays=False,
        adjust_chunks=dict.fromkeys(out, 1),
        dtype=np.bool_,
        meta=np.empty((0,) * len(out), dtype=np.bool_),
    )


@dataclass(frozen=True)
class BlockWriter:
    """The task that writes one block of every variable of a group and then notes it in the journal.

    ``folder`` and ``data`` are the paths or URLs of the working folder and of the growing store; ``run`` is the
    identity of this run: a block that starts after its run was broken off writes nothing. ``group`` is named by the
    roles of its dimensions, which are called ``dims``; ``variables`` are in the order of the arrays.
    """

    folder: str
    data: str
    run: str
    group: str
    dims: tuple[str, ...]
    variables: tuple[str, ...]

    def key(self, index: Sequence[int]) -> str:
        """Name of a block in the journal."""
        return f"{self.group}:{'.'.join(str(int(number)) for number in index)}"

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[np.bool_]:
        """Write the arrays that follow one ``[number, first cell]`` pair for each lattice dimension."""
        places = {dim: place[0] for dim, place in zip(self.dims, arrays, strict=False)}
        files = files_at(self.folder)
        if not files.exists(f"active-{self.run}"):
            raise StoreError(f"the run that writes to {self.folder} was stopped")
        digests: dict[str, str] = {}
        for name, values in zip(self.variables, arrays[len(self.dims) :], strict=True):
            target, names, recorder = _open_array(self.data, name, self.run)
            region = []
            for dim, length in zip(names, values.shape, strict=True):
                first = int(places[dim][1]) if dim in places else 0
                region.append(slice(first, first + length))
            target[tuple(region)] = values
            steps = zip(region, target.shards or target.chunks, strict=True)
            numbers = [range(cut.start // size, -(-cut.stop // size)) for cut, size in steps]
            keys = map(target.metadata.encode_chunk_key, itertools.product(*numbers))
            digests |= recorder.take([f"{name}/{key}" for key in keys])
        note(files, self.key([places[dim][0] for dim in self.dims]), self.run, digests)
        return np.ones((1,) * len(self.dims), dtype=np.bool_)


@lru_cache(maxsize=32)
def _open_array(store: str, name: str, run: str) -> tuple[Any, tuple[str, ...], RecordingStore]:  # noqa: ARG001
    """Open an array once in each process and run, with the names of its dimensions and what records its files."""
    import zarr

    recorder = RecordingStore(zarr_store(store))
    array: Any = zarr.open_array(recorder, path=name, mode="r+")
    return array, tuple(str(dim) for dim in array.metadata.dimension_names), recorder
