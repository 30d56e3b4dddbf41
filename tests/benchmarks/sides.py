"""The sides that are compared, each run in a fresh process: clocks start when all imports are done.

The plain way (bare network, MONAI) reads a region whole into memory, runs all windows and keeps everything. It is
written without xland's inference on purpose: the windows, the halo and the land are worked out here once more, so that
a benchmark that agrees is a check, too.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tests.benchmarks.harness import Result, import_packages, megabytes
from xland.datasets import static_predictors
from xland.geo.grid import expand
from xland.models import find_model
from xland.models.checkpoint import Checkpoint
from xland.models.inputs import InputSpec

Box = tuple[float, float, float, float]
SIGMA_SCALE = 0.125


def run_xland(
    forcing: str,
    store: str,
    box: Box | None,
    years: list[int],
    model: str = "luh2-0p05",
    static: str | None = None,
    chunks: int | None = None,
    *,
    count: bool = False,
) -> Result:
    """Zarr in, Zarr out, as a user would; ``count`` counts the windows that the network gets."""
    import_packages()  # before the clock starts

    from xland.downscaling.call import downscale
    from xland.store.reading import open_store
    from xland.store.writing import write

    shutil.rmtree(store, ignore_errors=True)
    counted = count_windows() if count else None
    started = time.perf_counter()
    opened = None if static is None else open_store(static)
    region = None if box is None else tuple(box)
    fine = downscale(
        open_store(forcing), model=model, static=opened, region=region, years=years, chunks=chunks, device="cpu"
    )
    write(fine, store, progress=False)
    result: Result = {"seconds": time.perf_counter() - started, "peak_mb": megabytes("VmHWM")}
    if counted is not None:
        result |= {"windows": counted(), "chunks": [list(each) for each in fine["land_use"].data.chunks[1:]]}
    return result


def run_cost(kind: str, folder: str, box: list[float] | None) -> Result:
    """Time of one year on 0.05 degree, into a store; weights of the network of transition are random."""
    from xland.datasets import class_fractions, land_use_modis, luh2_2015
    from xland.downscaling.call import downscale
    from xland.models.checkpoint import save_checkpoint
    from xland.models.networks.unet import DownscalingNetwork
    from xland.store.writing import write

    import_packages()  # before the clock starts
    # rollouts compute whole blocks
    place = {} if box is None else {"region": tuple(box), "chunks": 600}
    options: dict[str, Any] = {"device": "cpu", **place}
    if kind == "luh2":
        forcing, options["model"] = luh2_2015(), "luh2-0p05"
    else:
        shipped = find_model("brazil-change")
        inputs = replace(shipped.inputs, resolution=0.05, stride=120)
        network = DownscalingNetwork(inputs, shipped.architecture)
        options["model"] = save_checkpoint(Path(folder, "model"), network, {"name": kind, "title": "", "licence": ""})
        shares = class_fractions().load().isel(time=[0, 0])
        forcing = shares.assign_coords(time=("time", [2019, 2020], {"standard_name": "time"}))
        options |= {"prior": land_use_modis().load(), "years": 2020}
    started = time.perf_counter()
    write(downscale(forcing, **options), Path(folder, "maps.zarr"), overwrite=True, progress=False)
    return {"seconds": time.perf_counter() - started}


def run_leaf_area(maps: str, store: str, model: str) -> Result:
    """Zarr in, Zarr out: twelve months from a stored map and the climate of today."""
    import_packages()  # before the clock starts

    from xland.biophysical.leaf_area import leaf_area_index
    from xland.store.reading import open_store
    from xland.store.writing import write

    shutil.rmtree(store, ignore_errors=True)
    started = time.perf_counter()
    write(leaf_area_index(open_store(maps), model=model), store, progress=False)
    return {"seconds": time.perf_counter() - started, "peak_mb": megabytes("VmHWM")}


def run_bare(forcing: str, years: list[int], *, spared: bool = False, **place: Any) -> Result:
    """The network alone on the same windows, from tensors in memory, after a few windows to warm up.

    ``spared``: it is asked for the land pixels only where xland asks for no others.
    """
    frame = Frame.open(**place)
    network = frame.checkpoint.network().compiled()
    tensors = bare_tensors(frame, _opened(forcing), years, picks=network.picks if spared else 0.0)
    run_all(network, tensors[:8])
    started = time.perf_counter()
    windows = run_all(network, tensors)
    return {"seconds": time.perf_counter() - started, "windows": windows}


def run_monai(forcing: str, store: str, year: int, batch: int, **place: Any) -> Result:
    """The same network and windows by MONAI on the whole array: read, infer, argmax, mask, write."""
    import monai.inferers  # noqa: F401 - imported before the clock starts
    import zarr

    shutil.rmtree(store, ignore_errors=True)
    started = time.perf_counter()
    frame = Frame.open(**place)
    stacked = one_array(frame, _opened(forcing), year)
    classes = monai_classes(frame.checkpoint.network().compiled(), stacked, batch)[frame.core]
    del stacked
    classes = np.where(frame.land[frame.core], classes, 0).astype(np.uint8)
    chunks = (1, *(min(size, 1200) for size in classes.shape))
    written = zarr.create_array(store, name="land_use", shape=(1, *classes.shape), chunks=chunks, dtype="uint8")
    written[0] = classes
    return {"seconds": time.perf_counter() - started, "peak_mb": megabytes("VmHWM")}


def fastest_batch(forcing: str, year: int, **place: Any) -> Result:
    """Batch size at which MONAI is fastest here, by the best of three runs each, in turns."""
    frame = Frame.open(**place)
    stacked = one_array(frame, _opened(forcing), year)
    seconds: dict[int, float] = {}
    for _ in range(3):
        for batch in (1, 2, 4, 8):
            started = time.perf_counter()
            monai_classes(frame.checkpoint.network().compiled(), stacked, batch)
            seconds[batch] = min(time.perf_counter() - started, seconds.get(batch, float("inf")))
    return {"batch": min(seconds, key=lambda batch: seconds[batch]), "seconds_by_batch": seconds}


def compare_maps(ours: str, theirs: str, **place: Any) -> Result:
    """Share of land pixels on which two stores agree, and how many of the others several windows cover."""
    import zarr

    frame = Frame.open(**place)
    inputs, land = frame.inputs, frame.land[frame.core]
    one, two = (zarr.open_array(store, path="land_use", mode="r")[0] for store in (ours, theirs))
    rows, columns = np.nonzero((one != two) & land)
    overlap = inputs.window - inputs.stride
    several = ((rows + frame.top) % inputs.stride < overlap) & ((columns + frame.left) % inputs.stride < overlap)
    return {
        "agreement": 1 - len(rows) / int(land.sum()),
        "land_pixels": int(land.sum()),
        "different": len(rows),
        "different_where_four_windows_meet": int(several.sum()),
    }


def distinct_windows(**place: Any) -> Result:
    """Windows of the lattice that touch land of the region, each counted once."""
    frame = Frame.open(**place)
    rows, columns = frame.starts
    return {"windows": len(frame.land_windows()), "with_ocean": len(rows) * len(columns)}


def count_windows() -> Any:
    """Count the windows that go through any network of this process from now on."""
    from xland.downscaling.engine import Engine

    lock, total = threading.Lock(), [0]

    def counted(original: Any) -> Any:
        def run(self: Any, coarse: Any, *arguments: Any) -> Any:
            with lock:
                total[0] += len(coarse)
            return original(self, coarse, *arguments)

        return run

    Engine.run, Engine.around = counted(Engine.run), counted(Engine.around)  # type: ignore[method-assign]
    return lambda: total[0]


def _opened(store: str) -> xr.Dataset:
    return xr.open_zarr(store, chunks=None, consolidated=False)


@dataclass(frozen=True)
class Frame:
    """The windows that touch a region, and the cells that they read, counted from 90 N and 180 W."""

    checkpoint: Checkpoint
    static: xr.Dataset
    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def open(cls, box: Box | None, model: str = "luh2-0p05", static: str | None = None) -> Frame:
        """Open the model and the static fields of a region, None for the globe."""
        checkpoint = find_model(model)
        resolution = checkpoint.inputs.resolution
        west, south, east, north = box or (-180.0, -90.0, 180.0, 90.0)
        edges = (90 - north, 90 - south, west + 180, east + 180)
        fields = static_predictors(resolution) if static is None else _opened(static)
        return cls(checkpoint, fields, *(round(edge / resolution) for edge in edges))

    @property
    def inputs(self) -> InputSpec:
        return self.checkpoint.inputs

    @property
    def round_the_globe(self) -> int:
        return round(360 / self.inputs.resolution)

    @cached_property
    def land(self) -> NDArray[np.bool_]:
        """Where a class is predicted, in the cells that are read."""
        return np.nan_to_num(_cut(self.static[self.inputs.domain], *self.cells)) > 0

    @property
    def starts(self) -> tuple[list[int], list[int]]:
        """First rows and columns of the windows."""
        size, stride = self.inputs.window, self.inputs.stride
        rows, columns = (
            [n * stride for n in range((first - size) // stride + 1, -(-last // stride))]
            for first, last in ((self.top, self.bottom), (self.left, self.right))
        )
        return rows, columns

    @property
    def cells(self) -> tuple[int, int, int, int]:
        """First and last row, first and last column that are read."""
        rows, columns = self.starts
        return rows[0], rows[-1] + self.inputs.window, columns[0], columns[-1] + self.inputs.window

    @property
    def core(self) -> tuple[slice, slice]:
        """The region within the cells that are read."""
        top, _, left, _ = self.cells
        return slice(self.top - top, self.bottom - top), slice(self.left - left, self.right - left)

    def land_windows(self) -> list[tuple[int, int]]:
        """Rows and columns, counted in the cells that are read, of the windows with land of the region.

        Each window once, those across the date line too.
        """
        core = self.core
        if self.right - self.left == self.round_the_globe:
            core = (core[0], slice(None))
        wanted = np.zeros_like(self.land)
        wanted[core] = self.land[core]
        size, (top, _, left, _) = self.inputs.window, self.cells
        rows, columns = self.starts
        distinct = {
            (row, column % self.round_the_globe): (row - top, column - left) for row in rows for column in columns
        }
        return [(r, c) for r, c in distinct.values() if wanted[r : r + size, c : c + size].any()]


def coarse_channels(frame: Frame, forcing: xr.Dataset, year: int) -> NDArray[np.float32]:
    """Coarse channels of one year, ``(channels, rows, columns)``."""
    inputs = frame.inputs
    top, bottom, left, right = (edge // inputs.factor for edge in frame.cells)
    names = [*inputs.coarse_variables, *(name for name in inputs.optional_coarse_variables if name in forcing)]
    values = {name: _cut(forcing[name].sel(time=year), top, bottom, left, right)[None] for name in names}
    return inputs.coarse_array(values)


def static_channels(frame: Frame) -> Iterator[NDArray[np.float16]]:
    """Static channels one by one, in the half precision in which the network gets them."""
    for channel in frame.inputs.static:
        layer = channel.compute({name: _cut(frame.static[name], *frame.cells) for name in channel.sources})
        yield np.nan_to_num(layer).astype(np.float16)


def bare_tensors(frame: Frame, forcing: xr.Dataset, years: list[int], *, picks: float) -> list[tuple[Any, ...]]:
    """Coarse and static tensor, and where they are few the land pixels, of every land window of every year.

    ``picks`` is the share of land below which the network is asked for land pixels only: the bare network is spared the
    same pixels as xland's.
    """
    import torch

    size, factor = frame.inputs.window, frame.inputs.factor
    small = size // factor
    fine, land, windows = np.stack(list(static_channels(frame))), frame.land, frame.land_windows()
    ready = []
    for r, c in windows:
        window, inside = fine[None, :, r : r + size, c : c + size], land[r : r + size, c : c + size]
        few = inside.mean() < picks
        points = torch.from_numpy(np.flatnonzero(inside)[None]) if few else None
        ready.append((torch.from_numpy(window.copy()), points))
    tensors = []
    for year in years:
        coarse = coarse_channels(frame, forcing, year)
        for (r, c), (window, points) in zip(windows, ready, strict=True):
            low = coarse[None, :, r // factor : r // factor + small, c // factor : c // factor + small]
            tensors.append((torch.from_numpy(low.copy()), window, None, points))
    return tensors


def one_array(frame: Frame, forcing: xr.Dataset, year: int) -> Any:
    """Everything in the one tensor that MONAI takes: coarse channels blown up, then static ones."""
    import torch

    inputs = frame.inputs
    top, bottom, left, right = frame.cells
    stacked = np.empty((1, inputs.channels, bottom - top, right - left), np.float32)
    for layer, plane in zip(stacked[0], coarse_channels(frame, forcing, year), strict=False):
        layer[:] = expand(plane, inputs.factor)
    for layer, plane in zip(stacked[0, inputs.coarse_channels :], static_channels(frame), strict=True):
        layer[:] = plane
    return torch.from_numpy(stacked)


def monai_classes(network: Any, stacked: Any, batch: int) -> NDArray[np.uint8]:
    """Classes of the whole array by MONAI's sliding windows, with its own Gaussian weights."""
    import torch
    from monai.inferers import SlidingWindowInferer

    inputs: InputSpec = network.inputs
    size, overlap = inputs.window, 1 - inputs.stride / inputs.window
    inferer = SlidingWindowInferer(
        (size, size), sw_batch_size=batch, overlap=overlap, mode="gaussian", sigma_scale=SIGMA_SCALE
    )

    def predict(windows: Any) -> Any:
        coarse = windows[:, : inputs.coarse_channels, :: inputs.factor, :: inputs.factor]
        return network(coarse, windows[:, inputs.coarse_channels :]).softmax(dim=1)

    with torch.inference_mode():
        classes: NDArray[np.uint8] = inferer(stacked, predict)[0].argmax(dim=0).to(torch.uint8).numpy()
    return classes


def run_all(network: Any, tensors: list[tuple[Any, ...]]) -> int:
    """Run windows through the network on all cores, one torch thread each; return how many.

    One window a core is the fastest way on a CPU: two torch threads on one window need longer for two.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    def run(tensors: tuple[Any, ...]) -> int:
        with torch.inference_mode():
            return int(network(*tensors).float().softmax(dim=1).shape[0])

    with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return sum(pool.map(run, tensors))


def _cut(values: xr.DataArray, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
    """Cells of a map of the globe: columns go round it, rows beyond the poles are NaN."""
    rows, columns = values.shape
    inner = values[max(top, 0) : min(bottom, rows)]
    parts = []
    while left < right:
        first = left % columns
        last = min(first + right - left, columns)
        parts.append(inner[:, first:last].values)
        left += last - first
    beyond = ((max(-top, 0), max(bottom - rows, 0)), (0, 0))
    return np.pad(np.concatenate(parts, axis=1), beyond, constant_values=np.nan)
