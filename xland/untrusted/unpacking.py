"""How large a packed chunk of a stranger becomes, found out without unpacking more than is allowed.

A few kilobytes can hold gigabytes of zeros. Zarr unpacks whatever comes, and looks at its size afterwards.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Codec = tuple[str, Mapping[str, Any]]  # name, without `numcodecs.`, and configuration

_ODD = (ValueError, RuntimeError, TypeError, AttributeError, LookupError, OSError, EOFError, ArithmeticError)
_ZSTD_BLOCK = 2**17
_STREAMS = {"gzip": 31, "zlib": 15}


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
