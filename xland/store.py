"""Writing lazy maps to Zarr so that nothing is lost, and reading only what is whole.

While it grows, a store lives in ``NAME.partial`` beside its final place, together with a manifest
(what is being written) and a journal (which blocks are finished). The last step marks it complete
and renames it, so a store under its own name is always whole and an old one stays until then.
A *block* is one task's worth of cells: one dask block in time, latitude and longitude; each holds
whole Zarr chunks, so no chunk ever has two writers.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import compute_as_if_collection, tokenize
from dask.highlevelgraph import HighLevelGraph

from xland.blocks import BlockWriter, align, count_finished, group_variables, read_finished
from xland.errors import StoreError
from xland.manifest import (
    COMPLETE,
    FINGERPRINT,
    check_same,
    clear,
    describe_work,
    exclusive,
    read_manifest,
    refuse_strangers,
    replace_text,
    working_folder,
)


def write(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    chunks: Mapping[str, int] | None = None,
) -> Path:
    """Write a lazy Dataset to a Zarr v3 store, block by block.

    Works with any dask scheduler; with ``dask.distributed`` the workers need to see the same
    folder. A run that is killed or interrupted leaves a store that ``resume=True`` finishes: blocks
    that were finished are dropped from the graph before it is computed. That holds for a killed
    process; after a power failure write anew, as nothing is forced to disk block by block.

    Parameters
    ----------
    ds : Dataset
        Variables over ``time``, ``lat``, ``lon`` (and, whole in each block, others such as
        ``class``). Attributes and coordinates, and ``xland_fingerprint`` among the attributes if
        it is there, identify the work when a run is resumed.
    path : path
        Local folder of the store.
    overwrite : bool
        Replace a Zarr store that exists. The old one stays in place until the new one is whole.
        Files, and folders with anything else in them, are never replaced.
    resume : bool
        Go on with an unfinished store; start one if there is none, and do nothing if the same store
        is complete already.
    progress : bool
        Show a progress bar of blocks.
    chunks : mapping of dimension to cells, optional
        Size of the Zarr chunks. By default whole fractions of the dask blocks of 4 MiB at most, one
        time step and one class each.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    StoreError
        If the store exists and neither ``resume`` nor ``overwrite`` was asked for, if what is there
        is no Zarr store or belongs to other inputs or settings, or if another process is writing it.
    """
    final = _local_path(path)
    if overwrite and resume:
        raise StoreError("choose one of overwrite (begin anew) and resume (finish what was begun)")
    if not ds.data_vars:
        raise StoreError("the Dataset holds no variable to write")
    partial = working_folder(final)
    refuse_strangers(partial)
    if overwrite or resume:
        _refuse_foreign(final)
    else:
        _refuse_existing(final, partial)
    ds, encoding = align(_without_encoding(ds), chunks)
    description = describe_work(ds, encoding)
    with exclusive(partial, final):
        if not (overwrite or resume):
            _refuse_existing(final, partial)
        manifest = _begin(ds, encoding, description, final, partial, overwrite=overwrite, resume=resume)
        if manifest is not None:
            _write_blocks(ds, partial, manifest, progress=progress)
            _finish(final, partial, manifest)
    return final


def open_store(path: str | os.PathLike[str], **kwargs: Any) -> xr.Dataset:
    """Open a store lazily; refuse one that is not whole.

    Parameters
    ----------
    path : path or URL
        Zarr store, written by :func:`write` or by others.
    **kwargs
        Passed on to :func:`xarray.open_zarr`.

    Returns
    -------
    Dataset
        With one dask block to each Zarr chunk unless ``chunks`` says otherwise.

    Raises
    ------
    StoreError
        If there is no store, if it cannot be read, or if its writing was never finished; the
        message says how to resume.
    """
    if "://" in str(path):
        target, root = str(path), {}
    else:
        target, root = str(path), _read_root(Path(path))
    if "zarr_format" in root:
        kwargs.setdefault("consolidated", "consolidated_metadata" in root)
    kwargs.setdefault("chunks", {})
    try:
        ds = xr.open_zarr(target, **kwargs)
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{target} cannot be read as a Zarr store: {error}") from error
    if not ds.attrs.pop(COMPLETE, True):
        _refuse_incomplete(target)
    ds.attrs.pop(FINGERPRINT, None)
    for variable in ds.variables.values():
        # JSON keeps the numbers but not their type, and CF wants the type of the variable
        if "flag_values" in variable.attrs:
            variable.attrs["flag_values"] = np.asarray(variable.attrs["flag_values"], dtype=variable.dtype)
    return ds


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a local Zarr store is there and was written to the end (those of others count as whole)."""
    try:
        return bool(_read_root(Path(path)).get("attributes", {}).get(COMPLETE, True))
    except StoreError:
        return False


