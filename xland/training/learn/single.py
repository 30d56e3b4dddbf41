"""Learn in this process: alone, or as one rank of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xland.models.checkpoint import Checkpoint
from xland.training.configuration import Configuration, parse_configuration
from xland.training.data.material import open_material
from xland.training.data.patches import patches_from
from xland.training.learn.loop import Report, fit
from xland.training.ranks.group import Device, join_group


def learn(
    configuration: Configuration,
    output: Path,
    *,
    given: Mapping[str, Any],
    store: str | Path | None,
    generator: Any = None,
    device: Device = "auto",
    resume: bool = False,
    progress: bool = True,
    report: Report | None = None,
) -> Checkpoint:
    """Train in this process; parameters and errors as in :func:`xland.training.run.train`.

    Parameters
    ----------
    given : mapping
        Forcing, target, static predictors and prior in place of those that the configuration names; None for others.
    """
    with join_group(device) as group, shown_progress(report, enabled=progress and group.main) as say:
        configuration, material = open_material(configuration, given, store)
        factor = configuration.inputs.factor
        return fit(
            configuration,
            material,
            output,
            resume=resume,
            report=say,
            group=group,
            patches=None if generator is None else patches_from(generator, material.grid, factor),
            measure_energy=True,
        )


def learn_as_rank(
    configuration: Mapping[str, Any], output: Path, *, store: Path | None, device: Any, resume: bool, report: Report
) -> None:
    """Train as one rank of several: what :mod:`xland.training.ranks.process` calls, by its name."""
    learn(
        parse_configuration(configuration),
        output,
        given={},
        store=store,
        device=device,
        resume=resume,
        progress=False,
        report=report,
    )


@contextmanager
def shown_progress(report: Report | None, *, enabled: bool) -> Iterator[Report]:
    """Yield what a training reports to: that of the caller, or a rich progress bar with a line for every epoch."""
    if report is not None:
        yield report
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    bar = Progress(*columns, TimeRemainingColumn(), disable=not enabled)
    task = bar.add_task("training", total=1.0)

    def show(stage: str, done: float, figures: dict[str, float]) -> None:
        bar.start()  # now, as those of the data and the cluster are done
        if stage == "training":
            text = "training, loss {loss:.3f}, {samples_per_second:.3g} samples/s, waiting {waiting:.0%}"
            bar.update(task, completed=done, description=text.format(**figures))
        elif enabled:
            bar.console.print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    try:
        yield show
    finally:
        bar.stop()
