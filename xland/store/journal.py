"""What a store that is not finished says about itself: its manifest, and the journal of its finished blocks."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import socket
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import xarray as xr
from dask.base import tokenize

from xland.errors import StoreError
from xland.store.checksums import altered, sha256
from xland.store.storage import Files, LocalFiles

FOLDER = "journal"
"""Name of the journal in the working folder."""

_READERS = 16

Notes = dict[str, list[dict[str, str]]]
"""By the name of each block: the SHA-256 of its files by their names, once for each time it was written."""


class Journal(Protocol):
    """Notes of the blocks that are finished."""

    def note(self, key: str, run: str, digests: Mapping[str, str]) -> None:
        """Note that a block is finished; a crash leaves the note whole or without effect."""

    def finished(self) -> set[str]:
        """Names of all blocks that were noted."""

    def notes(self) -> Notes:
        """Return what was noted of each block."""


class LineJournal:
    """A line for each block, in one file for each process that writes."""

    def __init__(self, files: LocalFiles) -> None:
        self._folder = files.path(FOLDER)

    def note(self, key: str, run: str, digests: Mapping[str, str]) -> None:
        """Append one line to this process's file, in a single write."""
        line = f"{_line([key, dict(digests)])}\n".encode()
        self._folder.mkdir(exist_ok=True)
        file = self._folder / f"{run}-{socket.gethostname()}-{os.getpid()}"
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        finally:
            os.close(handle)

    def finished(self) -> set[str]:
        """Names of all blocks that were noted."""
        return set(self.notes())

    def notes(self) -> Notes:
        """Return what was noted of each block; lines that are damaged or that a crash cut off do not count."""
        found: Notes = {}
        for line in self._lines():
            _add(found, line)
        return found

    def _lines(self) -> Iterator[str]:
        for file in sorted(self._folder.glob("*")):
            if file.is_file():
                yield from file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


class ObjectJournal:
    """An object for each block, where nothing can be appended."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def note(self, key: str, run: str, digests: Mapping[str, str]) -> None:  # noqa: ARG002
        """Put an object that is named as the block."""
        self._files.put(f"{FOLDER}/{key}", _line([key, dict(digests)]).encode())

    def finished(self) -> set[str]:
        """Names of all blocks that were noted."""
        return set(self._files.names(FOLDER))

    def notes(self) -> Notes:
        """Return what was noted of each block; notes that are damaged do not count."""
        found: Notes = {}
        with ThreadPoolExecutor(_READERS) as pool:
            for content in pool.map(self._read, self._files.names(FOLDER)):
                _add(found, content.decode(errors="replace"))
        return found

    def _read(self, key: str) -> bytes:
        try:
            return self._files.read(f"{FOLDER}/{key}")
        except FileNotFoundError:
            return b""


def journal_of(files: Files) -> Journal:
    """Return the journal of a working folder."""
    return LineJournal(files) if isinstance(files, LocalFiles) else ObjectJournal(files)


def find_whole(notes: Notes, data: Files) -> dict[str, dict[str, str]]:
    """Find the blocks whose files are as they were written, by reading them.

    Parameters
    ----------
    notes : dict
        Of the journal.
    data : Files
        The growing store.

    Returns
    -------
    dict
        Of each of these blocks, the digests of its files.
    """

    def whole(written: list[dict[str, str]]) -> dict[str, str] | None:
        # a block that was written twice, as where a worker was lost, may have other bytes the second time
        return next((each for each in reversed(written) if not altered(data, each)), None)

    with ThreadPoolExecutor(_READERS) as pool:
        found = zip(notes, pool.map(whole, notes.values()), strict=True)
        return {key: digests for key, digests in found if digests is not None}


def collect(notes: Notes, data: Files) -> dict[str, dict[str, str]]:
    """Digests of the files of each block, which are taken as they were noted if they were noted once."""
    several = {key: written for key, written in notes.items() if len(written) > 1}
    return {**{key: written[0] for key, written in notes.items() if key not in several}, **find_whole(several, data)}


def _line(content: Any) -> str:
    text = json.dumps(content)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def _add(found: Notes, line: str) -> None:
    """Add what a line says, if it is whole."""
    checksum, _, text = line.partition(" ")
    if checksum != f"{zlib.crc32(text.encode()):08x}":
        return
    key, digests = json.loads(text)
    written = found.setdefault(key, [])
    if digests not in written:
        written.append(digests)


COMPLETE = "xland_complete"
"""Attribute of the root group: 0 while a store is being written, 1 once it is whole (NetCDF has no booleans)."""

FINGERPRINT = "xland_store_fingerprint"
"""Attribute of the root group: digest of what was written, compared on resuming."""

MANIFEST = "manifest.json"
"""Name of the manifest in the working folder."""

FORMAT = 2
"""Number of the layout of working folders that this release writes and goes on with."""

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
                f"{where} was begun by another release of xland: finish it with that, or begin anew with overwrite=True"
            )
        text = read["manifest"]
        manifest: dict[str, Any] = json.loads(text)
        whole = (
            read["sha256"] == sha256(text.encode())
            and manifest["format"] == FORMAT
            and _DATA.fullmatch(manifest["data"])
            and _FINGERPRINT.fullmatch(manifest["fingerprint"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        whole = False
    if not whole:
        raise StoreError(f"{where} is damaged; begin anew with overwrite=True")
    return manifest


def count_blocks(manifest: Mapping[str, Any]) -> int:
    """Count the blocks that a store is made of."""
    return sum(math.prod(len(blocks) for blocks in group) for group in manifest["groups"].values())


def check_same(asked: dict[str, Any], begun: dict[str, Any], target: str) -> None:
    """Refuse to go on with a store that was begun as other work; the error says what differs."""
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
        "Resume with what it was begun with, or begin anew with overwrite=True"
    )


def describe_work(ds: xr.Dataset, encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what is being written, without computing it: two equal descriptions are the same work.

    Parameters
    ----------
    ds : Dataset
        Aligned by :func:`xland.store.blocks.align`.
    encoding : mapping
        Zarr encoding of its lazy variables.

    Returns
    -------
    dict
        JSON-ready: attributes, the coordinates' digests, and for each variable its dimensions,
        shape, type, blocks, chunks, attributes and the name of its dask array.
    """
    described: dict[str, Any] = {"attributes": _plain({k: v for k, v in ds.attrs.items() if k not in VOLATILE})}
    for name, variable in ds.variables.items():
        entry: dict[str, Any] = {
            "dims": list(variable.dims),
            "shape": list(variable.shape),
            "dtype": str(variable.dtype),
            "attributes": _plain(variable.attrs),
        }
        if str(name) in encoding:
            entry[_VALUES] = str(variable.data.name)  # which dask derives from what they are computed from
            entry["blocks"] = _plain(ds[name].chunks)
            entry["chunks"] = list(encoding[str(name)]["chunks"])
            if "shards" in encoding[str(name)]:
                entry["shards"] = list(encoding[str(name)]["shards"])
        else:
            entry["digest"] = tokenize(np.asarray(variable.values).tolist())
        described[f"variable {name}"] = entry
    return described


def _plain(value: Any) -> Any:
    """Turn attributes into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
