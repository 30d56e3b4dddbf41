"""How fast and how well maps that keep coarse totals are made: one JSON object a line.

Run as ``python -m tests.benchmarks.allocation [--cells N] [--runs N]``. Cells of 25 x 25 pixels and
eight classes, each with a total of its own; two threads through dask. Beside it, on some of the
same cells: a greedy pass, which gives the most certain pixels first, and the assignment of SciPy, a
seat for each pixel.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tests.benchmarks.harness import Result, line, show, tell
from xland.geo.grid import Grid
from xland.scores.agreement import coarse_agreement
from xland.totals.maps import fit_map
from xland.vocabulary import CLASS_NAMES

FACTOR = 25
CHUNK = 10  # coarse cells along a chunk
COMPARED = 8  # coarse cells that the rivals get
CLASSES = len(CLASS_NAMES)

Rival = Callable[[tuple[Any, ...], NDArray[Any], NDArray[Any]], NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=40, help="coarse cells along each side")
    parser.add_argument("--runs", type=int, default=3)
    for each in lines(**vars(parser.parse_args())):
        show(each)


def lines(cells: int = 40, runs: int = 3) -> Iterator[Result]:
    """Pixels a second with two threads, and what the rivals take and reach on some of the cells."""
    probability, targets, area = material(cells)
    fit_map(*_cell(probability, targets, area, 0))  # compiled before the clock starts
    rates = []
    for number in range(runs):
        started, used = time.perf_counter(), time.process_time()
        codes = fitted(probability, targets, area).compute(scheduler="threads", num_workers=2)
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        rates.append(codes.size / seconds)
        tell(f"  run {number + 1}/{runs}: {rates[-1] / 1e6:.3f} million pixels/s, {cpu / codes.size * 1e9:.0f} ns each")
    compared = {
        name: _compare(rival, probability, targets, area)
        for name, rival in (("optimal", _ours), ("greedy", _greedy), ("scipy", _scipy))
    }
    yield line(
        "conserve_map_pixels_per_second",
        statistics.median(rates),
        "greedy and scipy, one thread",
        ">= 2000000",
        runs=runs,
        sizes={"pixels": int(codes.size), "factor": FACTOR, "classes": CLASSES, "chunk": CHUNK * FACTOR, "threads": 2},
        all_runs=[round(rate) for rate in rates],
        rivals=compared,
    )


def material(cells: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities, totals and areas: a model that knows the cell and a little of the pixel, a forcing that differs.

    The totals are seven tenths what the model has, three tenths at random.
    """
    generator = np.random.default_rng(seed)
    size = cells * FACTOR
    whole = generator.normal(size=(CLASSES, cells, cells)) * 2
    scores = generator.normal(size=(CLASSES, size, size), scale=2).astype(np.float32)
    scores += whole.repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)
    probability = np.exp(scores - scores.max(axis=0))
    probability /= probability.sum(axis=0)
    means = probability.reshape(CLASSES, cells, FACTOR, cells, FACTOR).mean(axis=(2, 4), dtype=np.float64)
    targets = 0.7 * means + 0.3 * np.moveaxis(generator.dirichlet(np.full(CLASSES, 0.5), (cells, cells)), -1, 0)
    targets[0] = np.nan  # ocean has what the others leave
    area = Grid(0.25 / FACTOR, 50.0, 0.0, size, size).cell_area()
    return probability, targets, area


def fitted(probability: NDArray[Any], targets: NDArray[Any], area: NDArray[Any]) -> da.Array:
    """The map, in chunks of whole coarse cells."""
    side = CHUNK * FACTOR
    return da.map_blocks(
        _fit_block,
        da.from_array(probability, chunks=(-1, side, side)),
        da.from_array(targets, chunks=(-1, CHUNK, CHUNK)),
        da.from_array(area.reshape(1, -1, 1), chunks=(1, side, 1)),
        drop_axis=0,
        chunks=da.from_array(probability[0], chunks=side).chunks,
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )


def _fit_block(probability: NDArray[Any], targets: NDArray[Any], area: NDArray[Any]) -> NDArray[np.uint8]:
    return fit_map(probability, targets, area.ravel(), np.ones(probability.shape[1:], np.bool_)).codes


def _cell(probability: NDArray[Any], targets: NDArray[Any], area: NDArray[Any], number: int) -> tuple[Any, ...]:
    """The coarse cell of that number in the first row."""
    across = slice(number * FACTOR, (number + 1) * FACTOR)
    chosen = probability[:, :FACTOR, across]
    return chosen, targets[:, :1, number : number + 1], area[:FACTOR], np.ones(chosen.shape[1:], np.bool_)


def _compare(rival: Rival, probability: NDArray[Any], targets: NDArray[Any], area: NDArray[Any]) -> Result:
    """Pixels a second on one thread, and the mean logarithm of probability; all get the same numbers of pixels."""
    seconds, worth, pixels = 0.0, 0.0, 0
    for number in range(min(COMPARED, targets.shape[2])):
        cell = _cell(probability, targets, area, number)
        quota = np.bincount(fit_map(*cell).codes.ravel(), minlength=CLASSES)
        scores = np.log(cell[0].reshape(CLASSES, -1).astype(np.float64)).T
        started = time.perf_counter()
        codes = rival(cell, scores, quota)
        seconds += time.perf_counter() - started
        worth += scores[np.arange(codes.size), codes].sum()
        pixels += codes.size
    return {"pixels_per_second": round(pixels / seconds), "log_probability": round(worth / pixels, 6)}


def _ours(cell: tuple[Any, ...], scores: NDArray[Any], quota: NDArray[Any]) -> NDArray[Any]:
    return fit_map(*cell).codes.ravel()


def _greedy(cell: tuple[Any, ...], scores: NDArray[Any], quota: NDArray[Any]) -> NDArray[Any]:
    """Give pixels their class from the most probable pair of pixel and class on, while there is room."""
    left, codes = quota.copy(), np.full(len(scores), -1)
    for place in np.argsort(-scores, axis=None, kind="stable"):
        pixel, code = divmod(int(place), CLASSES)
        if codes[pixel] < 0 and left[code] > 0:
            codes[pixel] = code
            left[code] -= 1
    return codes


def _scipy(cell: tuple[Any, ...], scores: NDArray[Any], quota: NDArray[Any]) -> NDArray[Any]:
    seats = np.repeat(np.arange(CLASSES), quota)
    _, chosen = linear_sum_assignment(-scores[:, seats])
    return seats[chosen]


def fractions_error(probability: xr.DataArray, unmet: xr.DataArray, forcing: xr.Dataset) -> Result:
    """Largest error of probabilities that should keep coarse totals, and the cells where they cannot.

    ``probability`` and ``unmet`` are what ``downscale(totals="fractions")`` gives: one year.
    """
    errors = coarse_agreement(probability, forcing)["largest"].compute()
    missing = unmet.squeeze(drop=True).reindex_like(errors, method="nearest", tolerance=1e-4).compute()
    places = np.argwhere((missing > 0).values)
    return {
        "largest_error": float(errors.where(missing == 0).max()),
        "feasible_cells": int((missing == 0).sum()),
        "infeasible_cells": len(places),
        "infeasible": [
            (float(errors["lat"][row]), float(errors["lon"][column]), float(missing[row, column]))
            for row, column in places
        ],
    }


if __name__ == "__main__":
    main()
