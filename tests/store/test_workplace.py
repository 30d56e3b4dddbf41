from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage._local import _atomic_write

import tests.store.elsewhere  # noqa: F401
from tests.killing import kill_this_process, run_until_killed
from tests.store.test_writing import Fuse, StopError, digest, maps, on_threads, put
from tests.waiting import wait_until
from xland.errors import StoreError
from xland.store import workplace
from xland.store.reading import is_complete, open_store
from xland.store.workplace import STALE_SECONDS, Workplace
from xland.store.writing import write, write_netcdf
from xland.untrusted.folders import RemoteFiles, files_at


@pytest.fixture
def url():
    return f"memory://{uuid.uuid4().hex}/a.zarr"


@pytest.fixture(params=["folder", "url"])
def target(request, url, tmp_path):
    return tmp_path / "a.zarr" if request.param == "folder" else url


def content(url: str) -> dict[str, bytes]:
    fs, root = fsspec.url_to_fs(url)
    return {path.removeprefix(root): fs.cat_file(path) for path in fs.find(root)}


def working(target: str) -> list[str]:
    return files_at(f"{target}.partial").names()


def test_a_store_reads_back_as_it_was_written(target, tmp_path):
    assert put(maps(), target) == target
    assert is_complete(target)
    xr.testing.assert_identical(open_store(target).load(), maps().compute())
    assert working(str(target)) == []
    assert np.array_equal(open_store(target, chunks=None).land_use[1, 2:4], maps().land_use[1, 2:4])
    assert put(maps(), f"file://{tmp_path}/b.zarr") == tmp_path / "b.zarr"
    assert is_complete(f"file://{tmp_path}/b.zarr")


