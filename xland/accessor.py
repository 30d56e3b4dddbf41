"""The ``.ai4land`` accessor: every method calls one plain function.

Imports stand inside the methods, so that ``import xland`` stays light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

import xland.store.identity  # noqa: F401 - teaches dask to name what lies in files
from xland.errors import VocabularyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xland.forcing.check import CheckTable
    from xland.models import Model
    from xland.scores.evaluation import Evaluation
    from xland.totals.modes import Totals
    from xland.training.data.batches import LabelledBatches


@xr.register_dataset_accessor("ai4land")
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
        from xland.downscaling.call import downscale

        return downscale(
            self._ds,
            model=model,
            static=static,
            prior=prior,
            years=years,
            region=region,
            chunks=chunks,
            outputs=outputs,
            direction=direction,
            device=device,
            flips=flips,
            totals=totals,
        )

    def describe(self) -> str:
        """Say what computing these maps would run: see :func:`xland.downscaling.graph.describe`."""
        from xland.downscaling.graph import describe

        return describe(self._ds)

    def batches(self, *, target: xr.DataArray, static: xr.Dataset, **options: Any) -> LabelledBatches:
        """Give the batches of a training as xarray Datasets; see :func:`xland.training.data.batches.make_batches`."""
        from xland.training.data.batches import make_batches

        return make_batches(self._ds, target=target, static=static, **options)

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
        from xland.store.writing import write

        return write(
            self._ds,
            store,
            mode=mode,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
            chunks=chunks,
            shards=shards,
            encoding=encoding,
        )

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
        from xland.store.exporting import write_netcdf

        return write_netcdf(
            self._ds, path, mode=mode, overwrite=overwrite, progress=progress, chunks=chunks, encoding=encoding
        )

    def publish(
        self,
        catalog: str | Path,
        *,
        name: str,
        store: str | Path,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Path:
        """Enter a finished store of these maps in an intake catalog; see :func:`xland.catalog.publish`.

        A store that says that it holds other maps (``xland_fingerprint``) is refused.
        """
        from xland.catalog import publish

        return publish(catalog, name=name, store=store, description=description, metadata=metadata, expected=self._ds)

    def evaluate(self, observed: xr.DataArray | xr.Dataset, **options: Any) -> Evaluation:
        """Score the maps against observed ones; see :func:`xland.scores.evaluation.evaluate`."""
        return _land_use(self._ds).ai4land.evaluate(observed, **options)

    def plot(self, **options: Any) -> Axes:
        """Draw ``land_use``; see :func:`xland.plot.land_use_map`."""
        return _land_use(self._ds).ai4land.plot(**options)

    def aggregate(self, factor: int) -> xr.Dataset:
        """Area share of each class in coarse cells, lazily; see :func:`xland.totals.aggregation.aggregate_classes`."""
        return _land_use(self._ds).ai4land.aggregate(factor)


@xr.register_dataarray_accessor("ai4land")
class DataArrayAccessor:
    """What makes sense on a single map: plot, aggregate, evaluate."""

    def __init__(self, da: xr.DataArray) -> None:
        self._da = da

    def plot(self, **options: Any) -> Axes:
        """Draw class codes, or a probability, confidence or share, as a map; see :func:`xland.plot.draw`."""
        from xland.plot import draw

        return draw(self._da, **options)

    def aggregate(self, factor: int) -> xr.Dataset:
        """Area share of each class in coarse cells, lazily; see :func:`xland.totals.aggregation.aggregate_classes`."""
        from xland.totals.aggregation import aggregate_classes

        return aggregate_classes(self._da, factor)

    def evaluate(self, observed: xr.DataArray | xr.Dataset, **options: Any) -> Evaluation:
        """Score the map against an observed one; see :func:`xland.scores.evaluation.evaluate`."""
        from xland.scores.evaluation import evaluate

        return evaluate(self._da, observed, **options)


def _land_use(ds: xr.Dataset) -> xr.DataArray:
    if "land_use" not in ds:
        found = ", ".join(map(str, ds.data_vars)) or "no variables"
        raise VocabularyError(f"the Dataset has no variable 'land_use' ({found}): downscale it first")
    return ds["land_use"]
