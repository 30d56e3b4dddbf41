from __future__ import annotations

import json
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
import xarray as xr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.training.conftest import given, paired
from tests.worlds import COARSE, FACTOR, FINE, tiny_configuration, tiny_inputs, tiny_world
from xland.errors import (
    AddressError,
    ConfigurationError,
    ForcingError,
    GridError,
    PriorError,
    StaticError,
    StoreError,
    TimeError,
    VocabularyError,
)
from xland.geo.grid import expand
from xland.geo.split import Part
from xland.models.inputs import MASKED
from xland.training.data.material import Moments, differences, gather, identify, open_data


@pytest.fixture
def world():
    return given()


def test_arrays_lie_on_the_fine_grid_coarse_stays_coarse_and_only_land_that_takes_part_counts(world):
    configuration, material = gather(tiny_configuration(), **world)
    arrays = material.source
    assert material.grid == FINE
    assert (arrays.coarse.shape, arrays.static.shape) == ((2, 7, 45, 90), (3, 180, 360))
    assert arrays.target.shape == (2, 180, 360)
    assert arrays.prior is None
    assert configuration.inputs.channels == tiny_inputs().channels
    assert material.description["pairs"] == [[2000, 2000], [2001, 2001]]
    land = world["static"]["land_share"].values > 0
    counted = arrays.target != MASKED
    assert not counted[:, ~land].any()
    assert counted[:, land].all()
    np.testing.assert_array_equal(arrays.target[counted], world["target"].values[counted])
    assert material.part.shape == (45, 90)
    assert (material.part[COARSE.latitude < -60] == Part.NONE).all()
    assert material.coverage.grid.shape == (45, 90)
    states = world["forcing"].drop_vars(["secma", "secmb"]).to_dataarray().sum("variable", skipna=False)
    np.testing.assert_array_equal(material.coverage.mask, (states >= 0.5).all("time"))
    assert 0 < material.coverage.mask.sum() < np.isfinite(states).all("time").sum()


def test_channels_are_normalised_on_training_cells_alone(world):
    configuration, material = gather(tiny_configuration(), **world)
    training = expand(material.part == Part.TRAIN, FACTOR) & (world["static"]["land_share"].values > 0)
    for layer, channel in zip(material.source.static, configuration.inputs.static, strict=True):
        values = layer[training].astype(np.float64)
        assert values.mean() == pytest.approx(0, abs=0.01), channel.name
        assert values.std() == pytest.approx(1, abs=0.01), channel.name
    other = world["static"].copy(deep=True)
    other["elevation"] = other["elevation"].where(training, 5000.0)
    changed, _ = gather(tiny_configuration(), **{**world, "static": other})
    assert changed.inputs == configuration.inputs, "test cells must not leak into the normalisation"


def test_constant_channels_missing_optional_variables_and_unknown_pixels_are_no_errors(world):
    world["static"]["elevation"] = xr.full_like(world["static"]["elevation"], 7.0)
    world["target"][:, 60:70, :] = MASKED
    world["forcing"] = world["forcing"].drop_vars("secma")
    configuration, material = gather(tiny_configuration(), **world)
    assert configuration.inputs.static[0].scale == 1
    assert np.isfinite(material.source.static).all()
    assert (material.source.target[:, 60:70] == MASKED).all()
    assert not material.source.coarse[:, 5].any()


def test_years_are_paired_as_the_configuration_says(world):
    own = gather(paired(tiny_configuration(), (2000, 2001), (2000, 2001)), **world)[1].source
    turned = gather(paired(tiny_configuration(), (2001, 2000), (2000, 2001)), **world)[1].source
    np.testing.assert_array_equal(turned.target, own.target)
    np.testing.assert_allclose(turned.coarse, own.coarse[::-1], atol=1e-5)
    assert not np.allclose(own.coarse[0], own.coarse[1])


def test_the_prior_is_the_map_of_the_year_before_or_for_models_of_the_past_after(world):
    for step, there in ((-1, (1999, 2000)), (1, (2001, 2002))):
        prior = tiny_world(there)[2]
        configuration = tiny_configuration(replace(tiny_inputs("code"), prior_step=step))
        _, material = gather(configuration, **world, prior=prior)
        np.testing.assert_array_equal(material.source.prior, prior.values)


def test_any_orientation_of_the_data_gives_the_same_arrays(world):
    _, expected = gather(tiny_configuration(), **world)
    turned = {
        "forcing": world["forcing"].isel(lat=slice(None, None, -1)).rename(lat="latitude"),
        "static": world["static"].isel(lat=slice(None, None, -1)).transpose("lon", "lat"),
        "target": world["target"].transpose("lat", "lon", "time").chunk(lat=50),
    }
    _, found = gather(tiny_configuration(), **turned)
    np.testing.assert_array_equal(found.source.target, expected.source.target)
    np.testing.assert_allclose(found.source.coarse, expected.source.coarse, atol=1e-6)
    np.testing.assert_array_equal(found.source.static, expected.source.static)


