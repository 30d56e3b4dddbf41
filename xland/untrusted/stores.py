"""Metadata of Zarr stores (2 and 3), checked before Zarr sees it: codecs, types, shapes and chunks.

A store may come from anybody. Only codecs that decode bytes into numbers are used, so that none can run
code; and shapes, chunks and counts stay within what a machine can hold, so that none can fill it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
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
from xland.untrusted.unpacking import fits, named_codecs

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

_COMPRESSORS = frozenset({"blosc", "gzip", "lz4", "zlib", "zstd"})  # bz2 and lzma turn a few bytes into gigabytes
_SHARDS, _TEXTS = "sharding_indexed", "vlen-utf8"
CODECS = _COMPRESSORS | {
    *("adler32", "astype", "bitround", "bytes", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32"),
    *("packbits", "quantize", "shuffle", "transpose", _SHARDS, _TEXTS),
}
"""Codecs that are used; in Zarr 3 some have the prefix ``numcodecs.``."""

_NUMBERS_3 = {
    *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)),
    *("bool", "complex64", "complex128", "float16", "float32", "float64"),
}
_DATES_3 = {"numpy.datetime64", "numpy.timedelta64"}
_FIXED_3 = {"fixed_length_utf32", "null_terminated_bytes"}

Read = Callable[[list[str]], "list[bytes | None]"]
"""Gives the contents of files, at most a little more than ``MOST_BYTES`` of each; None for one that is not there."""


@dataclass(frozen=True)
class Layout:
    """How an array lies in files: cells of the array, of one file, and of what is decoded at once; bytes of a value."""

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
        """Bytes that a file may have: packing adds little to values, and each chunk in a shard is in its index."""
        values, count = math.prod(self.chunks) * self.width, math.prod(self.chunks) // math.prod(self.inner)
        return values + values // 8 + 2**12 + 2**8 * count


def check_store(target: str, storage_options: Mapping[str, Any] | None = None) -> None:
    """Refuse a Zarr store, a path or URL, that asks for more than data, or for more than a machine can hold.

    A :class:`StoreError` names the array, and what it asks for.
    """
    shown = without_password(target)
    try:
        if is_url(target):
            check_metadata(shown, *_behind(target, dict(storage_options or {})), chunks=True)
            return
        held = survey(Path(target))
        names = sorted(name for name in held if name)
        layouts = check_metadata(shown, partial(_read_here, Path(target)), lambda: names, chunks=True)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{target} cannot be read: {error}") from error
    # an array may not have far more chunks than files, nor a folder a file that cannot be a chunk of its arrays
    most: dict[str, int] = {}
    for name, layout in layouts.items():
        folder = name.partition("/")[0]
        most[folder] = max(most.get(folder, 0), layout.in_file)
        files = held.get(folder, Held()).files
        if layout.files > _SPARSE * (files + 10):
            raise StoreError(
                f"{shown}: {name!r:.120} says that it has {layout.files} chunks, but {files} files are there"
            )
    for folder, size in most.items():
        if held.get(folder, Held()).largest > size:
            raise StoreError(
                f"{shown}: {folder!r:.120} has a file of {held[folder].largest} bytes; its chunks are of {size} bytes "
                "at most"
            )


def check_metadata(
    shown: str, read: Read, names: Callable[[], list[str]], *, chunks: bool = False
) -> dict[str, Layout]:
    """Refuse metadata that ask for more than data, or for more than a machine can hold.

    ``shown`` is the name of the store for messages, ``names`` gives the folders in it. With ``chunks``, those that are
    read when the store is opened are looked into. Returned is how each array lies in files.
    """
    arrays = _arrays(shown, read, names)
    if len(arrays) > _MOST_ARRAYS:
        raise StoreError(f"{shown} holds {len(arrays)} arrays; more than {_MOST_ARRAYS} are not opened")
    layouts, opened = {}, []
    for name, array in arrays.items():
        where = f"{shown}: {name!r:.120}"
        layouts[name] = layout = _layout(where, array)
        dims, attributes = array.get("dimension_names"), array.get("attributes")
        if dims is not None and not (isinstance(dims, list) and all(d is None or isinstance(d, str) for d in dims)):
            raise StoreError(f"{where}: the names of its dimensions are not text")
        is_index = dims == [name] and len(layout.shape) == 1
        if is_index and layout.shape[0] > MOST_INDEX:
            raise StoreError(f"{where} is a coordinate of {layout.shape[0]} cells; at most {MOST_INDEX} are read")
        opened += [layout] * is_index
        # short coordinates, and what counts time, may be read when a store is opened
        units = attributes.get("units") if isinstance(attributes, dict) else None
        early = len(layout.shape) <= 1 and math.prod(layout.shape) <= _SHORT
        early |= is_index or (isinstance(units, str) and "since" in units)
        if chunks and layout.files and early:
            _check_chunks(where, name, array, layout, read)
    check_together(shown, layouts.values(), opened)
    return layouts


def check_together(where: str, layouts: Iterable[Layout], opened: Iterable[Layout]) -> None:
    """Refuse arrays of one store or file that are too much together; some are read as a whole when it is opened."""
    if sum(sum(layout.steps) for layout in layouts) > MOST_STEPS:
        raise StoreError(f"{where} says that its arrays have more than {MOST_STEPS} chunks along dimensions")
    if sum(each.width * max(math.prod(each.shape), math.prod(each.chunks)) for each in opened) > MOST_OPENED:
        raise StoreError(f"{where} has coordinates of more than {MOST_OPENED} bytes, which are all read at once")


def check_sizes(where: str, layout: Layout) -> None:
    """Refuse an array whose sizes no machine could hold; ``where`` is for messages."""
    shape, chunks, inner, width, steps = layout.shape, layout.chunks, layout.inner, layout.width, layout.steps
    one = math.prod(inner) * width

    def size(cells: tuple[int, ...]) -> str:
        return " x ".join(map(str, cells)) or "1"

    if math.prod(shape) > _MOST_CELLS:
        raise StoreError(f"{where} says that it has {size(shape)} cells")
    if math.prod(chunks) * width > MOST_CHUNK * (1 if chunks == inner else 64) or one > MOST_CHUNK:
        raise StoreError(f"{where} has chunks of {size(inner)} cells, more than can be read at once")
    if one > max(_MOST_SPARE, 16 * math.prod(shape) * width):
        raise StoreError(f"{where} has chunks of {size(inner)} cells, but only {size(shape)} cells")
    if math.prod(chunks) > _MOST_IN_SHARD * math.prod(inner):
        raise StoreError(f"{where} has shards of {size(chunks)} cells with more than {_MOST_IN_SHARD} chunks")
    if any(step > MOST_STEPS for step in steps) or math.prod(steps) > MOST_CHUNKS:
        raise StoreError(f"{where} says that it has {size(steps)} chunks")


def _check_chunks(where: str, name: str, array: dict[str, Any], layout: Layout, read: Read) -> None:
    """Refuse chunks that would become far larger than they may be when they are unpacked."""
    encoding = array["chunk_key_encoding"]
    is_default = encoding["name"] == "default"
    separator = (encoding.get("configuration") or {}).get("separator", "/" if is_default else ".")
    steps = [-(-length // step) for length, step in zip(layout.shape, layout.chunks, strict=True)]
    numbers = [(at,) for at in range(steps[0])] if len(steps) == 1 else [(0,) * len(steps), tuple(n - 1 for n in steps)]
    keys = dict.fromkeys(
        separator.join(["c", *map(str, index)] if is_default else map(str, index or (0,))) for index in numbers
    )
    cells = math.prod(layout.chunks)
    most = 2 * cells * layout.width + MOST_BYTES
    for key, content in zip(keys, read([f"{name}/{key}" for key in keys]), strict=True):
        if content is not None and not fits(content, array["codecs"], cells, most):
            raise StoreError(
                f"{where}: its chunk {key} becomes more than {most} bytes when it is unpacked; {cells} values were "
                "declared: do not trust this store"
            )


def _arrays(shown: str, read: Read, names: Callable[[], list[str]]) -> dict[str, dict[str, Any]]:
    """Return the metadata of the arrays in a store, from its root and from the arrays' own files, as Zarr 3 has them.

    An array of which two readers would get different values is refused.
    """
    (root,) = _read_json(shown, ["zarr.json"], read)
    kinds: tuple[str, ...]
    if root is None:
        kinds, pick = (".zarray", ".zattrs"), _pick_2
        _, together = _read_json(shown, [".zattrs", ".zmetadata"], read)
    else:
        kinds, pick = ("zarr.json",), _pick_3
        pick(shown, {"/zarr.json": root})
        together = root.get("consolidated_metadata")
    whole: dict[str, dict[str, Any]] = {}
    if together is not None:
        entries = together.get("metadata") if isinstance(together, dict) else None
        if not isinstance(entries, dict):
            raise StoreError(f"{shown} cannot be read as Zarr store: its consolidated metadata are damaged")
        whole = pick(shown, entries if root is None else {f"{name}/zarr.json": each for name, each in entries.items()})
    files = [f"{name}/{kind}" for name in (names() if together is None or not is_url(shown) else ()) for kind in kinds]
    found = zip(files, _read_json(shown, files, read), strict=True)
    own = pick(shown, {key: entry for key, entry in found if entry is not None})
    for name in own.keys() & whole.keys():
        for key in ("shape", "data_type", "chunk_grid", "codecs", "fill_value"):
            if json.dumps(own[name].get(key)) != json.dumps(whole[name].get(key)):
                raise StoreError(
                    f"{shown}: {name!r:.120} has other metadata ({key}) in its own file than in those of the store; if "
                    "the store is yours, bring them together: zarr.consolidate_metadata(store)"
                )
    for name in whole:
        if any(part in ("", ".", "..") for part in name.split("/")) or len(name) > 1000:
            raise StoreError(f"{shown} holds an array with the name {name!r:.120}")
    return own | whole


def _pick_3(shown: str, entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arrays among the entries of metadata of Zarr 3, by name."""
    arrays = {}
    for key, entry in entries.items():
        name = key.rpartition("/")[0]
        if not isinstance(entry, dict) or entry.get("node_type") not in ("array", "group"):
            raise StoreError(f"{shown}: {name!r:.120} is neither an array nor a group")
        if not isinstance(entry.get("attributes", {}), dict):
            raise StoreError(f"{shown}: {name!r:.120}: its attributes are not a mapping")
        if entry["node_type"] == "array":
            arrays[name] = {**entry, "zarr_format": 3}
    return arrays


