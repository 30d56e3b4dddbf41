"""Metadata of Zarr stores (2 and 3), checked before Zarr sees it: codecs, types, shapes and chunks.

A store may come from anybody. Only codecs that decode bytes into numbers are used, so that none can run code; and
shapes, chunks and counts stay within what a machine can hold, so that none can fill it. A few kilobytes can hold
gigabytes of zeros, and Zarr unpacks whatever comes: how large a chunk becomes is found out without unpacking more than
is allowed.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xland.errors import StoreError
from xland.paths import without_password
from xland.untrusted.folders import Files, Held, LocalFiles, files_at, survey
from xland.untrusted.servers import MOST_METADATA

TEXT = 64
"""Bytes that a text of any length takes, more or less."""

_MOST_CHUNK = 2**31 - 1  # bytes when it is decoded; Blosc has the same limit
_MOST_INDEX = 2**22  # cells of a coordinate along its own dimension: all of it is read when a store is opened
_MOST_OPENED = 2**26  # bytes of all such coordinates
_MOST_STEPS = 2_000_000  # chunks along the dimensions of all arrays: dask keeps the length of each
_MOST_CHUNKS = 10**9
_MOST_CELLS = 10**16
_MOST_ARRAYS = 1000
_MOST_TEXT = 2**16
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

Codec = tuple[str, Mapping[str, Any]]  # name, without `numcodecs.`, and configuration

_ODD = (ValueError, RuntimeError, TypeError, AttributeError, LookupError, OSError, EOFError, ArithmeticError)
_ZSTD_BLOCK = 2**17
_STREAMS = {"gzip": 31, "zlib": 15}


@dataclass(frozen=True)
class Layout:
    """How an array lies in files: cells of the array, of one file, and of what is decoded at once; bytes of a value.

    An index is a coordinate along its own dimension.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    inner: tuple[int, ...]
    width: int
    is_index: bool = False

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
    shown, files = without_password(target), files_at(target, storage_options)
    held: dict[str, Held] = {}
    try:
        if isinstance(files, LocalFiles):
            held = survey(Path(target))
        arrays = _arrays(shown, files, sorted(name for name in held if name))
        layouts = check_arrays(shown, arrays)
        for name, layout in layouts.items():
            # short coordinates, and what counts time, may be read when a store is opened
            attributes = arrays[name].get("attributes")
            units = attributes.get("units") if isinstance(attributes, dict) else None
            early = len(layout.shape) <= 1 and math.prod(layout.shape) <= _SHORT
            early |= layout.is_index or (isinstance(units, str) and "since" in units)
            if layout.files and early:
                _check_chunks(f"{shown}: {name!r:.120}", name, arrays[name], layout, files)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{target} cannot be read: {error}") from error
    if isinstance(files, LocalFiles):
        _compare_files(shown, layouts, held)


def _compare_files(shown: str, layouts: Mapping[str, Layout], held: Mapping[str, Held]) -> None:
    """Refuse an array with far more chunks than files, and a folder with a file larger than any chunk of its arrays."""
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


def check_arrays(where: str, arrays: Mapping[str, dict[str, Any]]) -> dict[str, Layout]:
    """Check the metadata of the arrays of a store, as Zarr 3 has them; return how each lies in files."""
    if len(arrays) > _MOST_ARRAYS:
        raise StoreError(f"{where} has {len(arrays)} arrays; more than {_MOST_ARRAYS} are not opened")
    layouts = {name: _layout(f"{where}: {name!r:.120}", name, array) for name, array in arrays.items()}
    check_together(where, layouts)
    return layouts


