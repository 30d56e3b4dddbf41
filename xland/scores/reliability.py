"""Whether probabilities are what they say: reliability, Brier score, risk against coverage; in one lazy pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, ModelError, NothingToScoreError, TimeError, VocabularyError
from xland.geo.conventions import classes_along
from xland.geo.orientation import orient
from xland.models.calibration import BINS, bin_of
from xland.reading.variables import ClassMap, as_map
from xland.scores.counting import place_mask
from xland.scores.counts import SOUTHERN_LIMIT
from xland.scores.frames import as_dask, pair_years, place
from xland.scores.measures import Weighting
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, check_codes

Domain = Literal["land", "all"]

_NOWHERE = 255
"""Stands for cells of the probabilities that the observed map does not cover."""
_OFF = 0.03
"""How far from 1 the sum of the probabilities of a cell may be: they are stored in steps of 0.004."""


@dataclass(frozen=True, eq=False, repr=False)
class Reliability:
    """How confidence and accuracy go together.

    Parameters
    ----------
    edges : (bins + 1,) array
        Edges of the bins of confidence, from 0 to 1.
    confidence, accuracy : (bins,) arrays
        Mean probability of the class shown, and share of cells where it is the observed one; NaN in empty bins.
    share : (bins,) array
        Share of the area (or of the cells) in each bin.
    class_share : (classes,) array
        Share of each observed class.
    class_errors : (classes,) array
        Calibration error of the probability of each class, shown or not (Kull et al. 2019, arXiv 1910.12656).
    brier : float
        Mean over cells of the summed squared errors of all probabilities, from 0 to 2 (Brier 1950, doi
        10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2).
    brier_reliability, brier_resolution, brier_uncertainty : float
        Murphy's parts over the bins of each class (1973, doi
        10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2): the score is the first less the second plus the
        third, but for what probabilities differ within a bin.
    coverage, risk : arrays
        Share of the area that is kept when cells below a confidence are left out, from the surest on, and
        share of it that is wrong (El-Yaniv and Wiener 2010). The last one is everything.
    weighting : {"area", "pixels"}
    total : float
        Square metres or cells.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    share: NDArray[np.float64]
    class_share: NDArray[np.float64]
    class_errors: NDArray[np.float64]
    brier: float
    brier_reliability: float
    brier_resolution: float
    brier_uncertainty: float
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    weighting: Weighting
    total: float

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the bins (Naeini et al. 2015, doi 10.1609/aaai.v29i1.9602)."""
        return float(np.nansum(self.share * np.abs(self.accuracy - self.confidence)))

    @property
    def classwise_calibration_error(self) -> float:
        """Mean of the calibration errors of the classes that are observed."""
        return float(self.class_errors[self.class_share > 0].mean())

    @property
    def risk_coverage_area(self) -> float:
        """Area under risk over coverage (Geifman et al. 2019, arXiv 1805.08206): the mean risk; 0 is best."""
        steps = np.diff(self.coverage, prepend=0)
        middle = (self.risk + np.concatenate([self.risk[:1], self.risk[:-1]])) / 2
        return float(steps @ middle)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON: None where a bin is empty."""
        scores = (
            *("expected_calibration_error", "classwise_calibration_error", "brier", "brier_reliability"),
            *("brier_resolution", "brier_uncertainty", "risk_coverage_area"),
        )
        curves = ("edges", "confidence", "accuracy", "share", "coverage", "risk")
        return {
            "weighting": self.weighting,
            "unit": "m2" if self.weighting == "area" else "cells",
            "total": self.total,
            **{name: getattr(self, name) for name in scores},
            "class_errors": dict(zip(CLASS_NAMES, self.class_errors.tolist(), strict=True)),
            **{name: [None if math.isnan(each) else each for each in getattr(self, name).tolist()] for name in curves},
        }

    def __str__(self) -> str:
        return (
            f"calibration error {self.expected_calibration_error:.4f} (per class "
            f"{self.classwise_calibration_error:.4f}), Brier score {self.brier:.4f}, {self.risk[-1]:.4f} of everything "
            f"and {np.interp(0.5, self.coverage, self.risk):.4f} of the surer half wrong; by {self.weighting}"
        )

    __repr__ = __str__


