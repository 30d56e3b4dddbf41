"""Catalogs, stores and NetCDF files of strangers: each is opened safely or refused by name, within seconds.

A fault is any error that is not ours, code that ran (it leaves a file), a secret from outside the folder, a wrong map,
or more than twenty seconds. Servers are left to tests/untrusted.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from tests.benchmarks.hostile import Tally, mutate
from xland.catalogs import Catalog, open_entry, publish, read_catalog
from xland.errors import XlandError
from xland.store.reading import open_store

SECRET = b"TOP-SECRET-0123456789"
SECONDS = 20
MOST_MEMORY = 1500 * 2**20


def base() -> xr.Dataset:
    """Return the map of which every hostile catalog says that it is another."""
    codes = (np.arange(48, dtype=np.uint8) % 8).reshape(1, 6, 8)
    coords = {"time": [2015], "lat": 3 - np.arange(6.0), "lon": np.arange(8.0)}
    return xr.Dataset({"land_use": (("time", "lat", "lon"), codes)}, coords, {"title": "Land use", "license": "MIT"})


def template(mark: Path) -> str:
    """Text that makes a file if it is run."""
    return "{{ cycler.__init__.__globals__.os.system('touch %s') }}" % mark  # noqa: UP031 -- braces


class Place:
    """A folder of one case: the catalog and its store, a secret beside them, and the file that code would leave."""

    def __init__(self, root: Path, stores: Path) -> None:
        self.root, self.stores = root, stores
        self.folder, self.mark, self.secret = root / "pub", root / "RAN", root / "secret.txt"
        self.folder.mkdir(parents=True)
        self.secret.write_bytes(SECRET)
        self.catalog = self.folder / "c.yaml"

    def store(self, kind: str) -> Path:
        """Copy a store of a kind (``2``, ``3``, ``nc``, ``classic``) into the folder, and enter it in the catalog."""
        source = self.stores / kind
        target = self.folder / ("m.nc" if kind in ("nc", "classic") else "m.zarr")
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        self.write({"m": self.entry(target.name)})
        return target

    def entry(self, target: str = "m.zarr", **args: Any) -> dict[str, Any]:
        """Return an entry for a store."""
        driver = "netcdf" if target.endswith(".nc") else "zarr"
        given = {"urlpath": target, **args}
        return {"driver": driver, "description": "a map", "args": given, "metadata": {"years": [1]}}

    def write(self, entries: Any) -> None:
        """Write a catalog."""
        self.catalog.write_text(yaml.safe_dump({"metadata": {"version": 1}, "sources": entries}, allow_unicode=True))


def make_stores(folder: Path) -> None:
    """Make one small store of each kind."""
    base().to_zarr(folder / "2", zarr_format=2, consolidated=True)
    base().to_zarr(folder / "3", zarr_format=3, consolidated=True)
    base().to_netcdf(folder / "nc", engine="netcdf4")
    base().to_netcdf(folder / "classic", engine="scipy")


@functools.cache
def listed(name: str) -> list[Any]:
    """Hostile values of a kind, as catalogs.json lists them."""
    return json.loads(Path(__file__).with_suffix(".json").read_text())[name]


def filled(value: Any, **names: object) -> Any:
    """Put paths and the like in the place of their names in angle brackets."""
    for name, text in names.items():
        value = value.replace(f"<{name}>", str(text)) if isinstance(value, str) else value
    return copy.deepcopy(value)


def hostile_value(rng: random.Random, place: Place) -> Any:
    """Return a value that nobody expects."""
    deep = functools.reduce(lambda inner, _: [inner], range(rng.choice((5, 30, 200))), 1)
    made = (10**40, 1e308, float("nan"), float("inf"), "x" * 5000, [1] * 40, b"x", deep)
    value = rng.choice([*listed("values"), *made])
    return filled(value, secret=place.secret, template=template(place.mark))


def mutated(rng: random.Random, tree: Any, place: Place) -> Any:
    """Put something hostile at a random place of nested data, or two."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2))):
        mutate(tree, rng, lambda _: hostile_value(rng, place))
    return tree


