"""Whether probabilities are what they say: reliability, Brier score, risk against coverage; in one lazy pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import Count, checked
from xland.errors import GridError, ModelError, NothingToScoreError, TimeError, VocabularyError
from xland.models.calibration import BINS, bin_of
from xland.reading.variables import as_map
from xland.scores.counts import SOUTHERN_LIMIT
from xland.scores.frames import Block, common_cells, pair_years, read_probability
from xland.scores.measures import UNITS, Weighting, ratio
from xland.scores.tables import plain
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES

_OFF = 0.03  # how far from 1 the sum of the probabilities of a cell may be: they are stored in steps of 0.004
_FINE = 40  # parts of a bin of confidence in which risk and coverage are counted


_SCORES = (
    *("expected_calibration_error", "classwise_calibration_error", "brier", "brier_reliability"),
    *("brier_resolution", "brier_uncertainty", "risk_coverage_area"),
)
_CURVES = ("edges", "confidence", "accuracy", "share", "coverage", "risk")


@dataclass(frozen=True, eq=False, repr=False)
class Reliability:
    """How confidence and accuracy go together.

    Parameters
    ----------
    edges : (bins + 1,) array
        Edges of the bins of confidence, from 0 to 1.
    confidence, accuracy, share : (bins,) arrays
        Mean probability of the class shown, share of cells where it is the observed one, and share of the area (or of
        the cells) in each bin; the first two are NaN in empty bins.
    class_share, class_errors : (classes,) arrays
        Share of each observed class, and calibration error of its probability, shown or not (Kull et al. 2019, arXiv
        1910.12656).
    brier : float
        Mean over cells of the summed squared errors of all probabilities, from 0 to 2 (Brier 1950, doi
        10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2).
    brier_reliability, brier_resolution, brier_uncertainty : float
        Murphy's parts over the bins of each class (1973, doi
        10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2): the score is the first less the second plus the
        third, but for what probabilities differ within a bin.
    coverage, risk : arrays
        Share of the area that is kept when cells below a confidence are left out, from the surest on, and share of it
        that is wrong (El-Yaniv and Wiener 2010). The last one is everything.
    weighting, total
        ``area`` or ``pixels``; square metres or cells.
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
        return {
            "weighting": self.weighting,
            "unit": UNITS[self.weighting],
            "total": self.total,
            **{name: getattr(self, name) for name in _SCORES},
            "class_errors": dict(zip(CLASS_NAMES, self.class_errors.tolist(), strict=True)),
            **{name: [plain(each) for each in getattr(self, name).tolist()] for name in _CURVES},
        }

    def __str__(self) -> str:
        return (
            f"calibration error {self.expected_calibration_error:.4f} (per class "
            f"{self.classwise_calibration_error:.4f}), Brier score {self.brier:.4f}, {self.risk[-1]:.4f} of everything "
            f"and {np.interp(0.5, self.coverage, self.risk):.4f} of the surer half wrong; by {self.weighting}"
        )

    __repr__ = __str__


@checked(ModelError)
def assess_reliability(
    probability: xr.DataArray,
    observed: xr.DataArray | xr.Dataset,
    *,
    decided: xr.DataArray | xr.Dataset | None = None,
    bins: Count = BINS,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    weighting: Weighting = "area",
    domain: Literal["land", "all"] = "land",
    match_years: bool = True,
) -> Reliability:
    """Compare probabilities with an observed map, reading each block once.

    Parameters
    ----------
    probability : DataArray
        Probability of each class, (class, lat, lon) or (time, class, lat, lon) in any order, lazy or not.
    observed : DataArray or Dataset
        Class codes on the same cells; may cover more or less.
    decided : DataArray or Dataset, optional
        Class codes of the map that is judged; by default the most probable class, the lower code of two.
    bins : int
        Bins of confidence of equal width.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to count; an array has the cells of the observed map.
    weighting : {"area", "pixels"}
        Weigh every cell with its area on the sphere, or count cells.
    domain : {"land", "all"}
        Cells whose observed class is a land class, north of 60 S; or all.
    match_years : bool
        Refuse a map of another year than the probabilities.

    Returns
    -------
    Reliability

    Raises
    ------
    VocabularyError
        If there are other classes than those of :mod:`xland.vocabulary`, or other codes.
    ModelError
        If values are NaN, below 0 or do not sum to 1, or an argument is not one of its choices.
    GridError
        If cells do not coincide, there are other dimensions, or ``probability`` is not a DataArray.
    RegionError
        If there is no common cell, or none in ``within`` and ``domain``
        (:class:`~xland.errors.NothingToScoreError`).
    TimeError
        If the maps have no year in common.
    """
    if not isinstance(probability, xr.DataArray):
        raise GridError(
            f"probability is a {type(probability).__name__}; pass the DataArray of probabilities, such as "
            "ds['probability'] of what downscale returns"
        )
    layers, truth = read_probability(probability, VocabularyError), as_map(observed, what="observed map")
    shown = None if decided is None else as_map(decided, what="decided map")
    own = {} if shown is None else dict(pair_years(layers, shown, match_years=match_years))
    frame = common_cells([truth, layers, *([] if shown is None else [shown])], truth, within)
    lazy = []
    for ours, theirs in pair_years(layers, truth, match_years=match_years):
        if shown is not None and ours not in own:
            raise TimeError(
                f"the decided map lacks {layers.years[ours]}, which the probability and the observed map have: "
                "give it for the same years, or select the years to judge"
            )
        counts = frame.each_block(
            _count_block,
            [(truth, theirs), None if shown is None else (shown, own[ours])],
            frame.layer(layers, np.nan, ours).rechunk({0: -1}),
            bins=bins,
            land=domain == "land",
            by_area=weighting == "area",
        )
        lazy.append(counts)
    blocks = [each for step in dask.compute(*lazy) for each in step.ravel()]
    top, classes, squares = (sum(parts) for parts in zip(*blocks, strict=True))
    if not top[0].sum() > 0:
        raise NothingToScoreError(
            "no cell is left to score: no cell of the maps is in the mask `within` and the domain"
        )
    return _summarise(top, classes, squares, weighting)


