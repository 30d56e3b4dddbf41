"""What other people's tools say about our files: one JSON line a tool, ``green``, ``red`` or ``skipped`` and why.

Run as ``python -m tests.benchmarks.checkers``. Nothing is installed: what is not there is skipped. CDO, NCO and GDAL
are Debian's ``cdo nco gdal-bin``; compliance-checker comes with the extra ``test``. Tools of Python are looked for in
this environment, and then in that of the interpreter which ``XLAND_CHECKERS_PYTHON`` names: an environment without
xland, with intake, intake-xarray and zarr (a clean client), with rio-cogeo, stac-validator and pystac, and with
rasterio 1.5 or later (which needs Python 3.12). ``XLAND_STAC_SCHEMAS`` names a folder with the schemas of STAC
extensions by their addresses, such as ``stac-extensions.github.io/datacube/v2.2.0/schema.json``.
The exit status is 1 if anything is red.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import xarray as xr

import xland.accessor  # noqa: F401 -- registers .ai4land
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.vocabulary import CLASS_NAMES

YEARS = (850, 851)
REGION = (-20, 30, 20, 60)
NAMES: Mapping[str, Mapping[str, str]] = {
    "plain": {},
    "latitude": {"lat": "latitude", "lon": "longitude"},
    "year": {"time": "year"},
}
"""Products, by what the caller calls the dimensions."""

TIMEOUT = 120
"""Seconds that a tool may take."""


class SkippedError(Exception):
    """A tool is not there; the message says what is missing."""


class RedError(Exception):
    """A tool does not understand what we write; the message says what it said."""


def make_products(folder: Path) -> None:
    """Write two years of a region across 0 E, with probabilities: a store, a NetCDF file and a catalog of each."""
    coarse, static, _ = tiny_world((2000, 2001))
    model = tiny_checkpoint(folder / "model", tiny_inputs())
    outputs = ("land_use", "probability", "margin")
    for name, names in NAMES.items():
        forcing = coarse.assign_coords(time=list(YEARS)).rename(names)
        made = forcing.ai4land.downscale(model=model, static=static, region=REGION, outputs=outputs)
        made = made.assign_attrs(
            institution="for a test", creator_name="A. Nyone", id=name, naming_authority="org.test"
        )
        made.ai4land.to_zarr(folder / f"{name}.zarr", progress=False)
        made.ai4land.to_netcdf(folder / f"{name}.nc", progress=False)
        made.ai4land.publish(folder / "catalog.yaml", name=name, store=folder / f"{name}.zarr")


def compliance(folder: Path) -> str:
    """IOOS compliance-checker: CF-1.11 and ACDD-1.3 without errors."""
    # its module lies beside its command, and nowhere else
    program = Path(_python_with("compliance_checker", "compliance-checker")).with_name("compliance-checker")
    unnamed: set[str] = set()
    reports = [folder / f"{name}.json" for name in NAMES]
    options = ["-t", "cf:1.11", "-t", "acdd:1.3", "-f", "json", *(f"--output={report}" for report in reports)]
    _run(program, *options, *(folder / f"{name}.nc" for name in NAMES), status=None)
    for report in reports:
        if not report.exists():
            raise RedError(f"compliance-checker wrote no report on {report.stem}.nc")
        results = json.loads(report.read_text())
        if len(results) != 2:
            raise RedError(f"compliance-checker did not apply both suites to {report.stem}.nc: {list(results)}")
        for suite, found in results.items():
            for each in found["high_priorities"]:
                messages = [] if each["value"][0] == each["value"][1] else list(each["msgs"])
                if suite.startswith("acdd") and messages == ["standard_name"]:
                    unnamed.add(each["name"])  # CF's table has none for a probability or an entropy
                elif messages:
                    raise RedError(f"{suite}, {report.stem}.nc: {each['name']}: {'; '.join(messages)}")
    said = f"; {len(unnamed)} variables of a kind for which CF has no standard name" if unnamed else ""
    return f"no errors of cf:1.11 and acdd:1.3{said}"


def cdo(folder: Path) -> str:
    """CDO: years are shown and selected, variables are remapped."""
    _there("cdo")
    coder = xr.coders.CFDatetimeCoder(time_unit="s")
    xr.open_zarr(folder / "plain.zarr", decode_times=coder).to_netcdf(folder / "by-xarray.nc")
    for name in (*NAMES, "by-xarray"):
        path = folder / f"{name}.nc"
        shown = _run("cdo", "-s", "showyear", path).split()
        if shown != [str(year) for year in YEARS]:
            raise RedError(f"cdo showyear {path.name}: {shown}")
        _run("cdo", "-s", f"selyear,{YEARS[1]}", path, folder / "one.nc")
        if _run("cdo", "-s", "showyear", folder / "one.nc").split() != [str(YEARS[1])]:
            raise RedError(f"cdo selyear {path.name}: {YEARS[1]} was not selected")
        _run("cdo", "-s", "remapcon,r36x18", "-selname,probability", path, folder / "coarse.nc")
        _run("cdo", "-s", "fldmean", "-selname,probability", path, folder / "mean.nc")
        with xr.open_dataset(folder / "mean.nc", decode_times=False) as mean:
            total = mean["probability"].sum("class").values
        if not np.allclose(total, 1, atol=0.02):  # eight numbers in steps of 0.004
            raise RedError(f"cdo fldmean {path.name}: mean probabilities sum to {total.ravel()}")
    return "showyear, selyear, remapcon, fldmean"


def nco(folder: Path) -> str:
    """NCO: two files become one along the record dimension."""
    _there("ncrcat")
    for name in NAMES:
        path = folder / f"{name}.nc"
        _run("ncrcat", "-O", path, path, folder / "twice.nc")
        with xr.open_dataset(folder / "twice.nc", decode_times=False) as twice:
            if twice["land_use"].shape[0] != 2 * len(YEARS):
                raise RedError(f"ncrcat {path.name}: {twice['land_use'].shape[0]} steps")
    return "ncrcat"


def gdal(folder: Path) -> str:
    """GDAL: NetCDF has its place, its reference system and a band a year."""
    _there("gdalinfo")
    for name in NAMES:
        told = json.loads(_run("gdalinfo", "-json", f'NETCDF:"{folder / name}.nc":land_use'))
        west, south, east, north = REGION[0], REGION[1], REGION[2], REGION[3]
        (left, step, _, top, _, down), (columns, rows) = told["geoTransform"], told["size"]
        # regions grow to whole coarse cells
        if left > west or top < north or left + step * columns < east or top + down * rows > south or step != -down:
            raise RedError(f"gdalinfo {name}.nc: geoTransform {told['geoTransform']} of {columns} x {rows} cells")
        if "WGS 84" not in told["coordinateSystem"]["wkt"]:
            raise RedError(f"gdalinfo {name}.nc: {told['coordinateSystem']}")
        days = [int(float(band["metadata"][""]["NETCDF_DIM_time"])) for band in told["bands"]]
        years = [(date(1850, 1, 1) + timedelta(day)).year for day in days]
        if years != list(YEARS):
            raise RedError(f"gdalinfo {name}.nc: bands are of the years {years}")
    return "georeference, reference system and years of NetCDF"


_RASTERIO = """
import sys, rasterio
if tuple(map(int, rasterio.__version__.split(".")[:2])) < (1, 5):
    sys.exit(77)
