"""Exporting maps: which file each year and variable goes to."""

from __future__ import annotations

import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import xarray as xr
from dask import delayed

from xland.arguments import checked, unknown
from xland.errors import StoreError, TimeError
from xland.exports.pyramid import CHUNK, attributes_of, make_levels
from xland.geo.conventions import listed, years_of
from xland.geo.orientation import find_names
from xland.paths import check_ending, check_file_place, local_path, naming_faults
from xland.store.blocks import align
from xland.store.encoding import drop_encoding
from xland.store.provenance import for_storage
from xland.store.writing import check_netcdf_place, check_store_place, compute, progress_bar, write_netcdf

Form = Literal["geotiff", "netcdf", "pyramid", "zarr2"]
_BY_ENDING: Mapping[str, Form] = {".tif": "geotiff", ".tiff": "geotiff", ".nc": "netcdf", ".nc4": "netcdf"}
_ENDINGS = {"geotiff": ("a GeoTIFF", ".tif", ".tiff"), "netcdf": ("a NetCDF file", ".nc", ".nc4")}
_PER = {"year": 1, "decade": 10}


@checked(StoreError)
def export(
    maps: xr.Dataset,
    out: str | os.PathLike[str],
    *,
    form: Form | None = None,
    variables: str | Sequence[str] | None = None,
    years: int | Sequence[int] | slice | None = None,
    per: Literal["year", "decade", "all"] = "year",
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write maps in a form that other programs read; one part after the other is in memory.

    Lazy maps are computed once for each file of years. Write a rollout to a store first, and export that.

    Parameters
    ----------
    maps : Dataset
        Of a store, or of ``downscale``, in any orientation.
    out : path
        A folder for several files, which is made; or the file or store. A name that ends in ``.tif`` is a GeoTIFF of
        one map, one that ends in ``.nc`` a NetCDF file of all years.
    form : {"geotiff", "netcdf", "pyramid", "zarr2"}, optional
        ``geotiff``: a cloud-optimised GeoTIFF for each variable and year, class maps with a colour table, and with the
        names of the classes in a file ``.aux.xml`` beside. ``netcdf``: CF NetCDF-4 files, see `per`. ``zarr2``: a store
        for readers that do not know Zarr 3. ``pyramid``: a Zarr 3 store with the maps on ever larger cells, for map
        viewers: class maps as the most frequent class (of equal ones the lower code), other variables as area-weighted
        mean. By default as the ending of `out` says.
    variables : str or sequence of str, optional
        By default all that have latitude and longitude.
    years : int, sequence of int or slice, optional
        Calendar years; by default all.
    per : {"year", "decade", "all"}
        Years in one NetCDF file.
    overwrite : bool
        Replace files and stores that are there.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Path
        What was written: files ``VARIABLE_YEAR.tif``, files ``land_use_YEARS.nc``, or the store.

    Raises
    ------
    StoreError
        If the form is not clear, something is there already, or it cannot be written.
    TimeError
        If a year is not there, or there are several for one GeoTIFF.
    GridError
        If the grid is not regular.
    """
    target = local_path(out, what="an export")
    form = form or _BY_ENDING.get(target.suffix.lower())
    if form is None:
        raise StoreError(
            f"{target.name} does not say in which form to write: pass form='geotiff', 'netcdf', 'pyramid' or 'zarr2'"
        )
    if form in _ENDINGS:
        check_ending(target, *_ENDINGS[form])
    steps = _steps(_chosen(maps, variables), years)
    if form in ("zarr2", "pyramid"):
        check_store_place(target, overwrite=overwrite)
        whole = steps[0][1] if len(steps) == 1 else _joined(steps)
        return (_zarr2 if form == "zarr2" else _pyramid)(whole, target, progress=progress)
    if form == "netcdf":
        return _netcdf(steps, target, per, overwrite=overwrite, progress=progress)
    return _geotiffs(steps, target, overwrite=overwrite, progress=progress)


_Steps = list[tuple[int | None, xr.Dataset]]


def _chosen(maps: xr.Dataset, variables: str | Sequence[str] | None) -> xr.Dataset:
    """Return the variables that are exported, with their coordinates."""
    if not isinstance(maps, xr.Dataset):
        raise StoreError(f"only a Dataset can be exported, not a {type(maps).__name__}; of a DataArray to_dataset()")
    latitude, longitude = (find_names(maps, kind, what="maps") for kind in ("latitude", "longitude"))
    across = {each.dimension for each in (latitude, longitude) if each is not None}
    there = [str(name) for name in maps.data_vars if across <= set(maps[name].dims)]
    asked = there if variables is None else [variables] if isinstance(variables, str) else list(variables)
    if wrong := [name for name in asked if name not in there]:
        raise StoreError(unknown("variable", wrong, there))
    if not asked:
        raise StoreError("there is no variable with latitude and longitude to export")
    return maps[asked]


def _steps(maps: xr.Dataset, years: int | Sequence[int] | slice | None) -> _Steps:
    """Return the maps of each year that was asked for; None for a map that does not say its year."""
    names, known = find_names(maps, "time", what="maps"), years_of(maps, what="maps")
    if names is None or known is None:
        if years is not None:
            raise TimeError("the maps do not say their years: leave years out")
        if names is not None and maps.sizes[names.dimension] > 1:
            raise TimeError(f"the {maps.sizes[names.dimension]} maps do not say their years: give them a time")
        return [(known[0] if known else None, maps)]
    if isinstance(years, slice):
        asked = [y for y in known if (years.start or y) <= y <= (years.stop or y)][:: years.step or 1]
    else:
        asked = list(known) if years is None else [years] if isinstance(years, int) else list(years)
    if not asked or (missing := [year for year in asked if year not in known]):
        what = "no year" if not asked else listed(missing)
        raise TimeError(f"{what} of those that were asked for is there: the maps are of {listed(known)}")
    return [(year, maps.isel({names.dimension: [known.index(year)]})) for year in asked]


def _joined(steps: _Steps) -> xr.Dataset:
    time = find_names(steps[0][1], "time", what="maps")
    return xr.concat([each for _, each in steps], time.dimension, data_vars="minimal") if time else steps[0][1]


def _netcdf(steps: _Steps, target: Path, per: str, *, overwrite: bool, progress: bool) -> list[Path]:
    groups: dict[Any, _Steps] = {}
    single = target.suffix.lower() in _BY_ENDING
    for year, each in steps:
        groups.setdefault(0 if single or per == "all" or year is None else year // _PER[per], []).append((year, each))
    found = steps[0][1].data_vars
    stem = "land_use" if "land_use" in found else str(next(iter(found)))
    years = [[year for year, _ in group] for group in groups.values()]
    files = [target if single else target / _name(stem, each, ".nc") for each in years]
    for file in files:
        check_netcdf_place(file, overwrite=overwrite)
    for file, group in zip(files, groups.values(), strict=True):
        write_netcdf(_joined(group), file, overwrite=overwrite, progress=progress)
    return files


def _geotiffs(steps: _Steps, target: Path, *, overwrite: bool, progress: bool) -> list[Path]:
    from xland.exports.geotiff import write_geotiffs

    variables = list(map(str, steps[0][1].data_vars))
    single = target.suffix.lower() in _BY_ENDING
    if single and (len(steps) > 1 or len(variables) > 1):
        raise TimeError(
            f"{target.name} is one GeoTIFF, but there are {len(steps)} years of {', '.join(variables)}: choose one "
            "with years= and variables=, or give a folder"
        )
    plan = []
    for year, each in steps:
        named = {name: target if single else target / _name(name, [year], ".tif") for name in variables}
        plan.append((each, named, _tags(each, year)))
    files = [file for _, named, _ in plan for file in named.values()]
    there = [file for file in files if os.path.lexists(file)]
    if there and not overwrite:
        more = f" and {len(there) - 1} more are" if there[1:] else " is"
        raise StoreError(f"{there[0]}{more} there already; pass overwrite=True to replace them")
    for file in files:
        check_file_place(file)
    with progress_bar(len(plan), 0, shown=progress) as advance:
        for each, named, tags in plan:
            write_geotiffs(each, named, tags)
            advance()
    return files


def _name(stem: str, years: Sequence[int | None], ending: str) -> str:
    known = [f"{year:04d}" for year in (years[0], years[-1]) if year is not None]
    return "_".join([stem, *(["-".join(dict.fromkeys(known))] if known else [])]) + ending


def _tags(maps: xr.Dataset, year: int | None) -> dict[str, str]:
    """Return what a GeoTIFF says of itself."""
    said = {key: maps.attrs.get(key) for key in ("title", "license", "institution", "id", "xland_model", "source")}
    return {key.upper(): str(text) for key, text in {**said, "year": year}.items() if text is not None}


def _zarr2(ds: xr.Dataset, folder: Path, *, progress: bool) -> list[Path]:
    """Write maps as Zarr 2, which readers before zarr-python 3 and GDAL before 3.8 know."""
    with _growing(folder) as part:
        compute(_lay_out(ds, part, zarr_format=2, consolidated=True), progress=progress)
    return [folder]


def _pyramid(ds: xr.Dataset, folder: Path, *, progress: bool) -> list[Path]:
    """Write maps on each level of a pyramid, see :mod:`xland.exports.pyramid`."""
    import zarr

    levels, made = make_levels(ds)
    with _growing(folder) as part, _quiet():
        said = {str(key): each.tolist() if hasattr(each, "tolist") else each for key, each in ds.attrs.items()}
        zarr.create_group(str(part), attributes={**said, **attributes_of(levels)}, zarr_format=3)
        chunks = {"lat": CHUNK, "lon": CHUNK}
        pending = [
            _lay_out(each, part, chunks, group=str(number), zarr_format=3, consolidated=False)
            for number, each in enumerate(made)
        ]
        compute(delayed(list)(pending), progress=progress)
        zarr.consolidate_metadata(str(part))
    return [folder]


def _lay_out(ds: xr.Dataset, folder: Path, chunks: dict[str, int] | None = None, **how: Any) -> Any:
    """Write all but the large arrays, and return what has to be computed to write these."""
    ds, chosen = align(for_storage(drop_encoding(ds)), chunks)
    for name, variable in ds.variables.items():
        variable.encoding |= {"_FillValue": None} if name in ds.coords else {}
        variable.encoding |= chosen.get(str(name), {})
        if how["zarr_format"] == 2:
            variable.encoding.pop("compressors", None)  # the codecs of Zarr 3 are others
    with _quiet():
        return ds.to_zarr(folder, mode="a", compute=False, **how)


@contextmanager
def _growing(folder: Path) -> Iterator[Path]:
    """Yield a folder beside, which takes the place of ``folder`` when the body is done, and is removed if it fails."""
    part = folder.with_name(f".{folder.name[:80]}.{secrets.token_hex(8)}.partial")
    old = part.with_suffix(".replaced")
    with naming_faults(folder):
        part.mkdir(parents=True)
        try:
            yield part
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
        finally:
            for each in (part, old):
                shutil.rmtree(each, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Consolidated metadata and text of class names are not in the specification of Zarr 3 yet, but all read them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield
