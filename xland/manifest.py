"""The working folder of a store that is not finished yet: its lock, its manifest, what it is of.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from xland.errors import StoreError

COMPLETE = "xland_complete"
"""Attribute of the root group: false while a store is being written, true once it is whole."""

FINGERPRINT = "xland_store_fingerprint"
"""Attribute of the root group: digest of what was written, compared on resuming."""

_OURS = re.compile(r"lock|journal|replaced|\.?manifest\.json(\..*)?|data-.*\.zarr|active-.*|\.nfs.*|\.DS_Store")
"""Names of what stands in a working folder."""

VOLATILE = frozenset({COMPLETE, FINGERPRINT, "history", "date_created", "date_modified"})
"""Attributes that may differ between two runs of the same work."""


def working_folder(final: Path) -> Path:
    """Folder in which a store grows, beside its final place."""
    final = final.absolute()
    return final.with_name(final.name + ".partial")


@contextmanager
def exclusive(partial: Path, final: Path) -> Iterator[None]:
    """Hold the working folder for this process; a killed process lets go of it by itself."""
    lock = partial / "lock"
    while True:
        partial.mkdir(parents=True, exist_ok=True)
        try:
            stream = lock.open("a")
        except FileNotFoundError:
            continue
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"another process is writing {final}") from None
            # the writer before us may have finished and removed the folder between our two steps
            if not lock.exists() or lock.stat().st_ino != os.fstat(stream.fileno()).st_ino:
                continue
            try:
                yield
            finally:
                if partial.is_dir() and [entry.name for entry in partial.iterdir()] == ["lock"]:
                    shutil.rmtree(partial)
            return


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that readers see the old one or the new one, never a part.

    Parameters
    ----------
    path : Path
    text : str
        Written as UTF-8.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_strangers(partial: Path) -> None:
    """Refuse a working folder that holds anything that no writer of stores put there: it would be deleted."""
    if not (partial.exists() or partial.is_symlink()):
        return
    if not partial.is_dir():
        raise StoreError(f"{partial} is in the way: the store grows in a folder of this name; move it away")
    strangers = sorted(entry.name for entry in partial.iterdir() if not _OURS.fullmatch(entry.name))
    if strangers:
        raise StoreError(
            f"{partial}, in which the store grows, holds {', '.join(strangers[:3])} of others; move that away"
        )


def clear(partial: Path, final: Path) -> None:
    """Empty the working folder of what a former run left; put back a store that it had moved aside."""
    replaced = partial / "replaced"
    if replaced.exists() and not final.exists():
        replaced.rename(final)
    for entry in partial.iterdir():
        if entry.name == "lock":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def read_manifest(partial: Path) -> dict[str, Any] | None:
    """Return the manifest of an unfinished store, or None if there is nothing to go on with."""
    try:
        manifest = json.loads((partial / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise StoreError(f"{partial}/manifest.json is damaged; begin anew with overwrite=True") from error
    return manifest if (partial / manifest["data"]).is_dir() else None


def check_same(asked: dict[str, Any], begun: dict[str, Any], final: Path) -> None:
    """Refuse to go on with a store that was begun as other work; the error says what differs."""
    parts = []
    for key in sorted(asked.keys() | begun.keys()):
        one, two = asked.get(key, {}), begun.get(key, {})
        # compared as text, in which NaN equals itself
        inner = sorted(k for k in one.keys() | two.keys() if json.dumps(one.get(k)) != json.dumps(two.get(k)))
        if inner:
            parts.append(f"{key} ({', '.join(inner)})")
    if not parts:
        return
    raise StoreError(
        f"the unfinished store of {final} was begun with other inputs or settings; different: {'; '.join(parts)}. "
        "Resume with what it was begun with, or begin anew with overwrite=True"
    )


def describe_work(ds: xr.Dataset, encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what is being written, without computing it: two equal descriptions are the same work.

    Parameters
    ----------
    ds : Dataset
        Aligned by :func:`xland.blocks.align`.
    encoding : mapping
        Zarr encoding of its lazy variables.

    Returns
    -------
    dict
        JSON-ready: attributes, the coordinates' digests, and for each variable its dimensions,
        shape, type, blocks, chunks and attributes.
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
            entry["blocks"] = _plain(ds[name].chunks)
            entry["chunks"] = list(encoding[str(name)]["chunks"])
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
