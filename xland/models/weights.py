"""Safetensors files of strangers: what their header says is compared with what is expected before they are read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xland.arguments import shown
from xland.errors import CheckpointError
from xland.records import open_plain

HEADER = 2**22
"""Bytes that the header of a file may have."""

LARGEST = 2**31
"""Bytes that a file may have."""

_SMALL = 2**26
"""Bytes up to which a file that does not fit is read to tell whether it was altered."""

_BYTES = {"F16": 2, "F32": 4, "I64": 8}
_PREFIX = 8

Expected = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor."""


def read_verified(path: Path, digest: str, expected: Expected) -> bytes:
    """Read a safetensors file that holds certain tensors and has a certain SHA-256.

    Nothing but the header of a file that is no such file is read, unless it is small.

    Parameters
    ----------
    path : path
    digest : str
        SHA-256 in hexadecimal digits.
    expected : mapping
        Type and shape of each tensor.

    Raises
    ------
    CheckpointError
        If it is not there, not a plain file, a pickle, truncated, altered, or holds other tensors.
    """
    with open_plain(path, CheckpointError) as (file, size):
        start = file.read(_PREFIX + HEADER)
        _refuse_pickle(path, start)
        fault = _fault(start, size, expected)
        if fault is not None and size > _SMALL:
            raise CheckpointError(f"{path} {fault}")
        content = start + file.read(max(size - len(start), 0))
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(
            f"{path} ({len(content)} bytes) is truncated or altered: its SHA-256 is not the one in the card; "
            "fetch the model again"
        )
    if fault is not None:
        raise CheckpointError(f"{path} {fault}")
    return content


def _refuse_pickle(path: Path, start: bytes) -> None:
    # safetensors begin with the length of a JSON object in eight bytes, which may look like a pickle's mark
    if (start[:1] == b"\x80" and start[8:9] not in (b"", b"{")) or start[:4] == b"PK\x03\x04":
        raise CheckpointError(f"{path} is a pickle, which could run any code; only safetensors are read")


def _fault(start: bytes, size: int, expected: Expected) -> str | None:
    """Say what is wrong with a file of some bytes that begins like this; None if it fits."""
    if size > LARGEST:
        return f"has {size} bytes, more than the {LARGEST} that are read"
    length = int.from_bytes(start[:_PREFIX], "little")
    if len(start) < _PREFIX or length > min(HEADER, size - _PREFIX):
        return "is not a safetensors file: its header has no possible length"
    try:
        header: Any = json.loads(start[_PREFIX : _PREFIX + length])
    except (ValueError, RecursionError):
        return "is not a safetensors file: its header cannot be read"
    if not isinstance(header, dict):
        return "is not a safetensors file: its header is not a table"
    header.pop("__metadata__", None)
    for name in sorted(header.keys() | expected.keys()):
        found = _tensor(header.get(name))
        if found != expected.get(name):
            return (
                f"does not fit its card: {name[:100]} {_told(found)}, expected {_told(expected.get(name))}; the "
                "channels or the architecture differ"
            )
    end = 0
    for name, entry in sorted(header.items(), key=lambda each: _start(each[1])):
        kind, shape = expected[name]
        stop = end + _BYTES[kind] * math.prod(shape)
        if entry.get("data_offsets") != [end, stop]:
            return f"is not a safetensors file: {name} lies at {shown(entry.get('data_offsets'))}, not [{end}, {stop}]"
        end = stop
    if size != _PREFIX + length + end:
        return f"is not a safetensors file: it has {size} bytes, and its header asks for {_PREFIX + length + end}"
    return None


def _tensor(entry: Any) -> tuple[str, tuple[int, ...]] | None:
    """Type and shape as a header gives them."""
    if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
        return None
    return str(entry.get("dtype"))[:10], tuple(entry["shape"][:9])


def _told(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "is missing" if tensor is None else f"has shape {shown(tensor[1])} of {tensor[0]}"


def _start(entry: Mapping[str, Any]) -> int:
    offsets = entry.get("data_offsets")
    return offsets[0] if isinstance(offsets, list) and offsets and type(offsets[0]) is int else -1
