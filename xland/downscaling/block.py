"""One block in one year: what it depends on, the task that reads, checks and predicts it, and the graph of all tasks.

A global run over centuries has a hundred thousand block-years and more. A task is made when it is
asked for; what a selection depends on is worked out from positions alone.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.callbacks import Callback
from dask.core import flatten
from numpy.typing import NDArray

from xland.dask_internals import (
    NARROW_FIRST,
    DataNode,
    GraphNode,
    HighLevelGraph,
    Layer,
    MaterializedLayer,
    Task,
    TaskRef,
    narrow,
    renamed,
)
from xland.downscaling.engine import Stop, check_of, choose_device, engine_of, give_back, residency_of, start_all
from xland.downscaling.fields import (
    Block,
    ChunkField,
    Chunks,
    Field,
    Key,
    Layout,
    Placement,
    coarse_spans,
    placements,
    read_codes_of,
)
from xland.downscaling.keeping import Keeping
from xland.downscaling.predict import Drawing, Static, layers_of, ocean, predict_block
from xland.downscaling.selections import MAP, OTHER, parts_read
from xland.errors import StaticError
from xland.forcing.read import check_coverage, check_values
from xland.models.applicability import Applicability
from xland.models.checkpoint import Checkpoint
from xland.models.ensemble import Ensemble
from xland.models.inputs import MASKED, InputSpec
from xland.outputs import OUTPUTS, Output
from xland.reading.limits import check_share, check_unknown_land, checked_predictor
from xland.store.rollouts import Index, Keeper

AT_ONCE = 3
"""Blocks that a process has inputs of at once: one is computed while others are read and written."""

STRIP = 600
"""Rows of static fields that are read at a time: whole chunks of the predictors that xland prepares."""

IN_CACHE = 100
"""Rows of static fields that are normalised at a time: they stay in the cache of a core until they are rounded."""

_COUNTED = 1000  # tasks that are made to be counted, at most, where all are wanted
_at_once = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True, eq=False)
class Plan:
    """All that the block-years of one downscaling share; it is in the graph once.

    `maps` are the class maps that are computed; each may be the prior of the next. `coarse` has one year a chunk; its
    first layers are `variables`, which the model reads. `positions` says for each year where the years of its steps are
    in `coarse`, and `intervals` how many years it is from its prior map. The values of `own_static` predictors, which
    xland provides, need no check; with `other_static`, they need not be those of the training. `given_maps` are the
    maps that a rollout starts from, by their years. `outputs` begins with the class map. Each computation has a `stop`
    of its own.
    """

    maps: ChunkField
    model: Checkpoint | Ensemble
    inputs: InputSpec
    layout: Layout
    years: tuple[int, ...]
    coarse: Field
    variables: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    intervals: tuple[int, ...]
    static: Field
    own_static: bool
    other_static: bool = False
    given_maps: Mapping[int, Field] = field(default_factory=dict)
    outputs: tuple[Output, ...] = (OUTPUTS["land_use"],)
    device: str = "auto"
    flips: bool = False
    keeping: Keeping | None = None
    drawing: Drawing | None = None
    stop: Stop = field(default_factory=Stop)

    @cached_property
    def expected(self) -> NDArray[np.bool_] | None:
        """Cells of the forcing's grid that had data when the model was trained."""
        coverage = self.model.coverage
        return None if coverage is None else coverage.on(self.coarse.grid)

    @cached_property
    def applicability(self) -> Applicability | None:
        """What distances to the training inputs are measured from, where they are wanted."""
        wanted = any(output.needs == "applicability" for output in self.outputs)
        return self.model.applicability if wanted else None

    def __dask_tokenize__(self) -> str:
        """Return the key in the graph, which depends on all that the plan has: naming its fields would read them."""
        return f"plan-{self.maps.name}"

    @property
    def layers(self) -> dict[str, int]:
        """Length of each dimension between time and latitude."""
        return layers_of(len(self.inputs.classes), self.drawing)

    def maps_before(self, year: int) -> list[tuple[Field | None, int]]:
        """Where the prior map of a year and the maps beyond it come from, and their positions there."""
        if self.inputs.prior == "none":
            return []
        wanted = self.inputs.maps_of(self.years[year], self.intervals[year])
        return [
            (self.maps, self.years.index(each)) if each in self.years else (self.given_maps.get(each), 0)
            for each in wanted
        ]

    def keys(self, year: int, blocks: Iterable[Block]) -> dict[Key, None]:
        """Graph keys of the chunks that some blocks of a year need, each once."""
        found: dict[Key, None] = {}
        for block in blocks:
            rows, columns = block.halo
            low = coarse_spans(rows, columns, self.inputs.factor)
            read: list[tuple[Field | None, range, range, int]]
            read = [(self.coarse, *low, position) for position in self.positions[year]]
            read += [(self.static, rows, columns, 0)]
            read += [(prior, rows, columns, position) for prior, position in self.maps_before(year)]
            if self.keeping is not None:
                read += self.keeping.fields_read(block.rows, block.columns, year)
            for source, down, across, position in read:
                if isinstance(source, ChunkField):  # nothing of other fields is in the graph
                    found.update(dict.fromkeys(source.keys(down, across, position)))
        return found


