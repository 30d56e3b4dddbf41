"""The benchmarks of inference on a tiny world: they run, and what they compare is the same thing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks import graph, sides
from tests.benchmarks.harness import PROJECT, fresh, line, take_turns
from tests.benchmarks.hostile import kills
from tests.worlds import FINE, tiny_checkpoint, tiny_inputs, tiny_world
from xland.downscaling.fields import Layout

REGION = (24.0, 26.0, 88.0, 66.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Arguments of the sides: a model, its forcing and its static fields on disk."""
    folder = tmp_path_factory.mktemp("benchmarks")
    coarse, static, _ = tiny_world((2000,))
    tiny_checkpoint(folder / "model", tiny_inputs())
    coarse.to_zarr(folder / "forcing.zarr", consolidated=False)
    static.to_zarr(folder / "static.zarr", consolidated=False)
    return {
        "forcing": str(folder / "forcing.zarr"),
        "static": str(folder / "static.zarr"),
        "model": str(folder / "model"),
    }


def without_forcing(arguments):
    return {key: value for key, value in arguments.items() if key != "forcing"}


@pytest.mark.parametrize("box", [None, REGION], ids=["globe", "region"])
def test_sliding_windows_of_monai_give_the_same_classes(tiny, tmp_path, box):
    ours, theirs = str(tmp_path / "ours.zarr"), str(tmp_path / "theirs.zarr")
    sides.run_xland(store=ours, box=box, years=[2000], chunks=60, **tiny)
    sides.run_monai(store=theirs, box=box, year=2000, batch=2, **tiny)
    found = sides.compare_maps(ours, theirs, box, **without_forcing(tiny))
    assert found["land_pixels"] > 1000
    assert found["agreement"] >= 0.9999


@pytest.mark.parametrize("box", [None, REGION], ids=["globe", "region"])
def test_bare_network_runs_each_window_with_land_once(tiny, box):
    bare = sides.run_bare(box=box, years=[2000], **tiny)
    assert bare["windows"] == sides.distinct_windows(box, **without_forcing(tiny))["windows"]


def test_windows_of_a_whole_run_are_counted_in_a_fresh_process(tiny, tmp_path):
    run = fresh(
        sides.run_xland, store=str(tmp_path / "store.zarr"), box=REGION, years=[2000], chunks=1000, count=True, **tiny
    )
    assert run["windows"] == sides.distinct_windows(REGION, **without_forcing(tiny))["windows"]
    assert run["peak_mb"] > 100


def test_selection_from_a_rollout_is_culled_to_what_it_depends_on(tmp_path):
    graph.prepare(str(tmp_path), resolution=1.0, factor=4, window=40, stride=20, years=[1990, 1995])
    built = graph.build(str(tmp_path), chunks=20, year=1992)
    assert 1 < built["selected_block_years"] == built["needed_block_years"] < built["block_years"]


@pytest.mark.parametrize("chunks", [20, 60, 100, None])
def test_windows_run_twice_are_counted_as_the_layout_counts_them(chunks):
    layout = Layout.cut(FINE, tiny_inputs(), chunks)
    chunks = [[len(span) for span in spans] for spans in (layout.rows, layout.columns)]
    assert graph.twice(chunks, 40, 20) == pytest.approx(layout.windows[1])


def test_log_of_the_network_tells_which_block_years_were_computed(tmp_path):
    kills.prepare(str(tmp_path))
    log = tmp_path / "log"
    end = kills.in_new_process(kills.attempt, str(tmp_path), "rollout", str(tmp_path / "store.zarr"), str(log), None)
    computed = kills.computed(log)
    by_year = {year: {block[1:] for block in computed if block[0] == year} for year in range(len(kills.YEARS))}
    assert len(by_year[0]) > 30
    assert all(blocks == by_year[0] for blocks in by_year.values())
    assert len(end["digest"]) == 64


def test_sides_take_turns():
    order = []
    sides_of = {name: lambda name=name: order.append(name) or {"seconds": 1.0} for name in "ab"}
    results = take_turns(sides_of, 3)
    assert order == list("ababab")
    assert list(map(len, results.values())) == [3, 3]


@pytest.mark.parametrize(
    ("figure", "target", "met"), [(0.9, ">= 0.90", True), (1.2, "<= 1.10", False), (0, "== 0", True)]
)
def test_line_says_whether_the_target_is_met(figure, target, met):
    assert line("name", figure, "this / that", target, runs=5, sizes="10 x 10")["met"] is met


def test_command_says_that_there_is_no_gpu_or_measures_one():
    command = [sys.executable, "-m", "tests.benchmarks.inference", "--quick", "--device", "cuda"]
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU: run the benchmark itself")
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["skipped"] == "no CUDA device"
