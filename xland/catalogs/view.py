"""What a catalog says: its header, its entries, and the page and STAC twin that are made of them."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from xland.catalogs.entry import Entry, as_table, entry_of
from xland.catalogs.finding import find_entry, open_entry, place_of, read_products
from xland.catalogs.yaml_files import CatalogFile, read_file
from xland.errors import CatalogError
from xland.geo.conventions import listed
from xland.paths import without_password
from xland.records import read_record
from xland.store.provenance import Publisher


class Entries(tuple[Entry, ...]):
    """Entries of a catalog, which print as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [
            [each.name, each.product, listed(each.years), _degrees(each.bounds), each.model, each.foreign or each.title]
            for each in self
        ]
        return as_table(["name", "product", "years", "west south east north", "model", "title"], rows)

    __repr__ = __str__


class CatalogView:
    """An intake catalog as it is read: :class:`xland.Catalog` can change it, too.

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
    def folder(self) -> Path:
        """Folder of the catalog, to which the paths of entries are relative."""
        return self.path.parent

    @property
    def page_path(self) -> Path:
        """Where its page is, if it has one."""
        return self.path.with_suffix(".html")

    @property
    def stac_path(self) -> Path:
        """Where its STAC twin begins, if it has one: items lie in this folder and below."""
        return self.path.with_name(f"{self.path.stem}-stac") / "catalog.json"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Header: ``title``, ``summary``, ``publisher`` and others."""
        return read_file(self.address).content.get("metadata") or {}

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

        found = (
            entry_of(name, file.sources[name], inside)
            for inside, file in read_products(read_file(self.address))
            if product is None or inside == product
            for name in file.names
        )
        collecting = gc.isenabled()
        gc.disable()  # it would look through 100,000 new objects again and again, none of which is garbage
        try:
            return Entries(filter(fits, found))
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

    def page(self, changed: Sequence[str] | None = None) -> Path:
        """Write the page of the catalog; see :func:`xland.catalogs.page.write_page`."""
        from xland.catalogs.page import write_page

        return write_page(self, changed)

    def stac(self, changed: Sequence[str] | None = None) -> Path:
        """Write its STAC twin; see :func:`xland.catalogs.stac.write_stac`."""
        from xland.catalogs.stac import write_stac

        return write_stac(self, changed)


def publisher_of(root: CatalogFile) -> Publisher:
    """Return who publishes a catalog, as its header says; CatalogError names what is wrong there."""
    given = (root.content.get("metadata") or {}).get("publisher")
    if given is None:
        return Publisher()
    return read_record(Publisher, given, f"{root.address}: publisher in metadata", CatalogError)


def _overlap(one: tuple[float, float, float, float], two: tuple[float, float, float, float]) -> bool:
    """Whether two regions share an area, wherever their range of longitude begins."""
    turns = any(one[0] + turn < two[2] and two[0] < one[2] + turn for turn in (-720, -360, 0, 360, 720))
    return turns and one[1] < two[3] and two[1] < one[3]


def _degrees(bounds: tuple[float, float, float, float] | None) -> str:
    return "" if bounds is None else " ".join(f"{each:g}" for each in bounds)
