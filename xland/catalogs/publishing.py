"""Publishing stores in a catalog, and keeping the versions that came before.

An entry is written when its store is whole, in one step. Text that intake would run as a template is not published.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import xarray as xr

from xland.arguments import checked, shown
from xland.catalogs.entry import metadata_of, plain, version_of
from xland.catalogs.finding import file_digest, open_netcdf, publisher_of, read_products
from xland.catalogs.page import page_of, write_page, write_preview
from xland.catalogs.rules import FOLDER_1, check_entry, check_name, product_file, product_source, relative_path
from xland.catalogs.stac import twin_of, write_stac
from xland.catalogs.yaml_files import CatalogFile, Content, change_file, changing, read_file
from xland.errors import CatalogError
from xland.paths import local_path, make_folder
from xland.store.provenance import Publisher, read_publisher
from xland.store.reading import has_work, open_store, read_finished, store_digest
from xland.store.writing import fingerprint_of, write
from xland.untrusted.netcdf import check_file
from xland.untrusted.plain_yaml import parse, render

# of an entry: what its store says, and what catalogs say of versions
_OF_STORES = frozenset({"digest", "preview", "superseded_by", "superseded_because", "version"})


@checked(CatalogError)
def publish(
    catalog: str | os.PathLike[str],
    *,
    name: str,
    store: str | os.PathLike[str] | None = None,
    product: str | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    publisher: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    because: str | None = None,
    preview: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    expected: xr.Dataset | None = None,
) -> Path:
    """Enter a store in a catalog; an entry of the same name becomes an earlier version, and others stay as they are.

    Readers see the old file or the new one, never a part. Publishers at the same time wait for each other. Comments
    and order of a file that was edited by hand stay.

    The earlier entry is kept as ``NAME@1``, and says by what and why it is superseded; ``NAME`` is the latest one, also
    ``NAME@latest``. If the store is the one of the entry, the entry is brought up to date; what was added to it by
    hand, such as a DOI, stays.

    Parameters
    ----------
    catalog : path
        YAML file; made if it does not exist.
    name : str
        Name of the entry: letters, digits, ``.``, ``_`` and ``-``.
    store : path, optional
        A finished Zarr store, or a NetCDF file, in the catalog's folder or below it. Lazy maps (``expected``) without
        one are written to ``NAME.zarr`` beside the catalog, or to ``NAME.v2.zarr`` and so on; an interrupted run
        resumes.
    product : str, optional
        Sub-catalog of the entry, a file beside the catalog; made if it does not exist. With plain intake it is
        ``catalog[product][name]``. A file has at most 1,000 entries.
    description : str, optional
        A line for people; by default the title of the store.
    metadata : mapping, optional
        Added to what the store says about itself: title, summary, bounds, years, classes, CRS, model, licence,
        institution, contact, DOI, version of xland, and its digest, which :func:`xland.open_entry` compares (of a
        NetCDF file the SHA-256).
    publisher : path, optional
        TOML file with the licence, institution, contact, DOI and others of the entry, in place of those that the
        catalog's header (``publisher`` in its ``metadata``) or the store state; see
        :func:`xland.store.provenance.read_publisher`.
    report : path, optional
        A page about the maps in the catalog's folder or below it, such as that of ``xland report``.
    because : str, optional
        Why the entry replaces the one of the same name.
    preview : bool
        Draw a small picture of the maps for the page of the catalog.
    overwrite : bool
        Start lazy maps again whose unfinished store was begun with other inputs.
    progress : bool
        Show a progress bar while lazy maps are written.
    expected : Dataset, optional
        The maps that the store should have: the ``xland_fingerprint`` of both must be the same if both have one.

    Returns
    -------
    Path
        The catalog.

    Raises
    ------
    CatalogError
        If the name cannot be used, the store is outside the catalog's folder, or the catalog that is there is damaged,
        full or unsafe (it is left as it is).
    StoreError
        If the store is missing or incomplete.
    """
    path = local_path(catalog, what="a catalog")
    if path.suffix not in (".yaml", ".yml"):
        raise CatalogError(f"{path}: the name of a catalog has to end in .yaml for intake")
    for given in (name, *([] if product is None else [product])):
        check_name(given)
    if not isinstance(metadata, Mapping | None):
        raise CatalogError(f"metadata must be a mapping of names to values or None, not {shown(metadata)}")
    root = read_file(path) if os.path.lexists(path) else None
    header = Publisher() if root is None else publisher_of(root)
    own = Publisher() if publisher is None else read_publisher(publisher)
    if store is None:
        if expected is None:
            raise CatalogError("there is nothing to publish: give the store, or call publish of maps")
        maps = expected.assign_attrs(_attributes(expected, header, own))
        target = _write_beside(maps, path, root, name, overwrite=overwrite, progress=progress)
    else:
        target = local_path(store, what="a store that is published")
    entry = _entry(path, name, target, expected, header, own, preview=preview)
    entry["description"] = str(description or entry["description"])
    entry["metadata"] |= plain(metadata or {})
    if report is not None:
        entry["metadata"]["report"] = relative_path(path, local_path(report, what="a report"))
    try:
        parse(render({name: entry}, "it"), "it")
        check_entry(path, name, entry, ())
    except CatalogError as error:
        raise CatalogError(f"{path} is left as it was, as it could not be read again: {error}") from error
    doi = own.doi or str((metadata or {}).get("doi", ""))
    _enter(path, product, name, partial(entered, name=name, entry=entry, because=because, doi=doi, default=header.doi))
    return path


def entered(
    sources: Content, *, name: str, entry: dict[str, Any], because: str | None = None, doi: str = "", default: str = ""
) -> Content:
    """Return the sources of a file with an entry that is new, updates one, or supersedes one.

    ``doi`` is one that was given for it, ``default`` one of the catalog for entries without any.
    """
    old, new = sources.get(name), dict(entry["metadata"])
    if product_file(old):
        raise CatalogError(f"{name!r} is the name of a sub-catalog: choose another one")
    before, args = (_mapping(_mapping(old).get(key)) for key in ("metadata", "args"))
    number, digest = version_of(old), new.get("digest")
    same = digest is not None and digest == before.get("digest")
    update = same or FOLDER_1.sub("", str(args.get("urlpath")), count=1) == entry["args"]["urlpath"]
    theirs = str(before.get("doi", "")) if update else ""
    found = doi or (theirs if same else "") or new.get("doi") or theirs or default
    new |= {"doi": found} if found else {}
    if old is None:
        return {**sources, name: {**entry, "metadata": new}}
    if update:
        number += 0 if same or digest is None or "digest" not in before else 1
        kept = {key: each for key, each in before.items() if key not in _OF_STORES}
        return {**sources, name: {**entry, "metadata": kept | new | ({"version": number} if number > 1 else {})}}
    past = before | {
        "version": number,
        "superseded_by": f"{name}@{number + 1}",
        "superseded_because": because or f"version {number + 1} was published",
    }
    both = {
        name: {**entry, "metadata": new | {"version": number + 1}},
        f"{name}@{number}": {**_mapping(old), "metadata": past},
    }
    return dict(chain.from_iterable(both.items() if key == name else [(key, each)] for key, each in sources.items()))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _enter(path: Path, product: str | None, name: str, edit: Callable[[Content], Content]) -> None:
    """Change the file of an entry, the catalog itself or a sub-catalog, which the catalog then names."""
    make_folder(path.parent, CatalogError)
    with changing(path) as root:
        _refuse_elsewhere(root, name, product)
        if product is None:
            change_file(path, edit, held=path)
        else:
            part = path.with_name(f"{path.stem}.{product}{path.suffix}")
            change_file(part, edit, new={"title": product})
            change_file(path, partial(_with_product, product=product, file=part.name), held=path)
        follow(path, product or "", [name])


def follow(path: Path, product: str, changed: Sequence[str]) -> None:
    """Bring the page and the STAC twin of a catalog up to date, if they are there."""
    if page_of(path).exists():
        write_page(path)
    if twin_of(path).exists():
        write_stac(path, product, changed)


def _attributes(ds: xr.Dataset, header: Publisher, own: Publisher) -> dict[str, str]:
    """Return what the header of a catalog, and a file in place of it, say of who publishes; maps keep their DOI."""
    given = header.attributes
    given = {key: text for key, text in given.items() if key not in ("id", "naming_authority") or "id" not in ds.attrs}
    return given | own.attributes


def _entry(
    path: Path,
    name: str,
    target: Path,
    expected: xr.Dataset | None,
    header: Publisher,
    own: Publisher,
    *,
    preview: bool,
) -> dict[str, Any]:
    """Return the entry of a finished store or file."""
    relative = relative_path(path, target)
    is_file = target.is_file() or (target.suffix == ".nc" and not target.is_dir())
    driver = "netcdf" if is_file else "zarr"
    args: dict[str, Any] = {"urlpath": relative}
    with open_store(target) if driver == "zarr" else open_netcdf(target, {}) as ds:
        ours, theirs = (None if each is None else each.attrs.get("xland_fingerprint") for each in (expected, ds))
        if ours and theirs and ours != theirs:
            raise CatalogError(
                f"{target} does not have these maps: its xland_fingerprint is {str(theirs)[:12]}, theirs "
                f"{str(ours)[:12]} (other inputs, model or options); write them with to_zarr, or publish the Dataset "
                "of open_store"
            )
        header = replace(header, doi="")  # which is for entries that have none
        found = metadata_of(ds.assign_attrs(_attributes(ds, header, own)))
        if driver == "zarr":
            digest = store_digest(target)
            root = read_finished(target)[0]  # Zarr 3 without consolidated metadata warns
            args["consolidated"] = "consolidated_metadata" in root if root else (target / ".zmetadata").exists()
        else:
            digest = file_digest(target)
            # plain intake opens a file behind a URL with these engines alone
            options = check_file(target, stranger=True)
            if any(" since " in str(variable.attrs.get("units", "")) for variable in ds.variables.values()):
                options["decode_times"] = False  # xarray could not decode it
            args.update(chunks={}, path_as_pattern=False, xarray_kwargs=options)
        if preview:
            folder = path.with_name(f"{path.stem}-previews")
            picture = write_preview(ds, folder / f"{name}-{(digest or 'new')[:8]}.png")
            found |= {} if picture is None else {"preview": relative_path(path, picture)}
    return {
        "description": str(found.get("title") or name),
        "driver": driver,
        "args": args,
        "metadata": found | ({} if digest is None else {"digest": digest}),
    }


def _write_beside(
    ds: xr.Dataset, path: Path, root: CatalogFile | None, name: str, *, overwrite: bool, progress: bool
) -> Path:
    """Write lazy maps beside a catalog, or go on with it; return the store, an older one if it has these maps."""
    work, number = fingerprint_of(ds), 1
    for _, file in read_products(root) if root is not None else ():
        if name in file.names:
            target = check_entry(path, name, file.sources[name], ())
            if isinstance(target, Path) and has_work(target, work):
                return target
            number = version_of(file.sources[name]) + 1
    while True:
        target = path.with_name(f"{name}.zarr" if number == 1 else f"{name}.v{number}.zarr")
        if has_work(target, work):
            return target
        if not os.path.lexists(target):
            make_folder(path.parent, CatalogError)
            write(ds, target, overwrite=overwrite, resume=not overwrite, progress=progress)
            return target
        number += 1


def _refuse_elsewhere(root: CatalogFile | None, name: str, product: str | None) -> None:
    """Refuse a name that another file of the catalog has."""
    for other, file in read_products(root) if root is not None else ():
        if other != (product or "") and name in file.names:
            place = f"the product {other!r}" if other else "the catalog itself, without a product"
            raise CatalogError(f"{root.address} has {name!r} in {place}: publish it there, or choose another name")  # type: ignore[union-attr]


def _with_product(sources: Content, *, product: str, file: str) -> Content:
    known = sources.get(product)
    if known is not None and product_file(known) != file:
        raise CatalogError(f"{product!r} is the name of an entry: choose another one for the product")
    return sources if known is not None else {**sources, product: product_source(file, product)}
