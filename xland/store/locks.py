"""One writer to a store: a file lock on this machine, an object that is renewed behind a URL.

Below :mod:`xland.store.writing`; nothing here is called by users.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from xland.errors import StoreError
from xland.store.storage import Files, LocalFiles, RemoteFiles

LOCK = "lock"
"""Name of the lock in the working folder."""

BEAT_SECONDS = 20.0
"""Time after which the lock behind a URL is renewed."""

STALE_SECONDS = 120.0
"""Age at which a lock behind a URL counts as left by a dead process."""


@dataclass(frozen=True)
class Owner:
    """Who writes a store.

    Parameters
    ----------
    host : str
        Name of the machine.
    process : int
        Number of the process.
    run : str
        Identity of this one write.
    """

    host: str
    process: int
    run: str

    @classmethod
    def new(cls) -> Owner:
        """Identify one write of this process."""
        return cls(socket.gethostname(), os.getpid(), uuid.uuid4().hex)


@contextmanager
def lock_folder(files: LocalFiles, target: str) -> Iterator[str]:
    """Hold a working folder for this process; a killed process lets go of it by itself.

    Parameters
    ----------
    files : LocalFiles
        The working folder; made if it is missing, removed at the end if nothing else is left in it.
    target : str
        The store, for messages.

    Yields
    ------
    str
        Identity of this write.

    Raises
    ------
    StoreError
        If another process holds it.
    """
    folder, lock = files.path(), files.path(LOCK)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_planted(files)
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue
        with os.fdopen(handle, "r+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                raise StoreError(f"another process is writing {target}: {stream.read() or 'unknown'}") from None
            # the writer before us may have finished and removed the folder between our two steps
            if not lock.exists() or lock.stat().st_ino != os.fstat(stream.fileno()).st_ino:
                continue
            owner = Owner.new()
            stream.seek(0)
            stream.truncate()
            stream.write(_named(asdict(owner)))
            stream.flush()
            try:
                yield owner.run
            finally:
                if files.names() == [LOCK]:
                    shutil.rmtree(folder)
            return


def refuse_planted(files: Files) -> None:
    """Refuse a working folder that another user may have made, or put a link into, to have us write elsewhere.

    It has to belong to this user, or to whom the folder around it belongs; no entry of it may be a link.

    Raises
    ------
    StoreError
        With the name of what is in the way.
    """
    if not isinstance(files, LocalFiles):
        return
    folder = files.path()
    try:
        found, around = folder.lstat(), folder.parent.stat()
        with os.scandir(folder) as entries:
            links = [entry.name for entry in entries if entry.is_symlink()]
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{folder} is in the way: the store grows in a folder of this name; move it away")
    if found.st_uid not in (os.geteuid(), around.st_uid):
        raise StoreError(
            f"{folder}, in which the store grows, belongs to the user {found.st_uid}; have it removed, or choose "
            "another path"
        )
    if links:
        raise StoreError(f"{folder} holds links ({', '.join(links[:3])}), which no writer of stores makes; remove it")


@contextmanager
def lock_objects(files: RemoteFiles, target: str, lost: Callable[[str], None]) -> Iterator[str]:
    """Hold a working folder behind a URL with an object that is renewed as long as the process lives.

    Parameters
    ----------
    files : RemoteFiles
        The working folder.
    target : str
        The store, for messages.
    lost : callable
        Called with the identity of this write if another one has taken the lock over.

    Yields
    ------
    str
        Identity of this write.

    Raises
    ------
    StoreError
        If another process holds it.
    """
    owner = Owner.new()
    _take(files, owner, target)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            try:
                if _holder(files).get("run") != owner.run:
                    lost(owner.run)
                    return
                files.put(LOCK, _state(owner))
            except (OSError, StoreError):  # the network may come back before the lock is stale
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield owner.run
    finally:
        ended.set()
        thread.join()
        if _holder(files).get("run") == owner.run:
            files.remove(LOCK)
            if not files.names():
                files.remove()


def _take(files: RemoteFiles, owner: Owner, target: str) -> None:
    if not files.create(LOCK, _state(owner)):
        holder = _holder(files)
        age = time.time() - float(holder.get("renewed", 0))
        if age < STALE_SECONDS and not _is_dead(holder):
            raise StoreError(
                f"another process is writing {target}: {_named(holder)}, which last said so {max(0, age):.0f} s ago; "
                f"if it is dead, try again after {STALE_SECONDS:.0f} s, or delete {files.address}/{LOCK}"
            )
        files.put(LOCK, _state(owner))
    # where two came at the same moment, the object says who was last
    holder = _holder(files)
    if holder.get("run") != owner.run:
        raise StoreError(f"another process is writing {target}: {_named(holder)}")


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process', 'unknown')} on {holder.get('host', 'unknown')}"


def _state(owner: Owner) -> bytes:
    return json.dumps({**asdict(owner), "renewed": time.time()}).encode()


def _holder(files: Files) -> dict[str, Any]:
    try:
        content = files.read(LOCK)
    except FileNotFoundError:
        return {}
    try:
        state = json.loads(content)
    except ValueError:
        return {}
    if not isinstance(state, dict) or not isinstance(state.get("renewed"), int | float):
        return {}
    return state


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError, OverflowError):
        return False
    return False
