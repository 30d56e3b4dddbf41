"""The journal of a growing store: which of its blocks are finished.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import os
import socket
import zlib
from typing import Protocol

from xland.storing.storage import Files, LocalFiles

FOLDER = "journal"
"""Name of the journal in the working folder."""

_LINE = 64


class Journal(Protocol):
    """Names of the blocks that are finished."""

    def note(self, key: str, run: str) -> None:
        """Note that a block is finished; a crash leaves the note whole or without effect."""

    def finished(self) -> set[str]:
        """Names of all blocks that were noted."""


class LineJournal:
    """A line for each block, in one file for each process that writes."""

    def __init__(self, files: LocalFiles) -> None:
        self._folder = files.path(FOLDER)

    def note(self, key: str, run: str) -> None:
        """Append one line to this process's file, in a single write."""
        line = f"{zlib.crc32(key.encode()):08x} {key}".ljust(_LINE - 1) + "\n"
        self._folder.mkdir(exist_ok=True)
        file = self._folder / f"{run}-{socket.gethostname()}-{os.getpid()}"
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def finished(self) -> set[str]:
        """Names of all blocks that were noted; lines that a crash cut off do not count."""
        found = set()
        for file in sorted(self._folder.glob("*")):
            for line in file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                digest, _, key = line.rstrip().partition(" ")
                if digest == f"{zlib.crc32(key.encode()):08x}":
                    found.add(key)
        return found


class ObjectJournal:
    """An object for each block, where nothing can be appended."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def note(self, key: str, run: str) -> None:
        """Put an object that is named as the block."""
        self._files.put(f"{FOLDER}/{key}", run.encode())

    def finished(self) -> set[str]:
        """Names of all blocks that were noted."""
        return set(self._files.names(FOLDER))


def journal_of(files: Files) -> Journal:
    """Return the journal of a working folder."""
    return LineJournal(files) if isinstance(files, LocalFiles) else ObjectJournal(files)
