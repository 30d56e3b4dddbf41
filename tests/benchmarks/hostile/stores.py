"""Damaged stores: whatever happened to their files, they give equal values or a named error, and verifying names it.

Finished stores are damaged and read. Growing ones are damaged before they are resumed; what comes out has to be
the store that an undisturbed run writes, or a named error before anything is published.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

import tests.store.elsewhere  # noqa: F401
from xland.errors import XlandError
from xland.store.provenance import describe_product
from xland.store.reading import open_store, verify
from xland.store.storage import TABLE
from xland.store.writing import write

Damage = Callable[[Path, np.random.Generator], "list[str]"]
"""Damages a store, and returns the names of the files that are no longer what they were."""

SHAPES: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": {"lat": 4, "lon": 5}},
    "shards": {"chunks": {"lat": 3, "lon": 4}, "shards": True},
    "one chunk a block": {},
}


class BrokenOffError(Exception):
    """A run that ends in the middle."""


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Damage 200 stores, a third of them growing ones."""
    count = 20 if quick else 200
    faults: list[str] = []
    kinds: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = {name: _whole(Path(folder, f"{number}.zarr"), name) for number, name in enumerate(SHAPES)}
        for number in range(count):
            random = np.random.default_rng((seed, number))
            growing = number % 3 == 2
            known: dict[str, Damage] = GROWING if growing else FINISHED
            kind, shape = str(random.choice(list(known))), str(random.choice(list(SHAPES)))
            trial = _trial_growing if growing else _trial_finished
            verdict = trial(Path(folder, "trial"), whole[shape], shape, known[kind], random)
            name = f"{'growing' if growing else 'finished'}: {kind}"
            kinds[name] = kinds.get(name, 0) + 1
            if verdict:
                faults.append(f"{name}, {shape}, seed ({seed}, {number}): {verdict}")
    sizes = {"stores": count, "kinds": dict(sorted(kinds.items()))}
    yield {"name": "stores_silent", "value": len(faults), "target": 0, "sizes": sizes, "examples": faults[:10]}


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


def _trial_finished(
    path: Path, whole: tuple[Path, xr.Dataset], shape: str, damage: Damage, random: np.random.Generator
) -> str:
    """Damage a finished store and read it; return what is wrong, or nothing."""
    del shape
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole[0], path)
    address = str(random.choice([str(path), f"elsewhere://{path}"]))
    names = damage(path, random)
    try:
        served = open_store(address).load()
        if not served.identical(whole[1]):
            return f"{names} damaged, served as good data"
    except XlandError:
        pass
    except Exception as error:  # noqa: BLE001 - errors that are not ours are what is looked for
        return f"{names} damaged: {type(error).__name__}: {error}"[:300]
    try:
        verify(address)
    except XlandError as error:
        # a few are named, so one of those that are damaged has to be; a damaged line of the table is told by its files
        told = any(name in str(error) or name.endswith(TABLE) for name in names)
        return "" if told else f"{names} damaged, but verify says: {error}"[:300]
    except Exception as error:  # noqa: BLE001 - errors that are not ours are what is looked for
        return f"{names} damaged; verify: {type(error).__name__}: {error}"[:300]
    return f"{names} damaged, and verify says nothing" if names else ""


def _trial_growing(
    path: Path, whole: tuple[Path, xr.Dataset], shape: str, damage: Damage, random: np.random.Generator
) -> str:
    """Break a write off, damage what it left, and resume; return what is wrong, or nothing."""
    shutil.rmtree(path.parent / "growing", ignore_errors=True)
    store = path.parent / "growing" / "a.zarr"
    remote = bool(random.integers(2))
    address = f"elsewhere://{store}" if remote else str(store)
    left = int(random.integers(1, 27))

    def fuse() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise BrokenOffError

    try:
        write(_maps(fuse), address, progress=False, **SHAPES[shape])
    except BrokenOffError:
        names = damage(store.parent, random)
    else:
        return ""
    left = 1000
    for options in ({"resume": True}, {"overwrite": True}):
        try:
            write(_maps(fuse), address, progress=False, **SHAPES[shape], **options)
            served = open_store(address, verify=True).load()
        except XlandError as error:
            if "overwrite" in options:
                return f"{names} damaged, and overwrite=True does not help: {error}"[:300]
            continue
        except Exception as error:  # noqa: BLE001 - errors that are not ours are what is looked for
            return f"{names} damaged: {type(error).__name__}: {error}"[:300]
        # a store whose metadata were damaged may be written with other notes, never with other values
        return "" if served.equals(whole[1]) else f"{names} damaged, resumed to other values"
    return "never reached"


def _files(path: Path, pattern: str) -> list[Path]:
    return sorted(file for file in path.glob(pattern) if file.is_file())


