"""Whether a model errs more where it says that it is far from what it learned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import spearmanr

import xland.accessor  # noqa: F401 - registers .ai4land
from xland.geo.grid import aggregate
from xland.geo.split import CELL_COLUMNS, CELL_ROWS, LAND_CELLS, Part, assign_cells
from xland.models import Model
from xland.vocabulary import LAND_CLASSES

LEAST_LAND = 5
"""Fine pixels of land that a coarse cell must hold to have a share of errors."""


def held_out_boxes(seed: int) -> list[tuple[float, float, float, float]]:
    """West, south, east and north of the cells of the split that serve for the test."""
    height, width = 180 / CELL_ROWS, 360 / CELL_COLUMNS
    rows, columns = np.nonzero(assign_cells(LAND_CELLS, seed) == Part.TEST)
    return [
        (-180 + width * column, 90 - height * (row + 1), -180 + width * (column + 1), 90 - height * row)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def distance_and_error(
    forcing: xr.Dataset, observed: xr.DataArray, model: Model, boxes: Iterable[tuple[float, float, float, float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Distance to the training inputs and share of wrong land pixels of the coarse cells of some boxes."""
    distances, errors, threshold = [], [], float("nan")
    for box in boxes:
        fine = forcing.ai4land.downscale(model=model, region=box, outputs=("land_use", "applicability")).compute()
        factor = round(abs(float(forcing["lat"][1] - forcing["lat"][0]) / float(fine["lat"][1] - fine["lat"][0])))
        codes = fine["land_use"].isel(time=0, drop=True)
        known = observed.sel(lat=codes["lat"], lon=codes["lon"], method="nearest", tolerance=1e-4).values
        land = np.isin(known, LAND_CLASSES)
        number = aggregate(land, factor) * factor**2
        wrong = aggregate(land & (codes.values != known), factor) * factor**2
        far = fine["applicability"].isel(time=0).values[::factor, ::factor]
        kept = (number >= LEAST_LAND) & np.isfinite(far)
        distances.append(far[kept].astype(np.float64))
        errors.append(wrong[kept] / number[kept])
        threshold = float(fine["applicability"].attrs["threshold"])
    return np.concatenate(distances), np.concatenate(errors), threshold


def relate(distance: NDArray[np.float64], error: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """Rank correlation of distance and error, and the error by fifths of the distance and beyond the threshold."""
    bounds = np.quantile(distance, [0.2, 0.4, 0.6, 0.8])
    fifth = np.searchsorted(bounds, distance, side="right")
    beyond = distance > threshold
    return {
        "cells": len(distance),
        "rank_correlation": round(float(spearmanr(distance, error).statistic), 4),
        "error_by_fifth": [round(float(error[fifth == each].mean()), 4) for each in range(5)],
        "beyond": round(float(beyond.mean()), 4),
        "error_within": round(float(error[~beyond].mean()), 4) if (~beyond).any() else None,
        "error_beyond": round(float(error[beyond].mean()), 4) if beyond.any() else None,
    }