def write_netcdf(
    ds: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = True
) -> Path:
    """Export a Dataset to one compressed CF NetCDF-4 file, block by block.

    Parameters
    ----------
    ds : Dataset
        As returned by ``downscale`` or :func:`open_store`.
    path : path
        The file; it appears under its name only when it is whole.
    overwrite : bool
        Replace a file that exists.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
        If the file exists and ``overwrite`` is not set.
    """
    from dask.diagnostics import ProgressBar

    final = _local_path(path)
    if final.is_dir():
        raise StoreError(f"{final} is a folder, and is left alone; choose another path, such as {final / 'maps.nc'}")
    if final.exists() and not overwrite:
        raise StoreError(f"{final} exists; pass overwrite=True to replace it")
    final.parent.mkdir(parents=True, exist_ok=True)
    ds, chunked = align(_without_encoding(ds), None)
    encoding: dict[str, dict[str, Any]] = {str(name): {"_FillValue": None} for name in ds.coords}
    for name, settings in chunked.items():
        sizes = tuple(min(c, n) for c, n in zip(settings["chunks"], ds[name].shape, strict=True))
        encoding[name] = {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": sizes}
        if ds[name].dtype.kind != "f":
            encoding[name]["_FillValue"] = None
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.partial")
    try:
        with ProgressBar() if progress else nullcontext():
            ds.to_netcdf(temporary, engine="netcdf4", format="NETCDF4", encoding=encoding)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
    return final


def _begin(
    ds: xr.Dataset,
    encoding: dict[str, dict[str, Any]],
    description: dict[str, Any],
    final: Path,
    partial: Path,
    *,
    overwrite: bool,
    resume: bool,
) -> dict[str, Any] | None:
    """Return the manifest to work by, having set up what is missing; None when nothing is left to do."""
    manifest = read_manifest(partial) if resume else None
    if manifest is not None:
        check_same(description, manifest["work"], final)
        return manifest
    if resume and final.exists():
        if _read_root(final).get("attributes", {}).get(FINGERPRINT) == tokenize(description):
            clear(partial, final)
            return None
        raise StoreError(f"{final} is complete and holds other work; pass overwrite=True to replace it")
    clear(partial, final)
    manifest = {
        "format": 1,
        "data": f"data-{uuid.uuid4().hex}.zarr",
        "replaces": overwrite,
        "fingerprint": tokenize(description),
        "work": description,
        "groups": {name: [list(blocks) for blocks in group.blocks] for name, group in group_variables(ds).items()},
    }
    template = ds.assign(
        {name: ds[name].copy(data=da.zeros(ds[name].shape, dtype=ds[name].dtype, chunks=-1)) for name in encoding}
    )
    template.attrs = {**ds.attrs, COMPLETE: False, FINGERPRINT: manifest["fingerprint"]}
    with _quiet_zarr():
        template.to_zarr(
            partial / manifest["data"],
            mode="w",
            compute=False,
            consolidated=False,
            zarr_format=3,
            encoding={**{str(name): {"_FillValue": None} for name in ds.coords}, **encoding},
        )
    (partial / "journal").mkdir()
    # written last: from here on there is something to resume
    replace_text(partial / "manifest.json", json.dumps(manifest))
    return manifest


def _write_blocks(ds: xr.Dataset, partial: Path, manifest: dict[str, Any], *, progress: bool) -> None:
    finished = read_finished(partial)
    flags, keys, total = [], [], 0
    run = uuid.uuid4().hex
    for name, group in group_variables(ds).items():
        writer = BlockWriter(str(partial), manifest["data"], run, name, tuple(group.variables))
        done = group.write_flags(ds, writer)
        for index in itertools.product(*(range(len(blocks)) for blocks in group.blocks)):
            total += 1
            if BlockWriter.key(name, index) not in finished:
                keys.append((done.name, *index))
        flags.append(done)
    if not keys:
        return
    graph = HighLevelGraph.merge(*(done.dask for done in flags))
    active = partial / f"active-{run}"
    active.touch()
    try:
        with _progress_bar(partial, total, len(finished), shown=progress):
            compute_as_if_collection(da.Array, graph, keys)
    except BaseException as error:
        safe = len(read_finished(partial))
        error.add_note(f"{safe} of {total} blocks are safe in {partial}; write again with resume=True to go on")
        raise
    finally:
        # blocks that still run after an interruption see that it is gone, and stop
        active.unlink(missing_ok=True)


def _finish(final: Path, partial: Path, manifest: dict[str, Any]) -> None:
    import zarr

    expected = sum(
        int(np.prod([len(blocks) for blocks in group], dtype=np.int64)) for group in manifest["groups"].values()
    )
    finished = len(read_finished(partial))
    if finished != expected:
        raise StoreError(f"{finished} of {expected} blocks of {final} were written; write again with resume=True")
    data = partial / manifest["data"]
    with _quiet_zarr():
        group = zarr.open_group(data, mode="r+", use_consolidated=False)
        group.attrs[COMPLETE] = True
        zarr.consolidate_metadata(data)
    if final.exists():
        if not manifest["replaces"]:
            raise StoreError(f"{final} appeared while its store was written in {partial}; move one of them away")
        _refuse_foreign(final)
        final.rename(partial / "replaced")
    data.rename(final)
    shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(final: Path, partial: Path) -> None:
    if read_manifest(partial) is not None:
        raise StoreError(
            f"an unfinished store of {final} is in {partial}; finish it with resume=True or begin anew with "
            "overwrite=True"
        )
    if final.exists():
        raise StoreError(f"{final} exists; pass overwrite=True to replace it")


def _refuse_foreign(final: Path) -> None:
    """Refuse to replace, and so to delete, what is no Zarr store."""
    if not (final.exists() or final.is_symlink()):
        return
    if not final.is_dir():
        raise StoreError(f"{final} is a file, not a Zarr store, and is left alone; choose another path")
    if any(final.iterdir()) and not any((final / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs")):
        raise StoreError(
            f"{final} is a folder that holds no Zarr store, and is left alone; choose another path, "
            f"such as {final / 'land_use.zarr'}"
        )


def _refuse_incomplete(target: str) -> NoReturn:
    raise StoreError(f"{target} is incomplete: its writing was not finished; write it again with resume=True")


def _read_root(path: Path) -> dict[str, Any]:
    """Return the root metadata of a local store, having checked that it is whole."""
    if not path.is_dir():
        manifest = read_manifest(working_folder(path))
        if manifest is None:
            raise StoreError(f"there is no store at {path}")
        total = sum(int(np.prod([len(b) for b in group])) for group in manifest["groups"].values())
        done = len(read_finished(working_folder(path)))
        raise StoreError(
            f"{path} is incomplete: {done} of {total} blocks are written; finish it by writing again with resume=True"
        )
    try:
        root = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (path / ".zgroup").exists():
            return {}
        raise StoreError(f"{path} is no Zarr store: it holds neither zarr.json nor .zgroup") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}/zarr.json is damaged: {error}") from error
    if not isinstance(root, dict) or root.get("node_type") != "group":
        raise StoreError(f"{path} is no Zarr group of variables")
    if not root.get("attributes", {}).get(COMPLETE, True):
        _refuse_incomplete(str(path))
    return root


def _local_path(path: str | os.PathLike[str]) -> Path:
    if "://" in str(path):
        raise StoreError(f"{path}: only local folders can be written; write there and copy the finished store")
    return Path(path).absolute()


def _without_encoding(ds: xr.Dataset) -> xr.Dataset:
    """Drop what files of the inputs had as encoding, but keep the link to the coordinate system."""
    mappings = {
        name: variable.encoding["grid_mapping"]
        for name, variable in ds.variables.items()
        if "grid_mapping" in variable.encoding and "grid_mapping" not in variable.attrs
    }
    ds = ds.drop_encoding().copy()
    for name, mapping in mappings.items():
        ds[name].attrs["grid_mapping"] = mapping
    return ds


@contextmanager
def _quiet_zarr() -> Iterator[None]:
    """Silence the notes that consolidated metadata and text coordinates are not in the Zarr 3 text yet.

    Readers that do not know them ignore the first, which web servers need; the second is how xarray
    writes class names.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield


@contextmanager
def _progress_bar(partial: Path, total: int, before: int, *, shown: bool) -> Iterator[None]:
    """Show finished blocks, read from the journal: the same for threads, processes and clusters."""
    if not shown:
        yield
        return
    from threading import Event, Thread

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("blocks", total=total, completed=before)
        stop = Event()

        def watch() -> None:
            while not stop.wait(0.5):
                bar.update(task, completed=min(total, count_finished(partial)))

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            bar.update(task, completed=min(total, count_finished(partial)))
