"""A catalog that only lists entries, for what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xland.catalogs.entry import Entry
from xland.store.provenance import Publisher
from xland.vocabulary import CLASS_NAMES

CLASSES = dict(enumerate(CLASS_NAMES))


@dataclass
class StandIn:
    """What the page and the STAC twin ask of a catalog."""

    path: Path
    entries: list[Entry] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=lambda: {"title": "Maps", "summary": "Maps for a test."})
    publisher: Publisher = field(
        default_factory=lambda: Publisher(institution="Institute of Maps", contact="maps@institute.org")
    )

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def page_path(self) -> Path:
        return self.path.with_suffix(".html")

    @property
    def stac_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-stac") / "catalog.json"

    def list(self, *, versions: bool = False) -> list[Entry]:
        return [entry for entry in self.entries if versions or not entry.superseded_by]


def entry(name: str = "land-use-2015", **said: Any) -> Entry:
    """An entry that says all that STAC can show."""
    told: dict[str, Any] = {
        "store": "maps/land_use.zarr",
        "title": "Land use of 2015",
        "years": (2015, 2016),
        "bounds": (10.0, 40.0, 20.0, 50.0),
        "variables": ("land_use", "probability", "confidence"),
        "model": "luh2-0p05",
        "licence": "CC-BY-4.0",
        "doi": "10.5281/zenodo.1234567",
        "digest": "ab" * 32,
        "preview": "previews/land-use-2015.png",
        "report": "report.html",
        "metadata": {"classes": CLASSES, "crs": "EPSG:4326", "resolution_degrees": 0.25},
    }
    return Entry(name, **{**told, **said})