def _pick_2(shown: str, entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Do the same with metadata of Zarr 2, and bring them into the form that they have in Zarr 3."""
    arrays = {}
    for key, entry in entries.items():
        name, _, kind = key.rpartition("/")
        if kind != ".zarray":
            continue
        if not isinstance(entry, dict):
            raise StoreError(f"{shown}: {name!r:.120}: its metadata are not a mapping")
        attributes, filters = entries.get(f"{name}/.zattrs", {}), entry.get("filters")
        packed = [*(filters if isinstance(filters, list) else [filters]), entry.get("compressor")]
        known, separator = entry.get("order", "C") in ("C", "F"), entry.get("dimension_separator", ".")
        arrays[name] = {
            **entry,
            "zarr_format": 2,
            "attributes": attributes,
            "dimension_names": attributes.get("_ARRAY_DIMENSIONS") if isinstance(attributes, dict) else None,
            "data_type": entry.get("dtype"),
            "codecs": [codec for codec in packed if codec is not None],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": entry.get("chunks")}},
            "chunk_key_encoding": {"name": "v2" if known else None, "configuration": {"separator": separator}},
        }
    return arrays


def _layout(where: str, array: dict[str, Any]) -> Layout:
    """Check the metadata of one array; return how it lies in files."""
    shape = _numbers(where, "shape", array.get("shape"), 0)
    try:
        grid, keys = array["chunk_grid"], array["chunk_key_encoding"]
        if grid.get("name") != "regular" or array.get("storage_transformers"):
            raise StoreError(f"{where} has a chunk grid or storage transformer that is not known")
        separator = (keys.get("configuration") or {}).get("separator", ".")
        if keys["name"] not in ("default", "v2") or separator not in (".", "/"):
            raise StoreError(f"{where} names or orders its chunks in a way that is not known")
        inner = chunks = _numbers(where, "chunks", grid["configuration"]["chunk_shape"], 1)
        codecs = dict(_codecs(where, array["codecs"]))
        if _SHARDS in codecs:
            given = codecs[_SHARDS]
            inner = _numbers(where, "chunk_shape", given["chunk_shape"], 1)
            if len(inner) != len(chunks) or any(a % b for a, b in zip(chunks, inner, strict=True)):
                raise StoreError(f"{where} has shards of {chunks} and chunks of {inner} cells")
            within = _codecs(where, given["codecs"]) + _codecs(where, given.get("index_codecs", []))
            if _SHARDS in dict(within):
                raise StoreError(f"{where} has shards within shards")
        width = max(_width(where, array), _TEXT if _TEXTS in codecs else 0)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where}: its metadata are damaged: {error!r:.200}") from error
    if not len(shape) == len(chunks) == len(inner) <= 32:
        raise StoreError(f"{where} has {len(shape)} dimensions and chunks of {len(chunks)}")
    fill = array.get("fill_value")
    for part in fill if isinstance(fill, list) and len(fill) == 2 else [fill]:
        if part is not None and (not isinstance(part, bool | int | float | str) or len(str(part)) > 1000):
            raise StoreError(f"{where} has the fill value {part!r:.120}")
    found = Layout(shape, chunks, inner, width)
    check_sizes(where, found)
    return found


def _width(where: str, array: dict[str, Any]) -> int:
    """Return the bytes of a value; refuse types that are not numbers, dates or text."""
    kind, width = array.get("data_type"), None
    if array["zarr_format"] == 3:
        if isinstance(kind, str):
            width = _TEXT if kind in ("string", "variable_length_utf8") else None
            width = np.dtype(kind).itemsize if kind in _NUMBERS_3 else width
        elif isinstance(kind, dict) and isinstance(kind.get("name"), str):
            width = 8 if kind["name"] in _DATES_3 else None
            width = kind["configuration"]["length_bytes"] if kind["name"] in _FIXED_3 else width
    elif kind == "|O" and array["codecs"][:1] == [{"id": _TEXTS}]:
        width = _TEXT
    elif isinstance(kind, str) and len(kind) <= 12:
        with suppress(TypeError, ValueError):
            width = np.dtype(kind).itemsize if np.dtype(kind).kind in "biufcSUmM" else None
    if isinstance(width, bool) or not isinstance(width, int) or not 0 <= width <= _MOST_TEXT:
        raise StoreError(f"{where} has the type {kind!r:.120}; numbers, dates and text are opened, not Python objects")
    return width


def _codecs(where: str, codecs: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Return names and configurations of codecs; refuse those that are not used on what others wrote."""
    if not isinstance(codecs, list):
        raise StoreError(f"{where} names no codecs")
    named = named_codecs(codecs)
    most = max(sum(str(name) in kind for name, _ in named) for kind in (_COMPRESSORS, {_SHARDS}))
    if len(named) > 8 or most > 1:
        raise StoreError(f"{where} names {len(named)} codecs, of which one may compress and one may make shards")
    for name, _ in named:
        if not isinstance(name, str) or name not in CODECS:
            raise StoreError(
                f"{where} wants the codec {name!r:.120}, which is not used on what others wrote; known are: "
                + ", ".join(sorted(CODECS))
            )
    return named


def _numbers(where: str, key: str, values: Any, least: int) -> tuple[int, ...]:
    whole = isinstance(values, list) and all(type(each) is int and least <= each <= 2**53 for each in values[:33])
    if not whole or len(values) > 32:
        raise StoreError(f"{where} gives {key} as {values!r:.120}; a list of whole numbers from {least} is wanted")
    return tuple(values)


def _read_json(shown: str, names: list[str], read: Read) -> list[dict[str, Any] | None]:
    """Return the contents of files of metadata, None for one that is not there."""
    found: list[dict[str, Any] | None] = []
    for name in names:  # one after the other: together they could fill the memory
        (content,) = read([name])
        if content is not None and len(content) > MOST_BYTES:
            raise StoreError(f"{shown}/{name} is larger than metadata can be")
        try:
            entry = None if content is None else json.loads(content)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{shown} cannot be read as Zarr store: {name} is damaged: {error}"[:500]) from error
        if content is not None and not isinstance(entry, dict):
            raise StoreError(f"{shown} cannot be read as Zarr store: {name} is damaged: it is not a mapping")
        found.append(entry)
    return found


def _read_here(folder: Path, names: list[str]) -> list[bytes | None]:
    """Read files of a folder on this machine."""
    found: list[bytes | None] = []
    for name in names:
        try:
            with open_plain(folder / name) as stream:
                found.append(stream.read(MOST_BYTES + 1))
        except (FileNotFoundError, NotADirectoryError):
            found.append(None)
        except OSError as error:
            raise StoreError(f"{folder}/{name} cannot be read: {error.strerror}") from error
    return found


def _behind(url: str, options: dict[str, Any]) -> tuple[Read, Callable[[], list[str]]]:
    """Return how to read files of the folder behind a URL, and how to list it."""
    from fsspec.core import url_to_fs

    absent = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    with reaching(url, ""):
        fs, root = url_to_fs(url, **with_limits(url, options))

    def read(files: list[str]) -> list[bytes | None]:
        paths, found = [f"{root}/{name}" for name in files], []
        with reaching(url, files[0] if files else ""):
            for each in fs.cat_ranges(paths, [0] * len(paths), [MOST_BYTES + 1] * len(paths), on_error="return"):
                if isinstance(each, Exception) and not isinstance(each, absent):
                    raise each
                found.append(None if isinstance(each, Exception) else bytes(each))
        return found

    def names() -> list[str]:
        with reaching(url, ""), suppress(FileNotFoundError, NotADirectoryError):
            return sorted({each.rstrip("/").rpartition("/")[2] for each in fs.ls(root, detail=False)[:_MOST_ARRAYS]})
        return []

    return read, names
