"""All steps once, on real data: coarse field, fine map, store, catalog, scores, report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

import xland.accessor  # noqa: F401 - registers .ai4land
from xland import datasets
from xland.catalog import open_entry
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

_FRACTIONS_NOTE = (
    "The coarse input is made from the observed map itself: the share of each class in cells of 0.25 degree, "
    "from the MODIS map of 2019. The scores show how well the model places known shares within a cell, not how well "
    "it downscales a scenario."
)
_LUH2_NOTE = (
    "The coarse input is LUH2 of 2015, and the observed map is MODIS of 2019. They define land use differently: "
    "LUH2 has no bare ground, and a satellite cannot see grazing, so grassland is counted as pasture."
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
    region: tuple[float, float, float, float] | None = None,
) -> Results:
    """Downscale a real coarse field, publish the map, and score it beside simple baselines.

    Parameters
    ----------
    output : path
        Folder for the results. Those of an earlier demo are replaced.
    forcing : path, optional
        A LUH2 file, for the model ``luh2-0p05``. By default the input is the class shares of the MODIS map on 0.25
        degree, for the model ``fractions-0p05``.
    region : (west, south, east, north), optional
        Degrees; the whole globe by default.

    Returns
    -------
    Results
    """
    from rich.console import Console

    console, folder = Console(), local_path(output, what="the folder of the results")
    make_folder(folder, StoreError)
    results = Results(*(folder / n for n in ("land_use.zarr", "catalog.yaml", "map.png", "report.html", "scores.json")))
    model = find_model(FRACTIONS_MODEL if forcing is None else LUH2_MODEL)

    console.rule("1. coarse land use, as it comes")
    datasets.fetch_all()
    coarse = datasets.class_fractions() if forcing is None else open_coarse(forcing)
    console.print(str(coarse.ai4land.check()))

    console.rule(f"2. downscale with {model.name}, write, publish")
    fine = coarse.ai4land.downscale(model=model, region=region, outputs=("land_use", "confidence"))
    fine.ai4land.to_zarr(results.store, overwrite=True)
    name = f"land-use-{years(fine)[0]}"
    fine.ai4land.publish(results.catalog, name=name, store=results.store, description=f"Demo of xland: {model.name}")

    console.rule("3. reopen from the catalog, score, draw")
    published = open_entry(results.catalog, name)
    observed = datasets.land_use_modis()
    mask = held_out(observed, int(model.card["split"]["seed"]))
    mask = mask.sel(lat=published["lat"], lon=published["lon"], method="nearest", tolerance=1e-4)
    has_cells = bool(mask.any())
    judged = report(
        published,
        observed,
        model="model",
        forcing=coarse,
        match_years=False,
        within=mask if has_cells else None,
        cells="held-out cells of the split" if has_cells else "all cells: the region has no held-out cell",
        regions="koppen",
        title=f"Land use on {model.inputs.resolution:g} degree: {model.name}",
        notes=[_FRACTIONS_NOTE if forcing is None else _LUH2_NOTE, *([_HELD_OUT_NOTE] if has_cells else [])],
        card=dict(model.card),
        provenance={key: str(value) for key, value in published.attrs.items()},
    )
    judged.to_json(results.scores)
    published["land_use"].ai4land.plot(title=None).figure.savefig(results.picture, dpi=150)
    judged.to_html(results.report)
    _summary(console, results, name)
    return results


def held_out(observed: xr.DataArray, seed: int = 0) -> xr.DataArray:
    """Return the test cells of a split (by default that of the shipped models) as a mask on the grid of a map."""
    canonical, _ = orient(observed, what="observed map")
    template = canonical.isel(time=0, drop=True) if "time" in canonical.dims else canonical
    grid = Grid.from_centres(template["lat"].values, template["lon"].values)
    return template.copy(data=divide(grid, seed) == Part.TEST)


def _summary(console: Any, results: Results, name: str) -> None:
    from rich.table import Table

    console.rule("done")
    scores = Table("map", "accuracy", "mean IoU", "accuracy, mixed", "mean IoU, mixed", title="on land, by area")
    for each, found in json.loads(results.scores.read_text())["scores"].items():
        numbers = [found[domain]["area"][score] for domain in ("land", "mixed") for score in ("accuracy", "miou")]
        scores.add_row(each, *("-" if number is None else f"{number:.3f}" for number in numbers))
    console.print(scores)
    console.print("mixed: cells in coarse cells with several land classes; the report has more scores")
    for what, path in (
        ("fine map (Zarr)", results.store),
        (f"catalog, entry {name}", results.catalog),
        ("picture", results.picture),
        ("report, for a browser", results.report),
        ("scores", results.scores),
    ):
        console.print(f"{what:30} {path}", soft_wrap=True)
