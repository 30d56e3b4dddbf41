"""Damaged stores: whatever happened to their files, they give equal values or a named error, and verifying names it.

Finished stores are damaged and read. Growing ones are damaged before they are resumed; what comes out has to be
the store that an undisturbed run writes, or a named error before anything is published.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

import tests.store.elsewhere  # noqa: F401
from tests.benchmarks.hostile import Tally
from tests.store.damage import flip
from xland.errors import XlandError
from xland.store.provenance import describe_product
from xland.store.reading import open_store, verify
from xland.store.writing import write
from xland.untrusted.folders import TABLE

Damage = Callable[[Path, np.random.Generator], object]
"""Damages a store, or one of its files."""

SHAPES: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": {"lat": 4, "lon": 5}},
    "shards": {"chunks": {"lat": 3, "lon": 4}, "shards": True},
    "one chunk a block": {},
}


class BrokenOffError(Exception):
    """A run that ends in the middle."""


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Damage 200 stores, a third of them growing ones."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = {name: _whole(Path(folder, f"{number}.zarr"), name) for number, name in enumerate(SHAPES)}
        for number in range(20 if quick else 200):
            random = np.random.default_rng((seed, number))
            trial, damages = (_resume, GROWING) if number % 3 == 2 else (_read, FINISHED)
            kind, shape = str(random.choice(list(damages))), str(random.choice(list(SHAPES)))
            name = f"{trial.__name__[1:]}, {kind}"
            case = partial(trial, Path(folder, "trial"), whole[shape], shape, damages[kind], random)
            tally.judge(name, f"{name}, {shape}, seed ({seed}, {number})", case)
    faults = tally.silent + tally.bare
    yield tally.line("stores_silent", len(faults), 0, faults)


def _maps(before: Callable[[], None] | None = None) -> xr.Dataset:
    """Three years of maps with blocks of nothing but sea, probabilities, packed confidence and coordinates."""
    random = np.random.default_rng(1)
    codes = random.integers(1, 8, (3, 17, 22)).astype(np.uint8)
    codes[:, :8, :10] = 0
    # called the same, whatever is done before: else it would be other work
    land = da.from_array(codes, chunks=(1, 8, 10)).map_blocks(
        _passed_on, before, name="passed", dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    odds = random.random((3, 4, 17, 22)).astype(np.float32)
    ds = xr.Dataset(
        {
            "land_use": (("time", "lat", "lon"), land, {"flag_values": np.arange(8, dtype=np.uint8)}),
            "probability": (("time", "class", "lat", "lon"), da.from_array(odds, chunks=(1, 4, 8, 10))),
            "confidence": (("time", "lat", "lon"), da.from_array(odds[:, 0], chunks=(1, 8, 10))),
            "area": (("lat", "lon"), da.from_array(odds[0, 1].astype(np.float64), chunks=(8, 10))),
        },
        {
            "time": 2000 + np.arange(3),
            "lat": 60 - 0.25 * (np.arange(17) + 0.5),
            "lon": 0.25 * (np.arange(22) + 0.5),
            "class": ["ocean", "urban", "cropland", "other"],
        },
    )
    ds["confidence"].encoding = {"dtype": "uint8", "scale_factor": 0.004, "_FillValue": 255}
    return describe_product(ds)


def _passed_on(block: np.ndarray, before: Callable[[], None] | None) -> np.ndarray:
    if before is not None:
        before()
    return block


def _whole(path: Path, shape: str) -> tuple[Path, xr.Dataset]:
    write(_maps(), path, progress=False, **SHAPES[shape])
    return path, open_store(path).load()


def _read(
    path: Path, whole: tuple[Path, xr.Dataset], _shape: str, damage: Damage, random: np.random.Generator
) -> str | None:
    """Damage a finished store, read it and verify it; return what is wrong."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole[0], path)
    address = str(random.choice([str(path), f"elsewhere://{path}"]))
    names = _damaged(path, damage, random)
    with suppress(XlandError):
        if not open_store(address).load().identical(whole[1]):
            return f"{names} damaged, served as good data"
    try:
        verify(address)
    except XlandError as error:
        # a few are named, so one of those that are damaged has to be; a damaged line of the table is told by its files
        told = any(name in str(error) or name.endswith(TABLE) for name in names)
        return None if told else f"{names} damaged, but verify says: {error}"
    return f"{names} damaged, and verify says nothing" if names else None


