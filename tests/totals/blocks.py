"""Small blocks of coarse cells: probabilities, targets, coasts; and what a block holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from xland.geo.grid import Grid
from xland.vocabulary import CLASS_NAMES

CLASSES = len(CLASS_NAMES)
FREE = [0, 6, 7]  # ocean, other, water


@dataclass(frozen=True)
class Block:
    probability: NDArray[Any]
    targets: NDArray[Any]
    factor: int
    area: NDArray[Any]
    valid: NDArray[Any]

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.probability, self.targets, self.area, self.valid

    @property
    def pixel(self) -> NDArray[Any]:
        """Share of the largest pixel in its coarse cell, (R, 1)."""
        rows = self.area.reshape(-1, self.factor)
        return (rows.max(axis=1) / rows.sum(axis=1) / self.factor)[:, None]

    def shares(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Area shares of the whole coarse cell from codes (rows, columns) or probabilities (classes, rows, columns)."""
        layers = np.stack([values == code for code in range(CLASSES)]) if values.ndim == 2 else values
        weighted = np.where(self.valid, layers, 0).astype(np.float64) * self.area[:, None]
        _, rows, columns = layers.shape
        f = self.factor
        cells = weighted.reshape(CLASSES, rows // f, f, columns // f, f).sum(axis=(2, 4))
        return cells / (f * self.area.reshape(-1, f).sum(axis=1))[:, None]

    def part(self, rows: slice, columns: slice) -> Block:
        """Some of the coarse cells."""
        f = self.factor
        fine_rows = slice(rows.start * f, rows.stop * f)
        fine = (..., fine_rows, slice(columns.start * f, columns.stop * f))
        return Block(self.probability[fine], self.targets[:, rows, columns], f, self.area[fine_rows], self.valid[fine])


def make_block(
    shape: tuple[int, int] = (2, 3),
    factor: int = 5,
    *,
    seed: int = 0,
    sharpness: float = 3.0,
    north: float = 60.0,
    land: float = 1.0,
) -> Block:
    """A block of random probabilities and feasible targets for the five classes that have states."""
    generator = np.random.default_rng(seed)
    rows, columns = shape[0] * factor, shape[1] * factor
    scores = generator.normal(size=(CLASSES, rows, columns)) * sharpness
    probability = np.exp(scores - scores.max(axis=0))
    probability = (probability / probability.sum(axis=0)).astype(np.float32)
    valid = generator.random((rows, columns)) < land
    area = Grid(0.25 / factor, north, 0.0, rows, columns).cell_area()
    shares = generator.dirichlet(np.full(CLASSES, 0.5), size=shape).transpose(2, 0, 1)
    block = Block(probability, shares, factor, area, valid)
    targets = shares * block.shares(np.ones((CLASSES, rows, columns)))
    targets[FREE] = np.nan
    return Block(probability, targets, factor, area, valid)


def blocks(**fixed: Any) -> st.SearchStrategy[Block]:
    """Blocks from the equator to near the pole, of certain and of uncertain models, with and without coasts."""
    choices: dict[str, st.SearchStrategy[Any]] = {
        "shape": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "factor": st.integers(1, 6),
        "seed": st.integers(0, 2**32 - 1),
        "sharpness": st.sampled_from([0.0, 0.5, 3.0, 8.0]),
        "north": st.sampled_from([10.0, 60.0, 80.0, 90.0]),
        "land": st.sampled_from([1.0, 0.7, 0.2]),
    }
    return st.builds(make_block, **{**choices, **{name: st.just(value) for name, value in fixed.items()}})
