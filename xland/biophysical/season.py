"""What the season knows: predictors of vegetation in each month, from temperature, precipitation and day length.

Months follow one another in a circle, are equally long, and the sun takes a circular orbit. So the same climate six
months later at the mirrored latitude has the same predictors six months later: a model that has seen one hemisphere
holds for the other. Neither the number of a month nor the latitude is a predictor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xland.errors import ForcingError

Floats = NDArray[np.float64]

MONTHS = 12
DAYS = 365.25 / MONTHS
BUCKET = 200.0
"""Millimetres of water that the soil holds for plants."""

BASE = 5.0
"""Degrees Celsius from which plants grow: the base of degree days."""

_TILT = np.deg2rad(23.44)
_SOLSTICE = 10 / DAYS  # months from the solstice to the new year
_YEARS = 30  # until the water of the soil repeats itself; even a desert fills or empties the bucket
_SAME = 1e-3  # mm of water by which a year may differ from the one before
_COLDEST = -80.0  # degrees Celsius, below which the formula of vapour pressure does not hold
_LEAST = 1.0  # mm, below which a ratio to potential evaporation says nothing

FEATURES: tuple[str, ...] = (
    "warmth", "warmth_before", "warmth_2_before", "warmth_after", "degree_days", "degree_days_sum",
    "rain", "rain_before", "rain_2_before", "soil_water", "soil_water_before", "moisture", "moisture_before",
    "day_length", "day_length_change",
    "mean_warmth", "coldest", "warmest", "annual_rain", "annual_evaporation", "annual_moisture", "driest_moisture",
    "annual_degree_days", "annual_humidity",
)  # fmt: skip
"""The predictors of :func:`season_features`, in order."""

YEARLY: tuple[str, ...] = (
    "mean_warmth", "coldest", "warmest", "annual_rain", "annual_evaporation", "driest_moisture", "annual_degree_days",
)  # fmt: skip
"""Predictors of the year by which climates are compared."""


def season_features(tas: ArrayLike, pr: ArrayLike, latitude: ArrayLike) -> NDArray[np.float32]:
    """Return the predictors of the season.

    Parameters
    ----------
    tas : (cells, 12) array
        Mean temperature of each month, January to December, degrees Celsius.
    pr : (cells, 12) array
        Precipitation of each month, mm.
    latitude : (cells,) array
        Degrees north.

    Returns
    -------
    (cells, 12, len(FEATURES)) array of float32
        Named by :data:`FEATURES`. ``warmth``: degrees Celsius. ``degree_days``: above 5 degrees Celsius in the month,
        and ``_sum`` with half of those before, a quarter of those before these, and so on. ``rain``: root of mm a
        month. ``soil_water``: share of the bucket of 200 mm that is full at the end of the month. ``moisture``: actual
        over potential evaporation. ``day_length``: hours, and its change to the next month from the one before. The
        others are of the year. NaN where the climate of any month is NaN.

    Raises
    ------
    ForcingError
        If the shapes differ, or precipitation is negative.

    Notes
    -----
    Potential evaporation: Hamon (1963), Computation of direct runoff amounts from storm rainfall, IAHS 63: 29.8 mm a
    day times day length in hours times saturation vapour pressure (kPa) over absolute temperature. Water is lost in
    proportion to what the bucket holds (Thornthwaite and Mather 1955).
    """
    tas, pr = np.asarray(tas, np.float64), np.asarray(pr, np.float64)
    latitude = np.asarray(latitude, np.float64)
    if tas.ndim != 2 or tas.shape[1] != MONTHS or pr.shape != tas.shape or latitude.shape != tas.shape[:1]:
        raise ForcingError(
            f"the climate must be (cells, 12) and latitude (cells,), not tas {tas.shape}, pr {pr.shape}, latitude "
            f"{latitude.shape}"
        )
    if (negative := pr < 0).any():
        raise ForcingError(f"pr is negative in {int(negative.any(axis=1).sum())} cells, {float(np.nanmin(pr)):g} mm")
    hours = day_length(latitude)
    evaporation = potential_evaporation(tas, hours)
    water, actual = soil_water(pr, evaporation)
    moisture = (actual + _LEAST) / (evaporation + _LEAST)
    growth = np.maximum(tas - BASE, 0) * DAYS
    rain = np.sqrt(pr)
    yearly = {
        "mean_warmth": tas.mean(axis=1),
        "coldest": tas.min(axis=1),
        "warmest": tas.max(axis=1),
        "annual_rain": np.sqrt(pr.sum(axis=1)),
        "annual_evaporation": np.sqrt(actual.sum(axis=1)),
        "annual_moisture": (actual.sum(axis=1) + _LEAST) / (evaporation.sum(axis=1) + _LEAST),
        "driest_moisture": moisture.min(axis=1),
        "annual_degree_days": growth.sum(axis=1),
        "annual_humidity": np.log((pr.sum(axis=1) + 10) / (evaporation.sum(axis=1) + 10)),
    }
    monthly = {
        "warmth": tas, "warmth_before": before(tas), "warmth_2_before": before(tas, 2), "warmth_after": before(tas, -1),
        "degree_days": growth, "degree_days_sum": fading(growth),
        "rain": rain, "rain_before": before(rain), "rain_2_before": before(rain, 2),
        "soil_water": water, "soil_water_before": before(water),
        "moisture": moisture, "moisture_before": before(moisture),
        "day_length": hours, "day_length_change": before(hours, -1) - before(hours),
    }  # fmt: skip
    every = monthly | {name: np.repeat(values[:, None], MONTHS, axis=1) for name, values in yearly.items()}
    features = np.stack([every[name] for name in FEATURES], axis=-1).astype(np.float32)
    unknown = np.isnan(tas).any(axis=1) | np.isnan(pr).any(axis=1) | np.isnan(latitude)
    features[unknown] = np.nan
    return features


def before(values: Floats, months: int = 1) -> Floats:
    """Return what was some months before, ``(cells, 12)``; December is before January."""
    return np.roll(values, months, axis=1)


def fading(values: Floats) -> Floats:
    """Return the sum of each month and those before it, each of which counts half of the month after it."""
    weights = 0.5 ** np.arange(MONTHS) / (1 - 0.5**MONTHS)  # as if the year had been repeated for ever
    return np.asarray(sum(weight * before(values, months) for months, weight in enumerate(weights)))


def day_length(latitude: Floats) -> Floats:
    """Return the hours of day light in the middle of each month, ``(cells, 12)``."""
    declination = -_TILT * np.cos(2 * np.pi * (np.arange(MONTHS) + 0.5 + _SOLSTICE) / MONTHS)
    cosine = -np.tan(np.deg2rad(np.clip(latitude, -89.9, 89.9)))[:, None] * np.tan(declination)
    return 24 / np.pi * np.arccos(np.clip(cosine, -1, 1))


def potential_evaporation(tas: Floats, hours: Floats) -> Floats:
    """Return the potential evaporation of each month in mm, after Hamon (1963)."""
    tas = np.maximum(tas, _COLDEST)
    pressure = 0.6108 * np.exp(17.27 * tas / (tas + 237.3))
    return np.asarray(29.8 * DAYS * hours * pressure / (tas + 273.2))


def soil_water(pr: Floats, evaporation: Floats) -> tuple[Floats, Floats]:
    """Return the full share of the bucket at the end of each month, and actual evaporation in mm; ``(cells, 12)``."""
    full, actual = np.empty_like(pr), np.empty_like(pr)
    store, waiting = np.full(len(pr), BUCKET / 2), np.arange(len(pr))
    for _ in range(_YEARS):
        before_it, water = store[waiting], store[waiting]
        for month, (rain, demand) in enumerate(zip(pr[waiting].T, evaporation[waiting].T, strict=True)):
            drawn = water * -np.expm1(-np.maximum(demand - rain, 0) / BUCKET)
            water = np.minimum(water - drawn + np.maximum(rain - demand, 0), BUCKET)
            full[waiting, month], actual[waiting, month] = water / BUCKET, np.minimum(rain, demand) + drawn
        store[waiting] = water
        waiting = waiting[np.abs(water - before_it) > _SAME]  # of a cell whose year repeats itself, no more is asked
        if not len(waiting):
            break
    return full, actual
