"""Blocks of a store: how dask blocks, Zarr chunks and shards fit, and the task that writes one.

Below :mod:`xland.store.writing`, which says what is written where; nothing here is called by users.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import is_count
from xland.errors import StoreError
from xland.geo.coordinates import find_dimension
from xland.reading.faults import with_named_reads
from xland.store.journal import journal_of
from xland.store.storage import files_at

if TYPE_CHECKING:
    from xland.store.checksums import RecordingStore

ROLES = ("time", "latitude", "longitude")
"""What the dimensions are along which the work is split, whatever they are called; others are whole in every block."""

CHUNK_BYTES = 4 * 2**20
"""Most bytes of one chunk before compression."""

SHARDED_BYTES = 2**18
"""The same for a chunk that lies with others in one file."""

MOST_FILES = 10_000
"""Chunks of a variable from which on those of a block go to one file unless the caller says otherwise."""

_BLOCK = 1024


def align(
    ds: xr.Dataset, chunks: Mapping[str, int] | None, shards: bool | None = False
) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """Give all variables common blocks of whole Zarr chunks.

    Parameters
    ----------
    ds : Dataset
        Variables without one of the dimensions of time, latitude and longitude are loaded; coordinates too.
    chunks : mapping of dimension to cells, optional
        Zarr chunks asked for; by default the largest that divide the dask blocks and hold at most
        ``CHUNK_BYTES``, or ``SHARDED_BYTES`` in a shard.
    shards : bool, optional
        Whether all chunks of a block go to one file; None for those stores that have more than
        ``MOST_FILES`` chunks of a variable, several to a block.

    Returns
    -------
    Dataset
        With dask arrays for every variable over the lattice.
    dict
        Zarr encoding (chunks, shards, compressor) of each of these variables.

    Raises
    ------
    StoreError
        If ``chunks`` names an unknown dimension or a size below one.
    """
    if not isinstance(chunks, Mapping | None):
        raise StoreError(f"chunks must be cells by dimension, such as {{'lat': 600, 'lon': 600}}, not {chunks!r:.80}")
    for dim, size in (chunks or {}).items():
        if dim not in ds.sizes or not is_count(size):
            known = ", ".join(map(str, ds.sizes))
            raise StoreError(f"chunks: {dim}={size} is not a whole number of cells along one of {known}")
    lattice = lattice_of(ds)
    lazy = [str(name) for name, variable in ds.data_vars.items() if set(variable.dims) & lattice.keys()]
    small = [name for name in ds.variables if name not in lazy and ds[name].chunks is not None]
    if small:
        ds = ds.assign({name: _named(ds[name]).compute() for name in small})
    if not lazy:
        return ds, {}
    ds = ds.assign({name: _named(_chunked(ds[name], lattice)) for name in lazy})
    ds = ds.unify_chunks()
    whole: dict[Any, int] = {dim: -1 for name in lazy for dim in ds[name].dims if dim not in lattice}
    uneven: dict[Any, int] = {
        dim: (size * max(1, round(max(blocks) / size)) if size else min(max(blocks), _BLOCK))
        for dim, blocks in ds.chunksizes.items()
        if dim in lattice
        for size in [(chunks or {}).get(str(dim))]
        if not _fits(blocks, size, [ds[name] for name in lazy if dim in ds[name].dims], lattice[dim])
    }
    ds = _rechunked(ds, lazy, {**whole, **uneven})
    sizes = {name: _chunk_sizes(ds[name], lattice, chunks) for name in lazy}
    if shards is None:
        shards = any(_needs_shards(ds[name], sizes[name]) for name in lazy)
    if shards:
        ds = _rechunked(ds, lazy, _even(ds, chunks or {}))
        sizes = {name: _chunk_sizes(ds[name], lattice, chunks, sharded=True) for name in lazy}
    return ds, {name: _encoding(ds[name], sizes[name], shards=shards) for name in lazy}


def lattice_of(ds: xr.Dataset) -> dict[Hashable, str]:
    """Find the dimensions along which the work is split, and what each of them is (:data:`ROLES`), in that order."""
    found = {role: find_dimension(ds, role) for role in ROLES}
    return {dim: role for role, dim in found.items() if dim is not None}


def _even(ds: xr.Dataset, chunks: Mapping[str, int]) -> dict[Any, int]:
    """Blocks of one size, as all shards are, along those dimensions that have others."""
    even = {}
    for dim, blocks in ds.chunksizes.items():
        if len(set(blocks[:-1])) > 1 or blocks[-1] > blocks[0]:
            size = chunks.get(str(dim), 1)
            even[dim] = math.ceil(max(blocks) / size) * size
    return even


def _encoding(array: xr.DataArray, sizes: Sequence[int], *, shards: bool) -> dict[str, Any]:
    from zarr.codecs import ZstdCodec

    floats = array.dtype.kind == "f"
    # checksums that other readers compare, too; GDAL knows none behind Blosc
    codec = ZstdCodec(level=3 if floats else 5, checksum=True)
    encoding: dict[str, Any] = {"chunks": tuple(sizes), "compressors": (codec,)}
    if shards:
        blocks = [each[0] for each in array.chunks or ()]
        encoding["shards"] = tuple(size * math.ceil(b / size) for b, size in zip(blocks, sizes, strict=True))
    if not floats and "_FillValue" not in array.attrs:
        # Chunks of nothing but zeros (ocean) are not written; zero is a class, not a missing value
        encoding["_FillValue"] = None
    return encoding


def _rechunked(ds: xr.Dataset, names: list[str], blocks: Mapping[Any, int]) -> xr.Dataset:
    if not blocks:
        return ds
    return ds.assign(
        {name: ds[name].chunk({d: size for d, size in blocks.items() if d in ds[name].dims}) for name in names}
    )


def _named(array: xr.DataArray) -> xr.DataArray:
    return with_named_reads(array, f"variable {array.name!r}")


def _chunked(array: xr.DataArray, lattice: Mapping[Hashable, str]) -> xr.DataArray:
    if array.chunks is not None:
        return array
    return array.chunk({d: (1 if lattice[d] == "time" else _BLOCK) if d in lattice else -1 for d in array.dims})


def _chunk_sizes(
    array: xr.DataArray,
    lattice: Mapping[Hashable, str],
    chunks: Mapping[str, int] | None,
    *,
    sharded: bool = False,
) -> list[int]:
    """Size of the Zarr chunks of a variable, whole ones of which make up a block."""
    sizes = []
    horizontal = _horizontal(array, lattice)
    for dim, blocks in zip(array.dims, array.chunks or (), strict=True):
        size = (chunks or {}).get(str(dim)) or _chunk(blocks, _limit(array) if dim in horizontal else 1)
        if sharded and dim not in (chunks or {}):
            smaller = _limit(array, SHARDED_BYTES) if dim in horizontal else 1
            # blocks without a good divisor keep their larger chunks
            size = divisor if (divisor := _chunk(blocks, smaller)) >= smaller / 8 else size
        sizes.append(min(size, max(1, sum(blocks))))
    return sizes


def _needs_shards(array: xr.DataArray, sizes: Sequence[int]) -> bool:
    chunks = math.prod(math.ceil(length / size) for length, size in zip(array.shape, sizes, strict=True))
    return chunks > max(MOST_FILES, math.prod(array.data.numblocks))


def _horizontal(array: xr.DataArray, lattice: Mapping[Hashable, str]) -> set[Hashable]:
    """Find the two dimensions along which chunks have many cells: where they are not known, the last ones but time."""
    known = [dim for dim in array.dims if lattice.get(dim) in ("latitude", "longitude")]
    others = [dim for dim in array.dims if dim not in lattice]
    return {*known, *others[len(others) - min(2 - len(known), len(others)) :]}


def _limit(array: xr.DataArray, most: int = CHUNK_BYTES) -> int:
    """Most cells of a chunk along a horizontal dimension."""
    return math.isqrt(most // array.dtype.itemsize)


def _chunk(blocks: Sequence[int], limit: int) -> int:
    """Size of the chunks that blocks along one dimension are made of."""
    if len(blocks) == 1:
        return max(1, math.ceil(blocks[0] / max(1, math.ceil(blocks[0] / limit))))
    common = math.gcd(*blocks[:-1])
    return max(size for size in range(1, min(common, limit) + 1) if common % size == 0)


def _fits(blocks: Sequence[int], size: int | None, arrays: list[xr.DataArray], role: str) -> bool:
    """Whether blocks are made of whole chunks that are not absurdly small."""
    if size is not None:
        return all(block % size == 0 for block in blocks[:-1])
    if role == "time" or len(blocks) == 1:
        return True
    enough = min(max(blocks), *(_limit(array) for array in arrays)) / 8
    return all(_chunk(blocks, _limit(array)) >= enough for array in arrays)


@dataclass(frozen=True)
class Group:
    """Variables over the same lattice dimensions, written together block by block."""

    dims: tuple[str, ...]
    variables: list[str]
    blocks: list[tuple[int, ...]]
    timed: bool
    """Whether the first dimension is time."""

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
    lattice = lattice_of(ds)
    for name, array in ds.data_vars.items():
        dims = tuple(str(dim) for dim in lattice if dim in array.dims)
        if array.chunks is None or not dims:
            continue
        blocks = [tuple(array.chunksizes[dim]) for dim in dims]
        group = Group(dims, [], blocks, timed=lattice[dims[0]] == "time")
        # named by roles, as dimensions may be called anything
        groups.setdefault(",".join(lattice[dim] for dim in dims), group).variables.append(str(name))
    return groups


@dataclass(frozen=True)
class BlockWriter:
    """The task that writes one block of every variable of a group and then notes it in the journal.

    Parameters
    ----------
    folder : str
        Path or URL of the working folder.
    data : str
        Path or URL of the growing store.
    run : str
        Identity of this run; a block that starts after its run was broken off writes nothing.
    group : str
        Name of the group: the roles of its dimensions.
    dims : tuple of str
        What its dimensions are called.
    variables : tuple of str
        Names of its variables, in the order of the arrays.
    """

    folder: str
    data: str
    run: str
    group: str
    dims: tuple[str, ...]
    variables: tuple[str, ...]

    @staticmethod
    def key(group: str, index: Sequence[int]) -> str:
        """Name of a block in the journal."""
        return f"{group}:{'.'.join(str(int(number)) for number in index)}"

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[np.bool_]:
        """Write the arrays that follow one ``[number, first cell]`` pair for each lattice dimension."""
        places = {dim: place[0] for dim, place in zip(self.dims, arrays, strict=False)}
        files = files_at(self.folder)
        if not files.exists(active_name(self.run)):
            raise StoreError(f"the run that was to write into {self.folder} was broken off")
        digests: dict[str, str] = {}
        for name, values in zip(self.variables, arrays[len(self.dims) :], strict=True):
            target, names, recorder = _open_array(self.data, name, self.run)
            region = []
            for dim, length in zip(names, values.shape, strict=True):
                first = int(places[dim][1]) if dim in places else 0
                region.append(slice(first, first + length))
            target[tuple(region)] = values
            digests |= recorder.take(_files_in(target, name, region))
        journal_of(files).note(self.key(self.group, [places[dim][0] for dim in self.dims]), self.run, digests)
        return np.ones((1,) * len(self.dims), dtype=np.bool_)


def active_name(run: str) -> str:
    """Name of the file in the working folder that is there as long as a run may write."""
    return f"active-{run}"


@lru_cache(maxsize=32)
def _open_array(store: str, name: str, run: str) -> tuple[Any, tuple[str, ...], RecordingStore]:  # noqa: ARG001
    """Open an array once in each process and run, with the names of its dimensions and what records its files."""
    import zarr

    from xland.store.checksums import RecordingStore, zarr_store

    recorder = RecordingStore(zarr_store(store))
    array: Any = zarr.open_array(recorder, path=name, mode="r+")
    return array, tuple(str(dim) for dim in array.metadata.dimension_names), recorder


def _files_in(array: Any, name: str, region: Sequence[slice]) -> list[str]:
    """Names of the files that hold the cells of a region, which is one of whole files."""
    sizes = array.shards or array.chunks
    numbers = [range(cut.start // size, -(-cut.stop // size)) for cut, size in zip(region, sizes, strict=True)]
    return [f"{name}/{array.metadata.encode_chunk_key(index)}" for index in itertools.product(*numbers)]
