"""A catalog as an object: what it lists, and what is done with it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xland.catalogs.entry import Entry
from xland.paths import address_of

if TYPE_CHECKING:
    from xland.catalogs.checking import Checked
    from xland.store.publisher import Publisher


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
        self.address = address_of(address)
        self.allowed_schemes = tuple(allowed_schemes)

    @property
    def path(self) -> Path:
        """Path of the YAML file; CatalogError if it is behind a URL."""
        raise NotImplementedError

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
        """Header: ``title``, ``summary`` and others."""
        raise NotImplementedError

    @property
    def publisher(self) -> Publisher:
        """Who publishes: ``publisher`` of the header."""
        raise NotImplementedError

    @property
    def products(self) -> tuple[str, ...]:
        """Names of the sub-catalogs."""
        raise NotImplementedError

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
    ) -> list[Entry]:
        """Entries in the order of the catalog; superseded versions only with ``versions``."""
        raise NotImplementedError

    def show(self, name: str) -> Entry:
        """One entry by its name, ``NAME``, ``NAME@latest`` or ``NAME@2``; a CatalogError lists those that there are."""
        raise NotImplementedError

    def open(self, name: str) -> xr.Dataset:
        """Open an entry lazily; see :func:`xland.catalogs.opening.open_entry`."""
        raise NotImplementedError

    def publish(self, *, name: str, store: str | os.PathLike[str], **options: Any) -> Path:
        """Enter a store; see :func:`xland.catalogs.publishing.publish`."""
        raise NotImplementedError

    def rename(self, name: str, to: str) -> Entry:
        """Rename an entry with all its versions; stores stay where they are."""
        raise NotImplementedError

    def remove(self, name: str, *, stores: bool = False) -> None:
        """Take out an entry with all its versions, or one version; their stores stay unless ``stores`` is set."""
        raise NotImplementedError

    def check(self, *, deep: bool = False) -> Checked:
        """Compare the catalog with its stores; see :func:`xland.catalogs.checking.check`."""
        raise NotImplementedError

    def page(self, changed: Sequence[str] | None = None) -> Path:
        """Write the page of the catalog; see :func:`xland.catalogs.page.write_page`."""
        from xland.catalogs.page import write_page

        return write_page(self, changed)

    def stac(self, changed: Sequence[str] | None = None) -> Path:
        """Write its STAC twin; see :func:`xland.catalogs.stac.write_stac`."""
        from xland.catalogs.stac import write_stac

        return write_stac(self, changed)

    def _follow(self, changed: Sequence[str]) -> None:
        """Make page and STAC twin again, if they are there, after entries changed."""
        if self.page_path.exists():
            self.page(changed)
        if self.stac_path.exists():
            self.stac(changed)