def yaml_text(rng: random.Random, place: Place) -> None:
    """Damage the text of a catalog, or put something costly into it."""
    place.store("3")
    text = place.catalog.read_text()
    long = (
        *("1" + ":59" * 1_000_000, "9" * 5000, "0x" + "f" * 9000, "x" * 3_000_000, "[" + "1," * 1_200_000),
        *("[" * 3000, "{a: " * 3000, "- " * 3000, "? " * 3000, "#" * 100_000, "'" * 1000, "a:\n" * 3000),
        "[1, " * 19 + "]" * 19,
    )
    snippets = [*(filled(each, mark=place.mark) for each in listed("yaml")), *long]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice(
            [0, len(text), text.find("metadata"), text.find("a map"), text.find("m.zarr"), rng.randrange(len(text))]
        )
        text = text[:at] + rng.choice(snippets) + text[at + rng.choice((0, 0, 1, 5)) :]
    place.catalog.write_bytes(
        text.encode(errors="surrogatepass") + rng.choice((b"", b"", b"\xff\xfe", b"\xed\xa0\x80"))
    )


def entry_tree(rng: random.Random, place: Place) -> None:
    """Put hostile values into an entry."""
    kind = rng.choice(("2", "3", "nc", "classic"))
    args = {"consolidated": True} if kind in "23" else {"chunks": {}, "xarray_kwargs": {"engine": "netcdf4"}}
    entry = place.entry(place.store(kind).name, **args)
    place.write(mutated(rng, {"m": entry}, place))


def paths(rng: random.Random, place: Place) -> None:
    """Lead out of the folder, or to something that is not a store."""
    store = place.store("3")
    outside = place.root / "outside.zarr"
    shutil.copytree(store, outside)
    (place.folder / "link").symlink_to(place.root)
    (place.folder / "chain").symlink_to("link")
    (place.folder / "circle").symlink_to("circle")
    (place.folder / "secret.nc").symlink_to(place.secret)
    os.mkfifo(place.folder / "pipe")
    os.mkfifo(place.folder / "pipe.nc")
    parts = [rng.choice(["..", ".", "link", "chain", "outside.zarr", "m.zarr", "", "pub", "circle"]) for _ in range(3)]
    url = filled(rng.choice([*listed("paths"), "/".join(parts), "a" * 5000, "a/" * 2000]), outside=outside)
    place.write({"m": {**place.entry(), "driver": rng.choice(("zarr", "zarr", "netcdf")), "args": {"urlpath": url}}})


def replaced(path: Path, action: str, place: Place, rng: random.Random) -> None:
    """Put something else in the place of a file that is not there."""
    if action == "pipe":
        os.mkfifo(path)
    elif action == "folder":
        path.mkdir()
    elif action == "huge":
        with path.open("w") as stream:
            stream.truncate(2**40)
    elif action in ("device", "secret", "circle"):
        path.symlink_to({"device": "/dev/zero", "secret": place.secret, "circle": path}[action])
    elif action == "noise":
        path.write_bytes(rng.randbytes(2000))


NOT_A_FILE = ("pipe", "folder", "huge", "device", "secret", "circle", "noise", "nothing")


def files(rng: random.Random, place: Place) -> None:
    """Put something else than a plain file in the place of the catalog."""
    replaced(place.catalog, rng.choice(NOT_A_FILE), place, rng)


def zarr_store(rng: random.Random, place: Place) -> None:
    """Put hostile values into the metadata of a store, alike in both places or in one."""
    version = rng.choice("23")
    store = place.store(version)
    place.write({"m": place.entry(consolidated=rng.choice((True, False)))})
    name = rng.choice(("land_use", "lat", "time"))
    whole = store / (".zmetadata" if version == "2" else "zarr.json")
    own = store / name / (rng.choice((".zarray", ".zattrs")) if version == "2" else "zarr.json")
    tree = mutated(rng, json.loads(own.read_text()), place)
    place_of = json.loads(whole.read_text())
    entries = place_of["metadata"] if version == "2" else place_of["consolidated_metadata"]["metadata"]
    entries[f"{name}/{own.name}" if version == "2" else name] = tree
    if rng.random() < 0.15:
        place_of = mutated(rng, place_of, place)
    with suppress(TypeError):
        if rng.random() < 0.9:
            own.write_text(json.dumps(tree))
        if rng.random() < 0.9:
            whole.write_text(json.dumps(place_of))


