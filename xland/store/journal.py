"""What a store that is not finished says about itself: its manifest, and the journal of its finished blocks."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import socket
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from xland.errors import StoreError
from xland.store.checksums import digests_in, sha256
from xland.store.storage import Files, RemoteFiles

FOLDER = "journal"
"""Name of the journal in the working folder."""

_READERS = 16

Notes = dict[str, list[dict[str, str]]]
"""By the name of each block: the SHA-256 of its files by their names, once for each time it was written."""


def note(files: Files, key: str, run: str, digests: Mapping[str, str]) -> None:
    """Note in a working folder that a block is finished; a crash leaves the note whole or without effect.

    On this machine that is a line in the file of this process and run; behind a URL an object for each block.
    """
    text = json.dumps([key, dict(digests)])
    line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
    if isinstance(files, RemoteFiles):
        files.put(f"{FOLDER}/{key}", line)
        return
    file = files.path(FOLDER) / f"{run}-{socket.gethostname()}-{os.getpid()}"
    file.parent.mkdir(exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    finally:
        os.close(handle)


def notes(files: Files) -> Notes:
    """Return what was noted of each block; lines that are damaged or that a crash cut off do not count."""

    def read(name: str) -> list[str]:
        try:
            return files.read(f"{FOLDER}/{name}").decode(errors="replace").split("\n")
        except (FileNotFoundError, IsADirectoryError):
            return []

    found: Notes = {}
    with ThreadPoolExecutor(_READERS) as pool:
        lines = [line for each in pool.map(read, files.names(FOLDER)) for line in each]
    for line in lines:
        checksum, _, text = line.partition(" ")
        if checksum != f"{zlib.crc32(text.encode()):08x}":
            continue
        key, digests = json.loads(text)
        written = found.setdefault(key, [])
        if digests not in written:
            written.append(digests)
    return found


def find_whole(noted: Notes, data: Files) -> dict[str, dict[str, str]]:
    """Read the files of blocks in the growing store; return the digests of those that are as they were written."""
    if not noted:
        return {}
    found = digests_in(data, {name for written in noted.values() for each in written for name in each})
    whole = {}
    for key, written in noted.items():
        # a block that was written twice, as where a worker was lost, may have other bytes the second time
        for each in reversed(written):
            if all(found[name] == digest for name, digest in each.items()):
                whole[key] = each
                break
    return whole


def collect(noted: Notes, data: Files) -> dict[str, dict[str, str]]:
    """Digests of the files of each block, which are taken as they were noted if they were noted once."""
    several = {key: written for key, written in noted.items() if len(written) > 1}
    return {**{key: written[0] for key, written in noted.items() if key not in several}, **find_whole(several, data)}


COMPLETE = "xland_complete"
"""Attribute of the root group: 0 while a store is being written, 1 once it is whole (NetCDF has no booleans)."""

FINGERPRINT = "xland_store_fingerprint"
"""Attribute of the root group: digest of what was written, compared on resuming."""

MANIFEST = "manifest.json"
"""Name of the manifest in the working folder."""

FORMAT = 2
"""Number of the layout of working folders that this release writes and resumes."""

_INPUTS = "xland_inputs"  # an attribute of maps
_VALUES = "values"
_NEW_EACH_TIME = (
    "values drawn at random, and results of functions that dask cannot tell apart, are new each time: "
    "write them to a file first"
)
_DATA = re.compile(r"data-[0-9a-f]{32}\.zarr")
_FINGERPRINT = re.compile(r"[0-9a-f]{8,128}")

VOLATILE = frozenset({COMPLETE, FINGERPRINT, "history", "date_created", "date_modified"})
"""Attributes that may differ between two runs of the same work."""


def write_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Return the content of a manifest's file, which begins with a digest of the rest."""
    text = json.dumps(manifest)
    return json.dumps({"sha256": sha256(text.encode()), "manifest": text}).encode()


def parse_manifest(content: bytes, where: str) -> dict[str, Any]:
    """Return a manifest that was read; :class:`StoreError` if it is damaged or of another release."""
    try:
        read = json.loads(content)
        if isinstance(read, dict) and read.get("format") not in (None, FORMAT):
            raise StoreError(
                f"{where} was begun by another release of xland: finish it with that release, or start again with "
                "overwrite=True"
            )
        text = read["manifest"]
        manifest: dict[str, Any] = json.loads(text)
        whole = (
            read["sha256"] == sha256(text.encode())
            and manifest["format"] == FORMAT
            and _DATA.fullmatch(manifest["data"])
            and _FINGERPRINT.fullmatch(manifest["fingerprint"])
        )
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise StoreError(f"{where} is damaged; start again with overwrite=True")
    return manifest


def count_blocks(manifest: Mapping[str, Any]) -> int:
    """Count the blocks that a store is made of."""
    return sum(math.prod(len(blocks) for blocks in group) for group in manifest["groups"].values())


def check_same(asked: dict[str, Any], begun: dict[str, Any], target: str) -> None:
    """Refuse to resume a store that was begun as other work; the error says what differs."""
    parts, values = [], []
    for key in sorted(asked.keys() | begun.keys()):
        one, two = asked.get(key, {}), begun.get(key, {})
        # compared as text, in which NaN equals itself
        inner = {k for k in one.keys() | two.keys() if json.dumps(one.get(k)) != json.dumps(two.get(k))}
        if inner == {_VALUES}:
            values.append(key)
        elif inner:
            parts.append(f"{key} ({', '.join(sorted(inner - {_VALUES}))})")
    if not parts and not values:
        return
    inputs = [json.loads(work.get("attributes", {}).get(_INPUTS) or "{}") for work in (asked, begun)]
    others = sorted(name for name in inputs[0].keys() | inputs[1].keys() if inputs[0].get(name) != inputs[1].get(name))
    if others:
        parts.append(f"of the inputs, {', '.join(others)} ({_NEW_EACH_TIME})")
    elif not parts:  # values differ with all else that differs
        parts.append(f"values of {', '.join(values)} ({_NEW_EACH_TIME})")
    raise StoreError(
        f"the unfinished store of {target} was begun with other inputs or settings; different: {'; '.join(parts)}. "
        "Resume with the same inputs and settings, or start again with overwrite=True"
    )


def describe_work(ds: xr.Dataset, encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what is written, without computing it: two equal descriptions are the same work.

    The Dataset is one of :func:`xland.store.blocks.align`, ``encoding`` that of its lazy variables. The result is ready
    for JSON: attributes, digests of the coordinates, and of each variable its dimensions, shape, type, blocks, chunks,
    attributes and the name of its dask array.
    """

    def plain(attributes: Mapping[Any, Any]) -> Any:
        return json.loads(json.dumps(dict(attributes), default=lambda value: value.tolist()))

    described: dict[str, Any] = {"attributes": plain({k: v for k, v in ds.attrs.items() if k not in VOLATILE})}
    for name, variable in ds.variables.items():
        entry: dict[str, Any] = {
            "dims": list(variable.dims),
            "shape": list(variable.shape),
            "dtype": str(variable.dtype),
            "attributes": plain(variable.attrs),
        }
        if str(name) in encoding:
            entry[_VALUES] = str(variable.data.name)  # which dask derives from what they are computed from
            entry["blocks"] = [list(sizes) for sizes in ds[name].chunks or ()]
            entry |= {key: list(encoding[str(name)][key]) for key in ("chunks", "shards") if key in encoding[str(name)]}
        else:
            entry["digest"] = tokenize(np.asarray(variable.values).tolist())
        described[f"variable {name}"] = entry
    return described
