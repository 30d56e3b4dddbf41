"""The page of a catalog, and the pictures that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xland.catalogs.catalog import Catalog


def write_page(catalog: Catalog, changed: Sequence[str] | None = None) -> Path:
    """Write the page of a catalog to ``catalog.page_path``; ``changed`` are the only entries that are not as before."""
    raise NotImplementedError


def write_preview(ds: xr.Dataset, picture: Path) -> Path | None:  # noqa: ARG001
    """Draw a store that is published; None if it has nothing to draw."""
    return None
