"""The ``.ai4land`` accessor: every method calls one plain function.

Imports stand inside the methods, so that ``import xland`` stays light.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import xarray as xr

import xland.store.identity  # noqa: F401 - teaches dask to name what lies in files
from xland.arguments import unknown
from xland.errors import KeywordError, VocabularyError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from xland.forcing.check import CheckTable
    from xland.models import Model
    from xland.models.checkpoint import Checkpoint
    from xland.models.inputs import InputSpec
    from xland.scores.evaluation import Evaluation
    from xland.totals.modes import Totals
    from xland.training.configuration import Augmentation
    from xland.training.data.batches import LabelledBatches


_Accessor = TypeVar("_Accessor")


def _refuse_unknown(accessor: type[_Accessor]) -> type[_Accessor]:
    """Let the methods of a class refuse unknown keywords with the nearest spelling."""

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        names = inspect.signature(method).parameters

        @wraps(method)
        def run(*args: Any, **options: Any) -> Any:
            wrong = [name for name in options if name not in names]
            if wrong:
                raise KeywordError(f"{method.__name__}: {unknown('keyword', wrong, [*names][1:])}")
            return method(*args, **options)

        return run

    for name, method in list(vars(accessor).items()):
        if not name.startswith("_"):
            setattr(accessor, name, guarded(method))
    return accessor


@xr.register_dataset_accessor("ai4land")
@_refuse_unknown
class DatasetAccessor:
    """Land-use downscaling on a Dataset: coarse fractions in, or high-resolution maps out."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def check(
        self, *, static: xr.Dataset | None = None, model: Model | None = "luh2-0p05", progress: bool = True
    ) -> CheckTable:
        """Look at coarse fractions closely and list every finding; see :func:`xland.forcing.check.check`."""
        from xland.forcing.check import check

        return check(self._ds, static=static, model=model, progress=progress)

    def downscale(
        self,
        *,
        model: Model = "luh2-0p05",
        static: xr.Dataset | None = None,
        prior: xr.DataArray | None = None,
        years: int | Sequence[int] | slice | None = None,
        region: tuple[float, float, float, float] | None = None,
        chunks: int | None = None,
        outputs: str | Sequence[str] = ("land_use",),
        direction: Literal["forward", "backward"] = "forward",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        flips: bool = False,
        totals: str | Totals | None = None,
    ) -> xr.Dataset:
        """Turn coarse fractions into lazy fine maps; see :func:`xland.downscaling.call.downscale`."""
        options = _options(locals())
        from xland.downscaling.call import downscale

        return downscale(self._ds, **options)

    def describe(self) -> str:
        """Say what computing these maps would run: see :func:`xland.downscaling.graph.describe`."""
        from xland.downscaling.graph import describe

        return describe(self._ds)

    def batches(
        self,
        *,
        target: xr.DataArray,
        static: xr.Dataset,
        prior: xr.DataArray | None = None,
        inputs: InputSpec | None = None,
        model: str | Path | Checkpoint | None = None,
        patch: int | None = None,
        stride: int | None = None,
        generator: Any = None,
        batch: int = 8,
        part: Literal["train", "validation", "test"] | None = "train",
        years: int | Sequence[int] | None = None,
        seed: int = 0,
        epoch: int = 0,
        split_seed: int = 0,
        candidates: int = 8000,
        samples: int = 0,
        rare_classes: float = 0.0,
        augmentation: Augmentation | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> LabelledBatches:
        """Give the batches of a training as xarray Datasets; see :func:`xland.training.data.batches.make_batches`.

        Without `augmentation` there is none.
        """
        options = _options(locals())
        from xland.training.data.batches import make_batches

        return make_batches(self._ds, **{k: v for k, v in options.items() if v is not None or k != "augmentation"})

    def to_zarr(
        self,
        store: str | Path,
        *,
        mode: Literal["w-", "w", "a"] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        progress: bool = True,
        chunks: Mapping[str, int] | None = None,
        shards: bool | None = None,
        encoding: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Path | str:
        """Write maps to a Zarr store, in a folder or behind a URL; see :func:`xland.store.writing.write`."""
        options = _options(locals())
        from xland.store.writing import write

        return write(self._ds, options.pop("store"), **options)

    def to_netcdf(
        self,
        path: str | Path,
        *,
        mode: Literal["w-", "w"] = "w-",
        overwrite: bool = False,
        progress: bool = True,
        chunks: Mapping[str, int] | None = None,
        encoding: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Path:
        """Export maps to a NetCDF file; see :func:`xland.store.exporting.write_netcdf`."""
        options = _options(locals())
        from xland.store.exporting import write_netcdf

        return write_netcdf(self._ds, **options)

    def publish(
        self,
        catalog: str | Path,
        *,
        name: str,
        store: str | Path,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Enter a finished store of these maps in an intake catalog; see :func:`xland.catalog.publish`.

        A store of other maps (``xland_fingerprint``) is refused.
        """
        options = _options(locals())
        from xland.catalog import publish

        return publish(**options, expected=self._ds)

    def evaluate(
        self,
        observed: xr.DataArray | xr.Dataset,
        *,
        scores: str | Sequence[str] | None = None,
        factor: int = 5,
        within: xr.DataArray | NDArray[np.bool_] | None = None,
        domains: Sequence[str] = ("all", "land", "mixed"),
        classes: Sequence[int] | None = None,
        match_years: bool = True,
        cells: str | None = None,
    ) -> Evaluation:
        """Score the maps against observed ones; see :func:`xland.scores.evaluation.evaluate`."""
        options = _options(locals())
        from xland.scores.evaluation import evaluate

        return evaluate(_land_use(self._ds), **options)

    def plot(
        self, ax: Axes | None = None, *, title: str | None = None, legend: bool = True, max_pixels: int = 2_000_000
    ) -> Axes:
        """Draw ``land_use``; see :func:`xland.plot.land_use_map`."""
        from xland.plot import land_use_map

        return land_use_map(_land_use(self._ds), ax, title=title, legend=legend, max_pixels=max_pixels)

    def aggregate(self, factor: int) -> xr.Dataset:
        """Area share of each class in coarse cells, lazily; see :func:`xland.totals.aggregation.aggregate_classes`."""
        from xland.totals.aggregation import aggregate_classes

        return aggregate_classes(_land_use(self._ds), factor)


@xr.register_dataarray_accessor("ai4land")
@_refuse_unknown
class DataArrayAccessor:
    """What makes sense on a single map: plot, aggregate, evaluate."""

    def __init__(self, da: xr.DataArray) -> None:
        self._da = da

    def plot(
        self,
        ax: Axes | None = None,
        *,
        title: str | None = None,
        legend: bool = True,
        label: str | None = None,
        max_pixels: int = 2_000_000,
    ) -> Axes:
        """Draw class codes, or a probability, confidence or share, as a map; see :func:`xland.plot.draw`."""
        from xland.plot import draw

        return draw(self._da, ax, title=title, legend=legend, label=label, max_pixels=max_pixels)

    def aggregate(self, factor: int) -> xr.Dataset:
        """Area share of each class in coarse cells, lazily; see :func:`xland.totals.aggregation.aggregate_classes`."""
        from xland.totals.aggregation import aggregate_classes

        return aggregate_classes(self._da, factor)

    def evaluate(
        self,
        observed: xr.DataArray | xr.Dataset,
        *,
        scores: str | Sequence[str] | None = None,
        factor: int = 5,
        within: xr.DataArray | NDArray[np.bool_] | None = None,
        domains: Sequence[str] = ("all", "land", "mixed"),
        classes: Sequence[int] | None = None,
        match_years: bool = True,
        cells: str | None = None,
    ) -> Evaluation:
        """Score the map against an observed one; see :func:`xland.scores.evaluation.evaluate`."""
        options = _options(locals())
        from xland.scores.evaluation import evaluate

        return evaluate(self._da, **options)


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "self"}


def _land_use(ds: xr.Dataset) -> xr.DataArray:
    if "land_use" not in ds:
        found = ", ".join(map(str, ds.data_vars)) or "no variables"
        raise VocabularyError(f"the Dataset has no variable 'land_use' ({found}): downscale it first")
    return ds["land_use"]
