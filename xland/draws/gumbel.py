"""Random fields that depend on seed and place alone, and the classes that they choose.

The class of a pixel is the one with the largest ``log(p) + G``, where the G of all classes are independent and have the
standard Gumbel distribution. So each class is drawn with exactly its probability p (Maddison et al. 2014, arXiv
1411.0030). Here G is ``-log(-log(Phi(g)))``, where Phi is the standard normal distribution function and g a Gaussian
field of mean 0 and variance 1. Neighbouring pixels have similar g, and so the same class more often.

A field is a sum of octaves. An octave has independent normal numbers on the nodes of a lattice of some spacing, between
which cubic B-splines interpolate. Divided by the norm of their weights, its variance is 1 at each pixel. With a spacing
of 1, pixels are independent. The number of a node is a hash of the seed, the draw, the class, the spacing and the node.
Rows count from 90 N and columns from 180 W on the globe, so blocks and regions do not matter. Longitude is a ring.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xland.compiled import compiled
from xland.draws.octaves import Grain

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

_LEAST = 1e-7
"""Probability up to which a class is never drawn."""

_TINY = float(np.finfo(np.float32).tiny)

_ROW, _COLUMN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Place:
    """Rows and columns on the globe, which has `around` columns; columns may go over the date line."""

    rows: range
    columns: range
    around: int


def draw_classes(
    probability: Floats, valid: Flags, place: Place, grain: Grain, seed: int, draw: int
) -> NDArray[np.uint8]:
    """Draw a class at each valid pixel, ``(rows, columns)``; 0 elsewhere.

    `probability` is (classes, rows, columns) and sums to 1, `valid` (rows, columns).
    """
    least = np.full(valid.shape, np.inf)
    codes = np.zeros(valid.shape, dtype=np.uint8)
    for code, there, field in _class_fields(probability, valid, place, grain, seed, draw):
        _race(field, probability[code], there, code, least, codes)
    return codes


def perturb(probability: Floats, valid: Flags, place: Place, grain: Grain, seed: int, draw: int) -> Floats:
    """Return shares, (classes, rows, columns), of which the largest is the class of :func:`draw_classes`.

    They are ``p exp(G)``, divided by their sum over the classes.
    """
    worth = probability.astype(np.float64)
    for code, there, field in _class_fields(probability, valid, place, grain, seed, draw):
        _weigh(field, there, worth[code])
    worth /= np.maximum(worth.sum(axis=0), _TINY)
    return np.where(probability > 0, np.maximum(worth, _TINY), 0).astype(np.float32)


def normal_field(
    valid: Flags, place: Place, spacings: Sequence[int], weights: Sequence[float], key: Sequence[int]
) -> Floats:
    """Return a Gaussian field of unit variance at the valid pixels, (rows, columns); 0 elsewhere.

    The squares of the weights, one a spacing, sum to 1. Fields of different keys are independent.
    """
    field = np.zeros(valid.shape, dtype=np.float32)
    rows, columns = np.asarray(place.rows), np.asarray(place.columns)
    turn, column = np.divmod(columns, place.around)
    for spacing, weight in zip(spacings, weights, strict=True):
        if weight <= 0:
            continue
        own = _key(*key, spacing)
        if spacing == 1:
            _independent(own, rows, column, valid, weight, field)
            continue
        nodes = max(round(place.around / spacing), 4)
        # each octave has its own corner, so that no line of pixels is special
        down, right = (float(_mix(own + np.uint64(number))) / 2.0**64 for number in (1, 2))
        first_rows, row_taps = _taps((rows + 0.5) / spacing + down)
        first_columns, column_taps = _taps((column + 0.5) * (nodes / place.around) + right)
        first_columns = first_columns + turn * nodes
        top, left = int(first_rows[0]), int(first_columns[0])
        lattice = np.zeros((int(first_rows[-1]) - top + 4, int(first_columns[-1]) - left + 4), dtype=np.float32)
        across = np.arange(left, left + lattice.shape[1]) % nodes
        everywhere = np.ones(lattice.shape, dtype=np.bool_)
        _independent(own, np.arange(top, top + lattice.shape[0]), across, everywhere, 1.0, lattice)
        taps = row_taps * np.float32(weight)
        _interpolate(lattice, first_rows - top, taps, first_columns - left, column_taps, valid, field)
    return field


def _class_fields(
    probability: Floats, valid: Flags, place: Place, grain: Grain, seed: int, draw: int
) -> Iterator[tuple[int, Flags, Floats]]:
    """Yield each class that is possible, where it is, and its field there."""
    for code, layer in enumerate(probability):
        there = valid & (layer > _LEAST)
        if there.any():
            weights = grain.weights[code]
            yield code, there, normal_field(there, place, grain.spacings, weights, (seed, draw, code))


def _taps(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], Floats]:
    """First of four nodes around each position, and their weights (positions, 4), whose squares sum to 1."""
    base = np.floor(position)
    t = (position - base)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    return base.astype(np.int64) - 1, weights.astype(np.float32)


def _key(*numbers: int) -> np.uint64:
    """Return a key of 64 bits that depends on all numbers and their order."""
    key = np.uint64(0)
    with np.errstate(over="ignore"):
        for number in numbers:
            key = np.uint64(_mix(key + np.uint64(number) + _ROW))
    return key


@compiled
def _mix(value: np.uint64) -> np.uint64:
    """Mix the bits of a number, as splitmix64 does (Steele et al. 2014, doi 10.1145/2660193.2660195)."""
    value = (value ^ (value >> _S30)) * _FIRST
    value = (value ^ (value >> _S27)) * _SECOND
    return value ^ (value >> _S31)


@compiled
def _independent(
    key: np.uint64, rows: NDArray[np.int64], columns: NDArray[np.int64], valid: Flags, weight: float, out: Floats
) -> None:
    """Add a normal random number times a weight at each valid place (Box and Muller 1958)."""
    for i in range(rows.size):
        row = _mix(key + np.uint64(rows[i]) * _ROW)
        for j in range(columns.size):
            if valid[i, j]:
                bits = _mix(row + np.uint64(columns[j]) * _COLUMN)
                one = (float(bits >> _S32) + 0.5) / 4294967296.0
                two = float(bits & _LOW) / 4294967296.0
                out[i, j] += weight * math.sqrt(-2.0 * math.log(one)) * math.cos(2.0 * math.pi * two)


@compiled
def _interpolate(
    lattice: Floats,
    rows: NDArray[np.int64],
    row_taps: Floats,
    columns: NDArray[np.int64],
    column_taps: Floats,
    valid: Flags,
    out: Floats,
) -> None:
    """Add the interpolated values of a lattice at the valid pixels."""
    line = np.empty(lattice.shape[1], np.float32)
    for i in range(rows.size):
        top = rows[i]
        for j in range(line.size):
            line[j] = (
                row_taps[i, 0] * lattice[top, j]
                + row_taps[i, 1] * lattice[top + 1, j]
                + row_taps[i, 2] * lattice[top + 2, j]
                + row_taps[i, 3] * lattice[top + 3, j]
            )
        for j in range(columns.size):
            if valid[i, j]:
                left = columns[j]
                out[i, j] += (
                    column_taps[j, 0] * line[left]
                    + column_taps[j, 1] * line[left + 1]
                    + column_taps[j, 2] * line[left + 2]
                    + column_taps[j, 3] * line[left + 3]
                )


@compiled
def _waiting(g: float) -> float:
    """Return ``exp(-G)``, which is exponentially distributed if g is normal."""
    return -math.log1p(-0.5 * math.erfc(g / math.sqrt(2.0)))


@compiled
def _race(
    field: Floats, probability: Floats, there: Flags, code: int, least: NDArray[np.float64], codes: NDArray[np.uint8]
) -> None:
    """Give a class the pixels at which ``exp(-G) / p`` is less than that of the classes before it."""
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            if there[i, j]:
                time = _waiting(field[i, j]) / probability[i, j]
                if time < least[i, j]:
                    least[i, j] = time
                    codes[i, j] = code


@compiled
def _weigh(field: Floats, there: Flags, worth: NDArray[np.float64]) -> None:
    """Multiply by ``exp(G)``."""
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            if there[i, j]:
                worth[i, j] /= _waiting(field[i, j])
