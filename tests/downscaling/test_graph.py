"""The layer of block-years: its keys, what they depend on, and what a selection needs."""

from __future__ import annotations

from dataclasses import replace

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask._task_spec import DataNode
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raising_backend import raising_dataset
from tests.worlds import tiny_inputs
from xland.downscaling.block import BlockYears, describe
from xland.downscaling.call import downscale
from xland.geo.grid import Grid
from xland.models.checkpoint import save_checkpoint
from xland.models.networks.unet import Architecture, DownscalingNetwork
from xland.store.rollouts import Keeper

EVERYTHING = ("land_use", "probability", "margin", "entropy")


def layer_of(ds: xr.Dataset) -> BlockYears:
    """Return the hand-made layer of a downscaling."""
    found = [layer for layer in ds["land_use"].data.dask.layers.values() if isinstance(layer, BlockYears)]
    return found[0]


def restarted(ds: xr.Dataset, keeper: Keeper) -> da.Array:
    """Return the class maps with the layer's maps kept, as the writer of a store does it."""
    array = ds["land_use"].data
    layer = layer_of(ds)
    layers = {name: layer.kept(keeper) if each is layer else each for name, each in array.dask.layers.items()}
    graph = dask.highlevelgraph.HighLevelGraph(layers, array.dask.dependencies)
    return da.Array(graph, array.name, array.chunks, dtype=array.dtype)


@pytest.fixture(scope="module")
def rollouts(world, rolling_model):
    """A rollout of two years over three by six blocks: the map alone, and with all outputs; from dask arrays."""
    coarse, static, maps = world
    chunked = {"time": 1, "lat": 20, "lon": 30}
    return {
        outputs: downscale(
            coarse.chunk(chunked),
            model=rolling_model,
            static=static.chunk(lat=50, lon=70),
            prior=maps.sel(time=2000).chunk(lat=45, lon=100),
            years=[2001, 2002],
            chunks=60,
            outputs=outputs,
        )
        for outputs in ("land_use", EVERYTHING)
    }


@pytest.fixture(scope="module")
def expected(rollouts):
    return rollouts["land_use"]["land_use"].compute(scheduler="threads").values


@pytest.fixture(params=["land_use", EVERYTHING], ids=["map", "everything"])
def rollout(request, rollouts):
    return rollouts[request.param]


def test_the_layer_knows_its_keys_and_travels_as_a_pickle(rollout):
    layer = layer_of(rollout)
    keys = list(layer)
    assert len(layer) == len(keys) == len(set(keys))
    assert all(key in layer for key in keys)
    assert len(keys) == 1 + 2 * 3 * 6 * (2 if layer.several else 1)
    assert not layer.is_materialized()
    for index in ((2, 0, 0), (0, 3, 0), (0, 0, -1), (0, 0)):
        assert (layer.name, *index) not in layer
    for key in (("x", 0, 0, 0), "plan-"):
        with pytest.raises(KeyError):
            layer[key]
    there = cloudpickle.loads(cloudpickle.dumps(layer))
    assert len(cloudpickle.dumps(layer)) < 100_000
    assert set(there) == set(layer)
    assert all(there[key].dependencies == layer[key].dependencies for key in keys[::7])


def test_every_task_depends_on_keys_that_are_there_alone(rollout):
    layer, graph = layer_of(rollout), rollout["land_use"].data.dask
    others = {key for name, each in graph.layers.items() if each is not layer for key in each}
    for key in layer:
        needs = set(layer[key].dependencies)
        assert layer.get_dependencies(key, set()) == needs
        assert all(other in layer or other in others for other in needs), f"{key} needs what is not there"
        own = [other for other in needs if isinstance(other, tuple) and other[0] == layer.name]
        if isinstance(key, tuple) and key[0] == (layer.all_layers if layer.several else layer.name):
            assert {other[1] for other in own} == ({0} if key[1] == 1 else set()), "the year before alone"
            assert 0 < len(own) <= 9 or key[1] == 0, "its own block and its neighbours"


