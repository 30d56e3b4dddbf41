"""All steps once, on real data: coarse states, fine map, store, catalog, scores, report; then a second example."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

import xland.accessor  # noqa: F401 - registers .ai4land
from xland import datasets
from xland.catalogs.catalog import Catalog
from xland.errors import StoreError
from xland.geo.grid import Grid
from xland.geo.orientation import orient
from xland.geo.split import Part, divide
from xland.models import find_model
from xland.paths import local_path, make_folder
from xland.report.report import report
from xland.sources.files import open_coarse
from xland.store.provenance import years

FRACTIONS_MODEL = "fractions-0p05"
LUH2_MODEL = "luh2-0p05"
REGION = (-180.0, -60.0, 180.0, 90.0)
"""All land but Antarctica, where LUH2 has no data: west, south, east and north."""

HELD_OUT_CELL = (0.0, 36.0, 12.0, 42.0)
"""A held-out cell of the split, from Algeria to Sardinia."""

_LUH2_NOTE = (
    "The coarse input is LUH2, and the observed map is MODIS of 2019. They define land use differently: LUH2 has no "
    "bare ground, and a satellite cannot see grazing, so grassland is counted as pasture."
)
_FRACTIONS_NOTE = (
    "The coarse input is now made from the observed map itself: the share of each class in cells of 0.25 degree. The "
    "scores show how well the model places known shares within a cell, not how well it downscales a scenario."
)
_HELD_OUT_NOTE = "Only held-out cells are scored: cells of 12 x 6 degrees with which the model was not trained."


@dataclass(frozen=True)
class Results:
    """Files that the demo writes."""

    store: Path
    catalog: Path
    picture: Path
    report: Path
    scores: Path


def demo(
    output: str | Path = "demo-output",
    *,
    forcing: str | Path | None = None,
    region: tuple[float, float, float, float] = REGION,
    overwrite: bool = False,
) -> Results:
    """Downscale real coarse states with the default model, publish the map, and score it beside simple baselines.

    Parameters
    ----------
    output : path
        Folder for the results.
    forcing : path, optional
        Another LUH2 file of one year. By default that of 2015, which is part of xland.
    region : (west, south, east, north), optional
        Degrees; by default all land but Antarctica.
    overwrite : bool
        Replace results that are in the folder.

    Returns
    -------
    Results

    Raises
    ------
    StoreError
        If the folder has results, and overwrite is not set.
    """
    from rich.console import Console

    console, folder = Console(), local_path(output, what="the folder of the results")
    make_folder(folder, StoreError)
    results = Results(*(folder / n for n in ("land_use.zarr", "catalog.yaml", "map.png", "report.html", "scores.json")))
    there = [path.name for path in asdict(results).values() if path.exists()]
    if there and not overwrite:
        raise StoreError(
            f"{folder} holds {', '.join(there)}: pass overwrite=True to replace them, or choose another folder"
        )
    model = find_model(LUH2_MODEL)

    console.rule("1. coarse land use, as it comes")
    datasets.fetch_all()
    coarse = datasets.luh2_2015() if forcing is None else open_coarse(forcing)
    console.print(str(coarse.ai4land.check()))

    console.rule(f"2. downscale with {model.name}, write, publish")
    fine = coarse.ai4land.downscale(model=model, region=region, outputs=("land_use", "confidence"))
    fine.ai4land.to_zarr(results.store, overwrite=True)
    name = f"land-use-{years(fine)[0]}"
    catalog, description = Catalog(results.catalog), f"Demo of xland: {model.name}"
    catalog.publish(name=name, store=results.store, description=description, expected=fine)

    console.rule("3. reopen from the catalog, score, draw")
    published = catalog.open(name)
    observed = datasets.land_use_modis()
    within = _scored_cells(observed, published)
    judged = report(
        published,
        observed,
        model="model",
        forcing=coarse,
        match_years=False,
        within=within,
        cells="all cells: the region has no held-out cell" if within is None else "held-out cells of the split",
        regions="koppen",
        title=f"Land use on {model.inputs.resolution:g} degree: {model.name}",
        notes=[_LUH2_NOTE, *([] if within is None else [_HELD_OUT_NOTE])],
        card=dict(model.card),
        provenance={key: str(value) for key, value in published.attrs.items()},
    )
    judged.to_json(results.scores)
    published["land_use"].ai4land.plot(title=None).figure.savefig(results.picture, dpi=150)
    judged.to_html(results.report)
    catalog.publish(name=name, store=results.store, description=description, report=results.report)
    catalog.stac()
    catalog.page()
    _print_scores(console, judged.scores.to_dict()["scores"])

    console.rule(f"4. a second example: {FRACTIONS_MODEL}")
    console.print(_FRACTIONS_NOTE)
    shares = datasets.class_fractions()
    placed = shares.ai4land.downscale(model=FRACTIONS_MODEL, region=HELD_OUT_CELL)
    second = report(placed, observed, model="model", forcing=shares, within=_scored_cells(observed, placed))
    _print_scores(console, second.scores.to_dict()["scores"])

    console.rule("done")
    for what, path in (
        ("fine map (Zarr)", results.store),
        (f"catalog, entry {name}", results.catalog),
        ("page of the catalog", catalog.page_path),
        ("picture", results.picture),
        ("report, for a browser", results.report),
        ("scores", results.scores),
    ):
        console.print(f"{what:30} {path}", soft_wrap=True)
    console.print("\nGo on with:", *_next_lines(results.store), sep="\n  ", soft_wrap=True, markup=False)
    return results


def held_out(observed: xr.DataArray, seed: int = 0) -> xr.DataArray:
    """Return the test cells of a split (by default that of the shipped models) as a mask on the grid of a map."""
    canonical, _ = orient(observed, what="observed map")
    template = canonical.isel(time=0, drop=True) if "time" in canonical.dims else canonical
    grid = Grid.from_centres(template["lat"].values, template["lon"].values)
    return template.copy(data=divide(grid, seed) == Part.TEST)


def _scored_cells(observed: xr.DataArray, maps: xr.Dataset) -> xr.DataArray | None:
    """Return the held-out cells as a mask on the grid of maps; None, for all cells, if there are none."""
    mask = held_out(observed).sel(lat=maps["lat"], lon=maps["lon"], method="nearest", tolerance=1e-4)
    return mask if mask.any() else None


def _print_scores(console: Any, scores: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("map", "accuracy", "mean IoU", "accuracy, mixed", "mean IoU, mixed", title="on land, by area")
    for each, found in scores.items():
        numbers = [found[domain]["area"][score] for domain in ("land", "mixed") for score in ("accuracy", "miou")]
        table.add_row(each, *("-" if number is None else f"{number:.3f}" for number in numbers))
    console.print(table)
    console.print("mixed: cells in coarse cells with several land classes")


def _next_lines(store: Path) -> list[str]:
    """Return two commands to go on with, the first of which makes the next one known if it is not."""
    activate = Path(sys.prefix) / "bin" / "activate"
    known = shutil.which("xland") is not None or not activate.exists()
    line = f"xland evaluate {store} --no-match-years --held-out"
    return [*([] if known else [f"source {os.path.relpath(activate)}"]), line, "xland --help"][:2]
