"""A static STAC catalog beside one of intake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xland.catalogs.catalog import Catalog


def write_stac(catalog: Catalog, changed: Sequence[str] | None = None) -> Path:
    """Write the STAC twin to ``catalog.stac_path``; ``changed`` are the only entries that are not as before."""
    raise NotImplementedError
