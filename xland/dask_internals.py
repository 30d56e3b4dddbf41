"""What xland uses of dask beyond its documented interface: imported here and nowhere else.

`tests/test_dask_internals.py` names what is relied on; `pyproject.toml` bounds the versions of dask.
"""

from __future__ import annotations

from dask._task_spec import DataNode, GraphNode, Task, TaskRef, convert_legacy_graph
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

__all__ = [
    "DataNode",
    "GraphNode",
    "HighLevelGraph",
    "Layer",
    "MaterializedLayer",
    "Task",
    "TaskRef",
    "convert_legacy_graph",
]