def check_together(where: str, layouts: Mapping[str, Layout]) -> None:
    """Refuse arrays of one store or file that are too much together, also indices, which are read when it is opened."""
    indices = {name: each for name, each in layouts.items() if each.is_index}
    for name, each in indices.items():
        if each.shape[0] > _MOST_INDEX:
            raise StoreError(
                f"{where}: {name!r:.120} is a coordinate of {each.shape[0]} cells; at most {_MOST_INDEX} are read"
            )
    if sum(sum(layout.steps) for layout in layouts.values()) > _MOST_STEPS:
        raise StoreError(f"{where} says that its arrays have more than {_MOST_STEPS} chunks along dimensions")
    if sum(each.width * max(math.prod(each.shape), math.prod(each.chunks)) for each in indices.values()) > _MOST_OPENED:
        raise StoreError(f"{where} has coordinates of more than {_MOST_OPENED} bytes, which are all read at once")


def check_sizes(where: str, layout: Layout) -> None:
    """Refuse an array whose sizes no machine could hold; ``where`` is for messages."""
    shape, chunks, inner, width, steps = layout.shape, layout.chunks, layout.inner, layout.width, layout.steps
    one, cells = math.prod(inner) * width, " x ".join(map(str, inner)) or "1"
    if width > _MOST_TEXT:
        raise StoreError(f"{where} has values of {width} bytes; at most {_MOST_TEXT} are read")
    if math.prod(shape) > _MOST_CELLS:
        raise StoreError(f"{where} says that it has {math.prod(shape)} cells")
    if math.prod(chunks) * width > _MOST_CHUNK * (1 if chunks == inner else 64) or one > _MOST_CHUNK:
        raise StoreError(f"{where} has chunks of {cells} cells, more than can be read at once")
    if one > max(_MOST_SPARE, 16 * math.prod(shape) * width):
        raise StoreError(f"{where} has chunks of {cells} cells, but only {math.prod(shape)} cells")
    if math.prod(chunks) > _MOST_IN_SHARD * math.prod(inner):
        raise StoreError(f"{where} has shards of {math.prod(chunks)} cells with more than {_MOST_IN_SHARD} chunks")
    if any(step > _MOST_STEPS for step in steps) or math.prod(steps) > _MOST_CHUNKS:
        raise StoreError(f"{where} says that it has {math.prod(steps)} chunks")


