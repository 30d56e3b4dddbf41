"""The ``.ai4land`` accessor: every method is one plain function, applied to the object.

Functions are imported when they are called, so that ``import xland`` stays light.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import xarray as xr
from dask.base import normalize_token

from xland.arguments import by_first_names, unknown
from xland.errors import KeywordError, VocabularyError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from xland.biophysical.model import BiophysicalModel
    from xland.forcing.check import CheckTable
    from xland.forcing.conversion import Mapped
    from xland.models import Model
    from xland.models.checkpoint import Checkpoint
    from xland.models.inputs import InputSpec
    from xland.scores.evaluation import Evaluation
    from xland.totals.modes import Totals
    from xland.training.configuration import Augmentation
    from xland.training.data.batches import LabelledBatches


_Method = TypeVar("_Method", bound=Callable[..., Any])


@normalize_token.register_lazy("xarray")
def _name_what_is_in_files() -> None:
    """Teach dask, when it first names an object of xarray, to name what lies in files."""
    import xland.store.provenance  # noqa: F401


def _calls(target: str, *, maps: bool = False, keyword: str = "") -> Callable[[_Method], _Method]:
    """Let a method, of which only the signature and the docstring are written, call a function, ``module:name``.

    The function gets the object as its first argument, or as a keyword; with ``maps`` the land use of a Dataset.
    Unknown keywords are refused with the nearest one.
    """
    module, name = target.split(":")

    def decorate(method: _Method) -> _Method:
        signature = inspect.signature(method)

        @wraps(method)
        def run(self: _Accessor, *args: Any, **options: Any) -> Any:
            options = by_first_names(options, signature.parameters)
            wrong = [each for each in options if each not in signature.parameters]
            if wrong:
                raise KeywordError(f"{method.__name__}: {unknown('keyword', wrong, [*signature.parameters][1:])}")
            given = signature.bind(self, *args, **options)
            data = self._land_use() if maps else self._data
            first, named = ([], {keyword: data}) if keyword else ([data], {})
            return getattr(import_module(f"xland.{module}"), name)(*first, *given.args[1:], **named, **given.kwargs)

        return run  # type: ignore[return-value]

    return decorate


class _Accessor:
    def __init__(self, data: Any) -> None:
        self._data = data

    def _land_use(self) -> xr.DataArray:
        if isinstance(self._data, xr.DataArray):
            return self._data
        if "land_use" not in self._data:
            found = ", ".join(map(str, self._data.data_vars)) or "no variables"
            raise VocabularyError(f"the Dataset has no variable 'land_use' ({found}): downscale it first")
        return self._data["land_use"]  # type: ignore[no-any-return]

    @_calls("totals.aggregation:aggregate_classes", maps=True)
    def aggregate(self, factor: int) -> xr.Dataset:
        """Area share of each class in coarse cells, lazily; see :func:`xland.totals.aggregation.aggregate_classes`."""

    @_calls("biophysical.leaf_area:leaf_area_index")
    def leaf_area_index(
        self,
        *,
        model: str | Path | BiophysicalModel = "leaf-area",
        climate: xr.Dataset | None = None,
        years: int | Sequence[int] | slice | None = None,
        outputs: str | Sequence[str] = (),
        publisher: str | PathLike[str] | None = None,
    ) -> xr.Dataset:
        """Leaf area index of each month, lazily; see :func:`xland.biophysical.leaf_area.leaf_area_index`."""

    @_calls("scores.evaluation:evaluate", maps=True)
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
        """Score maps against observed ones; see :func:`xland.scores.evaluation.evaluate`."""

    @_calls("scores.areas:is_class", maps=True)
    def is_class(self, classes: str | Sequence[str]) -> xr.DataArray:
        """Say where maps show a class, by its name; see :func:`xland.scores.areas.is_class`."""

    @_calls("scores.areas:class_areas", maps=True)
    def area(self, *, by: Any = None, names: Any = None) -> xr.DataArray:
        """Area of each class in km2, in each year and region; see :func:`xland.scores.areas.class_areas`."""

    @_calls("scores.areas:compare_maps", maps=True)
    def compare(self, second: xr.DataArray | xr.Dataset, *, by: Any = None, names: Any = None) -> xr.Dataset:
        """Compare with maps of another year or scenario; see :func:`xland.scores.areas.compare_maps`."""


@xr.register_dataset_accessor("ai4land")
class DatasetAccessor(_Accessor):
    """Land-use downscaling on a Dataset: coarse fractions in, or high-resolution maps out."""

    @_calls("forcing.check:check")
    def check(
        self, *, static: xr.Dataset | None = None, model: Model | None = "luh2-0p05", progress: bool = True
    ) -> CheckTable:
        """Look at coarse fractions closely and list every finding; see :func:`xland.forcing.check.check`."""

    @_calls("forcing.conversion:to_luh2")
    def to_luh2(
        self,
        mapping: Mapping[str, Mapped] | None = None,
        *,
        reference: xr.Dataset | None = None,
        resolution: float = 0.25,
        shares_of: Literal["cell", "land"] = "cell",
        rest: str | None = None,
        fill: bool = False,
    ) -> xr.Dataset:
        """Bring fractions of any names and cells to LUH2 states; see :func:`xland.forcing.conversion.to_luh2`."""

    @_calls("forcing.conversion:regrid")
    def regrid(self, *, resolution: float = 0.25) -> xr.Dataset:
        """Bring fractions to cells of another size, by area; see :func:`xland.forcing.conversion.regrid`."""

    @_calls("downscaling.call:downscale")
    def downscale(
        self,
        *,
        model: Model = "luh2-0p05",
        static: xr.Dataset | None = None,
        other_static: bool = False,
        prior: xr.DataArray | None = None,
        years: int | Sequence[int] | slice | None = None,
        region: tuple[float, float, float, float] | None = None,
        chunks: int | None = None,
        outputs: str | Sequence[str] = ("land_use",),
        direction: Literal["forward", "backward"] = "forward",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        flips: bool = False,
        totals: str | Totals | None = None,
        draws: int | None = None,
        seed: int | None = None,
        publisher: str | PathLike[str] | None = None,
    ) -> xr.Dataset:
        """Turn coarse fractions into lazy fine maps; see :func:`xland.downscaling.call.downscale`."""

    @_calls("downscaling.block:describe")
    def describe(self) -> str:
        """Say what computing these maps would run: see :func:`xland.downscaling.block.describe`."""

    @_calls("training.data.batches:make_batches")
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

    @_calls("store.writing:write")
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

    @_calls("store.writing:write_netcdf")
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
        """Export maps to a NetCDF file; see :func:`xland.store.writing.write_netcdf`."""

    @_calls("exports.export:export")
    def export(
        self,
        out: str | Path,
        *,
        form: Literal["geotiff", "netcdf", "pyramid", "zarr2"] | None = None,
        variables: str | Sequence[str] | None = None,
        years: int | Sequence[int] | slice | None = None,
        per: Literal["year", "decade", "all"] = "year",
        overwrite: bool = False,
        progress: bool = True,
    ) -> list[Path]:
        """Write maps as GeoTIFF, NetCDF, Zarr 2 or a pyramid; see :func:`xland.exports.export.export`."""

    @_calls("catalogs.publishing:publish", keyword="expected")
    def publish(
        self,
        catalog: str | Path,
        *,
        name: str,
        store: str | Path | None = None,
        product: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        publisher: str | PathLike[str] | None = None,
        report: str | PathLike[str] | None = None,
        because: str | None = None,
        preview: bool = True,
        overwrite: bool = False,
        progress: bool = True,
    ) -> Path:
        """Enter these maps in an intake catalog; see :func:`xland.catalogs.publishing.publish`.

        Without a store, they are written beside the catalog first. A store of other maps (``xland_fingerprint``) is
        refused.
        """

    @_calls("plot:land_use_map", maps=True)
    def plot(
        self,
        ax: Axes | None = None,
        *,
        title: str | None = None,
        legend: bool = True,
        figsize: tuple[float, float] | None = None,
        coastlines: bool = False,
        transform: Any = None,
        col: str | None = None,
        col_wrap: int = 3,
        max_pixels: int = 2_000_000,
    ) -> Any:
        """Draw ``land_use``; see :func:`xland.plot.land_use_map`."""


@xr.register_dataarray_accessor("ai4land")
class DataArrayAccessor(_Accessor):
    """What makes sense on a single map: plot, aggregate, evaluate."""

    @_calls("plot:draw")
    def plot(
        self,
        ax: Axes | None = None,
        *,
        title: str | None = None,
        legend: bool = True,
        label: str | None = None,
        figsize: tuple[float, float] | None = None,
        coastlines: bool = False,
        transform: Any = None,
        col: str | None = None,
        col_wrap: int = 3,
        max_pixels: int = 2_000_000,
    ) -> Any:
        """Draw class codes, or a probability, confidence or share, as a map; see :func:`xland.plot.draw`."""
