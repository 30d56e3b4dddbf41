"""Where a store grows, who may write it, which blocks are finished, and how it gets its own name.

Beside a store that is not finished is a working folder with a lock, a manifest (what is being written) and a journal
(which blocks are finished); on this machine or behind a URL.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
import socket
import stat
import threading
import time
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xland.errors import StoreError, StoreWarning
from xland.paths import address_of, without_password
from xland.store.storage import (
    ATTRIBUTE,
    COMPLETE,
    FINGERPRINT,
    MOST_BYTES,
    ROOT,
)
from xland.untrusted.folders import READERS, Files, LocalFiles, RemoteFiles, digests_in, files_at, sha256

LOCK, JOURNAL, MANIFEST = "lock", "journal", "manifest.json"
"""Names in the working folder."""

FORMAT = 2
"""Number of the layout of working folders that this release writes and resumes."""

BEAT_SECONDS = 20.0
"""Time after which the lock behind a URL is renewed."""

STALE_SECONDS = 120.0
"""Age at which a lock behind a URL counts as left by a dead process."""

_OURS = re.compile(
    r"lock|journal|replaced|replacing|manifest\.json|(data|active|maps)-.*|\.(manifest\.json|active-.*)\..*|\.nfs.*|\.DS_Store"
)
"""Names of what is in a working folder."""

_REPLACING = "replacing"
_ROOTS = (ROOT, ".zgroup", ".zattrs")
_DATA = re.compile(r"data-[0-9a-f]{32}\.zarr")
_FINGERPRINT = re.compile(r"[0-9a-f]{8,128}")

Notes = dict[str, list[dict[str, str]]]
"""By the name of each block: the SHA-256 of its files by their names, once for each time it was written."""


class Workplace:
    """A store that is being written: its address, what is there, and the working folder beside it.

    On this machine a store grows in the working folder ``NAME.partial`` and is renamed when it is whole. Behind a URL
    nothing can be renamed: it grows in its place, marked as incomplete, and ``URL.partial`` has what goes with it.
    """

    def __init__(self, target: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> None:
        self.target = address_of(target)
        self.store = files_at(self.target, options)
        self.files = files_at(f"{self.target}.partial", options)

    def has_old(self) -> bool:
        """Whether anything, such as a broken link, is at the address that a former run had not begun to delete."""
        if isinstance(self.store, LocalFiles):
            return os.path.lexists(self.target)
        return self.store.exists() and not self.files.is_file(_REPLACING)

    def data(self, manifest: dict[str, Any]) -> str:
        """Address of the Zarr store that grows."""
        return self.target if isinstance(self.files, RemoteFiles) else f"{self.files.address}/{manifest['data']}"

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of an unfinished store, or None if there is nothing to resume."""
        try:
            content = self.files.read(MANIFEST, most=MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            content = b""
        manifest = parse_manifest(content, f"{self.files.address}/{MANIFEST}")
        if isinstance(self.files, LocalFiles):
            return manifest if Path(self.data(manifest)).is_dir() else None
        try:
            attributes = json.loads(self.store.read(ROOT))["attributes"]
            is_ours = attributes[FINGERPRINT] == manifest["fingerprint"] and not attributes[COMPLETE]
        except StoreError:
            raise
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            is_ours = True  # what was lost or damaged since is written again
        return manifest if is_ours else None

    def refuse(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse to write where there is a store, unless that is asked for, or anything that is not a store.

        What other programs put into the working folder is never deleted.
        """
        folder = self.files.address
        if isinstance(self.files, RemoteFiles):
            if "::" in self.target:
                shown = without_password(self.target)
                raise StoreError(f"{shown} is a chained address, which can only be read: give the URL of the store")
            self.store.names()  # or say that it cannot be reached
            if self.files.is_file():
                raise StoreError(f"{folder} exists, but the store is written to a folder of this name; move it away")
        _refuse_planted(self.files)
        strangers = [name for name in self.files.names() if not _OURS.fullmatch(name)]
        if strangers:
            raise StoreError(
                f"{folder}, to which the store is written, has other files: {', '.join(strangers[:3])}; move them away"
            )
        if overwrite or resume:
            self._refuse_foreign()
        elif self.manifest() is not None:
            raise StoreError(
                f"an unfinished store of {self.target} is in {folder}; finish it with resume=True or start again with "
                "overwrite=True"
            )
        elif self.has_old():
            raise StoreError(f"{self.target} exists; pass overwrite=True to replace it")

    def _refuse_foreign(self) -> None:
        """Refuse to replace, and so to delete, what is not a Zarr store."""
        if self.store.is_file():
            raise StoreError(f"{self.target} is a file, not a Zarr store, and is left alone; choose another path")
        if self.has_old() and self.store.names() and not any(map(self.store.is_file, _ROOTS)):
            raise StoreError(
                f"{self.target} is a folder without a Zarr store, and is left alone; choose another path, "
                f"such as {self.target}/land_use.zarr"
            )

    @contextmanager
    def exclusive(self) -> Iterator[str]:
        """Keep other processes from writing; yield the identity of this write.

        On this machine a killed process releases the lock by itself. The working folder is made if it is missing, and
        removed at the end if nothing else is left in it. StoreError if another process has the lock.
        """
        if isinstance(self.files, RemoteFiles):
            with _lock_objects(self.files, self.target) as run:
                yield run
            return
        folder = Path(self.files.address)
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_planted(self.files)
            try:
                handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                continue
            with os.fdopen(handle, "r+") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = stream.read() or "unknown"
                    raise StoreError(f"another process is writing {self.target}: {holder}") from None
                # the writer before us may have finished and removed the folder between our two steps
                if not (folder / LOCK).exists() or (folder / LOCK).stat().st_ino != os.fstat(handle).st_ino:
                    continue
                stream.truncate()
                stream.write(f"process {os.getpid()} on {socket.gethostname()}")
                stream.flush()
                try:
                    yield uuid.uuid4().hex
                finally:
                    if self.files.names() == [LOCK]:
                        shutil.rmtree(folder)
                return

    def clear(self) -> None:
        """Empty the working folder; put back a store that a former run had moved aside."""
        replaced = Path(self.files.address, "replaced")
        if isinstance(self.files, LocalFiles) and replaced.exists() and not self.has_old():
            replaced.rename(self.target)
        for name in self.files.names():
            # behind a URL a store that was being removed is removed further
            if name not in (LOCK, _REPLACING):
                self.files.remove(name)

    def begin(self, manifest: dict[str, Any], skeleton: Mapping[str, bytes]) -> None:
        """Lay out an empty store, from which on there is something to resume.

        On this machine an old store stays until the new one is whole; behind a URL it is deleted now.
        """
        if isinstance(self.files, RemoteFiles):
            self.files.put(_REPLACING, b"")  # a later run goes on if this one is killed meanwhile
            self.store.remove()
        _lay(files_at(self.data(manifest)), skeleton)
        self.files.put(MANIFEST, write_manifest(manifest))

    def take_stock(self, manifest: dict[str, Any], skeleton: Mapping[str, bytes]) -> set[str]:
        """Return the names of the blocks that are finished and whole, and bring the growing store into order.

        Every finished block is read. Files of other blocks are removed, and damaged files of the skeleton are put back.
        """
        data, noted = files_at(self.data(manifest)), notes(self.files)
        whole = find_whole(noted, data)
        if len(whole) < len(noted):
            warnings.warn(
                f"{len(noted) - len(whole)} of {len(noted)} finished blocks in {self.files.address} were lost or "
                "damaged since, and are written again: check the disk",
                StoreWarning,
                stacklevel=4,
            )
        # a shard is read before a part of it is written, which would fail on what is damaged
        for name in set(data.walk()) - {name for each in whole.values() for name in each} - skeleton.keys():
            data.remove(name)
        _lay(data, skeleton)
        return set(whole)

    def publish(
        self, manifest: dict[str, Any], skeleton: Mapping[str, bytes], attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Mark the finished store as complete, with these attributes beside its own, and give it its name.

        A store that it replaces goes, and the working folder with it.
        """
        noted, expected, data = notes(self.files), count_blocks(manifest), files_at(self.data(manifest))
        several = {key: each for key, each in noted.items() if len(each) > 1}
        written = {key: each[0] for key, each in noted.items() if key not in several}
        if several:
            written |= find_whole(several, data)
        if len(written) != expected:
            raise StoreError(
                f"{len(written)} of {expected} blocks of {self.target} were written; write again with resume=True"
            )
        digests = {name: sha256(content) for name, content in skeleton.items() if name != ROOT}
        for each in written.values():
            digests |= each
        root = json.loads(skeleton[ROOT])
        root["attributes"] |= attributes or {}
        if isinstance(self.files, RemoteFiles):
            # otherwise a run that is killed now leaves a complete store that counts as one to be deleted
            self.files.remove(_REPLACING)
            seal(data, digests, root)
            self.clear()
            return
        seal(data, digests, root)
        if self.has_old():
            if not manifest["replaces"]:
                raise StoreError(
                    f"{self.target} appeared while its store was written in {self.files.address}; move one of them away"
                )
            self._refuse_foreign()
            Path(self.target).rename(Path(self.files.address, "replaced"))
        Path(data.address).rename(self.target)
        shutil.rmtree(self.files.address, ignore_errors=True)


def _refuse_planted(files: Files) -> None:
    """Refuse a working folder that another user may have made, or put a link into, to make us write elsewhere.

    It has to belong to this user, or to the owner of the folder around it; it may not contain links.
    """
    if not isinstance(files, LocalFiles):
        return
    folder = Path(files.address)
    try:
        found, around = folder.lstat(), folder.parent.stat()
        with os.scandir(folder) as entries:
            links = [entry.name for entry in entries if entry.is_symlink()]
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{folder} exists, but the store is written to a folder of this name; move it away")
    if found.st_uid not in (os.geteuid(), around.st_uid):
        raise StoreError(
            f"{folder}, to which the store is written, belongs to the user {found.st_uid}; have it removed, or choose "
            "another path"
        )
    if links:
        raise StoreError(
            f"{folder} contains links ({', '.join(links[:3])}), which xland never creates; remove the folder"
        )


def _lay(files: Files, skeleton: Mapping[str, bytes]) -> None:
    """Write the files of a skeleton that are missing or differ, the root metadata last."""
    for name, content in sorted(skeleton.items(), key=lambda item: item[0] == ROOT):
        try:
            if files.read(name) == content:
                continue
        except FileNotFoundError:
            pass
        except OSError:
            files.remove(name)
        files.put(name, content, hidden=True)


def seal(files: Files, digests: Mapping[str, str], root: dict[str, Any]) -> None:
    """Put the table into a store that is all written, and then, in one step, mark it as complete.

    ``digests`` are the SHA-256 of each of its files but the root metadata ``root``, which name the table.
    """
    there = set(files.walk())
    lost = sorted(digests.keys() - there)
    if lost:
        raise StoreError(
            f"{len(lost)} files that were written are gone from {files.address}, such as {lost[0]}; "
            "write again with resume=True"
        )
    # what writers that were killed had not finished, and what is not of this store
    for name in there - digests.keys() - {ROOT}:
        files.remove(name)
    root["attributes"][COMPLETE] = 1
    content = json.dumps(root).encode()
    lines = [f"{digest}  {name}\n" for name, digest in sorted({**digests, ROOT: sha256(content)}.items())]
    table = "".join(lines).encode()  # as sha256sum writes it
    if len(table) > MOST_BYTES:
        raise StoreError(f"{files.address} has too many files ({len(digests)}): write it with shards=True")
    files.put(root["attributes"][ATTRIBUTE], table)
    files.put(ROOT, content)


def note(files: Files, key: str, run: str, digests: Mapping[str, str]) -> None:
    """Note in a working folder that a block is finished; a crash leaves the note whole or without effect.

    On this machine that is a line in the file of this process and run; behind a URL an object for each block.
    """
    text = json.dumps([key, dict(digests)])
    line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
    if isinstance(files, RemoteFiles):
        files.put(f"{JOURNAL}/{key}", line)
        return
    file = Path(files.address, JOURNAL) / f"{run}-{socket.gethostname()}-{os.getpid()}"
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
            return files.read(f"{JOURNAL}/{name}").decode(errors="replace").split("\n")
        except (FileNotFoundError, IsADirectoryError):
            return []

    found: Notes = {}
    with ThreadPoolExecutor(READERS) as pool:
        lines = [line for each in pool.map(read, files.names(JOURNAL)) for line in each]
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
    found = digests_in(data, {name for written in noted.values() for each in written for name in each})
    whole = {}
    for key, written in noted.items():
        # a block that was written twice, as where a worker was lost, may have other bytes the second time
        for each in reversed(written):
            if all(found[name] == digest for name, digest in each.items()):
                whole[key] = each
                break
    return whole


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


@contextmanager
def _lock_objects(files: RemoteFiles, target: str) -> Iterator[str]:
    """Lock a working folder behind a URL with an object that is renewed as long as the process lives.

    If another process takes the lock over, blocks of this run that have not started stop.
    """
    run, host, process = uuid.uuid4().hex, socket.gethostname(), os.getpid()

    def state() -> bytes:
        return json.dumps({"host": host, "process": process, "run": run, "renewed": time.time()}).encode()

    if not files.create(LOCK, state()):
        holder = _holder(files)
        age = time.time() - float(holder.get("renewed", 0))
        if age < STALE_SECONDS and not _is_dead(holder):
            raise StoreError(
                f"another process is writing {target}: {_named(holder)}, which last renewed its lock {max(0, age):.0f} "
                f"s ago; if it is dead, try again after {STALE_SECONDS:.0f} s, or delete {files.address}/{LOCK}"
            )
        files.put(LOCK, state())
    # if two came at the same moment, the object says who was last
    holder = _holder(files)
    if holder.get("run") != run:
        raise StoreError(f"another process is writing {target}: {_named(holder)}")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            try:
                if _holder(files).get("run") != run:
                    files.remove(f"active-{run}")
                    return
                files.put(LOCK, state())
            except (OSError, StoreError):  # the network may come back before the lock is stale
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield run
    finally:
        ended.set()
        thread.join()
        if _holder(files).get("run") == run:
            files.remove(LOCK)
            if not files.names():
                files.remove()


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process', 'unknown')} on {holder.get('host', 'unknown')}"


def _holder(files: Files) -> dict[str, Any]:
    try:
        state = json.loads(files.read(LOCK))
    except StoreError:
        raise
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) and isinstance(state.get("renewed"), int | float) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    try:
        if holder.get("host") == socket.gethostname():
            os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError, OverflowError):
        pass
    return False
