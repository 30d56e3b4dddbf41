"""Catalogs of entries that have no stores, for what is made of what they say, and a server of catalogs."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from xland.catalogs.catalog import Catalog
from xland.vocabulary import CLASS_NAMES

HEADER = {
    "title": "Maps",
    "summary": "Maps for a test.",
    "publisher": {"institution": "Institute of Maps", "contact": "maps@institute.org"},
}


def source(**said: Any) -> dict[str, Any]:
    """Return an entry, as it is in a file, that says all that STAC can show."""
    metadata = {
        "title": "Land use of 2015",
        "years": [2015, 2016],
        "bounds": [10.0, 40.0, 20.0, 50.0],
        "variables": ["land_use", "probability", "confidence"],
        "classes": dict(enumerate(CLASS_NAMES)),
        "crs": "EPSG:4326",
        "resolution_degrees": 0.25,
        "model": "luh2-0p05",
        "licence": "CC-BY-4.0",
        "doi": "10.5281/zenodo.1234567",
        "digest": "ab" * 32,
        "preview": "previews/land-use-2015.png",
        "report": "report.html",
        **said,
    }
    driver, description = metadata.pop("driver", "zarr"), metadata.pop("description", None)
    args = {"urlpath": "maps/land_use.zarr"}
    return {"driver": driver, "description": description, "args": args, "metadata": metadata}


def write_catalog(path: Path, sources: dict[str, Any], **products: dict[str, Any]) -> Catalog:
    """Write a catalog, and sub-catalogs beside it."""
    files = {name: f"{path.stem}.{name}.yaml" for name in products}
    parts = {name: {"driver": "yaml_file_cat", "args": {"path": file}} for name, file in files.items()}
    path.write_text(yaml.safe_dump({"metadata": HEADER, "sources": {**sources, **parts}}, sort_keys=False))
    for name, content in products.items():
        path.with_name(files[name]).write_text(yaml.safe_dump({"sources": content}, sort_keys=False))
    return Catalog(path)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; yield its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