def _check_chunks(where: str, name: str, array: dict[str, Any], layout: Layout, files: Files) -> None:
    """Refuse chunks that would become far larger than they may be when they are unpacked."""
    encoding = array["chunk_key_encoding"]
    is_default = encoding["name"] == "default"
    separator = (encoding.get("configuration") or {}).get("separator", "/" if is_default else ".")
    steps = [-(-length // step) for length, step in zip(layout.shape, layout.chunks, strict=True)]
    numbers = [(at,) for at in range(steps[0])] if len(steps) == 1 else [(0,) * len(steps), tuple(n - 1 for n in steps)]
    keys = [
        separator.join(["c", *map(str, index)] if is_default else map(str, index or (0,)))
        for index in dict.fromkeys(numbers)
    ]
    cells = math.prod(layout.chunks)
    most = 2 * cells * layout.width + MOST_METADATA
    for key, content in zip(keys, files.begins([f"{name}/{key}" for key in keys], MOST_METADATA), strict=True):
        if content is not None and not fits(content, array["codecs"], cells, most):
            raise StoreError(
                f"{where}: its chunk {key} becomes more than {most} bytes when it is unpacked; {cells} values were "
                "declared: do not trust this store"
            )


def _arrays(shown: str, files: Files, folders: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the metadata of the arrays in a store, from its root and from the arrays' own files, as Zarr 3 has them.

    ``folders`` are those of a store on this machine. An array of which two readers would get different values is
    refused.
    """
    root, kinds = _read_json(shown, files, "zarr.json"), [".zarray", ".zattrs"]
    if root is None:
        pick = _pick_2
        _read_json(shown, files, ".zattrs")
        together = _read_json(shown, files, ".zmetadata")
    else:
        kinds, pick = ["zarr.json"], _pick_3
        pick(shown, {"/zarr.json": root})
        together = root.get("consolidated_metadata")
    whole: dict[str, dict[str, Any]] = {}
    if together is not None:
        entries = together.get("metadata") if isinstance(together, dict) else None
        if not isinstance(entries, dict):
            raise StoreError(f"{shown} cannot be read as Zarr store: its consolidated metadata are damaged")
        whole = pick(shown, entries if root is None else {f"{name}/zarr.json": each for name, each in entries.items()})
    if not folders and together is None:  # behind a URL
        folders = files.names()[:_MOST_ARRAYS]
    found = {f"{name}/{kind}": _read_json(shown, files, f"{name}/{kind}") for name in folders for kind in kinds}
    own = pick(shown, {key: entry for key, entry in found.items() if entry is not None})
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


def _layout(where: str, name: str, array: dict[str, Any]) -> Layout:
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
        width = max(_width(where, array), TEXT if _TEXTS in codecs else 0)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where}: its metadata are damaged: {error!r:.200}") from error
    if not len(shape) == len(chunks) == len(inner) <= 32:
        raise StoreError(f"{where} has {len(shape)} dimensions and chunks of {len(chunks)}")
    fill = array.get("fill_value")
    for part in fill if isinstance(fill, list) and len(fill) == 2 else [fill]:
        if part is not None and (not isinstance(part, bool | int | float | str) or len(str(part)) > 1000):
            raise StoreError(f"{where} has the fill value {part!r:.120}")
    dims = array.get("dimension_names")
    if dims is not None and not (isinstance(dims, list) and all(d is None or isinstance(d, str) for d in dims)):
        raise StoreError(f"{where}: the names of its dimensions are not text")
    found = Layout(shape, chunks, inner, width, is_index=dims == [name] and len(shape) == 1)
    check_sizes(where, found)
    return found


def _width(where: str, array: dict[str, Any]) -> int:
    """Return the bytes of a value; refuse types that are not numbers, dates or text."""
    kind, width = array.get("data_type"), None
    if array["zarr_format"] == 3:
        if isinstance(kind, str):
            width = TEXT if kind in ("string", "variable_length_utf8") else None
            width = np.dtype(kind).itemsize if kind in _NUMBERS_3 else width
        elif isinstance(kind, dict) and isinstance(kind.get("name"), str):
            width = 8 if kind["name"] in _DATES_3 else None
            width = kind["configuration"]["length_bytes"] if kind["name"] in _FIXED_3 else width
    elif kind == "|O" and array["codecs"][:1] == [{"id": _TEXTS}]:
        width = TEXT
    elif isinstance(kind, str) and len(kind) <= 12:
        with suppress(TypeError, ValueError):
            width = np.dtype(kind).itemsize if np.dtype(kind).kind in "biufcSUmM" else None
    if isinstance(width, bool) or not isinstance(width, int) or width < 0:
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


def _read_json(shown: str, files: Files, name: str) -> dict[str, Any] | None:
    """Return the content of a file of metadata; None if it is not there."""
    try:
        content = files.read(name, most=MOST_METADATA)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{shown}/{name} cannot be read: {error.strerror or error}") from error
    try:
        entry = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{shown} cannot be read as Zarr store: {name} is damaged: {error}"[:500]) from error
    if not isinstance(entry, dict):
        raise StoreError(f"{shown} cannot be read as Zarr store: {name} is damaged: it is not a mapping")
    return entry


# how large packed chunks become


def fits(content: bytes, codecs: Sequence[Any], cells: int, most: int) -> bool:
    """Whether a chunk of some cells becomes at most so many bytes, and pieces of text, when it is unpacked.

    Codecs are those of its metadata, in the order in which they packed it; shards are looked into. What is damaged
    fits: readers will say so.
    """
    try:
        return _fits(content, named_codecs(codecs), cells, most)
    except (*_ODD, zlib.error):
        return True


def _fits(content: bytes, codecs: list[Codec], cells: int, most: int) -> bool:
    while codecs:
        name, given = codecs.pop()
        if name == "sharding_indexed":
            return _shard_fits(content, given, cells, most)
        if name == "vlen-utf8" and int.from_bytes(content[:4], "little") > cells:
            return False
        if name in _STREAMS:
            content = _unpacked(content, _STREAMS[name], most)
            if len(content) > most:
                return False
        elif name in _SIZES and _SIZES[name](content) > most:
            return False
        elif any(each in _STREAMS or each in _SIZES or each == "vlen-utf8" for each, _ in codecs):
            content = _decoded(content, name, given)
    return True


def _unpacked(content: bytes, kind: int, most: int) -> bytes:
    """Unpack a stream, or several one after the other, but little more than is allowed."""
    parts, size = [], 0
    while content and size <= most:
        stream = zlib.decompressobj(kind)
        parts.append(stream.decompress(content, most + 1 - size))
        size += len(parts[-1])
        content = stream.unused_data if stream.eof else b""
    return b"".join(parts)


def _decoded(content: bytes, name: str, given: Mapping[str, Any]) -> bytes:
    """Take off a codec whose result is known to be small enough."""
    from numcodecs import get_codec

    if name == "crc32c" and not given:  # that of Zarr 3, behind the content
        return content[:-4]
    return bytes(np.asarray(get_codec({"id": name, **given}).decode(content)).tobytes())


def _zstd_size(content: bytes) -> int:
    """Bytes that frames of Zstandard become, at most (RFC 8878, 3.1.1)."""
    at, total = 0, 0
    while at + 4 <= len(content):
        magic = int.from_bytes(content[at : at + 4], "little")
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # a frame to be skipped
            at += 8 + int.from_bytes(content[at + 4 : at + 8], "little")
            continue
        if magic != 0xFD2FB528:
            break
        described = content[at + 4]
        single, width = described >> 5 & 1, (0, 2, 4, 8)[described >> 6]
        width = 1 if single and not width else width
        at += 5 + (0 if single else 1) + (0, 1, 2, 4)[described & 3]
        declared = int.from_bytes(content[at : at + width], "little") + (256 if width == 2 else 0)
        at, blocks = _zstd_blocks(content, at + width)
        at += 4 * (described >> 2 & 1)
        total += declared if width else blocks
    return total


def _zstd_blocks(content: bytes, at: int) -> tuple[int, int]:
    """Where the blocks of a frame end, and what they become at most."""
    total, last = 0, False
    while not last and at + 3 <= len(content):
        head = int.from_bytes(content[at : at + 3], "little")
        last, kind, size = bool(head & 1), head >> 1 & 3, head >> 3
        total += _ZSTD_BLOCK if kind == 2 else size
        at += 3 + (1 if kind == 1 else size)
    return at, total


def _shard_fits(content: bytes, given: Mapping[str, Any], cells: int, most: int) -> bool:
    """Look at the chunks in a shard, each of which may become as large as all of it."""
    inner, index = named_codecs(given["codecs"]), named_codecs(given.get("index_codecs", []))
    count = cells // math.prod(given["chunk_shape"])
    size = 16 * count + 4 * sum(name == "crc32c" for name, _ in index)
    table = content[:size] if given.get("index_location") == "start" else content[-size:]
    for offset, length in np.frombuffer(table[: 16 * count], "<u8").reshape(-1, 2).tolist():
        if offset != 2**64 - 1 and not _fits(content[offset : offset + length], list(inner), cells, most):
            return False
    return True


_SIZES: dict[str, Callable[[bytes], int]] = {
    "blosc": lambda content: int.from_bytes(content[4:8], "little"),
    "lz4": lambda content: int.from_bytes(content[:4], "little"),
    "zstd": _zstd_size,
}


def named_codecs(codecs: Sequence[Any]) -> list[Codec]:
    """Return names, without the prefix ``numcodecs.``, and configurations of codecs of Zarr 2 or 3."""
    found: list[Codec] = []
    for codec in codecs:
        if isinstance(codec, str):
            name, given = codec, {}
        elif "id" in codec:
            name, given = codec["id"], {key: value for key, value in codec.items() if key != "id"}
        else:
            name, given = codec["name"], codec.get("configuration") or {}
        found.append((name.removeprefix("numcodecs."), given))
    return found
