"""What helps a network of transition in Brazil: ``python -m tests.benchmarks.change_ablation``, one JSON object a line.

Each line leaves one thing out when the shipped model makes the map of 2008 from those until 2004. The scores are those
of held-out blocks. No year after 2008 is looked at, so that a choice can be made from them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import harness
from tests.benchmarks.change import EXCHANGE, FILE, FIRST_ROLLED, LAST_FITTED, MODELS, Brazil
from tests.benchmarks.harness import Result, hardware, missing, show, tell
from xland.downscaling.call import downscale
from xland.models import find_model
from xland.models.calibration import calibration_error
from xland.models.checkpoint import update_card
from xland.totals.modes import Totals

FULL: dict[str, Any] = {"totals": Totals("map", exchange=EXCHANGE), "flips": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "as in the benchmark": {},
    "without earlier maps": {"earlier": False},
    "without calibration by class of origin": {"plain": True},
    "without flips": {"flips": False},
    "without exchange": {"totals": Totals("map")},
    "without totals": {"totals": None},
}


def lines() -> Iterator[Result]:
    area = Brazil(5)
    start, end = area.codes(FIRST_ROLLED), area.codes(LAST_FITTED)
    within, kept = area.held_out, float((start == end)[area.held_out].mean())
    with tempfile.TemporaryDirectory() as name:
        plain = without_change(Path(name) / "model")
        for variant, change in VARIANTS.items():
            tell(variant)
            how = {**FULL, **change}
            model = plain if how.pop("plain", False) else MODELS[5]
            first = None if how.pop("earlier", True) else FIRST_ROLLED
            prior = area.maps.sel(time=slice(first, FIRST_ROLLED))
            given: dict[str, Any] = {"static": area.static, "prior": prior, "years": [LAST_FITTED], **how}
            found = downscale(area.forcing, model=model, outputs=("land_use", "probability"), **given).compute()
            made = found["land_use"].values[0]
            shares = np.take_along_axis(found["probability"].values[0], start[None].astype(np.intp), axis=0)[0]
            yield {
                "name": f"change_{variant.replace(' ', '_')}",
                "figure_of_merit": round(area.judge(made, FIRST_ROLLED, LAST_FITTED, within).figure_of_merit, 4),
                "lead_over_persistence": round(float((made == end)[within].mean()) - kept, 5),
                "calibration_of_change": round(calibration_error(1 - shares[within], (start != end)[within]), 5),
                "hardware": hardware(),
            }


def without_change(folder: Path) -> Path:
    """Copy the shipped model without the calibration by class of origin."""
    shutil.copytree(find_model(MODELS[5]).folder, folder)
    entry = find_model(folder).card["calibration"]
    update_card(folder, {"calibration": {name: value for name, value in entry.items() if "change" not in name}})
    return folder


def main() -> None:
    harness.options(__doc__)
    if not FILE.exists():
        show(missing("change_ablation", FILE))
        return
    for each in lines():
        show(each)


if __name__ == "__main__":
    main()
