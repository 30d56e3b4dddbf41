"""Class maps of a window of one year, straight from the plan of a lazy map: no graph is built for a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from dask.threaded import get
from numpy.typing import NDArray

from xland.coupling.kept import Kept
from xland.downscaling.block import BlockYears, run_block_year
from xland.downscaling.fields import EVERY, Block, Chunks, FileField, Key, Layout
from xland.geo.grid import Grid

_TILE = 600  # rows and columns: whole chunks of the predictors that xland prepares


@dataclass(frozen=True, eq=False)
class KeptField:
    """A field in files whose tiles are kept in memory: neighbouring windows read the same ones."""

    field: FileField
    kept: Kept

    @property
    def grid(self) -> Grid:
        """Grid of the field."""
        return self.field.grid

    def read(
        self, rows: slice, columns: slice, chunks: Chunks, year: int = 0, only: slice = EVERY
    ) -> Sequence[NDArray[Any]]:
        """Return layers at rows and columns of the grid, see :meth:`FileField.read`."""
        layers = range(len(self.field.variables))[only]
        return [self._layer(number, rows, columns, chunks, year) for number in layers]

    def _layer(self, number: int, rows: slice, columns: slice, chunks: Chunks, year: int) -> NDArray[Any]:
        found: list[list[NDArray[Any]]] = []
        for top, down in _tiles(rows, self.grid.rows):
            found.append([])
            for left, across in _tiles(columns, self.grid.columns):
                at = slice(top, min(top + _TILE, self.grid.rows)), slice(left, min(left + _TILE, self.grid.columns))

                def read(at: tuple[slice, slice] = at) -> NDArray[Any]:
                    return np.array(self.field.read(*at, chunks, year, slice(number, number + 1))[0])

                tile = self.kept.get(("static", number, top, left), read, lambda values: values.nbytes)
                found[-1].append(tile[down, across])
        return np.block(found)


def _tiles(span: slice, length: int) -> Iterator[tuple[int, slice]]:
    """First cell of each tile that a span touches, and the span within it."""
    stop = min(span.stop, length)
    for first in range(span.start // _TILE * _TILE, stop, _TILE):
        yield first, slice(max(span.start - first, 0), min(stop - first, _TILE))


class Windows:
    """What computes windows of a lazy map that reads no prior.

    The blocks are those of ``downscale(region=...)``, and so is each number.
    """

    def __init__(self, product: xr.Dataset, kept: Kept) -> None:
        graph = product["land_use"].data.dask
        plan = next(layer.plan for layer in graph.layers.values() if isinstance(layer, BlockYears))
        static: Any = KeptField(plan.static, kept) if isinstance(plan.static, FileField) else plan.static
        self._kept, self._graph, self._plan = kept, graph, replace(plan, static=static)

    def map(self, year: int, grid: Grid) -> NDArray[np.uint8]:
        """Class codes of a year on a part of the fine grid, (rows, columns)."""
        position = self._plan.years.index(year)
        layout = Layout.cut(grid, self._plan.inputs)
        found = [
            [self._block(position, layout.block(row, column)) for column in range(len(layout.columns))]
            for row in range(len(layout.rows))
        ]
        return found[0][0] if len(found) == len(found[0]) == 1 else np.block(found)

    def _block(self, position: int, block: Block) -> NDArray[np.uint8]:
        chunks = [self._chunk(key) for key in self._plan.keys(position, [block])]
        codes: NDArray[np.uint8] = run_block_year(self._plan, position, block, *chunks)["land_use"]
        return codes

    def _chunk(self, key: Key) -> Any:
        def compute() -> Any:
            return get(self._graph.cull({key}).to_dict(), key)

        return self._kept.get(key, compute, _size)


def _size(chunk: Any) -> int:
    """Bytes of a chunk, or of what it keeps."""
    return sum(int(getattr(each, "nbytes", 0)) for each in (chunk, *getattr(chunk, "__dict__", {}).values()))
