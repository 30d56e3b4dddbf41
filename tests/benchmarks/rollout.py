"""How much accuracy a free rollout loses, with scheduled sampling and without: one JSON object a line.

Run as ``python -m tests.benchmarks.rollout [--quick] [--only synthetic|plum_island] [--figure PATH]``. The maps
of Plum Island are looked for in ``../shared/data`` or ``XLAND_TEST_DATA``. Each run trains the same small U-Net
twice, from the same seed and with as many steps; the next run has another seed and other held-out cells.
``--quick`` takes too few steps to learn what is compared: it shows that everything runs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import drift
from tests.benchmarks.harness import PROJECT, Result, line, median, show, skipped, tell

DATA = Path(os.environ.get("XLAND_TEST_DATA", PROJECT.parent / "shared" / "data")) / "plum_island"
SIDES = {"with": 1.0, "without": 0.0}
"""Probability of own maps at its peak."""

STEPS = {"synthetic": 250, "plum_island": 500}
COLOURS = {"with": "#00695c", "without": "#c2571a", "persistence": "#555555"}
LABELS = {
    "with": "with scheduled sampling",
    "without": "without",
    "persistence": "persistence: the first map, copied",
}

Results = dict[str, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run of a few steps")
    parser.add_argument("--only", choices=list(STEPS), help="one of the two worlds")
    parser.add_argument("--figure", type=Path, help="draw accuracy year by year into this PNG")
    options = parser.parse_args()
    drawn: dict[str, tuple[list[int], Results]] = {}
    for result in measured(quick=options.quick, only=options.only, drawn=drawn):
        show(result)
    if options.figure is not None:
        draw(drawn, options.figure)


def measured(
    *, quick: bool, only: str | None = None, drawn: dict[str, tuple[list[int], Results]] | None = None
) -> Iterator[Result]:
    """Yield the lines of each world, and keep in ``drawn`` what there is to draw."""
    makers = {"synthetic": drift.synthetic, "plum_island": partial(drift.plum_island, DATA)}
    for name, make in makers.items():
        if only not in (None, name):
            continue
        if name == "plum_island" and not DATA.exists():
            yield skipped(f"rollout_{name}", f"{DATA.name} is not at hand: set XLAND_TEST_DATA")
            continue
        runs, steps = (1, STEPS[name] // 5) if quick else (5, STEPS[name])
        results: Results = {side: [] for side in (*SIDES, "persistence")}
        for seed in range(runs):
            case = make(seed=seed, steps=steps)
            tell(f"{name}, run {seed + 1} of {runs}")
            results["persistence"].append(drift.judge(case, drift.persistence(case)))
            for side, own_maps in SIDES.items():
                with tempfile.TemporaryDirectory() as folder:
                    results[side].append(drift.drift(case, Path(folder) / "model", own_maps))
                tell(f"  {side}: {results[side][-1]['accuracy'][0]:.4f} to {results[side][-1]['last']:.4f}")
        if drawn is not None:
            drawn[name] = case.years, results
        yield from lines(name, case, results, steps)


def lines(name: str, case: drift.Case, results: Results, steps: int) -> Iterator[Result]:
    """Loss of accuracy beside that without scheduled sampling, and what is left of it at the end."""
    lost = {side: median(results[side], "loss") for side in results}
    last = {side: median(results[side], "last") for side in results}
    size = f"{case.maps.sizes['lat']} x {case.maps.sizes['lon']} cells, {case.years[0]}-{case.years[-1]}, {steps} steps"
    common = {"runs": len(results["with"]), "sizes": size}
    yield line(
        f"rollout_{name}",
        lost["with"] / lost["without"],
        "loss of accuracy from the first to the last year, with scheduled sampling / without",
        "<= 1",
        **common,
        loss=_rounded(lost),
        all={side: [round(each["loss"], 4) for each in results[side]] for side in results},
        accuracy={side: _middle(results[side], "accuracy") for side in results},
        accuracy_where_changed={side: _middle(results[side], "changed") for side in SIDES},
    )
    yield line(
        f"rollout_{name}_last",
        last["with"] - last["without"],
        "accuracy in the last year, with scheduled sampling - without",
        ">= 0",
        **common,
        last=_rounded(last),
        all={side: [round(each["last"], 4) for each in results[side]] for side in results},
    )


def draw(drawn: dict[str, tuple[list[int], Results]], path: Path) -> None:
    """Accuracy year by year, a panel a world: the median as a line, all runs as a band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = {"synthetic": "Synthetic world", "plum_island": "Plum Island"}
    figure = Figure(figsize=(4.6 * len(drawn), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for ax, (name, (years, results)) in zip(axes, drawn.items(), strict=True):
        for side, found in results.items():
            values = np.array([each["accuracy"] for each in found])
            dashed = "--" if side == "persistence" else "-"
            ax.plot(years, np.median(values, axis=0), dashed, color=COLOURS[side], label=LABELS[side])
            ax.fill_between(years, values.min(axis=0), values.max(axis=0), color=COLOURS[side], alpha=0.12, lw=0)
        if name == "plum_island":
            for year in drift.OBSERVED[1:]:
                ax.axvline(year, color="#bbbbbb", lw=0.8, zorder=0)
        ax.set(title=titles[name], xlabel="year", ylabel="accuracy on held-out cells")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def _middle(results: list[dict[str, Any]], entry: str) -> list[float]:
    """Median over the runs, year by year."""
    return [round(float(value), 4) for value in np.nanmedian([each[entry] for each in results], axis=0)]


if __name__ == "__main__":
    main()
