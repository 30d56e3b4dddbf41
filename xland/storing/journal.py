"""The journal of a growing store: which of its blocks are finished, and the digest of each file of a block.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from xland.storing.checksums import altered
from xland.storing.storage import Files, LocalFiles

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
