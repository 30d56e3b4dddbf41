"""Writing lazy maps to Zarr so that nothing is lost, and to NetCDF.

While it grows, a store is in ``NAME.partial`` beside its final place, together with a manifest
(what is being written) and a journal (which blocks are finished). The last step marks it complete
and renames it, so a store under its own name is always whole and an old one stays until then.
Behind a URL it grows in its place, marked as incomplete until the end.
A *block* is one task's worth of cells: one dask block in time, latitude and longitude; each has
whole Zarr chunks, or is one shard, so no file ever has two writers.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any, Literal

import dask.array as da
import xarray as xr
from dask import config
from dask.base import get_scheduler, tokenize
from dask.callbacks import Callback
from dask.utils import parse_timedelta

from xland.arguments import checked
from xland.dask_internals import HighLevelGraph, narrow
from xland.errors import StoreError, WorkerError
from xland.geo.conventions import for_gis
from xland.paths import check_ending, check_place, explain, is_url, local_path, replacing
from xland.store.blocks import BlockWriter, Group, align, group_variables, write_flags
from xland.store.encoding import check_kinds, check_same, describe_work, drop_encoding, make_skeleton, take_encoding
from xland.store.provenance import for_storage
from xland.store.reading import is_written
from xland.store.rollouts import Key, cut_segments, find_rollouts, restart
from xland.store.storage import FINGERPRINT
from xland.store.workplace import FORMAT, Workplace, notes

Mode = Literal["w-", "w", "a"]
"""As in xarray: ``"w-"`` makes a new store, ``"w"`` replaces one, ``"a"`` resumes one."""


@checked(StoreError)
def write(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    mode: Mode | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    chunks: Mapping[str, int] | None = None,
    shards: bool | None = None,
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path | str:
    """Write a lazy Dataset to a Zarr v3 store, block by block.

    Any dask scheduler computes the blocks. The workers of a cluster need to see the same folder. If a worker is
    lost, finished blocks are kept. ``resume=True`` finishes what a killed or interrupted run began: finished
    blocks are not computed again. After a power failure write the store again: finished blocks may not be on the
    disk yet. Rollouts are written a few years at a time, and go on from the last years on disk.

    Parameters
    ----------
    ds : Dataset
        Variables over ``time``, ``lat``, ``lon`` and others such as ``class``. Attributes and coordinates, among them
        ``xland_fingerprint``, identify the work when a run is resumed. Floats whose encoding has the ``dtype`` uint8, a
        ``scale_factor`` and a ``_FillValue`` are packed into bytes.
    path : path or URL
        Local folder of the store, or an fsspec URL such as ``s3://bucket/maps.zarr``, reached with what fsspec finds in
        the environment and its configuration.
    mode : {"w-", "w", "a"}, optional
        As in xarray: ``"w-"`` (default) refuses a store that exists, ``"w"`` is ``overwrite=True`` and
        ``"a"`` is ``resume=True``.
    overwrite : bool
        Replace a Zarr store that exists. On this machine the old one stays until the new one is whole; behind a URL it
        is deleted first. Files, and folders with anything else in them, are never replaced.
    resume : bool
        Finish an unfinished store; start one if there is none, and do nothing if the same store is complete.
    progress : bool
        Show a progress bar of blocks.
    chunks : mapping of dimension to cells, optional
        Size of the Zarr chunks. By default at most 4 MiB, one time step and one class. A dask block contains a whole
        number of chunks.
    shards : bool, optional
        Put all Zarr chunks of a block into one file (a shard), with chunks of 256 KiB at most by default. By default
        that is done if there would be more than 10,000 chunks of a variable and blocks have several.
    encoding : mapping of variable to mapping, optional
        As in xarray, for the packing of floats (``dtype``, ``scale_factor``, ``add_offset``, ``_FillValue``) and
        ``compressors``.

    Returns
    -------
    Path or str
        The store; its URL if it is not on this machine.

    Raises
    ------
    StoreError
        If the store exists and neither ``resume`` nor ``overwrite`` was asked for, if what is there is not a Zarr store
        or belongs to other work, if another process is writing it, if the disk is full or cannot be written, or if a
        value does not fit into a packed variable.
    WorkerError
        If workers of a cluster died again and again. What was finished is kept.
    """
    place, overwrite, resume = check_store_place(path, mode=mode, overwrite=overwrite, resume=resume)
    check_kinds(ds)
    if not ds.data_vars:
        raise StoreError("the Dataset has no variable to write")
    ds, asked = take_encoding(ds, encoding, ("compressors",)) if encoding else (ds, {})
    try:
        ds, chosen = align(for_storage(drop_encoding(ds)), chunks, shards)
        zarr = {name: {**chosen.get(name, {}), **asked.get(name, {})} for name in {**chosen, **asked}}
        work = describe_work(ds, chosen)
        if asked:
            work["encoding"] = {name: {key: str(value) for key, value in each.items()} for name, each in asked.items()}
        fingerprint, groups = tokenize(work), group_variables(ds)
        empty = {name: ds[name].copy(data=da.zeros_like(ds[name].data, chunks=-1)) for name in chosen}
        skeleton = make_skeleton(ds.assign(empty).assign_attrs({FINGERPRINT: fingerprint}), zarr)
        # a store that is finished is left as it is, also where nothing can be written
        if not (resume and not place.files.exists() and is_written(place, fingerprint)):
            with place.exclusive() as run:
                place.refuse(overwrite=overwrite, resume=resume)
                manifest, finished = place.manifest() if resume else None, set()
                if manifest is not None:
                    check_same(work, manifest["work"], place.target)
                    finished = place.take_stock(manifest, skeleton)
                elif resume and is_written(place, fingerprint):
                    place.clear()
                else:
                    place.clear()
                    manifest = {
                        "format": FORMAT,
                        "data": f"data-{uuid.uuid4().hex}.zarr",
                        "replaces": overwrite,
                        "fingerprint": fingerprint,
                        "work": work,
                        "groups": {name: [list(blocks) for blocks in group.blocks] for name, group in groups.items()},
                    }
                    place.begin(manifest, skeleton)
                if manifest is not None:
                    _write_blocks(ds, groups, place, manifest, finished, run, progress=progress)
                    place.publish(manifest, skeleton)
    except OSError as error:
        if reason := explain(error, place.target):
            raise StoreError(reason) from error
        raise
    return place.target if is_url(place.target) else Path(place.target)


def fingerprint_of(ds: xr.Dataset) -> str:
    """Digest of the work of :func:`write` without options, which a finished store of it has as an attribute."""
    return tokenize(describe_work(*align(for_storage(drop_encoding(ds)), None, None)))


def check_store_place(
    path: Any, *, mode: str | None = None, overwrite: bool = False, resume: bool = False
) -> tuple[Workplace, bool, bool]:
    """Return where a store is written, whether it replaces one, and whether it resumes one; StoreError if it cannot."""
    if (overwrite or resume) and (mode is not None or overwrite == resume):
        raise StoreError("choose one of overwrite (start again), resume (finish what was begun) and mode")
    if mode is not None:
        overwrite, resume = mode == "w", mode == "a"
    check_ending(path, "a Zarr store", ".zarr")
    place = Workplace(path)
    try:
        place.refuse(overwrite=overwrite, resume=resume)
    except OSError as error:
        if reason := explain(error, place.target):
            raise StoreError(reason) from error
        raise
    if not is_url(place.target) and not (resume and place.store.exists()):  # a finished store is left as it is
        check_place(Path(place.target))
    return place, overwrite, resume


def check_netcdf_place(path: Any, *, mode: str = "w-", overwrite: bool = False) -> Path:
    """Return where a NetCDF file is written; StoreError if it cannot be."""
    check_ending(path, "a NetCDF file", ".nc", ".nc4", ".cdf")
    final = local_path(path, what="a NetCDF file")
    if final.is_dir():
        raise StoreError(f"{final} is a folder, and is left alone; choose another path, such as {final / 'maps.nc'}")
    if os.path.lexists(final) and not (overwrite or mode == "w"):
        raise StoreError(f"{final} exists; pass overwrite=True to replace it")
    check_place(final)
    return final


@checked(StoreError)
def write_netcdf(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    mode: Literal["w-", "w"] = "w-",
    overwrite: bool = False,
    progress: bool = True,
    chunks: Mapping[str, int] | None = None,
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Export a Dataset to one compressed CF NetCDF-4 file, block by block.

    Parameters
    ----------
    ds : Dataset
        As returned by ``downscale`` or :func:`xland.store.reading.open_store`.
    path : path
        The file; it appears under its name only when it is whole.
    mode : {"w-", "w"}
        ``"w-"`` refuses a file that exists, ``"w"`` is ``overwrite=True``.
    overwrite : bool
        Replace a file that exists.
    progress : bool
        Show a progress bar.
    chunks : mapping of dimension to cells, optional
        Size of the chunks in the file; by default as in a store.
    encoding : mapping of variable to mapping, optional
        As in xarray, for the packing of floats (``dtype``, ``scale_factor``, ``add_offset``, ``_FillValue``) and
        ``zlib``, ``complevel`` and ``shuffle``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoreError
        If the file exists and ``overwrite`` is not set, if its disk is full or cannot be written, or
        if a value does not fit into a packed variable.
    """
    final = check_netcdf_place(path, mode=mode, overwrite=overwrite)
    check_kinds(ds, netcdf=True)
    ds, asked = take_encoding(ds, encoding, ("zlib", "complevel", "shuffle")) if encoding else (ds, {})
    ds, time = for_gis(for_storage(drop_encoding(ds)))
    ds, chosen = align(ds, chunks)
    for name, variable in ds.variables.items():
        variable.encoding |= {"_FillValue": None} if name in ds.coords else {}
        settings = chosen.get(str(name))
        if settings is None and variable.ndim and variable.dtype.kind in "iufM":
            variable.encoding |= {"fletcher32": True}  # of what is packed below, zlib compares a checksum of its own
        if settings is not None:
            sizes = tuple(min(c, n) for c, n in zip(settings["chunks"], variable.shape, strict=True))
            variable.encoding |= {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": sizes}
            if variable.dtype.kind != "f" and "_FillValue" not in variable.attrs:
                variable.encoding["_FillValue"] = None
            variable.encoding |= asked.get(str(name), {})
    unlimited = [] if time is None else [time]
    with replacing(final) as part:
        try:
            writing = ds.to_netcdf(part, engine="netcdf4", format="NETCDF4", unlimited_dims=unlimited, compute=False)
            compute(writing, progress=progress)
        except RuntimeError as error:  # the NetCDF library says no more than that it failed
            if not str(error).startswith("NetCDF:"):
                raise
            free = shutil.disk_usage(final.parent).free
            raise StoreError(
                f"{final} was not written ({error}): its disk, which has {free / 2**20:.1f} MiB free, is full or "
                "cannot be written; free space there, or choose another place"
            ) from error
    return final


def _active_client() -> Any:
    """Return the Client that computes arrays now; None if there is none."""
    client = getattr(get_scheduler(cls=da.Array), "__self__", None)
    distributed = sys.modules.get("distributed")
    return client if distributed is not None and isinstance(client, distributed.Client) else None


def compute(writing: Any, *, progress: bool) -> None:
    """Compute what is delayed, with the bar that dask has for threads or for a Client, or with lines in a log."""
    from dask.diagnostics import ProgressBar

    from xland.progress import is_watched

    client = _active_client()
    if client is None or not progress:
        shown = ProgressBar() if is_watched() else _logged()
        with shown if progress else nullcontext():
            writing.compute()
        return
    from distributed import progress as show

    future = client.compute(writing)
    try:
        if is_watched():
            show(future, notebook=False)  # in a notebook, the other one needs ipywidgets
        future.result()
    finally:
        future.cancel()


@contextmanager
def _logged() -> Iterator[None]:
    """Log the share of its tasks that dask has done."""
    from rich.progress import TextColumn

    from xland.progress import Bar

    def update(_key: Any, _result: Any, _graph: Any, state: Any, _worker: Any) -> None:
        done = len(state["finished"])
        bar.update(task, completed=done, total=done + sum(len(state[each]) for each in ("ready", "waiting", "running")))

    with Bar(TextColumn("writing")) as bar, Callback(posttask=update):
        task = bar.add_task("", total=1)
        yield


def _write_blocks(
    ds: xr.Dataset,
    groups: Mapping[str, Group],
    place: Workplace,
    manifest: dict[str, Any],
    finished: Set[str],
    identity: str,
    *,
    progress: bool,
) -> None:
    """Write the blocks of an aligned Dataset that are not finished.

    StoreError if the disk is full or cannot be written (any more), WorkerError if workers died again and again.
    """
    graphs: list[HighLevelGraph] = []
    names: dict[Key, str] = {}  # in the journal
    batches: dict[Key, list[Key]] = {}  # which need the same years
    for group_name, group in groups.items():
        variables = tuple(group.variables)
        writer = BlockWriter(place.files.address, place.data(manifest), identity, group_name, group.dims, variables)
        flags = write_flags(ds, group, writer)
        graphs.append(flags.dask)
        for index in itertools.product(*(range(len(blocks)) for blocks in group.blocks)):
            key = (flags.name, *index)
            names[key] = writer.key(index)
            batches.setdefault((group_name, index[0] if group.timed else None), []).append(key)
    unfinished = {key for key, name in names.items() if name not in finished}
    if not unfinished:
        return
    graph = HighLevelGraph.merge(*graphs)
    described = [layer for layer in graph.layers.values() if progress and callable(getattr(layer, "describe", None))]
    wanted = [[key for key in names if key[0] == name] for name in {key[0] for key in names}]
    lines = dict.fromkeys(layer.describe(graph, *wanted) for layer in described)
    total, active = len(names), f"active-{identity}"
    place.files.put(active, b"")
    try:
        try:
            with progress_bar(total, total - len(unfinished), lines, shown=progress) as advance:
                maps = f"{place.files.address}/maps-{manifest['fingerprint']}"
                _write_segments(graph, list(batches.values()), maps, unfinished, advance)
        finally:
            # blocks that still run after an interruption see that it is gone, and stop
            with suppress(OSError):
                place.files.remove(active)
    except BaseException as error:
        safe = len(notes(place.files))
        remedy = f"{safe} of {total} blocks are safe in {place.files.address}; write again with resume=True to go on"
        if isinstance(error, WorkerError):
            raise WorkerError(f"{error}. {remedy}") from error.__cause__
        reason = explain(error, place.target) if isinstance(error, OSError) else None
        if reason:
            raise StoreError(f"{reason}. {remedy}") from error
        error.add_note(remedy)
        raise


def _write_segments(
    graph: HighLevelGraph, batches: list[list[Key]], maps: str, unfinished: set[Key], advance: Callable[[], None]
) -> None:
    """Compute one segment of rollouts after the other, each from the maps that the ones before have kept."""
    over_years = any(hasattr(layer, "kept") and len(layer.order) > 1 for layer in graph.layers.values())
    rollouts = find_rollouts(graph, maps) if over_years else []
    if not rollouts:
        run(graph, [key for batch in batches for key in batch if key in unfinished], done=lambda _: advance())
        return
    segments = cut_segments(graph, rollouts, batches)
    first = next(number for number, segment in enumerate(segments) if not unfinished.isdisjoint(segment.keys))
    # a run that was broken off may have left the segment before without all the maps that lead on
    for segment in segments[max(0, first - 1) :]:
        keys = [key for key in segment.keys if key in unfinished]
        if keys or segment.bridge:
            restarted, bridge = restart(graph, rollouts, segment.bridge)
            run(restarted, [*keys, *bridge], done=lambda key: advance() if key in unfinished else None)
            for rollout, positions in zip(rollouts, segment.ended, strict=True):
                rollout.keeper.forget(positions)


def run(graph: HighLevelGraph, keys: Sequence[Key], done: Callable[[Key], None]) -> None:
    """Compute keys of an array graph with the scheduler that is active, and drop their values.

    ``done`` is called with each key that is finished. WorkerError if the workers that computed something died again and
    again, or the cluster is gone.
    """
    optimized = da.optimization.optimize(narrow(graph, list(keys)), list(keys))
    if (client := _active_client()) is not None:
        _run_on_cluster(client, optimized, keys, done)
        return
    wanted = set(keys)
    with Callback(posttask=lambda key, *_: done(key) if key in wanted else None):
        get_scheduler(cls=da.Array)(optimized, list(keys))


NO_WORKERS = 600.0
"""Seconds that a write waits for a worker where dask's configuration does not say."""


def _run_on_cluster(client: Any, graph: Any, keys: Sequence[Key], done: Callable[[Key], None]) -> None:
    from distributed import as_completed
    from distributed.client import ClosedClientError, FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker, NoValidWorkerError

    pending: set[Any] = set()
    limit = parse_timedelta(config.get("distributed.scheduler.no-workers-timeout", None) or NO_WORKERS)
    over, alone = Event(), Event()

    def watch() -> None:
        since = monotonic()
        while not over.wait(min(limit / 4, 5.0)):
            try:
                since = monotonic() if client.nthreads() else since
            except Exception:  # noqa: BLE001 - the main thread gets the error of a client that is closed
                return
            if monotonic() - since > limit:
                alone.set()
                client.cancel(list(pending))
                return

    try:
        pending.update(client.get(graph, list(keys), sync=False))
        Thread(target=watch, name="xland workers", daemon=True).start()
        for future in as_completed(list(pending)):
            # asking for the value would ask for it of a worker that may be gone
            if future.status != "finished":
                future.result()
            pending.discard(future)
            future.release()
            done(future.key)
    except KilledWorker as error:
        key = error.task
        named = str(key)
        if isinstance(key, tuple):  # its name ends in a digest
            named = f"block {'.'.join(map(str, key[1:]))} of {str(key[0]).rsplit('-', 1)[0]}"
        raise WorkerError(
            f"the worker that computed {named} died {error.allowed_failures + 1} times, last "
            f"{error.last_worker.address}; its log says why, often too little memory"
        ) from error
    except (FutureCancelledError, ClosedClientError, CommClosedError, NoValidWorkerError) as error:
        if alone.is_set() or isinstance(error, NoValidWorkerError):
            raise WorkerError(
                f"the cluster had no worker for {limit:g} s, with {len(pending)} tasks left: look into the logs of the "
                "workers, and start others. The option distributed.scheduler.no-workers-timeout of dask sets the time"
            ) from error
        raise WorkerError(
            f"the cluster was closed, or its scheduler lost, before {len(pending)} tasks ended"
        ) from error
    finally:
        over.set()
        if pending and client.status == "running":
            client.cancel(list(pending))


@contextmanager
def progress_bar(
    total: int, before: int, lines: Iterable[str] = (), *, shown: bool = True
) -> Iterator[Callable[[], None]]:
    """Show finished blocks of a total, some of them of a former run, below some lines of text.

    Yields what is to be called once for each block that is finished.
    """
    if not shown:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from xland.progress import Bar

    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns) as bar:
        for line in lines:
            bar.console.print(line, markup=False, highlight=False)
        task = bar.add_task("blocks", total=total, completed=before)
        yield lambda: bar.advance(task)
