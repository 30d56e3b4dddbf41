"""The electricity that a training uses, and what it emits, for the model card: measured by codecarbon."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

logger = logging.getLogger(__name__)

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