def zarr_files(rng: random.Random, place: Place) -> None:
    """Put links, pipes and bombs among the files of a store."""
    store = place.store(rng.choice("23"))
    place.write({"m": place.entry(consolidated=rng.choice((True, False)))})
    victim = rng.choice(sorted(path for path in store.rglob("*") if path.is_file()))
    action = rng.choice((*NOT_A_FILE, "deep", "linked folder", "digits"))
    victim.unlink()
    if action == "deep":
        victim.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    elif action == "digits":
        victim.write_text('{"zarr_format": ' + "9" * 100_000 + "}")
    elif action == "linked folder":
        shutil.rmtree(store / "lat")
        (store / "lat").symlink_to(place.root)
    else:
        replaced(victim, action, place, rng)


def damaged(rng: random.Random, place: Place) -> None:
    """Cut an HDF5 or a classic NetCDF file, or change bytes of it; sizes in a header may be wrong then."""
    kind = rng.choice(("nc", "classic"))
    path = place.store(kind)
    content = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        del content[rng.randrange(1, len(content)) :]
    for _ in range(rng.choice((1, 3, 20))):
        at = rng.randrange(len(content) if kind == "nc" else min(len(content), 400))
        content[at] = rng.choice((0, 255, 127, rng.randrange(256)))
    path.write_bytes(content)


def hdf5_file(rng: random.Random, place: Place) -> None:
    """Make an HDF5 file that leads out of itself, or that no NetCDF library made."""
    import h5py

    path = place.store("nc")
    other = place.root / "other.nc"
    shutil.copyfile(path, other)
    layout = h5py.VirtualLayout((1, 6, 8), "u1")
    layout[:] = h5py.VirtualSource(str(other), "land_use", (1, 6, 8))
    shape, chunk = rng.choice(
        (((2**40,), (2**10,)), ((2**20, 2**20), (1, 1)), ((2**33,), (2**20,)), ((1,) * 32, (1,) * 32))
    )
    kinds = (h5py.vlen_dtype(np.int32), np.dtype([("a", "i4"), ("b", "f8")]), h5py.ref_dtype, np.dtype("V8"))
    links = (h5py.ExternalLink(str(other), "/land_use"), *map(h5py.SoftLink, ("/land_use", "/none", "/more")))
    values = ("x" * 60_000, np.array([(1, 2.0)], "i4,f8")[0], "{{ 1 }}", np.zeros(8000), "reference")
    note = rng.choice(("more", "units", "scale_factor", "_FillValue", "coordinates"))
    with h5py.File(path, "a") as file:
        value = rng.choice(values)
        changes: tuple[Callable[[], object], ...] = (
            lambda: file.create_virtual_dataset("more", layout),
            lambda: file.create_dataset("more", shape, "f8", chunks=chunk).make_scale("more"),
            lambda: file.create_dataset("more", (3,), rng.choice(kinds)),
            lambda: file["land_use"].attrs.create(note, file["lat"].ref if str(value) == "reference" else value),
            lambda: file.create_dataset("more", (2, 8), "u1", external=[(str(place.secret), 0, 16)]),
            lambda: file.__setitem__("more", rng.choice(links)),
            lambda: file.create_group("a").__setitem__("b", file["/"]),
            lambda: file.__setitem__("kind", h5py.enum_dtype({"a": 1})),
            lambda: file.create_dataset("more", (8,), "i4", chunks=(4,), compression="lzf"),
        )
        rng.choice(changes)()


MAKERS = (yaml_text, entry_tree, paths, files, zarr_store, zarr_store, zarr_files, hdf5_file, damaged, damaged)