def gap(data, name, value):
    values = data["static"][name].values.copy()
    values[np.flatnonzero(data["static"]["land_share"].values.ravel() > 0)[:6] // 360, :] = value
    return data["static"].assign({name: (("lat", "lon"), values)})


def spoilt(data, value):
    forcing = data["forcing"].copy(deep=True)
    forcing["primf"][0, 20, 40:50] = value
    return forcing


def halved(data):
    coarser = data["target"].isel(lat=slice(None, None, 2), lon=slice(None, None, 2))
    return coarser.assign_coords(lat=coarser["lat"] - 0.5, lon=coarser["lon"] + 0.5)


def coded(data, code):
    target = data["target"].astype(np.float32 if code % 1 else np.int16)
    target[0, 10, 20:25] = code
    return target


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: {"target": d["target"].assign_coords(time=[2010, 2011])}, TimeError, "share no year"),
        (lambda d: {"target": d["target"].isel(time=0, drop=True)}, ConfigurationError, "needs a time dimension"),
        (lambda d: {"target": d["target"].isel(lat=slice(4, None))}, GridError, "does not nest"),
        (lambda d: {"target": halved(d)}, ConfigurationError, f"2 degree cells, but the model's factor is {FACTOR}"),
        (lambda d: {"target": coded(d, 9)}, VocabularyError, r"target of 2000 holds unknown class codes 9 \(5 cells\)"),
        (lambda d: {"target": coded(d, 260)}, VocabularyError, r"unknown class codes 260 \(5 cells\)"),
        (lambda d: {"target": coded(d, 2.5)}, VocabularyError, r"unknown class codes 2\.5 \(5 cells\)"),
        (lambda d: {"target": coded(d, -1)}, VocabularyError, r"unknown class codes -1 \(5 cells\)"),
        (lambda d: {"target": coded(d, np.nan)}, VocabularyError, r"unknown class codes nan \(5 cells\)"),
        (lambda d: {"forcing": d["forcing"].drop_vars("range")}, ForcingError, "range"),
        (lambda d: {"forcing": spoilt(d, 3.0)}, ForcingError, "primf: 10 cells"),
        (lambda d: {"static": d["static"].drop_vars(["elevation"])}, StaticError, "lack elevation"),
        (
            lambda d: {"static": d["static"].isel(lon=slice(None, 356))},
            StaticError,
            "not on the fine grid of the forcing",
        ),
        (lambda d: {"static": gap(d, "elevation", np.nan)}, StaticError, r"elevation: \d+ cells of land are NaN"),
    ],
)
def test_data_that_do_not_fit_are_named(world, change, error, message):
    with pytest.raises(error, match=message):
        gather(tiny_configuration(), **{**world, **change(world)})


@pytest.mark.parametrize(
    ("forcing", "target", "error", "message"),
    [
        ((1999,), (2000,), TimeError, r"forcing lacks the years \[1999\] that the map of 2000 needs"),
        ((2000,), (2030,), TimeError, "target lacks the year 2030"),
        ((2000,), (), ConfigurationError, "give both or neither"),
        ((2000,), (2000, 2001), ConfigurationError, "forcing_years names 1 years and target_years 2: give as many"),
        ((2000, 2001), (2001, 2001), ConfigurationError, "target_years names 2001 more than once"),
    ],
)
def test_years_that_do_not_pair_are_named(world, forcing, target, error, message):
    with pytest.raises(error, match=message):
        gather(paired(tiny_configuration(), forcing, target), **world)


def test_a_prior_that_is_missing_short_or_unknown_is_named(world):
    configuration = tiny_configuration(tiny_inputs("one_hot"))
    with pytest.raises(TimeError, match="prior lacks the years 1999; it holds 2000-2001"):
        gather(configuration, **world)
    with pytest.raises(TimeError, match="prior lacks the years 1999; it holds 2000"):
        gather(configuration, **world, prior=world["target"].isel(time=[0]))
    earlier = tiny_world((1999, 2000))[2]
    with pytest.raises(PriorError, match=r"prior of 1999 holds unknown class codes 44 \(360 cells\)"):
        gather(configuration, **world, prior=earlier.where(earlier["lat"] != 10.5, 44))