def assess_reliability(
    probability: xr.DataArray,
    observed: xr.DataArray | xr.Dataset,
    *,
    decided: xr.DataArray | xr.Dataset | None = None,
    bins: int = BINS,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    weighting: Weighting = "area",
    domain: Domain = "land",
) -> Reliability:
    """Compare probabilities with an observed map.

    Maps are read once, block by block.

    Parameters
    ----------
    probability : DataArray
        Probability of each of the eight classes, (class, lat, lon) or (time, class, lat, lon) in any
        order, lazy or not.
    observed : DataArray or Dataset
        Class codes on the same cells; may cover more or less.
    decided : DataArray or Dataset, optional
        Class codes of the map that is judged; by default the most probable class, the lower code of two.
    bins : int
        Bins of confidence of equal width.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to count; an array has the cells of the observed map.
    weighting : {"area", "pixels"}
        What a cell counts: its area on the sphere, or 1.
    domain : {"land", "all"}
        Cells whose observed class is a land class, north of 60 S; or all.

    Returns
    -------
    Reliability

    Raises
    ------
    VocabularyError
        If there are other classes than the eight, or other codes.
    ModelError
        If values are NaN, below 0 or do not sum to 1; an argument is none of its choices.
    GridError
        If cells do not coincide, there are other dimensions, or probability is no DataArray.
    RegionError
        If there is no common cell, or ``within`` and ``domain`` leave none
        (:class:`~xland.errors.NothingToScoreError`).
    TimeError
        If time steps do not belong together.
    """
    _check_choices(bins, weighting, domain)
    if not isinstance(probability, xr.DataArray):
        raise GridError(
            f"probability is a {type(probability).__name__}; pass the DataArray of probabilities, such as "
            "ds['probability'] of what downscale returns"
        )
    layers, frame = _canonical(probability)
    truth = as_map(observed, what="observed map")
    shown = None if decided is None else as_map(decided, what="decided map")
    mask = None if within is None else _placed_mask(within, truth, frame)
    own = {} if shown is None else dict(pair_years(frame, shown, match_years=False))
    counted = []
    for ours, theirs in pair_years(frame, truth, match_years=False):
        codes = None
        if shown is not None:
            if ours not in own:
                raise TimeError(
                    f"the decided map lacks {frame.years[ours]}, which the probability and the observed map hold: "
                    "give it for the same years, or select the years to judge"
                )
            codes = place(_step(shown, own[ours]), frame, _NOWHERE)
        reference = place(_step(truth, theirs), frame, _NOWHERE)
        counted.append(_count(layers[ours], reference, codes, mask, frame, bins, weighting, domain))
    sums = np.sum(dask.compute(*counted), axis=0)
    counts = Counts.unpack(sums, bins, len(CLASS_NAMES))
    if not counts.total > 0:
        raise NothingToScoreError("no cell is left to score: the mask `within` and the domain hold no cell of the maps")
    return summarise(counts, weighting)


def summarise(counts: Counts, weighting: Weighting) -> Reliability:
    """Return what follows from the counts."""
    weight, confidence, correct = counts.by_confidence()
    class_weight, class_sum, class_hits = counts.classes[:, 0], counts.classes[:, 1], counts.classes[:, 2]
    total = counts.total
    base = class_hits.sum(axis=1) / total
    forecast, outcome = _ratio(class_sum, class_weight), _ratio(class_hits, class_weight)
    kept, wrong = counts.from_the_surest()
    return Reliability(
        edges=np.linspace(0, 1, len(weight) + 1),
        confidence=_ratio(confidence, weight),
        accuracy=_ratio(correct, weight),
        share=weight / total,
        class_share=base,
        class_errors=np.abs(class_hits - class_sum).sum(axis=1) / total,
        brier=counts.brier / total,
        brier_reliability=float(np.nansum(class_weight * (forecast - outcome) ** 2) / total),
        brier_resolution=float(np.nansum(class_weight * (outcome - base[:, None]) ** 2) / total),
        brier_uncertainty=float((base * (1 - base)).sum()),
        coverage=kept / total,
        risk=wrong / kept,
        weighting=weighting,
        total=total,
    )


