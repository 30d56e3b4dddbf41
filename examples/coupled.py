"""A toy land model that reads its surface fields year by year while it runs.

    python examples/coupled.py [states.nc]

The model knows carbon in vegetation, and nothing of xland: it is given the covers of its cells each year.
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr

import xland
from xland.coupling.grids import Regular
from xland.datasets import luh2_2015

REGION = (0.0, 40.0, 20.0, 56.0)
GROWTH, EMPTY = {"cvh": 0.4, "cvl": 0.3}, {"cvh": 0.04, "cvl": 0.3}  # kg m-2 and share of the pool a year


class Vegetation:
    """Carbon of high and low vegetation in cells, kg m-2 of land."""

    def __init__(self, cells: tuple[int, ...]) -> None:
        self.carbon = {name: np.zeros(cells) for name in GROWTH}

    def year(self, covers: dict[str, np.ndarray]) -> float:
        for name, cover in covers.items():
            self.carbon[name] += GROWTH[name] * cover - EMPTY[name] * self.carbon[name]
        return float(np.mean(sum(self.carbon.values())))


def main() -> None:
    given = sys.argv[1:]
    forcing = xr.open_dataset(given[0], decode_times=False) if given else luh2_2015()
    grid = Regular(2.0, REGION)
    with xland.Emulator(forcing) as emulator:
        land = Vegetation(grid.shape)
        for year in emulator.years:
            field = emulator.field(year, grid, ["cvh", "cvl"])  # the next year is computed while the model runs
            carbon = land.year({name: np.nan_to_num(field[name].values) for name in GROWTH})
            print(f"{year}: {carbon:.3f} kg m-2, fields valid until {field.attrs['valid_until']}")


if __name__ == "__main__":
    main()
