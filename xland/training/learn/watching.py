"""What a training reports while it runs: samples a second, waiting for data, ``steps.csv``, TensorBoard and energy."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from xland.atomic import naming_faults, open_to_append, replace_file
from xland.errors import CheckpointError, ConfigurationError, MissingDependencyError
from xland.untrusted.folders import open_plain

logger = logging.getLogger(__name__)

T = TypeVar("T")

STEPS = "steps.csv"
TENSORBOARD = "tensorboard"


class Step(NamedTuple):
    """What is known of a step once its loss is read.

    Parameters
    ----------
    step, epoch : int
        Number of the step over all epochs, and of its epoch, from 1.
    loss, learning_rate, gradient_norm : float
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float


_COLUMNS = (*Step._fields, "samples_per_second", "waiting")


@dataclass
class Pace:
    """Time and samples of a number of steps.

    Parameters
    ----------
    seconds : float
        All that passed, reading and waiting included.
    waited : float
        Seconds in which the training had no batch to work on.
    samples, steps : int
    """

    seconds: float = 0.0
    waited: float = 0.0
    samples: int = 0
    steps: int = 0

    def figures(self) -> dict[str, float]:
        """Return ``samples_per_second``, ``waiting`` (share of time) and ``seconds_per_step``; NaN before a step."""
        timed = self.seconds > 0 and self.steps > 0
        return {
            "samples_per_second": self.samples / self.seconds if timed else math.nan,
            "waiting": self.waited / self.seconds if timed else math.nan,
            "seconds_per_step": self.seconds / self.steps if timed else math.nan,
        }