def _check_choices(bins: int, weighting: str, domain: str) -> None:
    for name, value, known in (("weighting", weighting, get_args(Weighting)), ("domain", domain, get_args(Domain))):
        if value not in known:
            raise ModelError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")
    if type(bins) is not int or bins < 1:
        raise ModelError(f"bins must be a whole number of at least 1, not {bins!r}")


def _canonical(probability: xr.DataArray) -> tuple[list[da.Array], ClassMap]:
    """Return each step as (class, lat, lon), and the map that says where they lie."""
    data, _ = orient(probability, what="probability")
    spare = [str(dim) for dim in data.dims if dim not in {"time", "lat", "lon"}]
    if len(spare) != 1:
        raise GridError(
            f"probability has the dimensions {', '.join(map(str, data.dims))}: beside time, lat and lon it needs "
            "one of classes, and no other"
        )
    (dim,) = spare
    names = classes_along(data, dim) or CLASS_NAMES
    if names != CLASS_NAMES:
        raise VocabularyError(
            f"probability must hold the {len(CLASS_NAMES)} classes {', '.join(CLASS_NAMES)} in this order along "
            f"{dim!r}, not {data.sizes[dim]}: {', '.join(names[:10])}"
        )
    if data.chunks is None:
        data = data.chunk({**dict.fromkeys(data.dims, "auto"), dim: -1})
    frame = as_map(data.isel({dim: 0}, drop=True), what="probability", holds="values")
    if "time" not in data.dims:
        data = data.drop_vars("time", errors="ignore").expand_dims("time")
    array = as_dask(data.transpose("time", dim, "lat", "lon"))
    return [step.rechunk({0: -1}) for step in array], frame


def _step(maps: ClassMap, number: int) -> ClassMap:
    return ClassMap(maps.data[number : number + 1], maps.grid, maps.years[number : number + 1], maps.what)


def _placed_mask(within: xr.DataArray | NDArray[np.bool_], truth: ClassMap, frame: ClassMap) -> da.Array:
    coords = {"lat": truth.data["lat"], "lon": truth.data["lon"]}
    mask = xr.DataArray(place_mask(within, truth)[None], coords, ("time", "lat", "lon"))
    return place(ClassMap(mask, truth.grid, (None,), "mask `within`"), frame, 0)


def _count(
    probability: da.Array,
    observed: da.Array,
    decided: da.Array | None,
    mask: da.Array | None,
    frame: ClassMap,
    bins: int,
    weighting: Weighting,
    domain: Domain,
) -> da.Array:
    """Return the lazy sums of one time step, as one array of numbers."""
    chunks = probability.chunks[1:]
    grid = frame.grid
    area = grid.cell_area() if weighting == "area" else np.ones(grid.rows)
    optional: list[Any] = []
    for each in (decided, mask):
        optional += [None, None] if each is None else [each.rechunk(chunks), "yx"]
    counted = da.blockwise(
        _count_block,
        "yxs",
        probability,
        "cyx",
        observed.rechunk(chunks),
        "yx",
        da.from_array(area, chunks=(chunks[0],)),
        "y",
        da.from_array(grid.latitude, chunks=(chunks[0],)),
        "y",
        da.from_array(grid.longitude, chunks=(chunks[1],)),
        "x",
        *optional,
        new_axes={"s": Counts.length(bins, len(CLASS_NAMES))},
        adjust_chunks={"y": lambda _: 1, "x": lambda _: 1},
        concatenate=True,
        bins=bins,
        domain=domain,
        dtype=np.float64,
        meta=np.empty((0, 0, 0)),
    )
    return counted.sum(axis=(0, 1), split_every=8)


def _count_block(
    probability: NDArray[np.floating[Any]],
    observed: NDArray[Any],
    area: NDArray[np.float64],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    decided: NDArray[Any] | None,
    mask: NDArray[np.bool_] | None,
    *,
    bins: int,
    domain: Domain,
) -> NDArray[np.float64]:
    counted = observed != _NOWHERE
    truth = check_codes(np.where(counted, observed, 0), what="observed map", latitude=latitude, longitude=longitude)
    if decided is not None:
        counted &= decided != _NOWHERE
        decided = check_codes(np.where(counted, decided, 0), what="decided map", latitude=latitude, longitude=longitude)
    if domain == "land":
        counted &= np.isin(truth, LAND_CLASSES) & (latitude > SOUTHERN_LIMIT)[:, None]
    if mask is not None:
        counted &= mask
    rows, columns = np.nonzero(counted)
    values = np.ascontiguousarray(probability[:, rows, columns])
    _check_values(values, latitude[rows], longitude[columns])
    chosen = values.argmax(axis=0) if decided is None else decided[rows, columns]
    sums = count_confidence(values, truth[rows, columns], chosen, area[rows], bins)
    return sums.pack()[None, None]