for name in sys.argv[2:]:
    with rasterio.open(f'ZARR:"{sys.argv[1]}/{name}.zarr":/land_use') as found:
        print(name, found.count, found.crs, found.transform.a, -found.transform.e, found.bounds.left, found.bounds.top)
        found.read(1)
"""


def rasterio(folder: Path) -> str:
    """Rasterio 1.5: a store has its place, its reference system and a band a year."""
    python = _python_with("rasterio", "rasterio", _RASTERIO.replace("for name", "sys.exit(0)\nfor name"))
    for line in _run(python, "-c", _RASTERIO, folder, *NAMES).splitlines():
        name, bands, crs, across, down, left, top = line.split()
        if (bands, crs, across, down) != (str(len(YEARS)), "EPSG:4326", "1.0", "1.0"):
            raise RedError(f"rasterio {name}.zarr: {line}")
        if float(left) > REGION[0] or float(top) < REGION[3]:
            raise RedError(f"rasterio {name}.zarr lies at {left}, {top}")
    return "georeference, reference system and bands of Zarr"


_INTAKE = """
import sys, intake
catalog = intake.open_catalog(sys.argv[1])
for name in sys.argv[2:]:
    print(name, dict(catalog[name].to_dask().land_use.sizes))
"""


def intake(folder: Path) -> str:
    """A plain client: intake, intake-xarray and zarr without xland."""
    python = os.environ.get("XLAND_CHECKERS_PYTHON")
    if not python:
        raise SkippedError("XLAND_CHECKERS_PYTHON names no interpreter of a clean environment")
    if subprocess.run([python, "-c", "import intake_xarray, zarr"], capture_output=True, check=False).returncode:
        raise SkippedError(f"{python} has no intake-xarray and zarr")
    if subprocess.run([python, "-c", "import xland"], capture_output=True, check=False, cwd="/").returncode == 0:
        raise SkippedError(f"{python} has xland: its environment is not clean")
    _run(python, "-c", _INTAKE, folder / "catalog.yaml", *NAMES, cwd="/")
    return "entries open"


def geotiff(folder: Path) -> str:
    """GDAL and rio-cogeo: an exported GeoTIFF has names and colours of the classes, can be copied, and is a COG."""
    from xland.exports.export import export

    _there("gdalinfo")
    maps = xr.open_zarr(folder / "plain.zarr", decode_times=xr.coders.CFDatetimeCoder(time_unit="s"))
    for file in export(maps, folder / "maps", form="geotiff", variables="land_use", progress=False):
        told = _run("gdalinfo", file)
        missing = [name for name in CLASS_NAMES if f": {name}" not in told]
        if missing or "Color Table" not in told:
            raise RedError(f"gdalinfo {file.name} shows no {', '.join(missing) or 'colours'}")
        _run("gdal_translate", "-q", "-of", "VRT", file, folder / "copy.vrt")
        python = _python_with("rio_cogeo", "rio-cogeo")
        check = (
            "import sys, rio_cogeo; ok, faults, _ = rio_cogeo.cog_validate(sys.argv[1], strict=True); sys.exit(not ok)"
        )
        _run(python, "-c", check, file)
    return "names and colours of classes; gdal_translate; rio cogeo validate --strict"


def stac(folder: Path) -> str:
    """stac-validator, without a network: the STAC twin of the catalog."""
    from xland.catalogs.catalog import Catalog

    schemas = os.environ.get("XLAND_STAC_SCHEMAS")
    if not schemas:
        raise SkippedError("XLAND_STAC_SCHEMAS names no folder with the schemas of extensions")
    python = Path(_python_with("stac_validator, pystac.validation", "stac-validator or pystac"))
    where = "import pystac.validation as v, os; print(os.path.dirname(v.__file__))"
    core = Path(_run(python, "-c", where).strip(), "jsonschemas")
    known = {f"https://geojson.org/schema/{path.name}": path for path in (core / "geojson").glob("*.json")}
    known |= {f"https://{path.relative_to(schemas)}": path for path in Path(schemas).rglob("*.json")}
    known |= {url.replace("/en/latest/", "/"): path for url, path in known.items()}
    for path in (core / "stac-spec" / "v1.1.0").glob("*.json"):
        known[path.name] = path  # as they refer to each other
        for kind in ("item", "collection", "catalog"):
            known[f"https://schemas.stacspec.org/v1.1.0/{kind}-spec/json-schema/{path.name}"] = path
    maps = [word for url, path in known.items() for word in ("--schema-map", url, path.absolute())]
    files = sorted(Catalog(folder / "catalog.yaml").stac().parent.rglob("*.json"))
    for file in files:
        told = json.loads(
            re.search(
                r"\[.*\]", _run(python.with_name("stac-validator"), "validate", file, *maps, status=None), re.DOTALL
            )[0]
        )
        if not told[0]["valid_stac"]:
            raise RedError(f"stac-validator {file.name}: {told[0]['error_message']}")
    return f"{len(files)} files are valid"


TOOLS: Mapping[str, Callable[[Path], str]] = {
    "compliance-checker": compliance,
    "cdo": cdo,
    "nco": nco,
    "gdal": gdal,
    "rasterio": rasterio,
    "intake": intake,
    "geotiff": geotiff,
    "stac-validator": stac,
}


def verdict(name: str, folder: Path) -> dict[str, str]:
    """Ask one tool about the products in a folder."""
    try:
        said = TOOLS[name](folder)
    except SkippedError as reason:
        return {"tool": name, "verdict": "skipped", "why": str(reason)}
    except RedError as reason:
        return {"tool": name, "verdict": "red", "why": str(reason)}
    return {"tool": name, "verdict": "green", "why": said}


def _there(program: str) -> None:
    if shutil.which(program) is None:
        raise SkippedError(f"{program} is not installed (Debian: cdo nco gdal-bin)")


def _python_with(module: str, package: str, check: str | None = None) -> str:
    """Interpreter that has a module (and passes a check of its version)."""
    script = check or f"import {module}"
    for python in (sys.executable, os.environ.get("XLAND_CHECKERS_PYTHON")):
        if python and not subprocess.run([python, "-c", script], capture_output=True, check=False).returncode:
            return python
    asked = "here, and XLAND_CHECKERS_PYTHON names no interpreter that has it"
    raise SkippedError(f"{package} is not installed{' in the version needed' if check else ''} {asked}")


def _run(*words: str | Path, status: int | None = 0, cwd: str | None = None) -> str:
    try:
        done = subprocess.run(
            list(map(str, words)), capture_output=True, text=True, check=False, timeout=TIMEOUT, cwd=cwd
        )
    except subprocess.TimeoutExpired:
        raise RedError(f"{words[0]} was not done after {TIMEOUT} s") from None
    if status is not None and done.returncode != status:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RedError(f"{' '.join(Path(str(word)).name for word in words[:3])} ended with {done.returncode}: {last}")
    return done.stdout


def main() -> int:
    """Print one line a tool."""
    red = 0
    with tempfile.TemporaryDirectory() as folder:
        make_products(Path(folder))
        for name in TOOLS:
            line = verdict(name, Path(folder))
            red += line["verdict"] == "red"
            print(json.dumps(line), flush=True)
    return int(red > 0)


if __name__ == "__main__":
    sys.exit(main())
