"""What a training store is made from: checked as for a training in memory, read by years and strips of latitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import PriorError, TimeError, VocabularyError
from xland.forcing import Forcing, check_values, read_forcing
from xland.grid import Grid
from xland.inputs import InputSpec
from xland.training.alignment import compute_codes, find_land, lay_maps, lay_static, pair_years
from xland.training.configuration import Configuration
from xland.training.material import describe_data
from xland.years import listed

_ERRORS = {"target": VocabularyError, "prior": PriorError}


@dataclass(frozen=True)
class Sources:
    """Forcing, maps and static predictors of a training, lazy, on grids that nest.

    Parameters
    ----------
    configuration : Configuration
    forcing : Forcing
    static : Dataset
        ``(lat, lon)`` on the fine grid, from north to south.
    target : DataArray
        Class codes, ``(time, lat, lon)``.
    prior : DataArray or None
        The same for the adjacent years, where the inputs read one.
    pairs : list of (int, int)
        Years of forcing and map that belong together.
    description : dict
        For the card.
    """

    configuration: Configuration
    forcing: Forcing
    static: xr.Dataset
    target: xr.DataArray
    prior: xr.DataArray | None
    pairs: list[tuple[int, int]]
    description: dict[str, Any]

    @property
    def inputs(self) -> InputSpec:
        """Inputs of the configuration."""
        return self.configuration.inputs

    @property
    def grid(self) -> Grid:
        """Fine grid."""
        return self.forcing.grid.refine(self.inputs.factor)

    @property
    def variables(self) -> tuple[str, ...]:
        """Forcing variables that the channels are made of, those that need not be there if they are."""
        optional = [name for name in self.inputs.optional_coarse_variables if name in self.forcing.data]
        return tuple(dict.fromkeys((*self.inputs.coarse_variables, *optional)))

    @property
    def forcing_years(self) -> list[int]:
        """Years of the forcing that any map needs."""
        return sorted({year + step for year, _ in self.pairs for step in self.inputs.steps})

    @property
    def target_years(self) -> list[int]:
        """Years of the maps to learn from."""
        return sorted({mapped for _, mapped in self.pairs})

    @property
    def prior_years(self) -> list[int]:
        """Years of the prior maps; none where the inputs read none."""
        if self.prior is None:
            return []
        return [year + self.inputs.prior_step for year in self.target_years]

    def states(self, year: int) -> dict[str, NDArray[np.float32]]:
        """Read and check the forcing of one year, ``(1, coarse rows, coarse columns)`` each."""
        at = self.forcing.years.index(year)
        (states,) = dask.compute(self.forcing.data[list(self.variables)].isel(time=slice(at, at + 1)))
        values = {str(name): array.values for name, array in states.data_vars.items()}
        grid = self.forcing.grid
        check_values({name: array[0] for name, array in values.items()}, grid.latitude, grid.longitude, year)
        return values

    def fields(self, rows: slice) -> dict[str, NDArray[np.float32]]:
        """Read the static predictors of a strip, ``(rows, columns)`` each."""
        (strip,) = dask.compute(self.static.isel(lat=rows))
        return {str(name): array.values.astype(np.float32) for name, array in strip.data_vars.items()}

    def land(self, fields: dict[str, NDArray[np.float32]], rows: slice) -> NDArray[np.bool_]:
        """Fine cells of a strip whose class is learned, having checked the predictors there."""

        def states() -> dict[str, NDArray[np.float32]]:
            factor = self.inputs.factor
            first = self.forcing.data[list(self.variables)].isel(
                time=self.forcing.years.index(self.forcing_years[0]),
                lat=slice(rows.start // factor, rows.stop // factor),
            )
            return {str(name): array.values for name, array in first.compute().data_vars.items()}

        return find_land(fields, self.inputs, self.grid.window(rows, slice(0, self.grid.columns)), states)

    def codes(self, what: str, year: int, rows: slice) -> NDArray[np.uint8]:
        """Read and check the class codes of a strip of the ``target`` or ``prior`` of a year, ``(rows, columns)``."""
        maps = self.target if what == "target" or self.prior is None else self.prior
        return compute_codes(maps.sel(time=year).isel(lat=rows), self.inputs, f"{what} of {year}", _ERRORS[what])

    def strips(self, tile: int) -> list[slice]:
        """Rows that are held at a time: whole tiles, and at least as many as a chunk of the sources."""
        lazy = [self.target, *self.static.data_vars.values(), *([] if self.prior is None else [self.prior])]
        tallest = max([max(each.chunksizes["lat"]) for each in lazy if "lat" in each.chunksizes], default=1)
        height = -(-tallest // tile) * tile
        return [slice(first, min(first + height, self.grid.rows)) for first in range(0, self.grid.rows, height)]


def check_sources(
    configuration: Configuration,
    *,
    forcing: xr.Dataset,
    target: xr.DataArray,
    static: xr.Dataset,
    prior: xr.DataArray | None = None,
) -> Sources:
    """Check the structure of the sources without reading a map; errors are those of :func:`~.material.gather`.

    Parameters
    ----------
    configuration : Configuration
    forcing, target, static : optional
        As :func:`xland.training.material.gather` takes them.
    prior : DataArray, optional
        Maps of the adjacent years; by default those of the target, where the inputs read any.
    """
    inputs = configuration.inputs
    coarse = read_forcing(forcing, variables=inputs.coarse_variables)
    maps = lay_maps(target, coarse.grid, inputs.factor, "target")
    pairs = pair_years(configuration, coarse.years, maps["time"].values.tolist())
    description = describe_data(forcing=forcing, target=target, static=static)
    description["pairs"] = [list(pair) for pair in pairs]
    sources = Sources(
        configuration=configuration,
        forcing=coarse,
        static=lay_static(static, coarse.grid.refine(inputs.factor), inputs),
        target=maps,
        prior=_adjacent(maps, prior, coarse.grid, inputs),
        pairs=pairs,
        description=description,
    )
    if sources.prior is not None:
        there = sources.prior["time"].values.tolist()
        missing = sorted(set(sources.prior_years) - set(there))
        if missing:
            raise TimeError(f"prior lacks the years {listed(missing)}; it holds {listed(there)}")
    return sources


def _adjacent(target: xr.DataArray, prior: xr.DataArray | None, coarse: Grid, inputs: InputSpec) -> xr.DataArray | None:
    if inputs.prior == "none":
        return None
    return target if prior is None else lay_maps(prior, coarse, inputs.factor, "prior")
