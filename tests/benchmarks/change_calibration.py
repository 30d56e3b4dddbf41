"""Calibrate how probable change is, by class of origin: ``python -m tests.benchmarks.change_calibration MODEL ...``.

The scaling of a training is by class of the later map, on validation cells, which cover few kinds of land in Brazil.
Here the log odds of change are scaled for each class of the earlier map, on the blocks that no model has learned from,
four years and one year up to 2008 (for models of the past: down to 2000). It is written to the card of the model.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from scipy.optimize import minimize

from tests.benchmarks.change import FIRST_RECORDED, LAST_FITTED, Brazil
from tests.benchmarks.harness import show
from xland.models import find_model
from xland.models.calibration import calibration_error
from xland.models.checkpoint import Checkpoint, update_card
from xland.vocabulary import CLASS_NAMES

_LEAST = 1e-6  # probability of change, and of none
_RIDGE = 1e-4  # keeps classes of few pixels near a scaling that changes nothing
_STEPS = (4, 1)


def fit_change(probability: np.ndarray, origin: np.ndarray, changed: np.ndarray) -> tuple[list[float], list[float]]:
    """Return scale and bias of the log odds of change of each class of origin: the most likely ones, (pixels,) each."""
    odds = np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)
    odds = np.log(odds / (1 - odds))
    scale, bias = [1.0] * len(CLASS_NAMES), [0.0] * len(CLASS_NAMES)
    for code in np.unique(origin):
        here = origin == code
        values, outcome = odds[here], changed[here]

        def loss(given: np.ndarray, values: np.ndarray = values, outcome: np.ndarray = outcome) -> float:
            scaled = given[0] * values + given[1]
            misfit = np.mean(np.logaddexp(0, scaled) - outcome * scaled)
            return float(misfit + _RIDGE * ((given[0] - 1) ** 2 + given[1] ** 2))

        found = minimize(loss, [1.0, 0.0], method="L-BFGS-B", bounds=[(0.05, 20), (-20, 20)]).x
        scale[code], bias[code] = (round(float(each), 4) for each in found)
    return scale, bias


def calibrate_change(model: Checkpoint) -> dict[str, object]:
    """Fit the calibration of change of one of the models of Brazil, and enter it into its card."""
    plain = {name: value for name, value in model.card["calibration"].items() if not name.startswith("change_")}
    uncalibrated = update_card(model.folder, {"calibration": plain})
    area = Brazil(model.inputs.factor)
    back = model.inputs.prior_step == 1
    last = FIRST_RECORDED if back else LAST_FITTED
    parts, pairs = [], [[last + step if back else last - step, last] for step in _STEPS]
    for start, end in pairs:
        shares = area.predict(uncalibrated, start, [end], outputs="probability")["probability"].values[0]
        origin = area.codes(start)
        changes = 1 - np.take_along_axis(shares, origin[None].astype(np.intp), axis=0)[0]
        parts.append([each[area.held_out] for each in (changes, origin, area.codes(end) != origin)])
    probability, origin, changed = (np.concatenate(each) for each in zip(*parts, strict=True))
    scale, bias = fit_change(probability, origin, changed)
    said = {"change_scale": scale, "change_bias": bias, "change_pairs": pairs}
    update_card(model.folder, {"calibration": plain | said})
    before = {
        f"{start} to {end}": calibration_error(each[0], each[2])
        for (start, end), each in zip(pairs, parts, strict=True)
    }
    return {"name": model.name, **said, "error_before": before}


def main() -> None:
    for name in sys.argv[1:]:
        show(json.loads(json.dumps(calibrate_change(find_model(name)))))


if __name__ == "__main__":
    main()
