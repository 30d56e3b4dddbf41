"""The sides that are compared, each run in a fresh process: clocks start when all imports are done."""

from __future__ import annotations

import shutil
import threading
import time
from importlib import import_module
from typing import Any

from tests.benchmarks.harness import Result, megabytes

Box = tuple[float, float, float, float]


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
    for name in ("cf_xarray", "distributed", "rioxarray", "torch", "zarr"):  # imported before the clock starts
        import_module(name)

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


def run_bare(
    forcing: str,
    box: Box | None,
    years: list[int],
    model: str = "luh2-0p05",
    static: str | None = None,
    *,
    spared: bool = False,
) -> Result:
    """The network alone on the same windows, from tensors in memory, after a few windows to warm up.

    ``spared``: it is asked for the land pixels only where xland asks for no others.
    """
    from tests.benchmarks.plain import Frame, bare_tensors, run_all
    from xland.models import find_model

    checkpoint = find_model(model)
    frame = Frame.around(box, checkpoint.inputs)
    network = checkpoint.network()
    opened = _opened(forcing, static, checkpoint.inputs.resolution)
    tensors = bare_tensors(frame, *opened, years, sparse=spared and network.architecture.kind == "context")
    run_all(network, tensors[:8])
    started = time.perf_counter()
    windows = run_all(network, tensors)
    return {"seconds": time.perf_counter() - started, "windows": windows}


def run_monai(
    forcing: str,
    store: str,
    box: Box | None,
    year: int,
    batch: int,
    model: str = "luh2-0p05",
    static: str | None = None,
) -> Result:
    """The same network and windows by MONAI on the whole array: read, infer, argmax, mask, write."""
    import monai.inferers  # noqa: F401 - imported before the clock starts
    import numpy as np
    import zarr

    from tests.benchmarks import plain
    from xland.models import find_model

    shutil.rmtree(store, ignore_errors=True)
    started = time.perf_counter()
    checkpoint = find_model(model)
    frame = plain.Frame.around(box, checkpoint.inputs)
    states, fields = _opened(forcing, static, checkpoint.inputs.resolution)
    stacked = plain.one_array(frame, states, fields, year)
    classes = plain.monai_classes(checkpoint.network(), stacked, batch)[frame.core]
    del stacked
    classes = np.where(plain.land_mask(frame, fields)[frame.core], classes, 0).astype(np.uint8)
    chunks = (1, *(min(size, 1200) for size in classes.shape))
    written = zarr.create_array(store, name="land_use", shape=(1, *classes.shape), chunks=chunks, dtype="uint8")
    written[0] = classes
    return {"seconds": time.perf_counter() - started, "peak_mb": megabytes("VmHWM")}


def fastest_batch(forcing: str, box: Box, year: int, model: str = "luh2-0p05", static: str | None = None) -> Result:
    """Batch size at which MONAI is fastest here, by the best of three runs each, in turns."""
    from tests.benchmarks import plain
    from xland.models import find_model

    checkpoint = find_model(model)
    frame = plain.Frame.around(box, checkpoint.inputs)
    stacked = plain.one_array(frame, *_opened(forcing, static, checkpoint.inputs.resolution), year)
    seconds: dict[int, float] = {}
    for _ in range(3):
        for batch in (1, 2, 4, 8):
            started = time.perf_counter()
            plain.monai_classes(checkpoint.network(), stacked, batch)
            seconds[batch] = min(time.perf_counter() - started, seconds.get(batch, float("inf")))
    return {"batch": min(seconds, key=lambda batch: seconds[batch]), "seconds_by_batch": seconds}


def compare_maps(
    ours: str, theirs: str, box: Box | None, model: str = "luh2-0p05", static: str | None = None
) -> Result:
    """Share of land pixels on which two stores agree, and how many of the others several windows cover."""
    import numpy as np
    import zarr

    from tests.benchmarks import plain
    from xland.models import find_model

    inputs = find_model(model).inputs
    frame = plain.Frame.around(box, inputs)
    land = plain.land_mask(frame, _opened(None, static, inputs.resolution)[1])[frame.core]
    one = zarr.open_array(ours, path="land_use", mode="r")[0]
    two = zarr.open_array(theirs, path="land_use", mode="r")[0]
    rows, columns = np.nonzero((one != two) & land)
    overlap = inputs.window - inputs.stride
    several = ((rows + frame.top) % inputs.stride < overlap) & ((columns + frame.left) % inputs.stride < overlap)
    return {
        "agreement": 1 - len(rows) / int(land.sum()),
        "land_pixels": int(land.sum()),
        "different": len(rows),
        "different_where_four_windows_meet": int(several.sum()),
    }


def distinct_windows(box: Box | None, model: str = "luh2-0p05", static: str | None = None) -> Result:
    """Windows of the lattice that touch land of the region, each counted once."""
    from tests.benchmarks import plain
    from xland.models import find_model

    inputs = find_model(model).inputs
    frame = plain.Frame.around(box, inputs)
    land = plain.land_mask(frame, _opened(None, static, inputs.resolution)[1])
    rows, columns = frame.starts
    return {"windows": len(frame.land_windows(land)), "with_ocean": len(rows) * len(columns)}


def count_windows() -> Any:
    """Count the windows that go through any network of this process from now on."""
    from xland.models.networks.unet import DownscalingNetwork

    original, lock, total = DownscalingNetwork.forward, threading.Lock(), [0]

    def forward(self: Any, coarse: Any, *arguments: Any, **named: Any) -> Any:
        with lock:
            total[0] += len(coarse)
        return original(self, coarse, *arguments, **named)

    DownscalingNetwork.forward = forward  # type: ignore[method-assign]
    return lambda: total[0]


def _opened(forcing: str | None, static: str | None, resolution: float) -> tuple[Any, Any]:
    import xarray as xr

    from xland.datasets import static_predictors

    states = None if forcing is None else xr.open_zarr(forcing, chunks=None, consolidated=False)
    fields = static_predictors(resolution) if static is None else xr.open_zarr(static, chunks=None, consolidated=False)
    return states, fields
