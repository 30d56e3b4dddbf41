"""What xland relies on in the parts of dask that are not its documented interface."""

from __future__ import annotations

import re

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph as Documented

from tests.conftest import PROJECT
from xland.dask_internals import (
    NARROW_FIRST,
    DataNode,
    HighLevelGraph,
    Layer,
    MaterializedLayer,
    Task,
    TaskRef,
    convert_legacy_graph,
    pick_points,
)


def test_tasks_name_what_they_depend_on_and_run_with_its_values():
    node, task = DataNode("a", 2), Task("b", pow, TaskRef("a"), 3)
    assert node.value == 2
    assert (task.key, task.func, set(task.dependencies), node.dependencies) == ("b", pow, {"a"}, frozenset())
    assert task({"a": node()}) == 8


def test_legacy_graphs_become_tasks_with_dependencies():
    found = convert_legacy_graph({"a": 1, "b": (abs, "a"), "c": Task("c", abs, TaskRef("b"))})
    assert {key: set(task.dependencies) for key, task in found.items()} == {"a": set(), "b": {"a"}, "c": {"b"}}


def test_a_graph_of_layers_is_culled_by_asking_each_layer():
    class Counted(Layer):
        def __getitem__(self, key):
            return Task(key, abs, TaskRef("a"))

        def __iter__(self):
            return iter(["b", "c"])

        def __len__(self):
            return 2

        def is_materialized(self):
            return False

        def get_output_keys(self):
            return {"b", "c"}

        def cull(self, keys, all_hlg_keys):
            tasks = {key: self[key] for key in keys if key in ("b", "c")}
            return MaterializedLayer(tasks, self.annotations), {key: {"a"} for key in tasks}

    layers = {"first": MaterializedLayer({"a": DataNode("a", -1)}), "second": Counted()}
    graph = HighLevelGraph(layers, {"first": set(), "second": {"first"}})
    assert set(graph.cull(["c"]).to_dict()) == {"a", "c"}
    assert HighLevelGraph is Documented


def test_arrays_are_optimized_by_the_function_that_asks_the_layers_first():
    class Asked(MaterializedLayer):
        def narrow(self, graph, keys):
            return HighLevelGraph.from_collections("less", {key: DataNode(key, np.ones(3)) for key in flatten(keys)})

    da.Array.__dask_optimize__ = NARROW_FIRST
    key = ("a", 0)
    graph = HighLevelGraph({"a": Asked({key: DataNode(key, np.zeros(3))})}, {"a": set()})
    array = da.Array(graph, "a", chunks=((3,),), dtype=float)
    assert array.compute().tolist() == xr.Variable("x", array).compute().values.tolist() == [1, 1, 1]
    assert dask.optimize(array)[0].compute().tolist() == dask.persist(array)[0].compute().tolist() == [1, 1, 1]
    with dask.config.set(array_optimize=None):
        assert array.compute().tolist() == [0, 0, 0], "what users set comes first"
    assert da.ones(3, chunks=2).sum().compute() == 3


def test_points_are_picked_from_a_chunk_by_a_function_that_is_told_which():
    array = da.arange(12, chunks=12).reshape(3, 4)
    tasks = array.vindex[[0, 2], [3, 1]].dask.to_dict().values()
    (task,) = (each for each in tasks if isinstance(each, Task) and each.func is pick_points)
    assert [each.tolist() for each in task.args[1]] == [[0, 2], [3, 1]]


def test_they_are_imported_in_one_place_and_dask_is_bounded():
    found = [
        path.name
        for path in (PROJECT / "xland").rglob("*.py")
        if re.search(
            r"from dask\.(_task_spec|highlevelgraph)|import dask\.(_task_spec|highlevelgraph)", path.read_text()
        )
    ]
    assert found == ["dask_internals.py"]
    assert re.search(r'"dask\[?[^"]*<', (PROJECT / "pyproject.toml").read_text())