def _summarise(
    top: NDArray[np.float64], layers: NDArray[np.float64], squares: float, weighting: Weighting
) -> Reliability:
    """Return what follows from the sums of all blocks."""
    total = float(top[0].sum())
    weight, confidence, correct = top.reshape(3, -1, _FINE).sum(axis=2)
    class_weight, class_sum, class_hits = layers.swapaxes(0, 1)
    base = class_hits.sum(axis=1) / total
    forecast, outcome = ratio(class_sum, class_weight), ratio(class_hits, class_weight)
    # the weight above each confidence that occurs, from the highest on, and how much of it is wrong
    fine, _, right = top[:, ::-1][:, top[0, ::-1] > 0]
    kept, wrong = fine.cumsum(), (fine - right).cumsum().clip(min=0)
    return Reliability(
        edges=np.linspace(0, 1, len(weight) + 1),
        confidence=ratio(confidence, weight),
        accuracy=ratio(correct, weight),
        share=weight / total,
        class_share=base,
        class_errors=np.abs(class_hits - class_sum).sum(axis=1) / total,
        brier=squares / total,
        brier_reliability=float(np.nansum(class_weight * (forecast - outcome) ** 2) / total),
        brier_resolution=float(np.nansum(class_weight * (outcome - base[:, None]) ** 2) / total),
        brier_uncertainty=float((base * (1 - base)).sum()),
        coverage=kept / total,
        risk=wrong / kept,
        weighting=weighting,
        total=total,
    )


def _count_block(
    block: Block,
    truth: NDArray[np.uint8],
    decided: NDArray[np.uint8] | None,
    probability: NDArray[np.floating[Any]],
    *,
    bins: int,
    land: bool,
    by_area: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Sum up the cells of a block.

    Returns weight, weight times probability, and weight of the cells where the class is observed, (3, ...): of the
    class shown in bins cut into 40 parts, (3, 40 bins); of each class, (classes, 3, bins); and the weighted sum of the
    squared errors of all probabilities.
    """
    counted = block.counted
    if land:
        counted = counted & np.isin(truth, LAND_CLASSES) & (block.latitude > SOUTHERN_LIMIT)[:, None]
    rows, columns = np.nonzero(counted)
    values = np.ascontiguousarray(probability[:, rows, columns])
    bad = np.flatnonzero(~((np.abs(values.sum(axis=0) - 1) <= _OFF) & (values.min(axis=0, initial=0) >= -_OFF)))
    if bad.size:
        first = bad[0]
        raise ModelError(
            f"probability: {bad.size} cells hold no probabilities (NaN, below 0, or their sum is not 1), the first at "
            f"{block.latitude[rows[first]]:g} N, {block.longitude[columns[first]]:g} E, where they sum to "
            f"{values[:, first].sum():.3g}: leave such cells out with `within`, or pass what downscale returns"
        )
    chosen = values.argmax(axis=0) if decided is None else decided[rows, columns]
    found, weight = truth[rows, columns], block.area[rows] if by_area else np.ones(len(rows))
    confidence = values[chosen, np.arange(len(chosen))].astype(np.float64)
    top = _sums(confidence, chosen == found, weight, bins * _FINE)
    classes = np.zeros((len(values), 3, bins))
    squares = np.zeros(len(weight))
    for code, layer in enumerate(values):
        classes[code] = _sums(layer.astype(np.float64), found == code, weight, bins)
        squares += (layer - (found == code)) ** 2
    return top, classes, float(squares @ weight)


def _sums(
    values: NDArray[np.float64], correct: NDArray[np.bool_], weight: NDArray[np.float64], bins: int
) -> NDArray[np.float64]:
    place = bin_of(values, bins)
    return np.stack([np.bincount(place, each, minlength=bins) for each in (weight, weight * values, weight * correct)])