def test_the_plan_is_in_the_graph_once(rollout):
    layer = layer_of(rollout)
    nodes = [layer[key] for key in layer]
    plans = [node for node in nodes if isinstance(node, DataNode)]
    assert [node.value for node in plans] == [layer.plan]
    assert all(layer.plan not in node.args for node in nodes if not isinstance(node, DataNode))
    computing = [node for node in nodes if layer.name in str(node.key) and plans[0].key in node.dependencies]
    assert len(computing) == 2 * 3 * 6


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_culling_keeps_exactly_what_a_selection_depends_on(rollouts, data):
    layer = layer_of(rollouts[data.draw(st.sampled_from(["land_use", EVERYTHING]))])
    tasks = {key: layer[key] for key in layer}
    wanted = data.draw(st.sets(st.sampled_from(sorted(tasks, key=str)), min_size=1, max_size=3))
    needed, more = set(), set(wanted)
    while more:
        needed |= more
        more = {other for key in more for other in tasks[key].dependencies if other in tasks} - needed
    culled, dependencies = layer.cull(wanted | {"a key of another layer"}, set())
    assert set(culled) == needed
    assert dependencies == {key: set(tasks[key].dependencies) for key in needed}


def test_a_layer_says_how_much_it_computes(rollouts, world, model):
    layer = layer_of(rollouts["land_use"])
    # windows of 40 cells every 20: 10 rows of them touch 180 rows, 18 columns go round the globe;
    # a block of 60 cells is touched by 4 rows and 4 columns
    assert layer.describe() == (
        "tiny-0: 2 years of 3 x 6 blocks, 180 windows a year where all is land, 60.0% of them twice at edges of blocks"
    )
    coarse, static, _ = world
    other = downscale(coarse, model=model, static=static, years=2000)
    assert "1 year of 1 x 1 blocks" in describe(other)
    blocks = downscale(coarse, model=model, static=static, chunks=60, outputs=("land_use", "margin"))
    assert describe(blocks).startswith("tiny-0: 3 years of 3 x 6 blocks, 180 windows")
    part = blocks.isel(time=[1]).sel(lat=slice(25, -25), lon=slice(-170, -70))
    assert describe(part) == "tiny-0: 1 year of 2 of 3 x 6 blocks, 32 windows a year where all is land"
    assert describe(part[["margin"]].transpose()) == describe(part)
    point = blocks.sel(lat=10.5, lon=10.5)
    assert describe(point) == "tiny-0: 3 years of 1 of 3 x 6 blocks, 4 windows a year where all is land"
    both = xr.Dataset({"one": rollouts["land_use"]["land_use"], "two": rollouts[EVERYTHING]["land_use"]})
    assert describe(both).count("\n") == 1, "a line for each"
    assert describe(coarse) == "", "there is nothing to downscale"
    assert describe(coarse.chunk()) == ""


def test_years_are_worked_through_in_the_direction_of_the_model(rollouts, world, past_model):
    assert layer_of(rollouts["land_use"]).order == (0, 1)
    coarse, static, _ = world
    assert layer_of(downscale(coarse, model=past_model, static=static, direction="backward")).order == (2, 1, 0)


def test_without_a_prior_years_do_not_depend_on_each_other_and_nothing_is_kept(world, model, tmp_path):
    coarse, static, _ = world
    layer = layer_of(downscale(coarse, model=model, static=static, chunks=60))
    assert all(other not in layer or other == layer._plan_key for key in layer for other in layer[key].dependencies)
    assert layer.kept(Keeper(str(tmp_path))) is layer


