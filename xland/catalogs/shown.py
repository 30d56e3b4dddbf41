"""What the page and the STAC twin ask of a catalog, which makes them and so cannot be imported by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xland.catalogs.entry import Entry
from xland.store.publisher import Publisher


class Shown(Protocol):
    """A catalog on this machine, see :class:`xland.catalogs.catalog.Catalog`."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def page_path(self) -> Path: ...  # noqa: D102
    @property
    def stac_path(self) -> Path: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def publisher(self) -> Publisher: ...  # noqa: D102

    def list(self, *, versions: bool = False) -> Sequence[Entry]: ...  # noqa: D102
