"""Where the forcing of a training had data: what a model may rely on, kept in its card."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from xland.errors import CheckpointError
from xland.geo.grid import Grid, lay
from xland.records import Limits, check_entries


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
    cells: str

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
        try:
            self.mask  # noqa: B018 - reading it is the check
        except (ValueError, zlib.error) as error:
            raise CheckpointError(f"the coverage in the model card is damaged: {error}") from error

    @classmethod
    def of(cls, grid: Grid, mask: NDArray[np.bool_]) -> Coverage:
        """Return the coverage of the cells of a grid, ``(rows, columns)``, that are True."""
        bits = zlib.compress(np.packbits(mask).tobytes(), 9)
        cells = base64.b64encode(bits).decode("ascii")
        return cls(grid.resolution, grid.north, grid.west, grid.rows, grid.columns, cells)

    @property
    def grid(self) -> Grid:
        """The coarse grid."""
        return Grid(self.resolution, self.north, self.west, self.rows, self.columns)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which cells have data, ``(rows, columns)``."""
        size = -(-self.rows * self.columns // 8)
        # a damaged card must not be able to fill the memory
        bits = zlib.decompressobj().decompress(base64.b64decode(self.cells, validate=True), size + 1)
        if len(bits) != size:
            raise ValueError(f"{len(bits)} bytes of cells, expected {size}")
        cells = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=self.rows * self.columns)
        return cells.reshape(self.grid.shape).astype(np.bool_)

    def on(self, grid: Grid) -> NDArray[np.bool_]:
        """Return the cells on another part of the same lattice, ``(rows, columns)``; False where nothing is known."""
        return lay(self.mask, self.grid, grid, False)