def _resume(
    path: Path, whole: tuple[Path, xr.Dataset], shape: str, damage: Damage, random: np.random.Generator
) -> str | None:
    """Break a write off, damage what it left, and resume; return what is wrong."""
    shutil.rmtree(path.parent / "growing", ignore_errors=True)
    store = path.parent / "growing" / "a.zarr"
    address = f"elsewhere://{store}" if random.integers(2) else str(store)
    left = int(random.integers(1, 27))

    def fuse() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise BrokenOffError

    try:
        write(_maps(fuse), address, progress=False, **SHAPES[shape])
    except BrokenOffError:
        names = _damaged(store.parent, damage, random)
    else:
        return None
    left = 1000
    said = ""
    for options in ({"resume": True}, {"overwrite": True}):
        try:
            write(_maps(fuse), address, progress=False, **SHAPES[shape], **options)
            served = open_store(address, verify=True).load()
        except XlandError as error:
            said = str(error)
            continue
        # a store whose metadata were damaged may be written with other notes, never with other values
        return None if served.equals(whole[1]) else f"{names} damaged, resumed to other values"
    return f"{names} damaged, and overwrite=True does not help: {said}"


def _damaged(path: Path, damage: Damage, random: np.random.Generator) -> list[str]:
    """Damage a store, and return the names of the files that are no longer what they were."""

    def contents() -> dict[str, bytes]:
        return {each.relative_to(path).as_posix(): each.read_bytes() for each in path.rglob("*") if each.is_file()}

    before = contents()
    damage(path, random)
    after = contents()
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _one(path: Path, random: np.random.Generator, *patterns: str) -> Path:
    found = [file for pattern in patterns for file in sorted(path.glob(pattern)) if file.is_file()]
    return found[int(random.integers(len(found)))]


def _overwrite(file: Path, random: np.random.Generator) -> None:
    content = file.read_bytes()
    start = int(random.integers(len(content)))
    new = random.bytes(min(int(random.integers(1, 64)), len(content) - start))
    file.write_bytes(content[:start] + new + content[start + len(new) :])


CHANGES: dict[str, Damage] = {
    "a bit is flipped": lambda file, random: flip(
        file, int(random.integers(file.stat().st_size)), int(random.integers(8))
    ),
    "bytes are overwritten": _overwrite,
    "it is truncated": lambda file, random: file.write_bytes(file.read_bytes()[: -int(random.integers(1, 9))]),
    "it is emptied": lambda file, _: file.write_bytes(b""),
    "it grows": lambda file, random: file.write_bytes(file.read_bytes() + random.bytes(5)),
    "it is deleted": lambda file, _: file.unlink(),
    "it becomes a folder": lambda file, _: (file.unlink(), file.mkdir()),
    "it holds zeros": lambda file, _: file.write_bytes(bytes(file.stat().st_size)),
}
"""What can happen to a file."""


def _changes(what: str, *patterns: str) -> dict[str, Damage]:
    """What can happen to one of the files of these names."""

    def of_one(change: Damage) -> Damage:
        return lambda path, random: change(_one(path, random, *patterns), random)

    return {f"{what}: {name}": of_one(change) for name, change in CHANGES.items()}


def _swap(*patterns: str) -> Damage:
    def damage(path: Path, random: np.random.Generator) -> None:
        one, other = _one(path, random, *patterns), _one(path, random, *patterns)
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)

    return damage


def _copy_over(path: Path, random: np.random.Generator) -> None:
    content = _one(path, random, _CHUNK).read_bytes()
    _one(path, random, _CHUNK).write_bytes(content)


def _copy_to_sea(path: Path, random: np.random.Generator) -> None:
    sea = path / "land_use" / "c" / str(int(random.integers(3))) / "0" / "0"
    if not sea.exists():
        shutil.copyfile(_one(path, random, "land_use/c/**/*"), sea)


def _without_variable(path: Path, random: np.random.Generator) -> None:
    shutil.rmtree(path / str(random.choice(["land_use", "probability", "confidence", "area", "lat", "time", "class"])))


_CHUNK = "*/c/**/*"
FINISHED: dict[str, Damage] = {
    **_changes("chunk", _CHUNK),
    **_changes("coordinate", "lat/c/*", "lon/c/*", "time/c/*", "class/c/*"),
    **_changes("metadata", "zarr.json", "*/zarr.json"),
    **_changes("table", "*/checksums.sha256"),
    "two chunks are swapped": _swap(_CHUNK),
    "two chunks of the map are swapped": _swap("land_use/c/**/*"),
    "two metadata are swapped": _swap("*/zarr.json"),
    "a chunk is copied over another": _copy_over,
    "a chunk is copied to the sea": _copy_to_sea,
    "a variable is deleted": _without_variable,
}
_GROWN = ("a.zarr.partial/data-*/*/c/**/*", "a.zarr/*/c/**/*")
_METADATA = ("a.zarr.partial/data-*/zarr.json", "a.zarr/zarr.json")
GROWING: dict[str, Damage] = {
    **_changes("chunk", *_GROWN),
    **_changes("journal", "a.zarr.partial/journal/*"),
    **_changes("manifest", "a.zarr.partial/manifest.json"),
    **_changes("metadata", *_METADATA, "a.zarr.partial/data-*/*/zarr.json", "a.zarr/*/zarr.json"),
    "two chunks are swapped": _swap(*_GROWN),
}