def test_kept_maps_take_the_place_of_what_they_were_computed_from(rollout, expected, tmp_path):
    ds, keeper = rollout, Keeper(str(tmp_path / "kept"))
    np.testing.assert_array_equal(restarted(ds, keeper).compute(), expected)
    every = {(year, row, column) for year in range(2) for row in range(3) for column in range(6)}
    assert keeper.listing() == every, "each map is saved as it is computed"

    keeper.forget([1])
    layer = layer_of(ds).kept(keeper)
    assert not layer[layer.name, 0, 1, 1].dependencies
    needed, _ = layer.cull({(layer.name, 1, 1, 1)}, set())
    years = [key[1] for key in needed if isinstance(key, tuple) and key[0] == layer.name]
    assert sorted(years) == [0] * 9 + [1]
    first = [key for key in needed if isinstance(key, tuple) and key[1] == 0]
    assert all(not needed[key].dependencies for key in first), "what is kept is loaded, not computed"
    np.testing.assert_array_equal(restarted(ds, keeper)[:, :120, 60:180].compute(), expected[:, :120, 60:180])


def test_a_kept_map_is_taken_unless_it_is_damaged(rollouts, expected, tmp_path, monkeypatch):
    ds = rollouts["land_use"]
    keeper = Keeper(str(tmp_path))
    before = restarted(ds, keeper)
    np.testing.assert_array_equal(before.compute(), expected)
    damaged = tmp_path / "1" / "2.3"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    computed = []
    whole = BlockYears.__getitem__.__globals__["run_block_year"]

    def count(plan, year, block, *chunks):
        computed.append((year, block.rows.start // 60, block.columns.start // 60))
        return whole(plan, year, block, *chunks)

    monkeypatch.setattr("xland.downscaling.block.run_block_year", count)
    np.testing.assert_array_equal(restarted(ds, keeper).compute(), expected)
    assert computed == [(1, 2, 3)]
    assert len(keeper.listing()) == 36
    # the tasks of this graph were made before anything was kept
    np.testing.assert_array_equal(before.compute(), expected)
    assert len(computed) == 1, "a task that runs again takes the map that it has kept"


def empty_states(years: int) -> xr.Dataset:
    """States of the whole globe on a quarter degree over many years that must not be read."""
    grid = Grid.world(0.25)
    names = [*tiny_inputs().coarse_variables]
    shape = (years, *grid.shape)
    template = xr.Dataset(
        {name: (("time", "lat", "lon"), np.broadcast_to(np.float32(0), shape)) for name in names},
        {"time": np.arange(1850, 1850 + years), "lat": grid.latitude, "lon": grid.longitude},
    )
    return raising_dataset(template)


def test_centuries_of_the_globe_on_a_kilometre_are_built_without_reading(tmp_path):
    inputs = replace(tiny_inputs(prior="one_hot"), factor=25, resolution=0.01, window=400, stride=200)
    network = DownscalingNetwork(inputs, Architecture(width=2, depth=1))
    model = save_checkpoint(tmp_path, network, {"name": "kilometre"})
    fine = Grid.world(0.01)
    template = xr.Dataset(
        {name: (("lat", "lon"), np.broadcast_to(np.float32(0), fine.shape)) for name in inputs.static_variables},
        {"lat": fine.latitude, "lon": fine.longitude},
    )
    ds = downscale(empty_states(251), model=model, static=raising_dataset(template))
    layer = layer_of(ds)
    assert ds["land_use"].shape == (251, 18000, 36000)
    assert layer.shape[0] == 251
    assert layer.plan.layout.windows[1] <= 0.15
    assert "251 years" in describe(ds)
    selected = ds["land_use"].sel(year=1855, lat=slice(48, 46), lon=slice(7, 9)).data
    culled = selected.dask.cull(set(dask.core.flatten(selected.__dask_keys__())))
    own = [key for key in culled.to_dict() if isinstance(key, tuple) and key[0] == layer.name]
    assert {key[1] for key in own} == set(range(6)), "the years that lead to it and no other"
    assert len(own) < 0.02 * len(layer)
    last = [key for key in own if key[1] == 5]
    before = [key for key in own if key[1] == 4]
    assert len(last) <= 4
    assert len(before) <= 16
