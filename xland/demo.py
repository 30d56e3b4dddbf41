"""All steps once, on real data: coarse field, fine map, store, catalog, scores, report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

import xland.accessor  # noqa: F401 - registers .ai4land
from xland import datasets
from xland.addresses import local_path
from xland.atomic import make_folder
from xland.catalog import open_entry
from xland.errors import StoreError
from xland.geo.grid import Grid
from xland.geo.split import Part, divide
from xland.models import find_model
from xland.report.report import report
from xland.sources.files import open_coarse
from xland.store.provenance import years

FRACTIONS_MODEL = "fractions-0p05"
LUH2_MODEL = "luh2-0p05"

_FRACTIONS_NOTE = (
    "The coarse input is made from the observed map itself: the share of each class in cells of 0.25 degree, "
    "from the MODIS map of 2019. The scores say how well the model places known shares within a cell. They say "
    "nothing about a scenario."
)
_LUH2_NOTE = (
    "The coarse input is LUH2 of 2015, and the observed map is MODIS of 2019. They define land use differently: "
    "LUH2 has no bare ground, and a satellite cannot see grazing, so grassland is counted as pasture."
)
_HELD_OUT_NOTE = "Only held-out cells are scored: whole cells of 12 x 6 degrees whose target the model never saw."


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
    held_out = _held_out(observed, published, int(model.card["split"]["seed"]))
    judged = report(
        published,
        observed,
        model="model",
        forcing=coarse,
        match_years=False,
        within=held_out,
        cells="all cells: the region has no held-out cell" if held_out is None else "held-out cells of the split",
        regions="koppen",
        title=f"Land use on {model.inputs.resolution:g} degree: {model.name}",
        notes=[_FRACTIONS_NOTE if forcing is None else _LUH2_NOTE, *([] if held_out is None else [_HELD_OUT_NOTE])],
        card=dict(model.card),
        provenance={key: str(value) for key, value in published.attrs.items()},
    )
    judged.to_json(results.scores)
    published["land_use"].ai4land.plot(title=None).figure.savefig(results.picture, dpi=150)
    judged.to_html(results.report)
    _summary(console, results, name)
    return results


def _held_out(observed: xr.DataArray, published: xr.Dataset, seed: int) -> xr.DataArray | None:
    """Return the cells from which no model learned, or None if the published map holds none of them."""
    part = divide(Grid.from_centres(observed["lat"].values, observed["lon"].values), seed)
    cells = observed.isel(time=0, drop=True).copy(data=part == Part.TEST)
    within = cells.sel(lat=published["lat"], lon=published["lon"], method="nearest", tolerance=1e-4)
    return within if bool(within.any()) else None


def _summary(console: Any, results: Results, name: str) -> None:
    from rich.table import Table

    console.rule("done")
    scores = Table("map", "accuracy", "mean IoU", "accuracy, mixed", "mean IoU, mixed", title="on land, by area")
    for each, found in json.loads(results.scores.read_text())["scores"].items():
        numbers = [found[domain]["area"][score] for domain in ("land", "mixed") for score in ("accuracy", "miou")]
        scores.add_row(each, *("-" if number is None else f"{number:.3f}" for number in numbers))
    console.print(scores)
    console.print("mixed: cells in coarse cells with several land classes; more scores are in the report")
    table = Table("what", "where", box=None)
    table.add_row("fine map (Zarr)", str(results.store))
    table.add_row(f"catalog, entry {name}", str(results.catalog))
    table.add_row("picture", str(results.picture))
    table.add_row("report: open it in a browser", str(results.report))
    table.add_row("scores", str(results.scores))
    console.print(table)
