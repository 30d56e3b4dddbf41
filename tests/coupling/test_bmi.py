"""The emulator through the Basic Model Interface."""

from __future__ import annotations

import numpy as np
import pytest

from tests.worlds import tiny_world
from xland.coupling.emulator import Emulator
from xland.coupling.grids import Regular
from xland.errors import ConfigurationError, ModelError, TimeError, XlandError

pytest.importorskip("bmipy", reason="needs the extra bmi")


@pytest.fixture
def configuration(tmp_path, model, monkeypatch):
    monkeypatch.setenv("XLAND_CACHE", str(tmp_path))
    coarse, static, _ = tiny_world((2000, 2001))
    coarse.to_netcdf(tmp_path / "states.nc")
    static.to_netcdf(tmp_path / "static.nc")
    path = tmp_path / "bmi.toml"
    entries = {"forcing": tmp_path / "states.nc", "static": tmp_path / "static.nc", "model": model.folder}
    lines = [f'{name} = "{value}"' for name, value in entries.items()]
    path.write_text("\n".join([*lines, "step = 5", "region = [-20, -30, 60, 30]", "days = 100"]))
    return path


def test_a_framework_steps_through_the_years(configuration, world, model):
    from xland.coupling import Bmi

    component = Bmi()
    component.initialize(str(configuration))
    names = component.get_output_var_names()
    assert len(names) == component.get_output_item_count() == 11
    assert component.get_input_var_names() == ()
    shape = component.get_grid_shape(0, np.empty(2, int))
    assert shape.tolist() == [12, 16]
    assert component.get_grid_size(0) == 192
    name = "land_vegetation~low__area_fraction"
    kept = component.get_value_ptr(name)
    grid = Regular(5.0, (-20, -30, 60, 30))
    with Emulator(world[0], model, static=world[1], prefetch=False) as emulator:
        for year in (2000, 2001):
            expected = emulator.field(year, grid, "cvl")["cvl"].values[::-1].ravel()
            assert np.array_equal(component.get_value(name, np.empty(192)), expected, equal_nan=True)
            assert np.array_equal(kept, expected, equal_nan=True)
            for _ in range(4 if year == 2000 else 0):
                component.update()
    assert component.get_current_time() == 400
    some = np.flatnonzero(~np.isnan(kept))[[0, -1]]
    assert component.get_value_at_indices(name, np.empty(2), some).tolist() == kept[some].tolist()
    assert component.get_var_nbytes(name) == 192 * component.get_var_itemsize(name)
    assert component.get_grid_y(0, np.empty(12))[0] == component.get_grid_origin(0, np.empty(2))[0] == -27.5
    with pytest.raises(TimeError):
        component.update_until(1e6)
    with pytest.raises(ModelError, match="no variable"):
        component.get_var_units("rain")
    with pytest.raises(ModelError, match="cannot be set"):
        component.set_value(name, np.empty(192))
    component.finalize()
    with pytest.raises(ModelError, match="initialize"):
        component.get_value_ptr(name)


@pytest.mark.parametrize("text", ["", 'forcing = "a.nc"\nstep = -1', 'forcing = "a.nc"\nstp = 1', "["])
def test_a_wrong_configuration_is_refused(tmp_path, text):
    from xland.coupling import Bmi

    path = tmp_path / "bmi.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        Bmi().initialize(str(path))


def test_a_forcing_that_is_missing_is_named(tmp_path):
    from xland.coupling import Bmi

    path = tmp_path / "bmi.toml"
    path.write_text(f'forcing = "{tmp_path / "none.nc"}"')
    with pytest.raises(XlandError, match=r"none\.nc"):
        Bmi().initialize(str(path))
