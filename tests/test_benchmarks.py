"""The benchmarks of inference on a tiny world: what they compare is the same thing."""

from __future__ import annotations

import pytest

from tests.benchmarks import graph, sides
from tests.benchmarks.harness import line, take_turns
from tests.benchmarks.hostile import Tally, kills
from tests.worlds import FINE, tiny_checkpoint, tiny_inputs, tiny_world
from xland.downscaling.call import downscale
from xland.downscaling.fields import Layout
from xland.models.networks.unet import DownscalingNetwork
from xland.store.reading import open_store


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Arguments of the sides: a model, its forcing and its static fields on disk."""
    folder = tmp_path_factory.mktemp("benchmarks")
    coarse, static, _ = tiny_world((2000,))
    tiny_checkpoint(folder / "model", tiny_inputs())
    coarse.to_zarr(folder / "forcing.zarr", consolidated=False)
    static.to_zarr(folder / "static.zarr", consolidated=False)
    return {"forcing": f"{folder}/forcing.zarr", "static": f"{folder}/static.zarr", "model": f"{folder}/model"}


@pytest.mark.parametrize("box", [None, (24.0, 26.0, 88.0, 66.0)], ids=["globe", "region"])
def test_sides_run_the_same_windows_and_give_the_same_classes(tiny, tmp_path, box):
    ours, theirs = str(tmp_path / "ours.zarr"), str(tmp_path / "theirs.zarr")
    sides.run_xland(store=ours, box=box, years=[2000], chunks=60, **tiny)
    sides.run_monai(store=theirs, box=box, year=2000, batch=2, **tiny)
    bare = sides.run_bare(box=box, years=[2000], **tiny)
    place = {"box": box, "model": tiny["model"], "static": tiny["static"]}
    found = sides.compare_maps(ours, theirs, **place)
    assert found["land_pixels"] > 1000
    assert found["agreement"] >= 0.9999
    assert bare["windows"] == sides.distinct_windows(**place)["windows"]


def test_selection_from_a_rollout_is_culled_to_what_it_depends_on(tmp_path):
    graph.prepare(str(tmp_path), resolution=1.0, factor=4, window=40, stride=20, years=[1990, 1995])
    built = graph.build(str(tmp_path), chunks=20, year=1992)
    assert 1 < built["selected_block_years"] == built["needed_block_years"] < built["block_years"]


@pytest.mark.parametrize("chunks", [20, 60, 100, None])
def test_windows_run_twice_are_counted_as_the_layout_counts_them(chunks):
    layout = Layout.cut(FINE, tiny_inputs(), chunks)
    chunks = [[len(span) for span in spans] for spans in (layout.rows, layout.columns)]
    assert graph.twice(chunks, 40, 20) == pytest.approx(layout.windows[1])


def test_log_of_the_network_tells_which_block_years_were_computed(tmp_path, monkeypatch):
    kills.prepare(str(tmp_path))
    monkeypatch.setattr(DownscalingNetwork, "forward", DownscalingNetwork.forward)  # put back afterwards
    kills.watch(tmp_path / "log")
    forcing, static, prior = (open_store(f"{tmp_path}/{name}.zarr") for name in ("forcing", "static", "prior"))
    options = {"model": f"{tmp_path}/rollout", "prior": prior["land_use"], "chunks": kills.BLOCK}
    options["region"] = (-60, -30, 100, 50)  # 2 x 4 blocks
    downscale(forcing, static=static, years=kills.YEARS[:2], **options).compute()
    computed = kills.computed(tmp_path / "log")
    first, second = ({block[1:] for block in computed if block[0] == year} for year in range(2))
    assert second < first, "of the first year the neighbours, too"
    assert len(second) > 3
    assert second <= {(row, column) for row in (1, 2) for column in (3, 4, 5, 6)}


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


def test_a_case_is_silent_or_bare():
    tally = Tally()
    tally.judge("a", "first", lambda: "a wrong map")
    tally.judge("a", "second", lambda: 1 / 0)
    tally.judge("b", "third", lambda: None)
    assert tally.silent == ["first: a wrong map"]
    assert tally.bare == ["second: ZeroDivisionError: division by zero"]
    assert tally.line("name", 2, 0)["sizes"] == {"cases": 3, "kinds": {"a": 2, "b": 1}}
