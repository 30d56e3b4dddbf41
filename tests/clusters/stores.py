"""What is in a store, and blocks that take their time and leave a trace."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections import Counter
from pathlib import Path

import numpy as np
import xarray as xr

from tests.waiting import wait_until
from xland.store.reading import open_store
from xland.store.workplace import notes
from xland.untrusted.folders import files_at


def digest(path: Path) -> str:
    """One hash of all arrays of a store."""
    total = hashlib.sha256()
    with open_store(path) as ds:
        for name in sorted(map(str, ds.variables)):
            values = np.ascontiguousarray(ds[name].values)
            total.update(f"{name}{values.dtype}{values.shape}{ds[name].dims}".encode())
            total.update(values.tobytes())
    return total.hexdigest()


def finished(partial: Path) -> set[str]:
    """Blocks that the journal of a growing store names."""
    return set(notes(files_at(partial)))


def block_of(index: tuple[int, ...]) -> str:
    """A block as the journal names it."""
    return f"time,latitude,longitude:{'.'.join(map(str, index))}"


def traced(maps: xr.Dataset, folder: Path) -> xr.Dataset:
    """The same maps, each block of which notes in a folder that, and where, it was computed, which takes a while.

    When half of them are computed, the others wait for :func:`let_go`.
    """
    data = maps["land_use"].data
    options = {"folder": str(folder), "half": data.npartitions // 2}
    slow = data.map_blocks(_trace, **options, name=f"traced-{data.name}", dtype=np.uint8)
    return maps.assign(land_use=maps["land_use"].copy(data=slow))


def let_go(folder: Path) -> None:
    Path(f"{folder}-go").touch()


def _trace(block, folder, half, block_info=None):
    time.sleep(0.1)
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    with Path(folder, f"{os.getpid()}").open("a") as file:
        file.write(f"{block_of(block_info[0]['chunk-location'])} {node}\n")
    if len(traces(Path(folder))) > half:
        wait_until(Path(f"{folder}-go").exists)
    return block


def traces(folder: Path) -> list[tuple[str, str]]:
    """Every block that was computed, with its node."""
    lines = (line.split() for file in folder.iterdir() for line in file.read_text().splitlines())
    return [(key, node) for key, node in lines]


def computed(folder: Path) -> Counter[str]:
    return Counter(key for key, _ in traces(folder))