def _one(path: Path, random: np.random.Generator, *patterns: str) -> Path:
    found = [file for pattern in patterns for file in _files(path, pattern)]
    return found[int(random.integers(len(found)))]


def _changes(*patterns: str) -> dict[str, Damage]:
    """What can happen to one of the files of these names."""

    def on(change: Callable[[Path, np.random.Generator], object]) -> Damage:
        def damage(path: Path, random: np.random.Generator) -> list[str]:
            file = _one(path, random, *patterns)
            before = file.read_bytes()
            change(file, random)
            same = file.is_file() and file.read_bytes() == before
            return [] if same else [file.relative_to(path).as_posix()]

        return damage

    return {
        "a bit is flipped": on(_flip),
        "bytes are overwritten": on(_overwrite),
        "it is truncated": on(lambda file, random: file.write_bytes(file.read_bytes()[: -int(random.integers(1, 9))])),
        "it is emptied": on(lambda file, random: file.write_bytes(b"")),
        "it grows": on(lambda file, random: file.write_bytes(file.read_bytes() + bytes(random.bytes(5)))),
        "it is deleted": on(lambda file, random: file.unlink()),
        "it becomes a folder": on(lambda file, random: (file.unlink(), file.mkdir())),
        "it holds zeros": on(lambda file, random: file.write_bytes(bytes(file.stat().st_size))),
    }


def _flip(file: Path, random: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
    file.write_bytes(content)


def _overwrite(file: Path, random: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    start = int(random.integers(len(content)))
    for at in range(start, min(len(content), start + int(random.integers(1, 64)))):
        content[at] = int(random.integers(256))
    file.write_bytes(content)


def _swap(*patterns: str) -> Damage:
    def damage(path: Path, random: np.random.Generator) -> list[str]:
        one, other = _one(path, random, *patterns), _one(path, random, *patterns)
        content = one.read_bytes()
        if other.read_bytes() == content:
            return []
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return [one.relative_to(path).as_posix(), other.relative_to(path).as_posix()]

    return damage


def _copy_to_other(path: Path, random: np.random.Generator) -> list[str]:
    one, other = _one(path, random, _CHUNK), _one(path, random, _CHUNK)
    if one.read_bytes() == other.read_bytes():
        return []
    shutil.copyfile(one, other)
    return [other.relative_to(path).as_posix()]


def _copy_to_sea(path: Path, random: np.random.Generator) -> list[str]:
    sea = path / "land_use" / "c" / str(int(random.integers(3))) / "0" / "0"
    if sea.exists():
        return []
    shutil.copyfile(_one(path, random, "land_use/c/**/*"), sea)
    return [sea.relative_to(path).as_posix()]


def _without_variable(path: Path, random: np.random.Generator) -> list[str]:
    name = str(random.choice(["land_use", "probability", "confidence", "area", "lat", "time", "class"]))
    names = [file.relative_to(path).as_posix() for file in _files(path / name, "**/*")]
    shutil.rmtree(path / name)
    return names


_CHUNK = "*/c/**/*"
FINISHED: dict[str, Damage] = {
    **{f"chunk: {name}": damage for name, damage in _changes(_CHUNK).items()},
    **{
        f"coordinate: {name}": damage
        for name, damage in _changes("lat/c/*", "lon/c/*", "time/c/*", "class/c/*").items()
    },
    **{f"metadata: {name}": damage for name, damage in _changes("zarr.json", "*/zarr.json").items()},
    **{f"table: {name}": damage for name, damage in _changes("*/checksums.sha256").items()},
    "two chunks are swapped": _swap(_CHUNK),
    "two chunks of the map are swapped": _swap("land_use/c/**/*"),
    "two metadata are swapped": _swap("*/zarr.json"),
    "a chunk is copied over another": _copy_to_other,
    "a chunk is copied to the sea": _copy_to_sea,
    "a variable is deleted": _without_variable,
}
_GROWN = ("a.zarr.partial/data-*/*/c/**/*", "a.zarr/*/c/**/*")
GROWING: dict[str, Damage] = {
    **{f"chunk: {name}": damage for name, damage in _changes(*_GROWN).items()},
    **{f"journal: {name}": damage for name, damage in _changes("a.zarr.partial/journal/*").items()},
    **{f"manifest: {name}": damage for name, damage in _changes("a.zarr.partial/manifest.json").items()},
    **{
        f"metadata: {name}": damage
        for name, damage in _changes(
            *("a.zarr.partial/data-*/zarr.json", "a.zarr/zarr.json"),
            *("a.zarr.partial/data-*/*/zarr.json", "a.zarr/*/zarr.json"),
        ).items()
    },
    "two chunks are swapped": _swap(*_GROWN),
}