@given(
    years=st.integers(1, 2), rows=st.integers(1, 7), block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kills=st.lists(st.integers(0, 8), min_size=1, max_size=2), torn=st.integers(0, 70), threads=st.booleans(),
    local=st.booleans(),
)  # fmt: skip
@settings(max_examples=5, deadline=None)
def test_a_broken_off_writer_resumes_to_the_identical_store(
    tmp_path_factory, years, rows, block, kills, torn, threads, local
):
    folder = str(tmp_path_factory.mktemp("broken")) if local else f"memory://{uuid.uuid4().hex}"
    shape = {"years": years, "rows": rows, "block": block}
    put(maps(**shape), f"{folder}/undisturbed.zarr")
    target = f"{folder}/a.zarr"
    total, lost, count = 0, 0, years * -(-rows // block[0]) * -(-8 // block[1])
    for kill in [*kills, None]:
        fuse = Fuse(after=kill)
        try:
            with on_threads(2 if threads else 0):
                write(maps(**shape, fuse=fuse), target, resume=True, progress=False)
        except (StopError, StoreError):
            assert not is_complete(target)
            with pytest.raises(StoreError, match=rf"\d+ of {count} blocks are written.*resume=True"):
                open_store(target)
            for journal in Path(f"{target}.partial", "journal").glob("*"):
                # a line that a crash cut off does not count, and its block is written again
                line = journal.read_bytes()
                journal.write_bytes(line[: max(0, len(line) - torn)])
                lost += min(line.count(b"\n"), -(-torn // 64))
        total += fuse.count
    assert content(target) == content(f"{folder}/undisturbed.zarr")
    assert working(target) == []
    assert threads or count <= total <= count + lost


def test_an_existing_store_is_refused_or_replaced_as_asked(target):
    put(maps(), target)
    for how in ({}, {"mode": "w-"}):
        with pytest.raises(StoreError, match="exists; pass overwrite=True"):
            put(maps(), target, **how)
    for how in ({"resume": True, "overwrite": True}, {"resume": True, "mode": "w"}):
        with pytest.raises(StoreError, match="choose one"):
            put(maps(), target, **how)
    put(maps(fuse=Fuse(after=0)).assign_attrs(history="made tomorrow"), target, mode="a")
    assert working(str(target)) == []
    with pytest.raises(StoreError, match="complete and has other content"):
        put(maps(years=3), target, resume=True)
    xr.testing.assert_identical(open_store(target).load(), maps().compute())
    put(maps(years=3), target, mode="w")
    xr.testing.assert_identical(open_store(target).load(), maps(years=3).compute())


def test_an_unfinished_store_is_refused_unless_asked_to_resume(target):
    with pytest.raises(StopError):
        put(maps(fuse=Fuse(after=1)), target)
    with pytest.raises(StoreError, match="finish it with resume=True"):
        put(maps(), target)
    with pytest.raises(StoreError, match=r"different: variable land_use \(dtype|different: variable land_use \(chunks"):
        put(maps().astype("int16"), target, resume=True)
    assert open_store(put(maps(years=1), target, overwrite=True)).sizes["time"] == 1


def test_what_is_not_a_store_behind_a_url_is_left_alone(url):
    fs, root = fsspec.url_to_fs(url)
    fs.pipe_file(f"{root}/notes.txt", b"dear")
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StoreError):
            put(maps(), url, **how)
    assert content(url) == {"/notes.txt": b"dear"}
    fs.pipe_file(f"{root}.partial/notes.txt", b"dear")
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StoreError, match=r"has other files: notes\.txt"):
            put(maps(), url, **how)
    with pytest.raises(StoreError, match="there is no store"):
        open_store(f"{url}-none")
    with pytest.raises(StoreError, match="is not a Zarr store"):
        open_store(url)
    with pytest.raises(StoreError, match="has to be on this machine"):
        write_netcdf(maps(), f"{url}.nc")


def test_a_run_killed_while_it_deletes_the_old_store_leaves_a_place_to_begin_anew(url, monkeypatch):
    put(maps(), url)
    remove = RemoteFiles.remove

    def half(self, name=""):
        if self.address == url and not name:
            remove(self, "zarr.json")
            raise StopError
        remove(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFiles, "remove", half)
        with pytest.raises(StopError):
            put(maps(years=3), url, overwrite=True)
    assert not is_complete(url)
    xr.testing.assert_identical(open_store(put(maps(years=3), url, resume=True)).load(), maps(years=3).compute())
    assert working(url) == []


def test_a_run_killed_when_its_store_is_complete_has_nothing_left_to_do(url, monkeypatch):
    clear = Workplace.clear

    def stop(self):
        if is_complete(url):
            raise StopError
        clear(self)

    with monkeypatch.context() as patch:
        patch.setattr(Workplace, "clear", stop)
        with pytest.raises(StopError):
            put(maps(), url)
    assert is_complete(url)
    put(maps(fuse=Fuse(after=0)), url, resume=True)
    assert working(url) == []
    xr.testing.assert_identical(open_store(url).load(), maps().compute())


class Bomb(Fuse):
    """Kills the process at a block."""

    def __call__(self, block):
        if self.count == self.after:
            kill_this_process()
        self.count += 1
        return block


def write_and_die(target: str) -> None:
    put(maps(fuse=Bomb(after=5)), target)


@pytest.mark.parametrize("scheme", ["", "elsewhere://"])
def test_a_process_killed_while_it_writes_leaves_what_resumes(tmp_path, scheme):
    target = f"{scheme}{tmp_path}/a.zarr"
    run_until_killed(
        """
        from tests.store.test_workplace import write_and_die
        write_and_die(sys.argv[1])
        """,
        target,
    )
    with pytest.raises(StoreError, match="5 of 8 blocks"):
        open_store(target)
    fuse = Fuse()
    put(maps(fuse=fuse), target, resume=True)
    assert fuse.count == 3
    xr.testing.assert_identical(open_store(target).load(), maps().compute())
    assert [each.name for each in tmp_path.iterdir()] == ["a.zarr"]


class Killed(BaseException):
    """Zarr tidies up after errors, not after this, as it cannot when it is killed."""


def test_what_a_crash_left_half_written_is_not_taken_for_that_of_others(tmp_path):
    partial = tmp_path / "a.zarr.partial"
    partial.mkdir()
    for name in (".manifest.json.0a", ".active-12.0a", "active-12", "maps-34", "data-56.zarr"):
        (partial / name).touch()
    assert is_complete(put(maps(), tmp_path / "a.zarr"))
    assert not partial.exists()


def test_a_chunk_that_was_torn_when_its_writer_was_killed_does_not_stay(tmp_path):
    with pytest.raises(StopError):
        put(maps(fuse=Fuse(after=3)), tmp_path / "a.zarr")
    (data,) = (tmp_path / "a.zarr.partial").glob("data-*")
    written = next(path for path in data.rglob("land_use/c/*/*/*"))
    with pytest.raises(Killed), _atomic_write(written, "wb"):
        raise Killed
    assert list(data.rglob("*.partial"))
    put(maps(), tmp_path / "a.zarr", resume=True)
    assert digest(tmp_path / "a.zarr") == digest(put(maps(), tmp_path / "undisturbed.zarr"))


def test_two_writers_behind_one_url_are_refused_also_where_the_lock_cannot_be_read(url, monkeypatch):
    def failing(self, path, **options):
        raise TimeoutError("no answer")

    with Workplace(url).exclusive():
        with pytest.raises(StoreError, match=rf"another process is writing.*process {os.getpid()} on .*try again"):
            put(maps(), url)
        assert working(url) == ["lock"]
        with monkeypatch.context() as patch:
            patch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", failing)
            with pytest.raises(StoreError, match="lock cannot be read: TimeoutError: no answer"):
                Workplace(url).exclusive().__enter__()
    assert is_complete(put(maps(), url))


@pytest.mark.parametrize("left", [{"renewed": STALE_SECONDS + 1}, {"dead": True}, {"damaged": True}])
def test_the_lock_of_a_dead_run_is_taken_over(url, left):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    state = {
        "host": os.uname().nodename if "dead" in left else "elsewhere",
        "process": ended.pid,
        "run": "gone",
        "renewed": time.time() - left.get("renewed", 0),
    }
    RemoteFiles(f"{url}.partial").put("lock", b"{" if "damaged" in left else json.dumps(state).encode())
    assert is_complete(put(maps(), url))
    assert working(url) == []


def test_the_lock_is_renewed_as_long_as_the_run_lives(url, monkeypatch):
    monkeypatch.setattr(workplace, "BEAT_SECONDS", 0.05)
    files = RemoteFiles(f"{url}.partial")
    with Workplace(url).exclusive():
        first = json.loads(files.read("lock"))["renewed"]
        wait_until(lambda: json.loads(files.read("lock"))["renewed"] > first)
    assert files.names() == []


def test_a_run_that_lost_its_lock_writes_no_further_block(url, monkeypatch):
    monkeypatch.setattr(workplace, "BEAT_SECONDS", 0.05)
    files = RemoteFiles(f"{url}.partial")

    def noticed() -> bool:
        """Take the lock over, again where it was renewed at that very moment."""
        files.put("lock", json.dumps({"host": "b", "process": 1, "run": "other", "renewed": 0}).encode())
        return not any(name.startswith("active-") for name in files.names())

    class Robbed(Fuse):
        def __call__(self, block):
            if self.count == 3:
                wait_until(noticed)
            return super().__call__(block)

    with pytest.raises(StoreError, match=r"the run that writes to .* was stopped"):
        put(maps(fuse=Robbed()), url)
    assert len(files.names("journal")) == 3
    assert json.loads(files.read("lock"))["run"] == "other"


class Faulty(Fuse):
    """Every block after some fails with an error of the operating system."""

    def __call__(self, block):
        if self.count >= self.after:
            raise self.error
        return super().__call__(block)


def test_a_disk_full_at_once_or_in_the_middle_is_named_with_what_is_safe(target):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    at_once = mock.patch.object(type(files_at(str(target))), "put", side_effect=full)
    with at_once, pytest.raises(StoreError, match=r"disk of .*a\.zarr is full: free space"):
        put(maps(), target)
    with pytest.raises(StoreError, match=r"disk of .*a\.zarr is full: free space.*3 of 8 blocks are safe.*resume"):
        put(maps(fuse=Faulty(3, full)), target)
    fuse = Fuse()
    put(maps(fuse=fuse), target, resume=True)
    assert fuse.count == 5


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_a_target_that_may_only_be_read_is_named(tmp_path, monkeypatch, error):
    locked = OSError(error, os.strerror(error), f"{tmp_path}/a.zarr.partial/data/c/0")
    with pytest.raises(StoreError, match=r"cannot be written .*3 of 8 blocks are safe"):
        put(maps(fuse=Faulty(3, locked)), tmp_path / "a.zarr")
    put(maps(), tmp_path / "a.zarr", resume=True)

    def refuse(self, *arguments, **options):
        raise OSError(error, os.strerror(error), str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for attempt in (lambda: put(maps(), tmp_path / "b.zarr"), lambda: write_netcdf(maps(), tmp_path / "a.nc")):
        with pytest.raises(StoreError, match=rf"{tmp_path}/(b\.zarr|a\.nc) cannot be written .*choose another place"):
            attempt()


def test_input_that_may_not_be_read_is_not_said_to_be_the_target(tmp_path):
    unread = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/states.nc")
    with pytest.raises(PermissionError, match=r"states\.nc"):
        put(maps(fuse=Faulty(0, unread)), tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("simplecache::memory://a.zarr", "is a chained address, which can only be read"),
        ("reference://a.zarr", "cannot be reached"),
        ("http://127.0.0.1:9/a.zarr", "cannot be read: .*check the address, the network"),
    ],
)
def test_urls_to_which_nothing_can_be_written_are_named(address, said):
    with pytest.raises(StoreError, match=said):
        put(maps(), address)
    assert not is_complete(address)
