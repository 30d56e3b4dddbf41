"""A catalog as an object: what it says, and what is done with it."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from xland.catalogs.checking import Checked, check
from xland.catalogs.entry import Entry, as_table, entry_of, version_of
from xland.catalogs.finding import find_entry, open_entry, place_of, publisher_of, read_entries, read_products
from xland.catalogs.page import page_of, write_page
from xland.catalogs.publishing import follow, publish
from xland.catalogs.rules import check_entry, check_name, split_name
from xland.catalogs.stac import twin_of, write_stac
from xland.catalogs.yaml_files import CatalogFile, Content, change_file, changing, read_file
from xland.errors import CatalogError, XlandError
from xland.geo.conventions import listed
from xland.paths import without_password
from xland.store.provenance import Publisher


class Entries(tuple[Entry, ...]):
    """Entries of a catalog, which print as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = []
        for each in self:
            area = " ".join(f"{edge:g}" for edge in each.bounds or ())
            rows.append([each.name, each.product, listed(each.years), area, each.model, each.foreign or each.title])
        return as_table(["name", "product", "years", "west south east north", "model", "title"], rows)

    __repr__ = __str__


class Catalog:
    """An intake catalog on this machine, or behind a URL to read.

    Parameters
    ----------
    address : path or URL
        YAML file; it need not exist before the first publication.
    allowed_schemes : collection of str
        URL schemes (such as ``https``) that entries may point to. Entries of a catalog behind a URL may lie beside it.
    """

    def __init__(self, address: str | os.PathLike[str], *, allowed_schemes: Collection[str] = ()) -> None:
        self.address = place_of(address)
        self.allowed_schemes = tuple(allowed_schemes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({without_password(str(self.address))!r})"

    @property
    def path(self) -> Path:
        """Path of the YAML file; CatalogError if it is behind a URL."""
        if isinstance(self.address, Path):
            return self.address
        shown = without_password(self.address)
        raise CatalogError(f"{shown} is read only: change the catalog where its files are, and copy them")

    @property
    def page_path(self) -> Path:
        """Where its page is, if it has one."""
        return page_of(self.path)

    @property
    def stac_path(self) -> Path:
        """Where its STAC twin begins, if it has one: items lie in this folder and below."""
        return twin_of(self.path)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Header: ``title``, ``summary``, ``publisher`` and others."""
        return read_file(self.address).metadata

    @property
    def publisher(self) -> Publisher:
        """Who publishes: ``publisher`` of the header; CatalogError names what is wrong in it."""
        return publisher_of(read_file(self.address))

    @property
    def products(self) -> tuple[str, ...]:
        """Names of the sub-catalogs."""
        return tuple(read_file(self.address).products)

    def list(
        self,
        *,
        year: int | None = None,
        region: tuple[float, float, float, float] | None = None,
        scenario: str | None = None,
        variable: str | None = None,
        model: str | None = None,
        product: str | None = None,
        versions: bool = False,
    ) -> Entries:
        """Return the entries in the order of the catalog; nothing is opened.

        Parameters
        ----------
        year : int, optional
            Only entries with this year.
        region : (west, south, east, north), optional
            Only entries whose area has a part of this region, in degrees.
        scenario : str, optional
            Only entries of this scenario.
        variable : str, optional
            Only entries with this variable.
        model : str, optional
            Only entries of this model.
        product : str, optional
            Only entries in this sub-catalog.
        versions : bool
            Also versions that are superseded.

        Returns
        -------
        tuple of Entry
            It prints as a table. Entries with drivers of other programs are among them, and say so in ``foreign``.
        """
        asked = {"scenario": scenario, "model": model, "product": product, "superseded_by": None if versions else ""}
        asked = {key: value for key, value in asked.items() if value is not None}

        def fits(each: Entry) -> bool:
            return (
                all(getattr(each, key) == value for key, value in asked.items())
                and (year is None or year in each.years)
                and (variable is None or variable in each.variables)
                and (region is None or (each.bounds is not None and _overlap(each.bounds, region)))
            )

        collecting = gc.isenabled()
        gc.disable()  # it would look through 100,000 new objects again and again, none of which is garbage
        try:
            return Entries(filter(fits, read_entries(read_file(self.address), product)))
        finally:
            if collecting:
                gc.enable()

    def show(self, name: str) -> Entry:
        """Return one entry: ``NAME``, ``NAME@latest`` or ``NAME@2``.

        Parameters
        ----------
        name : str
            Name of the entry.

        Raises
        ------
        CatalogError
            If there is no such entry; the message lists those that there are.
        """
        product, file, key = find_entry(read_file(self.address), name)
        return entry_of(key, file.sources[key], product)

    def open(self, name: str) -> xr.Dataset:
        """Open an entry lazily; see :func:`xland.open_entry`."""
        return open_entry(self.address, name, allowed_schemes=self.allowed_schemes)

    def publish(self, *, name: str, store: str | os.PathLike[str] | None = None, **options: Any) -> Path:
        """Enter a store; see :func:`xland.publish`."""
        return publish(self.path, name=name, store=store, **options)

    def rename(self, name: str, to: str) -> Entry:
        """Rename an entry with all its versions; stores stay where they are.

        Parameters
        ----------
        name : str
            Name of the entry.
        to : str
            Its new name.

        Raises
        ------
        CatalogError
            If there is no such entry, or one of the new name.
        """
        check_name(to)
        with changing(self.path) as found:
            root = self._there(found)
            product, file, key = find_entry(root, name)
            base = split_name(key)[0]
            if key != base:
                raise CatalogError(f"{key} is a version: rename {base!r}, with all its versions")
            if any(to in {*each.names, *each.products} for _, each in read_products(root)):
                raise CatalogError(f"{self.path} has an entry {to!r} already: remove it, or choose another name")
            names = {each: to + each[len(key) :] for each in _versions(file.names, key)}

            def edit(sources: Content) -> Content:
                return {names.get(each, each): _renamed(source, names) for each, source in sources.items()}

            olds = {new: old for old, new in names.items()}
            change_file(Path(file.address), edit, renamed=olds, held=self.path)
            follow(self.path, product, [key, to])
        return self.show(to)

    def remove(self, name: str, *, stores: bool = False) -> Sequence[str]:
        """Take out an entry with all its versions, or one version (``NAME@2``); of the others, the last is the latest.

        Parameters
        ----------
        name : str
            Name of the entry.
        stores : bool
            Delete its stores, too.

        Returns
        -------
        sequence of str
            Names that were taken out.

        Raises
        ------
        CatalogError
            If there is no such entry, or a store that would be deleted is also that of another entry, in this catalog
            or in another one in the folder.
        """
        with changing(self.path) as found:
            product, file, key = find_entry(self._there(found), name)
            base, version = split_name(name)
            gone = [key] if version else _versions(file.names, base)
            entries = [entry_of(each, file.sources[each]) for each in gone]
            targets = [self._unshared(each, gone) for each in entries] if stores else []
            change_file(Path(file.address), partial(_without, gone=gone), held=self.path)
            for target in targets:
                shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            for each in entries:
                picture = self.path.parent / each.preview
                if picture.parent == self.path.with_name(f"{self.path.stem}-previews"):
                    picture.unlink(missing_ok=True)
            follow(self.path, product, gone)
        return gone

    def check(self, *, deep: bool = False, progress: bool = True) -> Checked:
        """Compare the catalog with its stores; see :func:`xland.catalogs.checking.check`."""
        return check(self, deep=deep, progress=progress)

    def page(self) -> Path:
        """Write the page of the catalog; see :func:`xland.catalogs.page.write_page`."""
        return write_page(self.path)

    def stac(self) -> Path:
        """Write its STAC twin; see :func:`xland.catalogs.stac.write_stac`."""
        return write_stac(self.path)

    def _there(self, root: CatalogFile | None) -> CatalogFile:
        if root is None:
            raise CatalogError(f"there is no catalog at {self.path}")
        return root

    def _unshared(self, entry: Entry, gone: Collection[str]) -> Path:
        """Return the store of an entry, which is to be deleted; CatalogError if another entry has it, too."""
        folder = self.path.parent
        source = {"driver": entry.driver, "args": {"urlpath": entry.store}}
        if not isinstance(check_entry(self.path, entry.name, source, ()), Path):
            raise CatalogError(f"{entry.name} is at an address: remove it without stores=True")
        ours = {file.address for _, file in read_products(read_file(self.path))}
        for path in sorted({self.path, *folder.glob("*.yaml"), *folder.glob("*.yml")}):
            try:
                others = list(read_entries(read_file(path)))
            except XlandError:
                continue  # another program's file
            for other in others:
                if other.store == entry.store and not (path in ours and other.name in gone):
                    raise CatalogError(
                        f"{folder / entry.store} is also the store of {other.name} in {path.name}: remove {entry.name} "
                        "without stores=True"
                    )
        return folder / entry.store


def _overlap(one: tuple[float, float, float, float], two: tuple[float, float, float, float]) -> bool:
    """Whether two regions share an area, wherever their range of longitude begins."""
    turns = any(one[0] + turn < two[2] and two[0] < one[2] + turn for turn in (-720, -360, 0, 360, 720))
    return turns and one[1] < two[3] and two[1] < one[3]


def _versions(names: Collection[Any], base: str) -> Sequence[str]:
    """Return the names of an entry and of its earlier versions."""
    return [name for name in names if split_name(str(name))[0] == base]


def _renamed(source: Any, names: Mapping[str, str]) -> Any:
    """Return a source of an entry that is renamed: it is superseded by the same entry under its new name."""
    metadata = source.get("metadata") if isinstance(source, dict) else None
    if not isinstance(metadata, dict):
        return source
    base, version = split_name(str(metadata.get("superseded_by")))
    if base not in names:
        return source
    return {**source, "metadata": {**metadata, "superseded_by": f"{names[base]}@{version}"}}


def _without(sources: Content, gone: Collection[str]) -> Content:
    """Return the sources without some; of the versions of an entry that are left, the last one is the latest."""
    left = {key: each for key, each in sources.items() if key not in gone}
    for name in {split_name(key)[0] for key in gone} - left.keys():
        versions = _versions(left, name)
        if versions:
            last = max(versions, key=lambda key: version_of(left[key]))
            said = {k: v for k, v in left[last]["metadata"].items() if not str(k).startswith("superseded_")}
            latest = {**left[last], "metadata": said}
            left = {name if key == last else key: latest if key == last else each for key, each in left.items()}
    return left
