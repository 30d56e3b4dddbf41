"""A part of the tiny world, and a training on it that reads two steps and a prior."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tests.training.conftest import paired
from tests.worlds import tiny_configuration, tiny_inputs, tiny_world

YEARS = (2000, 2001)
ROWS, COLUMNS = 64, 120
REGION = {"lat": slice(62, -2), "lon": slice(-60, 60)}


@lru_cache(maxsize=1)
def _world():
    return tuple(each.sel(REGION) for each in tiny_world((1999, *YEARS)))


def make(prior="code", *, own_prior=False):
    """Configuration and data of a training; its priors are maps of their own or those of the targets."""
    coarse, static, maps = _world()
    configuration = tiny_configuration(tiny_inputs(prior, steps=(0, -1)))
    before = maps.copy(data=np.where(maps == 2, 3, maps).astype(np.uint8)) if own_prior else maps
    sources = {"forcing": coarse, "static": static, "target": maps.sel(time=list(YEARS)), "prior": before}
    return paired(configuration, YEARS), sources


def write(path, tile=60, *, own_prior=False, **more):
    """Write the training store of :func:`make`."""
    from xland.training.data.prepare import prepare

    configuration, data = make(own_prior=own_prior)
    return prepare(configuration, path, **{**data, **more.pop("data", {})}, tile=tile, progress=False, **more)