def publication(rng: random.Random, place: Place) -> str | None:
    """Publish a store whose attributes, names and path are hostile; plain intake then opens what was published."""
    import intake

    text = filled(rng.choice([*listed("texts"), "é" * 900, "x" * 9000]), template=template(place.mark))
    key = rng.choice(("title", "summary", "license", "xland_model", "xland_model_sha256", "geospatial_lat_resolution"))
    where = rng.choice(
        ("attribute", "attribute", "path", "name", "description", "metadata", "key", "variable", "flags", "folder")
    )
    folder = place.folder / text[:50].replace("/", "_").replace("\0", "") if where == "folder" else place.folder
    with suppress(OSError, ValueError, UnicodeError):
        folder.mkdir(parents=True, exist_ok=True)
    ds = base()
    if where == "attribute":
        ds.attrs[key] = rng.choice((text, [text, "b"], 3, 1e300, text))
    elif where == "variable":
        ds = ds.rename(land_use=text.replace("/", "_")[:80] or "x")
    elif where == "flags":
        ds["land_use"].attrs |= {"flag_meanings": f"{text} b", "flag_values": [1, 2]}
    name = f"m{text[:60].replace('/', '_')}.zarr" if where == "path" else "m.zarr"
    try:
        ds.to_zarr(folder / name, zarr_format=3, consolidated=True)
    except Exception:  # noqa: BLE001 -- such a store cannot even be made
        return None
    base().to_zarr(folder / "other.zarr", zarr_format=3, consolidated=True, mode="w")
    catalog = folder / "c.yaml"
    given: dict[str, Any] = {
        "key": {"metadata": {text: 1}},
        "metadata": {"metadata": {"note": [text]}},
        "description": {"description": text},
    }.get(where, {})
    try:
        publish(catalog, name="a", store=folder / "other.zarr")
        publish(catalog, name=text if where == "name" else "m", store=folder / name, **given)
    except XlandError:
        if catalog.exists():
            read_catalog(catalog)
        return None
    for each in Catalog(catalog).check(progress=False).findings:
        opened = intake.open_catalog(str(catalog))[each.name].to_dask()
        if opened.sizes != base().sizes:
            return "plain intake opens something else"
        if each.status != "ok":
            return f"published, but {each.status}: {each.reason}"
    return None


def opening(place: Place, *, strict: bool) -> str | None:
    """Open what a catalog offers, and say what is wrong with the answer."""
    found = None
    for opened in (
        lambda: open_entry(place.catalog, "m"),
        lambda: Catalog(place.catalog).check(progress=False),
        lambda: open_store(place.folder / "m.zarr"),
    ):
        try:
            result = opened()
        except XlandError as error:
            if SECRET.decode() in str(error):
                return f"a secret in the message: {error}"
            continue
        found = result if isinstance(result, xr.Dataset) else found
    if found is None:
        return None
    values = {}
    with suppress(Exception):  # what was damaged may turn out to be so when it is read
        if sum(variable.nbytes for variable in found.variables.values()) < 10**7:
            values = {name: np.asarray(variable.values) for name, variable in found.variables.items()}
    if any(SECRET[:8] in array.tobytes() for array in values.values() if array.dtype != object):
        return "read outside the folder"
    if strict and values and not np.array_equal(found["land_use"].values, base()["land_use"].values):
        return "a wrong map"
    return None


@contextmanager
def within_seconds() -> Iterator[None]:
    """Interrupt what takes longer than a case may."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(case: Callable[[], str | None], place: Place) -> str | None:
    """Run a case, and say what is wrong with it."""
    try:
        with within_seconds():
            return case()
    finally:
        if place.mark.exists():
            raise AssertionError("code ran")


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Judge 200 catalogs and 100 publications (a tenth of them if quick)."""
    opened, published = (20, 10) if quick else (200, 100)
    tally = Tally()
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stores = Path(made, "stores")
        stores.mkdir()
        make_stores(stores)
        for number in range(opened + published):
            rng = random.Random(f"{seed} {number}")  # noqa: S311 -- no secret
            place = Place(Path(made, f"case-{number}"), stores)
            if number >= opened:
                kind, case = "publication", functools.partial(publication, rng, place)
            else:
                make = MAKERS[number % len(MAKERS)]
                kind = make.__name__
                make(rng, place)
                case = functools.partial(opening, place, strict=make in (yaml_text, paths, files))
            tally.judge(kind, f"{kind}, seed {seed}, number {number}", functools.partial(judged, case, place))
            shutil.rmtree(place.root, ignore_errors=True)
    faults = tally.silent + tally.bare
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield tally.line("catalogs_bare", len(faults), 0, faults)
    yield tally.line("catalogs_slowest", tally.slowest[0], SECONDS, [tally.slowest[1]])
    yield tally.line("catalogs_memory", memory, MOST_MEMORY)