@dataclass
class Watch:
    """Clock and log of a training; every process has one, and the first of them writes.

    .. code-block:: python

        with Watch(folder, after=progress.step) as watch:
            for batch in watch.waiting(loader):
                ...
                watch.step(samples)
                watch.report([Step(...)])
            watch.epoch(step, figures)

    Times are those of this process. A step on a GPU goes on after the call that started it, so the
    share of time spent waiting for data is the most that the GPU can have been idle for want of them.
    Validation does not count; writing of states does.

    Parameters
    ----------
    folder : path
        Receives ``steps.csv``, one row a step, and ``tensorboard``.
    main : bool
        Whether this process writes.
    after : int
        Steps that are done: what the files tell of later ones is taken out, so that a training that
        is resumed leaves the same steps as one without a pause.
    tensorboard : "auto", "on" or "off"
        Whether scalars are written for TensorBoard; ``auto``: if the package is installed.

    Raises
    ------
    ConfigurationError
        If `tensorboard` is something else.
    MissingDependencyError
        If TensorBoard is asked for and not installed.
    CheckpointError
        If the disk is full or the folder cannot be written.
    """

    folder: Path
    main: bool = True
    after: int = 0
    tensorboard: Literal["auto", "on", "off"] = "auto"
    _since_report: Pace = field(default_factory=Pace, init=False)
    _since_epoch: Pace = field(default_factory=Pace, init=False)
    _mark: float = field(default=0.0, init=False)
    _drawing: bool = field(default=False, init=False)
    _writer: Any = field(default=None, init=False)

    def __enter__(self) -> Watch:
        if self.main:
            self._drawing = _has_tensorboard(self.tensorboard)
            _cut(self.folder / STEPS, self.after)
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with naming_faults(self.folder / TENSORBOARD, CheckpointError):
                self._writer.close()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass batches on and measure how long they keep the training waiting."""
        self._mark = time.perf_counter()
        source = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            finally:
                self._add(waited=time.perf_counter() - asked)
            yield batch

    def step(self, samples: int) -> None:
        """Count a step.

        Parameters
        ----------
        samples : int
            Patches that it took, of all processes.
        """
        self._add(samples=samples, steps=1)

    def report(self, steps: Sequence[Step]) -> dict[str, float]:
        """Log steps whose losses were read, and return figures of the time since the last report.

        Parameters
        ----------
        steps : sequence of Step
            In order. Those of one report share its figures; TensorBoard gets their mean loss, at the last.

        Returns
        -------
        dict
            ``samples_per_second`` of all processes, ``waiting``: share of time, and ``seconds_per_step``.
        """
        self._add()
        figures, self._since_report = self._since_report.figures(), Pace()
        if self.main and steps:
            shared = (figures["samples_per_second"], figures["waiting"])
            _append(self.folder / STEPS, [(*step, *shared) for step in steps])
        if self._drawing and steps:
            last = steps[-1]
            loss = math.fsum(step.loss for step in steps) / len(steps)
            shown = {"loss": loss, "learning_rate": last.learning_rate, "gradient_norm": last.gradient_norm, **figures}
            self._draw("training", shown, last.step)
        return figures

    def epoch(self, step: int, scores: Mapping[str, float]) -> dict[str, float]:
        """Log the scores of an epoch, and return figures of its time; see :meth:`report`.

        Parameters
        ----------
        step : int
            Steps that are done.
        scores : mapping of float
            Loss, and where the epoch was validated, ``accuracy``, ``miou`` and ``iou_...`` of each class.
        """
        figures, self._since_epoch = self._since_epoch.figures(), Pace()
        if self._drawing:
            self._draw("epoch", {**scores, **figures}, step)
        return figures

    def _add(self, *, waited: float = 0.0, samples: int = 0, steps: int = 0) -> None:
        """Let the clock go on to now."""
        now = time.perf_counter()
        for pace in (self._since_report, self._since_epoch):
            pace.seconds += now - self._mark if self._mark else 0.0
            pace.waited += waited
            pace.samples += samples
            pace.steps += steps
        self._mark = now

    def _draw(self, group: str, figures: Mapping[str, float], step: int) -> None:
        with naming_faults(self.folder / TENSORBOARD, CheckpointError):
            if self._writer is None:  # not before there is something to tell
                from torch.utils.tensorboard import SummaryWriter

                # readers forget what earlier writers told of these steps
                self._writer = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=self.after + 1)
            for name, value in figures.items():
                if math.isfinite(value):
                    self._writer.add_scalar(f"{group}/{name}", value, step)


def _cut(path: Path, after: int) -> None:
    """Keep the rows of ``steps.csv`` up to a step; torn ones, of a process that was killed, go."""
    with naming_faults(path, CheckpointError):
        old = b""
        if path.exists():
            with open_plain(path) as file:
                old = file.read()
    kept = []
    for line in old.decode(errors="replace").splitlines(keepends=True):
        row = line.removesuffix("\n").split(",")
        if line.endswith("\n") and len(row) == len(_COLUMNS) and row[0].isdecimal() and int(row[0]) <= after:
            kept.append(row)
    new = _table([_COLUMNS, *kept])
    if new != old:
        replace_file(path, new, error=CheckpointError)


def _append(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with naming_faults(path, CheckpointError), open_to_append(path) as file:
        file.write(_table(rows))


def _table(rows: Iterable[Sequence[object]]) -> bytes:
    return "".join(f"{','.join(map(str, row))}\n" for row in rows).encode()


def _has_tensorboard(wanted: str) -> bool:
    if wanted not in ("auto", "on", "off"):
        raise ConfigurationError(f"tensorboard is {wanted!r}; it can be 'auto', 'on' or 'off'")
    if wanted == "off" or importlib.util.find_spec("tensorboard") is not None:
        return wanted != "off"
    missing = "TensorBoard is not installed (pip install 'xland[logging]')"
    if wanted == "on":
        raise MissingDependencyError(missing)
    logger.warning("%s: the training is logged in %s and log.csv only", missing, STEPS)
    return False


INTERVAL = 15.0
"""Seconds between two readings."""

_THEN = "; then "


@dataclass
class EnergyMeter:
    """Measure the machine that this process runs on while the context is open; never in the way of a training.

    codecarbon (https://codecarbon.io) reads GPUs by NVML and CPUs by RAPL, in a thread of its own.
    Where RAPL cannot be read, it estimates CPUs from their load and type; memory it always estimates
    from its size. It measures the whole machine, whoever uses it (of GPUs, those that
    ``CUDA_VISIBLE_DEVICES`` names), and no other machine of the training. Emissions follow from the
    mix of electricity of a country; no network is used. What goes wrong is told by :meth:`used`.

    Parameters
    ----------
    earlier : mapping, optional
        What :meth:`used` returned in the training that this one resumes; it is added. What was used
        between the last state and the death of a process that was killed is lost.
    country : str, optional
        ISO 3166-1 alpha-3 code of where the machine stands, such as "ESP"; else codecarbon's own
        setting counts, ``CODECARBON_COUNTRY_ISO_CODE`` for one. Without it emissions are not known.
    """

    earlier: Mapping[str, Any] | None = None
    country: str | None = None
    _tracker: Any = field(default=None, init=False)
    _reading: dict[str, Any] | None = field(default=None, init=False)
    _failure: str | None = field(default="the meter was not started", init=False)

    def __enter__(self) -> EnergyMeter:
        try:
            self._tracker = self._start()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with the meter, the training goes on
            self._fail(error)
        return self

    def __exit__(self, *_: object) -> None:
        tracker, self._tracker = self._tracker, None
        try:
            if tracker is not None:
                tracker.stop()  # with a last reading
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def used(self) -> dict[str, Any]:
        """Return what was used up to the last reading; the end of the context makes one.

        Returns
        -------
        dict
            ``energy_kwh`` and ``co2_kg`` (CO2 equivalents), None where not known; ``method``: how they
            were measured, or why not; ``hardware``. Of a training that was resumed, for all its runs.
        """
        own = self._reading or {"energy_kwh": None, "co2_kg": None, "method": "not measured", "hardware": None}
        if self._failure is not None:
            own = {**own, "method": f"{own['method']}: {self._failure}"}
        earlier = self.earlier or {}
        return {
            "energy_kwh": _sum(earlier.get("energy_kwh"), own["energy_kwh"]),
            "co2_kg": _sum(earlier.get("co2_kg"), own["co2_kg"]),
            "method": _join(earlier.get("method"), own["method"]),
            "hardware": _join(earlier.get("hardware"), own["hardware"]),
        }

    def _start(self) -> Any:
        try:
            from codecarbon import OfflineEmissionsTracker
            from codecarbon.core.cpu import is_rapl_available
            from codecarbon.output import BaseOutput
        except ImportError:
            self._failure = "codecarbon is not installed (pip install 'xland[logging]')"
            return None
        receive = self._receive

        class Receiver(BaseOutput):
            def live_out(self, total: Any, delta: Any) -> None:  # noqa: ARG002
                receive(total, cpu)

            out = live_out

        # before the first line that it would write to the terminal
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        self._failure = "codecarbon gave no reading"
        cpu = "by RAPL" if is_rapl_available() else "estimated"
        tracker = OfflineEmissionsTracker(
            measure_power_secs=INTERVAL,
            api_call_interval=1,
            output_handlers=[Receiver()],
            output_methods=[],  # no files, no network
            allow_multiple_runs=True,
            log_level="critical",
            **({} if self.country is None else {"country_iso_code": self.country}),
        )
        tracker.start()
        return tracker

    def _receive(self, total: Any, cpu: str) -> None:
        """Take a reading: codecarbon's ``EmissionsData``."""
        gpu = "GPU by NVML, " if total.gpu_count else ""
        if total.country_name:
            emissions = f"electricity of {total.country_name}"
        else:
            lacking = (
                "no country was given" if self.country is None else f"codecarbon knows no country {self.country!r}"
            )
            emissions = f"emissions not known ({lacking})"
        self._reading = {
            "energy_kwh": float(total.energy_consumed),
            "co2_kg": float(total.emissions) if total.country_name else None,
            "method": f"codecarbon {version('codecarbon')}, whole machine of the first process: "
            f"{gpu}CPU {cpu}, memory estimated; {emissions}",
            "hardware": ", ".join([f"{total.cpu_model} ({total.cpu_count} CPUs)", *filter(None, [total.gpu_model])]),
        }
        self._failure = None

    def _fail(self, error: Exception) -> None:
        self._failure = f"codecarbon failed ({type(error).__name__}: {error})"
        logger.warning("the energy of this training is not measured: %s", self._failure)


def _sum(earlier: float | None, own: float | None) -> float | None:
    known = [value for value in (earlier, own) if value is not None]
    return sum(known) if known else None


def _join(earlier: str | None, own: str | None) -> str | None:
    """Both texts, the same one only once."""
    texts = [*(earlier.split(_THEN) if earlier else []), *([own] if own else [])]
    return _THEN.join(dict.fromkeys(texts)) or None