def test_what_is_given_is_taken_whatever_it_is_and_else_what_the_configuration_names(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    world["forcing"].to_netcdf(tmp_path / "given.nc")
    world["target"].to_netcdf(tmp_path / "maps.nc")
    world["static"].to_zarr(tmp_path / "static.zarr", zarr_format=2)
    configuration = tiny_configuration()
    named = replace(configuration.data, static=str(tmp_path / "static.zarr"), target=str(tmp_path / "maps.nc"))
    opened = open_data(replace(configuration, data=named), {"forcing": "~/given.nc"})
    assert set(opened) == set(world)
    for name, data in world.items():
        xr.testing.assert_equal(opened[name], data)
    given = {**world, "target": (tmp_path / "maps.nc").as_uri(), "prior": tmp_path / "maps.nc"}
    opened = open_data(configuration, given)
    assert opened["static"] is world["static"]
    for entry in ("target", "prior"):
        xr.testing.assert_equal(opened[entry], world["target"])
    for entry in given:
        for wrong in (5, world["target"].values):
            with pytest.raises(AddressError, match="neither a path nor a URL"):
                open_data(configuration, {**world, entry: wrong})


def test_a_file_that_does_not_exist_or_holds_no_land_use_is_named_with_its_entry(world, tmp_path):
    configuration = tiny_configuration()
    for entry in world:
        with pytest.raises(ConfigurationError, match=rf"\[data\] {entry} = 'tiny.*' does not exist"):
            open_data(configuration, {**world, entry: None})
    world["target"].rename("lulc").to_netcdf(tmp_path / "maps.nc")
    with pytest.raises(StoreError, match=r"maps.nc holds no variable 'land_use'; it holds lulc"):
        open_data(configuration, {**world, "target": tmp_path / "maps.nc"})


def test_maps_of_tested_years_are_not_learned_from():
    configuration = tiny_configuration()
    data = replace(configuration.data, train_years=(1960, 2000), test_years=(2001, 2015))
    _, material = gather(replace(configuration, data=data), **given((1999, 2000, 2001)))
    assert material.description["pairs"] == [[1999, 1999], [2000, 2000]]
    with pytest.raises(ConfigurationError, match="train_years and test_years belong together"):
        replace(configuration.data, train_years=(1960, 2000))


def test_the_card_says_where_data_really_came_from(world, tmp_path):
    """Data that are given are not those that the configuration names."""
    configuration = tiny_configuration()
    named = replace(configuration, data=replace(configuration.data, target="modis-2019", static="default"))
    described = gather(named, **world)[1].description
    assert {described[entry]["name"] for entry in ("forcing", "target", "static")} == {"in memory"}
    assert "wheels" not in described
    other = world["target"].copy(deep=True)
    other[0, 90, 100] = 1 if other[0, 90, 100] != 1 else 4
    again = gather(named, **{**world, "target": other})[1].description
    assert again["target"]["token"] != described["target"]["token"]


def found(tiny, material=None, **entries):
    told = differences(identify(replace(tiny[0], **entries), material or tiny[1]), identify(*tiny))
    return [line.strip() for line in told.splitlines()]


def test_what_changes_a_loss_is_named_with_both_values_and_the_rest_may_differ(tiny):
    assert found(tiny) == []
    assert identify(*tiny) == json.loads(json.dumps(identify(*tiny)))
    schedule = replace(tiny[0].schedule, batch=5, seed=3)
    assert found(tiny, schedule=schedule) == ["schedule.batch (3 there, 5 here)", "schedule.seed (0 there, 3 here)"]
    schedule = replace(tiny[0].schedule, workers=3, checkpoint_every=7, report_every=5)
    assert found(tiny, schedule=schedule, title="Another", notes="more", licence="MIT") == []


@pytest.mark.parametrize("name", ["coarse", "static", "target"])
def test_an_array_with_another_value_is_named(tiny, name):
    array = getattr(tiny[1].source, name).copy()
    array.flat[array.size // 2] = 1 if array.flat[array.size // 2] == 0 else 0
    other = replace(tiny[1], source=replace(tiny[1].source, **{name: array}))
    assert [text.split(" ")[0] for text in found(tiny, other)] == [f"arrays.{name}"]


def test_a_copy_of_a_store_is_the_same_data(tiny):
    """Its token, which holds the path, is another one; the content is not."""
    material = tiny[1]
    assert "token" in material.description["forcing"]
    moved = {**material.description, "forcing": {**material.description["forcing"], "token": "another"}}
    assert found(tiny, replace(material, description=moved)) == []
    other = {**material.description, "forcing": {"name": "other.nc", "sha256": "0"}}
    assert found(tiny, replace(material, description=other)) == [
        'sources.forcing.name ("in memory" there, "other.nc" here)',
        'sources.forcing.sha256 (absent there, "0" here)',
    ]


PIECES = st.lists(
    hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(-1e4, 1e4, width=32) | st.just(float("nan"))),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20)
@hypothesis.given(PIECES, st.integers(1, 3))
def test_pieces_have_the_mean_and_deviation_of_all_values_together(pieces, times):
    whole = np.concatenate(pieces * times).astype(np.float64)
    whole = whole[np.isfinite(whole)]
    moments = Moments()
    for piece in pieces:
        moments = moments.joined(Moments.of(piece), times)
    assert moments.size == whole.size
    mean, scale = moments.normalisation
    if not whole.size:
        assert (mean, scale) == (0, 1)
        return
    assert mean == pytest.approx(whole.mean(), rel=1e-9, abs=1e-9)
    if whole.std() > 1e-3:
        assert scale == pytest.approx(whole.std(), rel=1e-9)