def run_block_year(plan: Plan, year: int, block: Block, *chunks: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Read, check and predict one block, or a part of one, of one year; return its outputs.

    `chunks` are what the keys of :meth:`Plan.keys` stand for, each once.
    """
    named = dict(zip(plan.keys(year, [block]), chunks, strict=True))
    device, check = choose_device(plan.device), check_of(plan.stop)
    with _at_once:
        check()
        if len(plan.years) == 1:
            static = _read_static(plan, block, named, device, check)[0]
        else:  # other years, and other computations, wait for what one of them reads
            read = partial(_read_static, plan, block, named, device)
            static = residency_of(device).get(plan.maps.name, (block.rows, block.columns), read)
        if static is None:
            return ocean((len(block.rows), len(block.columns)), plan.layers, plan.outputs)
        coarse = _read_coarse(plan, block, static, named, year)
        prior = _read_maps(plan, block, named, year)
        fit = None
        if plan.keeping is not None:
            newest = prior[0] if prior is not None and plan.inputs.history else prior
            fit = plan.keeping.read(block, named, year, None if newest is None else newest[block.core])
        results = predict_block(
            [engine_of(member, device, flips=plan.flips) for member in plan.model.members],
            block,
            static,
            coarse,
            prior,
            outputs=plan.outputs,
            decision=plan.model.decision if any(plan.model.decision) else (),
            fit=fit,
            applicability=plan.applicability,
            drawing=plan.drawing,
            check=check,
        )
    give_back()
    return results


def run_parts(plan: Plan, year: int, block: Block, parts: Sequence[Block], *chunks: NDArray[Any]) -> dict[str, Any]:
    """Return the outputs of a block of one year, of which only some parts are computed: nothing else of it is read."""
    named = dict(zip(plan.keys(year, parts), chunks, strict=True))
    results = ocean((len(block.rows), len(block.columns)), plan.layers, plan.outputs)
    for part in parts:
        rows, columns = (
            slice(its.start - whole.start, its.stop - whole.start)
            for its, whole in ((part.rows, block.rows), (part.columns, block.columns))
        )
        values = run_block_year(plan, year, part, *(named[key] for key in plan.keys(year, [part])))
        for name, layer in values.items():
            results[name][..., rows, columns] = layer
    return results


def _read_static(
    plan: Plan, block: Block, chunks: Chunks, device: str, check: Callable[[], None] = lambda: None
) -> tuple[Static | None, int]:
    """Begin to read the static fields of a block, None where it has no land, and say how many bytes they take.

    Where there is land is read at once. The fields follow, strip by strip, while windows that need
    no more than what is there are computed. ``check`` raises an error if nobody waits for them any more.
    """
    import torch

    inputs, grid = plan.inputs, plan.static.grid
    strips = placements(grid, *block.halo, STRIP)

    def read(name: str, strip: Placement) -> NDArray[Any]:
        # more than one variable at a time would need several times the memory
        number = inputs.static_variables.index(name)
        (layer,) = plan.static.read(*strip.source, chunks, only=slice(number, number + 1))
        return np.asarray(layer)

    land, missing = np.zeros((2, *map(len, block.halo)), dtype=np.bool_)
    for strip in strips:
        share = read(inputs.domain, strip)
        check_share(inputs.domain, share, grid.window(*strip.source).centres)
        land[strip.target], missing[strip.target] = share > 0, np.isnan(share)
    if not land[block.core].any() and not missing.any():
        return None, 1
    # unlike torch, NumPy leaves zeros to the system until they are written: sea takes no memory
    fields = torch.from_numpy(np.zeros((len(inputs.static), *land.shape), dtype=np.float16))

    def fill(strip: Placement) -> None:
        if not land[strip.target].any():
            return
        (rows, columns), centres = strip.target, grid.window(*strip.source).centres
        for number, channel in enumerate(inputs.static):
            check()
            named = {name: read(name, strip) for name in channel.sources}
            for name in () if plan.own_static else named.keys() - {inputs.domain}:
                single = named[name].astype(np.float32, copy=False)
                named[name] = checked_predictor(name, single, land[strip.target], centres)
            for start in range(rows.start, rows.stop, IN_CACHE):
                part = slice(start, min(start + IN_CACHE, rows.stop))
                own = slice(part.start - rows.start, part.stop - rows.start)
                values = {name: each[own] for name, each in named.items()}
                layer = inputs.static_layer(channel, values, land[part, columns])
                fields[number, part, columns] = torch.from_numpy(layer)
        if not (plan.own_static or plan.other_static):
            first = block.halo[0].start + rows.start, block.halo[1].start + columns.start
            _check_static(plan, fields[:, rows, columns].numpy(), land[rows, columns], *first)
        give_back()

    pending = tuple(zip((strip.target[0] for strip in strips), start_all(fill, strips), strict=True))
    if device != "cpu":
        for _, future in pending:
            future.result()
    factor = inputs.factor
    coarse_land, unknown = (
        np.asarray(cells.reshape(land.shape[0] // factor, factor, -1, factor).any(axis=(1, 3)))
        for cells in (land, missing)
    )
    found = Static(fields.to(device), land, pending, coarse_land, unknown if unknown.any() else None)
    return found, fields.nbytes + land.nbytes


def _check_static(plan: Plan, fields: NDArray[np.float16], land: NDArray[np.bool_], row: int, column: int) -> None:
    """Refuse static predictors that are not those with which the model was trained."""
    for member in plan.model.members:
        if member.static_sample is not None:
            around = round(360 / plan.inputs.resolution)
            different = member.static_sample.differing(fields, land, row, column, around)
            if different.any():
                names = [plan.inputs.static[number].name for number in np.flatnonzero(different.any(axis=0))]
                raise StaticError(
                    f"the static predictors are not those that the model {member.name!r} was trained with: "
                    f"{', '.join(names[:5])} differ at {different.any(axis=1).sum()} of {len(different)} places; "
                    "give its own with static=, or pass other_static=True to take others"
                )


def _read_maps(plan: Plan, block: Block, chunks: Chunks, year: int) -> NDArray[np.uint8] | None:
    """Return the prior map over the halo, or with a history the maps stacked; 255 where unknown, None without any."""
    maps, sources = [], plan.maps_before(year)
    if all(source is None for source, _ in sources):
        return None
    for source, position in sources:
        if source is None:
            maps.append(np.full([len(span) for span in block.halo], MASKED, dtype=np.uint8))
        else:
            classes = None if source is plan.maps else len(plan.inputs.classes)
            maps.append(read_codes_of(source, *block.halo, chunks, position, classes=classes))
    return np.stack(maps) if plan.inputs.history else maps[0]


def _read_coarse(plan: Plan, block: Block, static: Static, chunks: Chunks, year: int) -> NDArray[np.float32]:
    """Return the coarse channels over the halo, having checked all cells that are read: they shape the map."""
    inputs, grid = plan.inputs, plan.coarse.grid
    rows, columns = coarse_spans(*block.halo, inputs.factor)
    states = np.full((len(plan.variables), len(inputs.steps), len(rows), len(columns)), np.nan, dtype=np.float32)
    # a block as wide as the globe reads some cells twice, of which the first are enough to check
    there = np.zeros(grid.shape, dtype=np.bool_)
    for target, source in placements(grid, rows, columns):
        fresh, centres = ~there[source], grid.window(*source).centres
        there[source] = True
        for step, position in enumerate(plan.positions[year]):
            values = np.asarray(plan.coarse.read(*source, chunks, position, slice(len(plan.variables))))
            states[:, step, target[0], target[1]] = values
            named = dict(zip(plan.variables, np.where(fresh, values, np.nan), strict=True))
            when = inputs.states_of(plan.years[year], plan.intervals[year])[step]
            check_values(named, centres, when)
            if static.unknown is not None:
                check_unknown_land(inputs.domain, static.unknown[target], named, centres)
            if plan.expected is not None and static.coarse_land is not None:
                expected = plan.expected[source] & static.coarse_land[target] & fresh
                check_coverage(named, expected, centres, when)
    return inputs.coarse_array(dict(zip(plan.variables, states, strict=True)), plan.intervals[year])


class BlockYears(Layer):
    """Class maps of all block-years, and where more is wanted the tasks that compute all outputs at once.

    Keys are ``(name, year, row, column)`` for class maps and ``(name + "-layers", year, row,
    column)`` for the dict of all outputs; years, rows and columns count from 0. A keeper keeps the maps of a rollout on
    disk; see :class:`xland.store.rollouts.Rollout`.
    """

    has_legacy_tasks = False

    def __init__(self, plan: Plan, keeper: Keeper | None = None) -> None:
        super().__init__()
        self.plan, self.keeper, self.name = plan, keeper, plan.maps.name
        self.all_layers, self._plan_key = f"{self.name}-layers", f"plan-{self.name}"
        self.several = len(plan.outputs) > 1
        self.names = (self.name, self.all_layers) if self.several else (self.name,)
        self.shape = (len(plan.years), len(plan.layout.rows), len(plan.layout.columns))
        years = range(len(plan.years))
        self.order = tuple(years if plan.inputs.prior_step == -1 else reversed(years))
        self.reach = 1 + plan.inputs.history
        self._there = frozenset() if keeper is None else keeper.listing()

    def describe(self, graph: HighLevelGraph | None = None, *wanted: Collection[Key]) -> str:
        """Say in one line how much is computed: all block-years, or what keys of variables need of a graph."""
        years, rows, columns = self.shape
        found: dict[tuple[int, Block], tuple[Block, ...]] = {}
        windows, twice = self.plan.layout.windows
        blocks, also = f"{rows} x {columns} blocks", f", {twice:.1%} of them twice at edges of blocks"
        # tasks of all centuries are not made to be counted
        if graph is not None and max(map(len, wanted)) < max(years * rows * columns, _COUNTED):
            keys = set().union(*wanted)
            layers = narrow(graph, keys).cull(keys).layers.values()
            tasks = itertools.chain.from_iterable(
                each.values() for each in layers if isinstance(each, MaterializedLayer)
            )
            found = dict(
                _work_of(each) for each in tasks if isinstance(each, Task) and self._plan_key in each.dependencies
            )
        parts = {part for its in found.values() for part in its}
        if found and (len(found) < years * rows * columns or len(parts) != rows * columns):
            years = len({year for year, _ in found})
            windows, also = sum(part.count for part in parts), ""
            blocks = f"{len({block for _, block in found})} of {blocks}"
        return (
            f"{self.plan.model.name}: {years} {'year' if years == 1 else 'years'} of {blocks}, "
            f"{windows} windows a year where all is land{also}"
        )

    def kept(self, keeper: Keeper) -> Layer:
        """Return the same layer, with the maps that a keeper has in place of what they were computed from."""
        return self if self.plan.inputs.prior == "none" else type(self)(self.plan, keeper)

    def narrowed(
        self, tasks: Mapping[Any, GraphNode], dependents: Mapping[Any, Collection[Any]], wanted: Collection[Any]
    ) -> Mapping[Any, GraphNode]:
        """Return what takes the place of tasks of blocks of which only parts are read, and of what selects them."""
        plan = self.plan
        if self.keeper is not None or any(
            prior is plan.maps for year in range(len(plan.years)) for prior, _ in plan.maps_before(year)
        ):
            return {}  # of a rollout, whole blocks are kept and read
        starts: dict[Index, dict[Any, tuple[int, ...]]] = {}
        for key, task in tasks.items():
            if isinstance(key, tuple) and key[0] == self.name:
                starts.setdefault(key[1:], {})[key] = MAP
            elif isinstance(task, Task) and task.func is _one_layer:
                (source,) = task.dependencies
                if source[0] == self.all_layers:
                    starts.setdefault(source[1:], {})[key] = MAP if len(key) == 4 else (OTHER, *MAP)
        found: dict[Any, GraphNode] = {}
        for index, its in starts.items():
            block = plan.layout.block(*index[1:])
            parts, between = parts_read(its, block, plan.inputs.factor, tasks, dependents, wanted)
            if parts:
                work, token = (self.all_layers if self.several else self.name, *index), tokenize(parts)
                for key in {work, *between}:
                    name = f"{key[0]}-{token}", *key[1:]
                    found[key] = self._task(work, name, parts) if key == work else renamed(tasks[key], name)
        return found

    narrow = staticmethod(narrow)

    def is_materialized(self) -> bool:
        """Return False: tasks are made when they are asked for."""
        return False

    get_output_keys = Layer.keys

    def get_dependencies(self, key: Any, all_hlg_keys: Collection[Any]) -> set[Any]:  # noqa: ARG002
        """Return the keys that a task needs."""
        return set(self[key].dependencies)

    def cull(self, keys: set[Any], all_hlg_keys: Collection[Any]) -> tuple[Layer, dict[Any, set[Any]]]:  # noqa: ARG002
        """Return the tasks that some keys depend on, and what those need of other layers."""
        tasks: dict[Any, GraphNode] = {}
        waiting = [key for key in keys if key in self]
        while waiting:
            key = waiting.pop()
            if key not in tasks:
                tasks[key] = self._task(key)
                waiting += [other for other in tasks[key].dependencies if other not in tasks and other in self]
        return MaterializedLayer(tasks, self.annotations), {key: set(task.dependencies) for key, task in tasks.items()}

    def __contains__(self, key: object) -> bool:
        """Whether a key is one of this layer's."""
        if key == self._plan_key:
            return True
        if not isinstance(key, tuple) or len(key) != 4 or key[0] not in (self.name, self.all_layers):
            return False
        return all(0 <= number < length for number, length in zip(key[1:], self.shape, strict=True))

    def __getitem__(self, key: Any) -> GraphNode:
        """Make the task of a key."""
        if key not in self:
            raise KeyError(key)
        return self._task(key)

    def _task(self, key: Any, called: Any = None, parts: tuple[Block, ...] = ()) -> GraphNode:
        """Return the task of a key, or, under another key, that which computes only parts of its block."""
        if key == self._plan_key:
            return DataNode(key, self.plan)
        (name, year, row, column), called = key, called or key
        keep = (_land_use, self.keeper, (year, row, column)) if name == self.name else ()
        if keep and not parts:
            if (year, row, column) in self._there:
                return Task(called, _load, *keep[1:])
            if self.several:
                return Task(called, *keep, dict, TaskRef((self.all_layers, year, row, column)))
        block = self.plan.layout.block(row, column)
        needed = map(TaskRef, self.plan.keys(year, parts or [block]))
        run = (
            (run_parts, TaskRef(self._plan_key), year, block, parts)
            if parts
            else (
                run_block_year,
                TaskRef(self._plan_key),
                year,
                block,
            )
        )
        return Task(called, *keep, *run, *needed)

    def __iter__(self) -> Iterator[Any]:
        """Go over all keys."""
        yield self._plan_key
        yield from itertools.product(self.names, *map(range, self.shape))

    def __len__(self) -> int:
        """Return the number of tasks."""
        return 1 + int(np.prod(self.shape)) * len(self.names)


class _Stops(Callback):
    """Tells blocks that the computation on this machine that began them has failed, or was interrupted."""

    def _start_state(self, dsk: Any, state: dict[str, Any]) -> None:  # noqa: ARG002
        for key, value in state["cache"].items():
            if isinstance(value, Plan):
                state["cache"][key] = replace(value, stop=Stop())

    def _finish(self, dsk: Any, state: dict[str, Any], failed: bool) -> None:  # noqa: ARG002
        for value in state.get("cache", {}).values() if failed else ():
            if isinstance(value, Plan):
                value.stop.asked = True


_stops = _Stops()


def block_years(plan: Plan, depends_on: Sequence[da.Array]) -> dict[str, da.Array]:
    """Return a lazy array for each output of a plan, whose fields are chunks of the arrays that it depends on.

    Outputs with classes are ``(years, classes, rows, columns)``, draws ``(years, draws, rows, columns)``, the others
    ``(years, rows, columns)``.
    """
    _stops.register()
    da.Array.__dask_optimize__ = NARROW_FIRST
    layer = BlockYears(plan)
    graph = HighLevelGraph.merge(
        *(HighLevelGraph.from_collections(each, layer, dependencies=depends_on) for each in layer.names)
    )
    chunks = plan.maps.chunks
    arrays = {"land_use": da.Array(graph, layer.name, chunks, meta=np.empty((0, 0, 0), np.uint8))}
    if layer.several:
        everything = da.Array(graph, layer.all_layers, chunks, meta=np.empty((0, 0, 0), np.float32))
    for output in plan.outputs[1:]:
        axes: dict[str, Any] = {}
        if output.axis:
            axes = {"new_axis": 1, "chunks": (chunks[0], (plan.layers[output.axis],), *chunks[1:])}
        arrays[output.name] = everything.map_blocks(_one_layer, output.name, dtype=output.dtype, **axes)
    return arrays


def describe(ds: xr.Dataset) -> str:
    """Say what computing a Dataset, or what was selected of one, would run; reads nothing.

    There is a line for each downscaling in it, with the model, years, blocks, windows and, of all blocks, the share of
    windows that they compute twice. The text is empty where there is nothing left to downscale.
    """
    lazy = [each.data for each in ds.data_vars.values() if each.chunks is not None]
    wanted = [list(flatten(array.__dask_keys__())) for array in lazy]
    graph = HighLevelGraph.merge(*(array.dask for array in lazy))
    layers = {layer.name: layer for layer in graph.layers.values() if isinstance(layer, BlockYears)}
    if not layers:
        return ""
    return "\n".join(layer.describe(graph, *wanted) for layer in layers.values())


def _one_layer(layers: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Return one output of a block-year as a chunk of an array."""
    return layers[name][None]


def _work_of(task: Task) -> tuple[tuple[int, Block], tuple[Block, ...]]:
    """Return the year and block that a task of a layer computes, and which parts of it."""
    args = task.args if task.func in (run_block_year, run_parts) else task.args[3:]
    _, year, block, *more = args
    return (year, block), more[0] if more and isinstance(more[0], tuple) else (block,)


def _load(keeper: Keeper, index: Index) -> NDArray[np.uint8]:
    return keeper.load(index)[None]


def _land_use(
    keeper: Keeper | None, index: Index, compute: Callable[..., dict[str, NDArray[Any]]], *needs: Any
) -> NDArray[np.uint8]:
    """Return the map, (1, rows, columns), that an earlier run of the same task has kept; else compute and keep it."""
    values = None if keeper is None else keeper.find(index)
    if values is None:
        values = compute(*needs)["land_use"]
        if keeper is not None:
            keeper.save(index, values)
    return values[None]
