"""The Basic Model Interface (Hutton et al. 2020, doi 10.21105/joss.02317) of an emulator, for modular frameworks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.coupling.emulator import Emulator
from xland.coupling.grids import Regular
from xland.errors import ConfigurationError, MissingDependencyError, ModelError, TimeError
from xland.models import DEFAULT_MODEL
from xland.paths import local_path
from xland.records import Limits, check_entries, read_record, read_toml
from xland.sources.files import open_coarse
from xland.vocabulary import CLASS_NAMES

try:
    from bmipy import Bmi as _Base
except ImportError as missing:
    raise MissingDependencyError("the Basic Model Interface needs bmipy: pip install bmipy") from missing

NAMES: Mapping[str, str] = {
    "land_vegetation~high__area_fraction": "cvh",
    "land_vegetation~low__area_fraction": "cvl",
    "land_urban__area_fraction": "cur",
    "land_lake__area_fraction": "cl",
    "land__area_fraction": "land_fraction",
    **{
        f"land_{name.replace('_', '-')}__area_fraction": f"shares {name}" for name in CLASS_NAMES[1:] if name != "urban"
    },
}
"""Output variables in the manner of CSDMS standard names, and where they are in a field."""

_LARGEST = 2**18
_SECONDS, _UNITS = 86400.0, "d"


@dataclass(frozen=True)
class Configuration:
    """The TOML file that a framework passes to ``initialize``.

    Parameters
    ----------
    forcing : str
        File or store of coarse fractions.
    model, static : str
        Model, and static predictors of one's own.
    step : float
        Degrees of the grid.
    region : list of four numbers
        West, south, east and north.
    between : str
        ``hold`` or ``linear``.
    days : float
        Length of a time step.
    """

    forcing: str
    model: str = DEFAULT_MODEL
    static: str | None = None
    step: Annotated[float, Limits(above=0, most=90)] = 1.0
    region: tuple[float, float, float, float] = (-180.0, -90.0, 180.0, 90.0)
    between: str = "hold"
    days: Annotated[float, Limits(above=0, most=36525)] = 365.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)


class Bmi(_Base):
    """An emulator with the Basic Model Interface, on a regular grid.

    Time counts in days from 1 January of the first year of the forcing. Rows of the grid are from south to north, and
    values are NaN where there is no land. There are no input variables.
    """

    def __init__(self) -> None:
        self._emulator: Emulator | None = None
        self._configuration = Configuration(forcing="")
        self._values: dict[str, NDArray[np.float64]] = {}
        self._time = 0.0

    # control

    def initialize(self, config_file: str) -> None:
        """Read the configuration and compute the first fields; ConfigurationError for what it cannot have."""
        values = read_toml(local_path(config_file, what="a configuration"), _LARGEST, ConfigurationError)
        self._configuration = chosen = read_record(Configuration, values, str(config_file), ConfigurationError)
        static = None if chosen.static is None else xr.open_dataset(local_path(chosen.static), chunks=None)
        options: dict[str, Any] = {"between": chosen.between, "static": static}
        self._emulator = Emulator(open_coarse(chosen.forcing), chosen.model, **options)
        self._time = 0.0
        self._read()

    def update(self) -> None:
        """Go on by one time step."""
        self.update_until(self._time + self._configuration.days)

    def update_until(self, time: float) -> None:
        """Go to a time, in days; TimeError if the forcing does not have it."""
        if not 0 <= time <= self.get_end_time():
            raise TimeError(f"time {time:g} is not within 0 to {self.get_end_time():g} days: the forcing ends there")
        self._time = float(time)
        self._read()

    def finalize(self) -> None:
        """Let all go."""
        if self._emulator is not None:
            self._emulator.close()
        self._emulator, self._values = None, {}

    # about the model

    def get_component_name(self) -> str:
        """Return the name of the model."""
        return f"xland {self._running.model.name}"

    def get_input_item_count(self) -> int:
        """Return 0."""
        return 0

    def get_output_item_count(self) -> int:
        """Return the number of variables."""
        return len(NAMES)

    def get_input_var_names(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def get_output_var_names(self) -> tuple[str, ...]:
        """Return the names of the variables."""
        return tuple(NAMES)

    # variables

    def get_var_grid(self, name: str) -> int:
        """Return the number of the only grid."""
        self._value(name)
        return 0

    def get_var_type(self, name: str) -> str:
        """Return the type of a variable."""
        return str(self._value(name).dtype)

    def get_var_units(self, name: str) -> str:
        """Return the units of a variable."""
        self._value(name)
        return "1"

    def get_var_itemsize(self, name: str) -> int:
        """Return the bytes of a value."""
        return self._value(name).itemsize

    def get_var_nbytes(self, name: str) -> int:
        """Return the bytes of all values."""
        return self._value(name).nbytes

    def get_var_location(self, name: str) -> str:
        """Return where values are: shares are of faces, which BMI has as nodes of a grid of centres."""
        self._value(name)
        return "node"

    def get_value(self, name: str, dest: NDArray[Any]) -> NDArray[Any]:
        """Copy the values of a variable to an array, in rows from south to north."""
        dest[:] = self._value(name)
        return dest

    def get_value_ptr(self, name: str) -> NDArray[Any]:
        """Return the values of a variable; they change with time."""
        return self._value(name)

    def get_value_at_indices(self, name: str, dest: NDArray[Any], inds: NDArray[np.int_]) -> NDArray[Any]:
        """Copy some values of a variable to an array."""
        dest[:] = self._value(name)[inds]
        return dest

    def set_value(self, name: str, src: NDArray[Any]) -> None:  # noqa: ARG002
        """Refuse: there are no inputs."""
        raise ModelError(f"{name} cannot be set: the fields follow from the forcing")

    def set_value_at_indices(self, name: str, inds: NDArray[np.int_], src: NDArray[Any]) -> None:  # noqa: ARG002
        """Refuse: there are no inputs."""
        self.set_value(name, src)

    # time

    def get_current_time(self) -> float:
        """Return the time in days."""
        return self._time

    def get_start_time(self) -> float:
        """Return 0."""
        return 0.0

    def get_end_time(self) -> float:
        """Return the last time in days."""
        return float((self._date(self._running.years[-1] + 1) - self._begin).astype(int)) - 1

    def get_time_units(self) -> str:
        """Return the unit of time."""
        return _UNITS

    def get_time_step(self) -> float:
        """Return the length of a time step in days."""
        return float(self._configuration.days)

    # the grid

    def get_grid_rank(self, grid: int) -> int:
        """Return the number of dimensions."""
        self._check(grid)
        return 2

    def get_grid_size(self, grid: int) -> int:
        """Return the number of cells."""
        self._check(grid)
        return self._grid.count

    def get_grid_type(self, grid: int) -> str:
        """Return the kind of grid."""
        self._check(grid)
        return "uniform_rectilinear"

    def get_grid_shape(self, grid: int, shape: NDArray[np.int_]) -> NDArray[np.int_]:
        """Return rows and columns."""
        return self._filled(grid, shape, self._grid.shape)

    def get_grid_spacing(self, grid: int, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the step from row to row and from column to column, in degrees."""
        return self._filled(grid, spacing, (self._grid.step, self._grid.step))

    def get_grid_origin(self, grid: int, origin: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return latitude and longitude of the first cell."""
        lon, lat = self._grid.centres()
        return self._filled(grid, origin, (lat[-1], lon[0]))

    def get_grid_x(self, grid: int, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the longitudes of the columns."""
        return self._filled(grid, x, self._grid.centres()[0])

    def get_grid_y(self, grid: int, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the latitudes of the rows."""
        return self._filled(grid, y, self._grid.centres()[1][::-1])

    def get_grid_node_count(self, grid: int) -> int:
        """Return the number of cells."""
        return self.get_grid_size(grid)

    def _absent(self, *_: Any) -> Any:
        """Refuse: a regular grid has no height, and none of the parts of a mesh."""
        raise NotImplementedError("the grid is regular and two-dimensional")

    get_grid_z = get_grid_edge_count = get_grid_face_count = get_grid_edge_nodes = _absent
    get_grid_face_edges = get_grid_face_nodes = get_grid_nodes_per_face = _absent

    # within

    @property
    def _running(self) -> Emulator:
        if self._emulator is None:
            raise ModelError("the model is not running: call initialize first")
        return self._emulator

    @property
    def _grid(self) -> Regular:
        return Regular(self._configuration.step, self._configuration.region)

    @property
    def _begin(self) -> np.datetime64:
        return self._date(self._running.years[0])

    def _date(self, year: int) -> np.datetime64:
        return np.datetime64(f"{year:04d}-01-01", "D")

    def _read(self) -> None:
        date = self._begin.astype("datetime64[s]") + np.timedelta64(round(self._time * _SECONDS), "s")
        fields = self._running.field(date, self._grid, ["shares", "cvh", "cvl", "cur", "cl", "land_fraction"])
        for name, place in NAMES.items():
            variable, _, label = place.partition(" ")
            field = fields[variable].sel({"class": label}) if label else fields[variable]
            # one array for each variable as long as the model runs: frameworks keep references to it
            self._values.setdefault(name, np.empty(self._grid.count))[:] = field.values[::-1].ravel()

    def _value(self, name: str) -> NDArray[np.float64]:
        self._running  # noqa: B018 - refuses a model that is not running
        if name not in self._values:
            raise ModelError(f"there is no variable {name!r}; there are {', '.join(NAMES)}")
        return self._values[name]

    def _check(self, grid: int) -> None:
        if grid != 0:
            raise ModelError(f"there is no grid {grid!r}: the only one is 0")

    def _filled(self, grid: int, target: NDArray[Any], values: Any) -> NDArray[Any]:
        self._check(grid)
        target[:] = values
        return target
