"""Enter the product of the demo in the catalog of this project, and write its STAC twin: ``make catalogs``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from xland.catalogs.catalog import Catalog

HERE = Path(__file__).resolve().parent
NAME = "land-use-2015"


def make(demo: Path, target: Path = HERE) -> Path:
    """Publish ``land_use.zarr`` in the folder of the demo, and bring catalog and twin to the target folder."""
    catalog = Catalog(shutil.copy(HERE / "xland.yaml", demo / "xland.yaml"))
    if any(entry.basename == NAME for entry in catalog.list()):
        catalog.remove(NAME)
    status = "made by `make demo`, as demo-output/land_use.zarr"
    catalog.publish(name=NAME, store=demo / "land_use.zarr", metadata={"status": status}, preview=False)
    twin = catalog.stac().parent
    shutil.rmtree(target / twin.name, ignore_errors=True)
    shutil.copytree(twin, target / twin.name)
    return Path(shutil.copy(catalog.path, target / "xland.yaml"))


if __name__ == "__main__":
    sys.stdout.write(f"wrote {make(Path(sys.argv[1]).resolve())}\n")
