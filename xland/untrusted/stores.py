"""Metadata of Zarr stores (2 and 3), checked before Zarr sees it: codecs, types, shapes and chunks.

A store may come from anybody. Only codecs that decode bytes into numbers are used, so that none can run
code; and shapes, chunks and counts stay within what a machine can hold, so that none can fill it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xland.addresses import is_url, without_password
from xland.errors import StoreError
from xland.untrusted.folders import Held, open_plain, survey
from xland.untrusted.servers import MOST_METADATA, reaching, with_limits
from xland.untrusted.unpacking import fits

MOST_BYTES = MOST_METADATA
"""Size of a file of metadata at most."""

MOST_CHUNK = 2**31 - 1
"""Bytes of a chunk when it is decoded at most; Blosc has the same limit."""

MOST_INDEX = 2**22
"""Cells of a coordinate along its own dimension at most: all of it is read when a store is opened."""

MOST_OPENED = 2**26
"""Bytes of all coordinates along their own dimensions at most, for the same reason."""

MOST_STEPS = 2_000_000
"""Chunks along the dimensions of all arrays at most: dask keeps the length of each."""

MOST_CHUNKS = 10**9
_MOST_CELLS = 10**16
_MOST_ARRAYS = 1000
_MOST_TEXT = 2**16
_TEXT = 64  # bytes that a text of any length takes, more or less
_MOST_SPARE = 2**26  # bytes of a chunk that may be much larger than its array
_MOST_IN_SHARD = 2**20
_SHORT = 2**16  # cells of an array of one dimension that may be read at once, as a coordinate
_SPARSE = 100_000  # chunks per file that are believed of a store whose empty chunks are left out

_COMPRESSORS = ("blosc", "gzip", "lz4", "zlib", "zstd")  # not bz2 and lzma: a few bytes can stand for gigabytes
_FILTERS = (
    *("adler32", "astype", "bitround", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32", "packbits"),
    *("quantize", "shuffle"),
)
CODECS_2 = frozenset((*_COMPRESSORS, *_FILTERS))
"""Compressors and filters of Zarr 2 that are used; ``vlen-utf8`` beside them for text."""

CODECS_3 = frozenset(
    (
        *("blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-utf8", "zstd"),
        *(f"numcodecs.{name}" for name in (*_COMPRESSORS, *_FILTERS)),
    )
)
"""Codecs of Zarr 3 that are used."""

_TYPES_3 = {
    **{f"{kind}int{bits}": bits // 8 for kind in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": bits // 8 for bits in (16, 32, 64)},
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "string": _TEXT,
    "variable_length_utf8": _TEXT,
}
_TYPES_3_CONFIGURED = {
    "numpy.datetime64": lambda _: 8,
    "numpy.timedelta64": lambda _: 8,
    "fixed_length_utf32": lambda configuration: configuration["length_bytes"],
    "null_terminated_bytes": lambda configuration: configuration["length_bytes"],
}

Read = Callable[[str], "bytes | None"]
ReadMany = Callable[[list[str]], "Iterable[bytes | None]"]


def check_store(target: str, storage_options: Mapping[str, Any] | None = None) -> None:
    """Refuse a Zarr store that asks for more than data, or for more than a machine can hold.

    Parameters
    ----------
    target : str
        Path or URL.
    storage_options : mapping, optional
        For the file system of a URL.

    Raises
    ------
    StoreError
        Names the array, and what it asks for.
    """
    try:
        _check(target, dict(storage_options or {}))
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{target} cannot be read: {error}") from error


def _check(target: str, options: dict[str, Any]) -> None:
    shown = without_password(target)
    if is_url(target):
        read, names, read_many = _behind(target, options)
        held = None
    else:
        held = survey(Path(target))
        read, names = _reader(Path(target)), lambda: sorted(name for name in held if name)
        read_many = partial(map, read)
    layouts = check_metadata(shown, read, names, read_many)
    if held is not None:
        _check_files(shown, layouts, held)


def check_metadata(
    shown: str, read: Read, names: Callable[[], list[str]], read_many: ReadMany | None = None
) -> dict[str, Layout]:
    """Refuse metadata that ask for more than data, or for more than a machine can hold.

    Parameters
    ----------
    shown : str
        Name of the store, for messages.
    read : callable
        Gives the content of a file, None if there is none.
    names : callable
        Names of the folders in the store.
    read_many : callable, optional
        Gives the contents of several files; chunks that are read when the store is opened are looked into.

    Returns
    -------
    dict
        How each array lies in files.

    Raises
    ------
    StoreError
        Names the array, and what it asks for.
    """
    arrays = dict(_arrays(shown, read, names))
    if len(arrays) > _MOST_ARRAYS:
        raise StoreError(f"{shown} holds {len(arrays)} arrays; more than {_MOST_ARRAYS} are not opened")
    budget = Budget(shown)
    layouts = {}
    for name, (array, dims) in arrays.items():
        where = f"{shown}: {name!r:.120}"
        layouts[name] = layout = _check_array(where, array)
        is_index = _is_index(where, name, layout, dims)
        budget.add(layout, is_index=is_index)
        if read_many is not None and layout.files and (is_index or _is_read_early(layout, array)):
            _check_chunks(where, name, array, layout, read_many)
    return layouts


def _is_read_early(layout: Layout, array: dict[str, Any]) -> bool:
    """Whether values may be read when a store is opened: short coordinates, and whatever counts time."""
    attributes = array.get("attributes")
    units = attributes.get("units") if isinstance(attributes, dict) else None
    short = len(layout.shape) <= 1 and math.prod(layout.shape) <= _SHORT
    return short or (isinstance(units, str) and "since" in units)


def _check_chunks(where: str, name: str, array: dict[str, Any], layout: Layout, read: ReadMany) -> None:
    """Refuse chunks that would become far larger than they may be when they are unpacked."""
    if array.get("zarr_format") == 2:
        kind, separator, compressor = "v2", array.get("dimension_separator", "."), array.get("compressor")
        packed = [*(array.get("filters") or []), *([] if compressor is None else [compressor])]
    else:
        kind, packed = array["chunk_key_encoding"]["name"], array["codecs"]
        configuration = array["chunk_key_encoding"].get("configuration") or {}
        separator = configuration.get("separator", "/" if kind == "default" else ".")
    steps = [-(-length // step) for length, step in zip(layout.shape, layout.chunks, strict=True)]
    numbers = [(at,) for at in range(steps[0])] if len(steps) == 1 else [(0,) * len(steps), tuple(n - 1 for n in steps)]
    keys = dict.fromkeys(
        separator.join(["c", *map(str, index)] if kind == "default" else map(str, index or (0,))) for index in numbers
    )
    cells = math.prod(layout.chunks)
    most = 2 * cells * layout.width + MOST_BYTES
    for key, content in zip(keys, read([f"{name}/{key}" for key in keys]), strict=True):
        if content is not None and not fits(content, packed, cells, most):
            raise StoreError(
                f"{where}: its chunk {key} becomes more than {most} bytes when it is unpacked; {cells} values were "
                "declared: do not trust this store"
            )


@dataclass(frozen=True)
class Layout:
    """How an array lies in files.

    Parameters
    ----------
    shape, chunks, inner : tuple of int
        Cells of the array, of what stands in one file, and of what is decoded at once.
    width : int
        Bytes of a value.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    inner: tuple[int, ...]
    width: int

    @property
    def steps(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.inner, strict=True))

    @property
    def files(self) -> int:
        """How many files there are if none is left out."""
        return math.prod(-(-size // step) for size, step in zip(self.shape, self.chunks, strict=True))

    @property
    def in_file(self) -> int:
        """Bytes that a file may have: packing adds little to values, and each chunk in a shard stands in its index."""
        values, count = math.prod(self.chunks) * self.width, math.prod(self.chunks) // math.prod(self.inner)
        return values + values // 8 + 2**12 + 2**8 * count


@dataclass
class Budget:
    """What the arrays of one store or file may take together when they are opened.

    Parameters
    ----------
    where : str
        For messages.
    """

    where: str
    steps: int = 0
    opened: int = 0

    def add(self, layout: Layout, *, is_index: bool) -> None:
        """Count an array; :class:`StoreError` if it is too much.

        Parameters
        ----------
        layout : Layout
        is_index : bool
            Whether it is read as a whole when it is opened.
        """
        self.steps += sum(layout.steps)
        if self.steps > MOST_STEPS:
            raise StoreError(f"{self.where} says that its arrays have more than {MOST_STEPS} chunks along dimensions")
        if is_index:
            self.opened += layout.width * max(math.prod(layout.shape), math.prod(layout.chunks))
        if self.opened > MOST_OPENED:
            raise StoreError(
                f"{self.where} has coordinates of more than {MOST_OPENED} bytes, which are all read at once"
            )


def _check_files(shown: str, layouts: Mapping[str, Layout], held: Mapping[str, Held]) -> None:
    """Refuse arrays that have far more chunks than files, and files that cannot be one chunk of an array."""
    largest: dict[str, int] = {}
    for name, layout in layouts.items():
        folder = name.partition("/")[0]
        found = held.get(folder, Held())
        if layout.files > _SPARSE * (found.files + 10):
            raise StoreError(
                f"{shown}: {name!r:.120} says that it has {layout.files} chunks, but {found.files} files are there"
            )
        largest[folder] = max(largest.get(folder, 0), layout.in_file)
    for folder, size in largest.items():
        if held.get(folder, Held()).largest > size:
            raise StoreError(
                f"{shown}: {folder!r:.120} has a file of {held[folder].largest} bytes; its chunks are of {size} bytes "
                "at most"
            )


def _arrays(shown: str, read: Read, names: Callable[[], list[str]]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Metadata and names of dimensions of the arrays in a store, from its root and from the arrays' own files."""
    root = _json(shown, "zarr.json", read)
    version = 2 if root is None else 3
    together = _consolidated_3(shown, root) if root is not None else _consolidated_2(shown, read)
    if root is not None:
        _is_array(shown, root)
    for name in names() if together is None or not is_url(shown) else ():
        own = _own_3(shown, name, read) if version == 3 else _own_2(shown, name, read)
        if own is None:
            continue
        if together is not None and name in together:
            _compare(f"{shown}: {name!r:.120}", own[0], together[name][0])
        yield name, own
    for name, found in (together or {}).items():
        if any(part in ("", ".", "..") for part in name.split("/")) or len(name) > 1000:
            raise StoreError(f"{shown} holds an array with the name {name!r:.120}")
        yield name, found


def _consolidated_3(shown: str, root: dict[str, Any]) -> dict[str, tuple[Any, Any]] | None:
    together = root.get("consolidated_metadata")
    if together is None:
        return None
    entries = together.get("metadata") if isinstance(together, dict) else None
    if not isinstance(entries, dict):
        raise StoreError(f"{shown} cannot be read as Zarr store: its consolidated metadata are damaged")
    return {
        name: (entry, entry.get("dimension_names"))
        for name, entry in entries.items()
        if _is_array(f"{shown}: {name!r:.120}", entry)
    }


def _is_array(where: str, entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.get("node_type") not in ("array", "group"):
        raise StoreError(f"{where} is neither an array nor a group")
    if not isinstance(entry.get("attributes", {}), dict):
        raise StoreError(f"{where}: its attributes are not a mapping")
    return bool(entry["node_type"] == "array")


def _consolidated_2(shown: str, read: Read) -> dict[str, tuple[Any, Any]] | None:
    _json(shown, ".zattrs", read)
    together = _json(shown, ".zmetadata", read)
    if together is None:
        return None
    entries = together.get("metadata")
    if not isinstance(entries, dict):
        raise StoreError(f"{shown} cannot be read as Zarr store: its consolidated metadata are damaged")
    found = {}
    for key, entry in entries.items():
        name, _, kind = key.rpartition("/")
        if kind == ".zarray":
            attributes = entries.get(f"{name}/.zattrs", {})
            array = {**entry, "attributes": attributes} if isinstance(entry, dict) else entry
            found[name] = (array, attributes.get("_ARRAY_DIMENSIONS") if isinstance(attributes, dict) else None)
    return found


def _own_3(shown: str, name: str, read: Read) -> tuple[Any, Any] | None:
    own = _json(shown, f"{name}/zarr.json", read)
    if own is None or not _is_array(f"{shown}: {name!r:.120}", own):
        return None
    return own, own.get("dimension_names")


def _own_2(shown: str, name: str, read: Read) -> tuple[Any, Any] | None:
    own = _json(shown, f"{name}/.zarray", read)
    attributes = _json(shown, f"{name}/.zattrs", read) or {}
    return None if own is None else ({**own, "attributes": attributes}, attributes.get("_ARRAY_DIMENSIONS"))


def _compare(where: str, own: Any, other: Any) -> None:
    """Refuse an array of which two readers would get different values."""
    for key in ("shape", "data_type", "dtype", "chunk_grid", "chunks", "codecs", "compressor", "filters", "fill_value"):
        if json.dumps(own.get(key)) != json.dumps(other.get(key) if isinstance(other, dict) else None):
            raise StoreError(
                f"{where} has other metadata ({key}) in its own file than in those of the store; if the store is "
                "yours, bring them together: zarr.consolidate_metadata(store)"
            )


def _check_array(where: str, array: Any) -> Layout:
    """Check the metadata of one array; return how it lies in files."""
    if not isinstance(array, dict):
        raise StoreError(f"{where}: its metadata are not a mapping")
    shape = _numbers(where, "shape", array.get("shape"), 0)
    try:
        if "zarr_format" in array and array["zarr_format"] == 2:
            chunks, width = _numbers(where, "chunks", array.get("chunks"), 1), _check_2(where, array)
            inner = chunks
        else:
            grid = array.get("chunk_grid", {})
            if grid.get("name") != "regular" or array.get("storage_transformers"):
                raise StoreError(f"{where} has a chunk grid or storage transformer that is not known")
            chunks = _numbers(where, "chunk_shape", grid["configuration"]["chunk_shape"], 1)
            width = _width_3(where, array.get("data_type"))
            inner = _check_codecs_3(where, array.get("codecs"), chunks)
            keys = array["chunk_key_encoding"]
            separator = (keys.get("configuration") or {}).get("separator", ".")
            if keys.get("name") not in ("default", "v2") or separator not in (".", "/"):
                raise StoreError(f"{where} names its chunks in a way that is not known")
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where}: its metadata are damaged: {error!r:.200}") from error
    if len(shape) != len(chunks) or len(shape) != len(inner) or len(shape) > 32:
        raise StoreError(f"{where} has {len(shape)} dimensions and chunks of {len(chunks)}")
    _check_fill(where, array.get("fill_value"))
    layout = Layout(shape, chunks, inner, width)
    check_sizes(where, layout)
    return layout


def check_sizes(where: str, layout: Layout) -> None:
    """Refuse an array whose sizes no machine could hold; ``where`` is for messages."""
    shape, chunks, inner, width = layout.shape, layout.chunks, layout.inner, layout.width
    if math.prod(shape) > _MOST_CELLS:
        raise StoreError(f"{where} says that it has {_shown(shape)} cells")
    if math.prod(chunks) * width > MOST_CHUNK * (1 if chunks == inner else 64):
        raise StoreError(f"{where} has chunks of {_shown(chunks)} cells, more than can be read at once")
    if math.prod(inner) * width > MOST_CHUNK:
        raise StoreError(f"{where} has chunks of {_shown(inner)} cells, more than can be read at once")
    if math.prod(inner) * width > max(_MOST_SPARE, 16 * math.prod(shape) * width):
        raise StoreError(f"{where} has chunks of {_shown(inner)} cells, but only {_shown(shape)} cells")
    if math.prod(chunks) > _MOST_IN_SHARD * math.prod(inner):
        raise StoreError(f"{where} has shards of {_shown(chunks)} cells with more than {_MOST_IN_SHARD} chunks")
    if any(step > MOST_STEPS for step in layout.steps) or math.prod(layout.steps) > MOST_CHUNKS:
        raise StoreError(f"{where} says that it has {_shown(layout.steps)} chunks")


def _is_index(where: str, name: str, layout: Layout, dims: Any) -> bool:
    """Whether an array is a coordinate along its own dimension; refuse one that would fill the memory when opened."""
    if dims is not None and not (isinstance(dims, list) and all(d is None or isinstance(d, str) for d in dims)):
        raise StoreError(f"{where}: the names of its dimensions are not text")
    found = dims == [name] and len(layout.shape) == 1
    if found and layout.shape[0] > MOST_INDEX:
        raise StoreError(f"{where} is a coordinate of {layout.shape[0]} cells; at most {MOST_INDEX} are read")
    return found


def _check_2(where: str, array: dict[str, Any]) -> int:
    """Check type and codecs of an array of Zarr 2; return the bytes of a value."""
    kind, filters, compressor = array["dtype"], array.get("filters") or [], array.get("compressor")
    named = [codec.get("id") for codec in [*filters, *([] if compressor is None else [compressor])]]
    if array.get("order", "C") not in ("C", "F") or array.get("dimension_separator", ".") not in (".", "/"):
        raise StoreError(f"{where} stores its chunks in a way that is not known")
    if kind == "|O" and named[:1] == ["vlen-utf8"]:
        named, width = named[1:], _TEXT
    else:
        if not isinstance(kind, str) or len(kind) > 12:
            raise StoreError(f"{where} has the type {kind!r:.120}; numbers, dates and text are opened")
        width = _width_2(where, kind)
    _refuse_codecs(where, named, CODECS_2)
    return width


def _width_2(where: str, kind: str) -> int:
    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where} has the type {kind!r}, which is not known") from error
    if dtype.kind not in "biufcSUmM" or dtype.itemsize > _MOST_TEXT:
        raise StoreError(f"{where} has the type {kind!r}; numbers, dates and text are opened, not Python objects")
    return dtype.itemsize


def _width_3(where: str, kind: Any) -> int:
    width: Any = None
    if isinstance(kind, str):
        width = _TYPES_3.get(kind)
    elif isinstance(kind, dict) and isinstance(kind.get("name"), str) and kind["name"] in _TYPES_3_CONFIGURED:
        width = _TYPES_3_CONFIGURED[kind["name"]](kind["configuration"])
    if isinstance(width, bool) or not isinstance(width, int) or not 0 <= width <= _MOST_TEXT:
        raise StoreError(f"{where} has the type {kind!r:.120}; numbers, dates and text are opened")
    return width


def _check_codecs_3(where: str, codecs: Any, chunks: tuple[int, ...], depth: int = 0) -> tuple[int, ...]:
    """Check the codecs of an array of Zarr 3; return the shape of what is decoded at once."""
    if not isinstance(codecs, list):
        raise StoreError(f"{where} names no codecs")
    named = [codec if isinstance(codec, str) else codec.get("name") for codec in codecs]
    _refuse_codecs(where, named, CODECS_3)
    inner = chunks
    for codec in codecs:
        if isinstance(codec, dict) and codec["name"] == "sharding_indexed":
            if depth:
                raise StoreError(f"{where} has shards within shards")
            configuration = codec["configuration"]
            inner = _numbers(where, "chunk_shape", configuration["chunk_shape"], 1)
            if len(inner) != len(chunks) or any(a % b for a, b in zip(chunks, inner, strict=True)):
                raise StoreError(f"{where} has shards of {_shown(chunks)} and chunks of {_shown(inner)} cells")
            _check_codecs_3(where, configuration["codecs"], inner, depth + 1)
            _check_codecs_3(where, configuration.get("index_codecs", []), inner, depth + 1)
    return inner


def _refuse_codecs(where: str, named: list[Any], known: frozenset[str]) -> None:
    if len(named) > 8 or sum(str(name).removeprefix("numcodecs.") in _COMPRESSORS for name in named) > 1:
        raise StoreError(f"{where} names {len(named)} codecs, of which one may compress")
    for name in named:
        if not isinstance(name, str) or name not in known:
            raise StoreError(
                f"{where} wants the codec {name!r:.120}, which is not used on what others wrote; known are: "
                + ", ".join(sorted(known))
            )


def _check_fill(where: str, value: Any) -> None:
    parts = value if isinstance(value, list) and len(value) == 2 else [value]
    for part in parts:
        if part is not None and (not isinstance(part, bool | int | float | str) or len(str(part)) > 1000):
            raise StoreError(f"{where} has the fill value {part!r:.120}")


def _numbers(where: str, key: str, values: Any, least: int) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > 32:
        raise StoreError(f"{where} gives {key} as {values!r:.120}; a list of whole numbers is wanted")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 2**53:
            raise StoreError(f"{where} gives {key} as {values!r:.120}; whole numbers from {least} are wanted")
    return tuple(values)


def _shown(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) or "1"


def _json(shown: str, name: str, read: Read) -> dict[str, Any] | None:
    """Return the content of a file of metadata, or None if there is none."""
    content = read(name)
    if content is None:
        return None
    if len(content) > MOST_BYTES:
        raise StoreError(f"{shown}/{name} is larger than metadata can be")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{shown} cannot be read as Zarr store: {name} is damaged: {error}"[:500]) from error
    if not isinstance(found, dict):
        raise StoreError(f"{shown} cannot be read as Zarr store: {name} is damaged: it is not a mapping")
    return found


def _reader(folder: Path) -> Read:
    def read(name: str) -> bytes | None:
        try:
            with open_plain(folder / name) as stream:
                return stream.read(MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{folder}/{name} cannot be read: {error.strerror}") from error

    return read


def _behind(url: str, options: dict[str, Any]) -> tuple[Read, Callable[[], list[str]], ReadMany]:
    """How to read and list the folder behind a URL."""
    from fsspec.core import url_to_fs

    shown = without_password(url)
    with reaching(url, ""):
        fs, root = url_to_fs(url, **with_limits(url, options))

    def read(name: str) -> bytes | None:
        with reaching(url, name), suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            if not shown.startswith("http") and fs.size(f"{root}/{name}") > MOST_BYTES:
                raise StoreError(f"{shown}/{name} is larger than metadata can be")
            return bytes(fs.cat_file(f"{root}/{name}"))
        return None

    def names() -> list[str]:
        with reaching(url, ""), suppress(FileNotFoundError, NotADirectoryError):
            return sorted({each.rstrip("/").rpartition("/")[2] for each in fs.ls(root, detail=False)[:_MOST_ARRAYS]})
        return []

    def read_many(files: list[str]) -> list[bytes | None]:
        with reaching(url, ""):
            paths = [f"{root}/{name}" for name in files]
            found = fs.cat_ranges(paths, [0] * len(paths), [MOST_BYTES + 1] * len(paths), on_error="return")
        return [None if isinstance(each, Exception) else bytes(each) for each in found]

    return read, names, read_many
