"""Where the forcing of a training had data: what a model may rely on, kept in its card."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import CheckpointError
from xland.geo.grid import Grid, lay
from xland.records import Limits, check_entries, read_record


@dataclass(frozen=True, eq=False)
class Coverage:
    """Coarse cells with data.

    Land models know lakes and ice caps as cells without data, and so do the models trained on
    them. A cell that had data then and has none now is a hole in the forcing.

    Parameters
    ----------
    grid : Grid
        Coarse grid.
    cells : (rows, columns) array of bool
    """

    grid: Grid
    cells: NDArray[np.bool_]

    def on(self, grid: Grid) -> NDArray[np.bool_]:
        """Return the cells on another part of the same lattice, ``(rows, columns)``.

        Cells that this coverage does not hold are False: nothing is known of them.
        """
        return lay(self.cells, self.grid, grid, False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the card: the grid, and the cells as packed, compressed bits."""
        bits = zlib.compress(np.packbits(self.cells).tobytes(), 9)
        grid = self.grid
        return {
            "resolution": grid.resolution,
            "north": grid.north,
            "west": grid.west,
            "rows": grid.rows,
            "columns": grid.columns,
            "cells": base64.b64encode(bits).decode("ascii"),
        }

    @classmethod
    def from_dict(cls, values: Any) -> Coverage:
        """Read a coverage from a card; :class:`CheckpointError` if it is damaged."""
        entry = read_record(_Entry, values, "the coverage in the model card", CheckpointError)
        size = -(-entry.rows * entry.columns // 8)
        try:
            grid = Grid(entry.resolution, entry.north, entry.west, entry.rows, entry.columns)
            # a damaged card must not be able to fill the memory
            packed = zlib.decompressobj().decompress(base64.b64decode(entry.cells, validate=True), size + 1)
            if len(packed) != size:
                raise ValueError(f"{len(packed)} bytes of cells, expected {size}")
            bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=grid.rows * grid.columns)
            return cls(grid, bits.reshape(grid.shape).astype(np.bool_))
        except (ValueError, zlib.error) as error:
            raise CheckpointError(f"the coverage in the model card is damaged: {error}") from error


@dataclass(frozen=True)
class _Entry:
    """How a coverage stands in a card."""

    resolution: Annotated[float, Limits(1e-3, 90)]
    north: Annotated[float, Limits(-90, 90.001)]
    west: Annotated[float, Limits(-360, 360)]
    rows: Annotated[int, Limits(1, 2**13)]
    columns: Annotated[int, Limits(1, 2**14)]
    cells: str

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)


def join_coverages(one: Coverage | None, other: Coverage | None) -> Coverage | None:
    """Return the cells that either of two models covers, on the globe where their grids differ; None is unknown."""
    if one is None or other is None:
        return one or other
    grid = one.grid if one.grid.same_as(other.grid) else Grid.world(one.grid.resolution)
    return Coverage(grid, one.on(grid) | other.on(grid))
