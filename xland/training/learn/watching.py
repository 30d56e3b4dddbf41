"""What a training tells of itself while it runs: its steps, their pace, and the energy that it takes."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from xland.errors import CheckpointError
from xland.paths import naming_faults, open_to_append, replace_file
from xland.untrusted.folders import open_plain

logger = logging.getLogger(__name__)

T = TypeVar("T")

STEPS = "steps.csv"
TENSORBOARD = "tensorboard"


class Step(NamedTuple):
    """A step whose loss is read; steps count over all epochs, and both from 1."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float


_COLUMNS = (*Step._fields, "samples_per_second", "waiting")


class Watch:
    """Clock and log of a training; the first of its processes writes ``steps.csv`` and ``tensorboard``.

    Rows of steps later than ``after`` are removed, so that a resumed training leaves the steps of one without a pause.
    A step on a GPU continues after the call that started it: the share of waiting for data is the most that the GPU can
    be idle.
    """

    def __init__(self, folder: Path, *, main: bool = True, after: int = 0) -> None:
        self.folder, self.main, self.after = folder, main, after
        self._totals = np.zeros(4)  # seconds, those spent waiting, samples, steps
        self._reported, self._judged = self._totals.copy(), self._totals.copy()
        self._mark: float | None = None
        self._drawing = False
        self._writer: Any = None

    def __enter__(self) -> Watch:
        if self.main:
            self._drawing = importlib.util.find_spec("tensorboard") is not None
            if not self._drawing:
                logger.warning(
                    "TensorBoard is not installed (pip install tensorboard): the training is logged in %s and "
                    "log.csv only",
                    STEPS,
                )
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
        """Count a step, and the patches that it took, of all processes."""
        self._add(samples=samples, steps=1)

    def report(self, steps: Sequence[Step]) -> dict[str, float]:
        """Log steps whose losses were read, and return figures of the time since the last report, which they share."""
        self._add()
        figures, self._reported = self._figures(self._reported), self._totals.copy()
        if self.main and steps:
            path = self.folder / STEPS
            rows = [(*step, figures["samples_per_second"], figures["waiting"]) for step in steps]
            with naming_faults(path, CheckpointError), open_to_append(path) as file:
                file.write(_table(rows))
            last = steps[-1]
            loss = math.fsum(step.loss for step in steps) / len(steps)
            shown = {"loss": loss, "learning_rate": last.learning_rate, "gradient_norm": last.gradient_norm, **figures}
            self._draw("training", shown, last.step)
        return figures

    def epoch(self, step: int, scores: Mapping[str, float]) -> dict[str, float]:
        """Log the scores of an epoch after so many steps, and return figures of its time."""
        figures, self._judged = self._figures(self._judged), self._totals.copy()
        self._draw("epoch", {**scores, **figures}, step)
        return figures

    def _add(self, *, waited: float = 0.0, samples: int = 0, steps: int = 0) -> None:
        """Let the clock advance to now."""
        now = time.perf_counter()
        self._totals += (0.0 if self._mark is None else now - self._mark, waited, samples, steps)
        self._mark = now

    def _figures(self, before: NDArray[np.float64]) -> dict[str, float]:
        """Return samples a second, share of time spent waiting and seconds a step since then; NaN without a step."""
        seconds, waited, samples, steps = (self._totals - before).tolist()
        if not (seconds > 0 and steps > 0):
            seconds = steps = math.nan
        pace = {"samples_per_second": samples / seconds, "waiting": waited / seconds}
        return {**pace, "seconds_per_step": seconds / steps}

    def _draw(self, group: str, figures: Mapping[str, float], step: int) -> None:
        if not self._drawing:
            return
        with naming_faults(self.folder / TENSORBOARD, CheckpointError):
            if self._writer is None:  # not before there is something to show
                from torch.utils.tensorboard import SummaryWriter

                # readers forget what earlier writers said of these steps
                self._writer = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=self.after + 1)
            for name, value in figures.items():
                if math.isfinite(value):
                    self._writer.add_scalar(f"{group}/{name}", value, step)


def _cut(path: Path, after: int) -> None:
    """Keep the rows of ``steps.csv`` up to a step; torn rows of a process that was killed are taken out."""
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


def _table(rows: Iterable[Sequence[object]]) -> bytes:
    return "".join(f"{','.join(map(str, row))}\n" for row in rows).encode()


class EnergyMeter:
    """Measure the energy of this machine (GPUs by NVML, CPUs by RAPL or estimated) while the context is open.

    It uses codecarbon, and no network. A fault of the meter does not stop the training: :meth:`used` names it.
    ``earlier`` is what that returned in the training that is resumed.
    """

    def __init__(self, earlier: Mapping[str, Any] | None = None) -> None:
        self._earlier = earlier or {}
        self._tracker: Any = None
        self._reading: dict[str, Any] = {"energy_kwh": None, "co2_kg": None, "method": "not measured", "hardware": None}
        self._failure: str | None = "the meter was not started"

    def __enter__(self) -> EnergyMeter:
        with self._survived():
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        tracker, self._tracker = self._tracker, None
        with self._survived():
            if tracker is not None:
                tracker.stop()  # with a last reading

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """Note what goes wrong with the meter, and let the training continue."""
        try:
            yield
        except ImportError:
            self._failure = "codecarbon is not installed (pip install codecarbon)"
        except Exception as error:  # noqa: BLE001
            self._failure = f"codecarbon failed ({type(error).__name__}: {error})"
            logger.warning("the energy of this training is not measured: %s", self._failure)

    def used(self) -> dict[str, Any]:
        """Return kWh and kg of CO2 equivalents of all runs (None where not known), method and hardware."""
        own = {**self._reading, "method": ": ".join(filter(None, (self._reading["method"], self._failure)))}
        total: dict[str, Any] = {}
        for name in ("energy_kwh", "co2_kg"):
            known = [value for value in (self._earlier.get(name), own[name]) if value is not None]
            total[name] = sum(known) if known else None
        for name in ("method", "hardware"):
            texts = [*(self._earlier.get(name) or "").split("; then "), own[name]]
            total[name] = "; then ".join(dict.fromkeys(filter(None, texts))) or None
        return total

    def _start(self) -> None:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.core.cpu import is_rapl_available
        from codecarbon.output import BaseOutput

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
            measure_power_secs=15.0,
            api_call_interval=1,
            output_handlers=[Receiver()],
            output_methods=[],  # no files, no network
            allow_multiple_runs=True,
            log_level="critical",
        )
        tracker.start()
        self._tracker = tracker

    def _receive(self, total: Any, cpu: str) -> None:
        """Take a reading: codecarbon's ``EmissionsData``."""
        gpu = "GPU by NVML, " if total.gpu_count else ""
        emissions = "emissions not known (set CODECARBON_COUNTRY_ISO_CODE to a country that codecarbon knows)"
        if total.country_name:
            emissions = f"electricity of {total.country_name}"
        self._reading = {
            "energy_kwh": float(total.energy_consumed),
            "co2_kg": float(total.emissions) if total.country_name else None,
            "method": f"codecarbon {version('codecarbon')}, whole machine of the first process: "
            f"{gpu}CPU {cpu}, memory estimated; {emissions}",
            "hardware": ", ".join([f"{total.cpu_model} ({total.cpu_count} CPUs)", *filter(None, [total.gpu_model])]),
        }
        self._failure = None
