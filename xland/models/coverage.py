"""Where the forcing of a training had data: what a model may rely on, kept in its card."""

from __future__ import annotations

import base64
import zlib
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import CheckpointError
from xland.geo.grid import Grid, lay
from xland.records import Limits, check_entries, read_record


@dataclass(frozen=True)
class Coverage:
    """Coarse cells with data, as a card holds them: a grid, and its cells as packed, compressed bits in text.

    Land models have lakes and ice caps as cells without data, and so do the models trained on
    them. A cell that had data then and has none now is a gap in the forcing.
    """

    resolution: Annotated[float, Limits(1e-3, 90)]
    north: Annotated[float, Limits(-90, 90.001)]
    west: Annotated[float, Limits(-360, 360)]
    rows: Annotated[int, Limits(1, 2**13)]
    columns: Annotated[int, Limits(1, 2**14)]
    packed: str

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
        try:
            self.cells  # noqa: B018 - reading them is the check
        except (ValueError, zlib.error) as error:
            raise CheckpointError(f"the coverage in the model card is damaged: {error}") from error

    @classmethod
    def of(cls, grid: Grid, cells: NDArray[np.bool_]) -> Coverage:
        """Return the coverage of the cells of a grid, ``(rows, columns)``, that are True."""
        bits = zlib.compress(np.packbits(cells).tobytes(), 9)
        packed = base64.b64encode(bits).decode("ascii")
        return cls(grid.resolution, grid.north, grid.west, grid.rows, grid.columns, packed)

    @property
    def grid(self) -> Grid:
        """The coarse grid."""
        return Grid(self.resolution, self.north, self.west, self.rows, self.columns)

    @property
    def cells(self) -> NDArray[np.bool_]:
        """Which cells have data, ``(rows, columns)``."""
        size = -(-self.rows * self.columns // 8)
        # a damaged card must not be able to fill the memory
        bits = zlib.decompressobj().decompress(base64.b64decode(self.packed, validate=True), size + 1)
        if len(bits) != size:
            raise ValueError(f"{len(bits)} bytes of cells, expected {size}")
        cells = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=self.rows * self.columns)
        return cells.reshape(self.grid.shape).astype(np.bool_)

    def on(self, grid: Grid) -> NDArray[np.bool_]:
        """Return the cells on another part of the same lattice, ``(rows, columns)``; False where nothing is known."""
        return lay(self.cells, self.grid, grid, False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the card."""
        values = asdict(self)
        values["cells"] = values.pop("packed")
        return values

    @classmethod
    def from_dict(cls, values: Any) -> Coverage:
        """Read a coverage from a card; :class:`CheckpointError` if it is damaged."""
        if isinstance(values, dict):
            values = {"packed" if name == "cells" else name: value for name, value in values.items()}
        return read_record(cls, values, "the coverage in the model card", CheckpointError)


def join_coverages(one: Coverage | None, other: Coverage | None) -> Coverage | None:
    """Return the cells that either of two models covers, on the globe where their grids differ; None is unknown."""
    if one is None or other is None:
        return one or other
    grid = one.grid if one.grid.same_as(other.grid) else Grid.world(one.grid.resolution)
    return Coverage.of(grid, one.on(grid) | other.on(grid))