def _check_values(values: NDArray[Any], latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> None:
    sound = (np.abs(values.sum(axis=0) - 1) <= _OFF) & (values.min(axis=0, initial=0) >= -_OFF)
    bad = np.flatnonzero(~sound)
    if bad.size:
        first = bad[0]
        raise ModelError(
            f"probability: {bad.size} cells hold no probabilities (NaN, below 0, or their sum is not 1), the first at "
            f"{latitude[first]:g} N, {longitude[first]:g} E, where they sum to {values[:, first].sum():.3g}: leave "
            "such cells out with `within`, or pass what downscale returns"
        )


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


_FINE = 40
"""Parts of a bin of confidence in which risk and coverage are counted."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Sums over cells.

    Parameters
    ----------
    top : (3, fine bins) array
        By the probability of the class shown: weight, weight times that probability, weight of the cells
        where that class is observed.
    classes : (classes, 3, bins) array
        The same by the probability of each class.
    brier : float
        Weight times the sum of squared errors of the probabilities.
    """

    top: NDArray[np.float64]
    classes: NDArray[np.float64]
    brier: float

    @property
    def total(self) -> float:
        """Weight of all cells."""
        return float(self.top[0].sum())

    def by_confidence(self) -> NDArray[np.float64]:
        """Return ``top`` in bins, ``(3, bins)``."""
        return np.asarray(self.top.reshape(3, -1, _FINE).sum(axis=2))

    def from_the_surest(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weight above each confidence that occurs, from the highest on, and how much of it is wrong."""
        weight, _, correct = self.top[:, ::-1][:, self.top[0, ::-1] > 0]
        return weight.cumsum(), (weight - correct).cumsum().clip(min=0)

    def pack(self) -> NDArray[np.float64]:
        """Return all sums in one array."""
        return np.concatenate([self.top.ravel(), self.classes.ravel(), [self.brier]])

    @classmethod
    def unpack(cls, sums: NDArray[np.float64], bins: int, classes: int) -> Counts:
        """Read what :meth:`pack` returned, or a sum of such arrays."""
        middle = 3 * bins * _FINE
        return cls(sums[:middle].reshape(3, -1), sums[middle:-1].reshape(classes, 3, bins), float(sums[-1]))

    @staticmethod
    def length(bins: int, classes: int) -> int:
        """Size of the packed array."""
        return 3 * bins * _FINE + classes * 3 * bins + 1


def count_confidence(
    probability: NDArray[np.floating[Any]],
    observed: NDArray[np.integer[Any]],
    decided: NDArray[np.integer[Any]],
    weight: NDArray[np.float64],
    bins: int,
) -> Counts:
    """Sum up cells.

    Parameters
    ----------
    probability : (classes, cells) array
    observed, decided : (cells,) arrays of class codes
    weight : (cells,) array
    bins : int
    """
    confidence = probability[decided, np.arange(len(decided))].astype(np.float64)
    top = _sums(confidence, decided == observed, weight, bins * _FINE)
    classes = np.stack(
        [_sums(layer.astype(np.float64), observed == code, weight, bins) for code, layer in enumerate(probability)]
    )
    squares = np.zeros(len(weight))
    for code, layer in enumerate(probability):
        squares += (layer - (observed == code)) ** 2
    return Counts(top, classes, float(squares @ weight))


def _sums(
    values: NDArray[np.float64], correct: NDArray[np.bool_], weight: NDArray[np.float64], bins: int
) -> NDArray[np.float64]:
    place = bin_of(values, bins)
    return np.stack([np.bincount(place, each, minlength=bins) for each in (weight, weight * values, weight * correct)])
