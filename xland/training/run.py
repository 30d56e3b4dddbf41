"""Train a model from a configuration, with progress to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from xland.models.checkpoint import Checkpoint
from xland.training.configuration import Configuration, read_configuration
from xland.training.loop import Report, fit
from xland.training.material import gather, open_data


def train(
    configuration: str | Path | Configuration,
    output: str | Path,
    *,
    forcing: str | Path | xr.Dataset | None = None,
    target: xr.DataArray | None = None,
    static: xr.Dataset | None = None,
    prior: xr.DataArray | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Checkpoint:
    """Train a model.

    Parameters
    ----------
    configuration : str, path or Configuration
        Name of a shipped configuration, a TOML file, or a configuration.
    output : path
        Folder for the model, its log and the state from which a training resumes.
    forcing : path or Dataset, optional
        Coarse fractions in place of those that the configuration names.
    target, static, prior : optional
        Maps and predictors in place of those that the configuration names; see
        :func:`xland.training.material.gather`.
    resume : bool
        Go on from the last state in `output`: the same losses and weights as without a pause.
    progress : bool
        Show a progress bar, and one line an epoch.

    Returns
    -------
    Checkpoint
        The model that validated best.

    Raises
    ------
    TrainingStoppedError
        If the process was asked to end (SIGTERM): the state is written, and ``resume`` goes on. A job
        that ends with its ``status``, 143, can be told from one that failed.
    XlandError
        If data, configuration or state do not fit, as :func:`xland.training.material.gather` and
        :func:`xland.training.loop.fit` say.
    """
    if not isinstance(configuration, Configuration):
        configuration = read_configuration(configuration)
    given: dict[str, Any] = {"forcing": forcing, "target": target, "static": static}
    data: dict[str, Any] = {
        name: value for name, value in given.items() if isinstance(value, xr.Dataset | xr.DataArray)
    }
    if len(data) < len(given):
        path = forcing if isinstance(forcing, str | Path) else None
        data = {**open_data(configuration, path, skip=tuple(data)), **data}
    configuration, material = gather(configuration, **data, prior=prior)
    with _Display(enabled=progress) as display:
        return fit(configuration, material, Path(output), resume=resume, report=display.report)


class _Display:
    """A rich progress bar for the steps, and a line for every epoch."""

    def __init__(self, *, enabled: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
        self.bar = Progress(*columns, TimeRemainingColumn(), disable=not enabled)
        self.task = self.bar.add_task("training", total=1.0)

    def __enter__(self) -> _Display:
        self.bar.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self.bar.__exit__(*details)

    @property
    def report(self) -> Report:
        """Return what :func:`xland.training.loop.fit` calls."""

        def show(stage: str, done: float, figures: dict[str, float]) -> None:
            if stage == "training":
                self.bar.update(self.task, completed=done, description=f"training, loss {figures['loss']:.3f}")
            elif not self.bar.disable:
                self.bar.console.print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()))

        return show
