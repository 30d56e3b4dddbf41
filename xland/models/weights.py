"""Safetensors files of strangers: their header is compared with the tensors that are expected before they are read."""

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
"""Bytes up to which a file that does not fit is read to find out whether it was altered."""

_BYTES = {"F16": 2, "F32": 4, "I64": 8}


def read_verified(path: Path, digest: str, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return a safetensors file that holds tensors of the expected types and shapes and has the expected SHA-256.

    Of a large file that does not fit, only the header is read.

    Raises
    ------
    CheckpointError
        If the file is missing, not a plain file, a pickle, truncated, altered, or holds other tensors.
    """
    with open_plain(path, CheckpointError) as (file, size):
        start = file.read(8 + HEADER)
        # safetensors begin with the length of a JSON object in eight bytes, which may look like a pickle's mark
        if (start[:1] == b"\x80" and start[8:9] not in (b"", b"{")) or start[:4] == b"PK\x03\x04":
            raise CheckpointError(f"{path} is a pickle, which could run any code; only safetensors are read")
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


def _fault(start: bytes, size: int, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> str | None:
    """Say what is wrong with a file of ``size`` bytes that begins with ``start``; the library checks the rest."""
    if size > LARGEST:
        return f"has {size} bytes, more than the {LARGEST} that are read"
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(HEADER, size - 8):
        return "is not a safetensors file: its header has no possible length"
    try:
        header: Any = dict(json.loads(start[8 : 8 + length]))
    except (ValueError, TypeError, RecursionError):
        return "is not a safetensors file: its header cannot be read"
    header.pop("__metadata__", None)
    for name in sorted(header.keys() | expected.keys()):
        found = header.get(name)
        said = (found.get("dtype"), found.get("shape")) if isinstance(found, dict) else None
        wanted = (expected[name][0], list(expected[name][1])) if name in expected else None
        if said != wanted:
            return (
                f"does not fit its card: {name[:100]} {_described(said)}, expected {_described(wanted)}; the "
                "channels or the architecture differ"
            )
    values = sum(_BYTES[kind] * math.prod(shape) for kind, shape in expected.values())
    if size != 8 + length + values:
        return f"is not a safetensors file: it has {size} bytes, and its header asks for {8 + length + values}"
    return None


def _described(tensor: tuple[Any, Any] | None) -> str:
    return "is missing" if tensor is None else f"has shape {shown(tensor[1])} of {shown(tensor[0])}"
