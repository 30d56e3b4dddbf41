"""The ``xland`` command: the same names, arguments and defaults as in Python."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from xland.errors import ClusterError, StoreError, TrainingStoppedError, XlandError
from xland.models import DEFAULT_MODEL
from xland.outputs import OUTPUTS
from xland.sources.files import open_coarse, open_map

if TYPE_CHECKING:
    import xarray as xr

_DESCRIPTION = """\
High-resolution land-use maps from coarse scenarios.

A first run:
  xland demo                                  everything once, on real data
  xland check states.nc                       what is in a LUH2-like file
  xland downscale states.nc land_use.zarr --bbox 0 35 30 55
  xland evaluate land_use.zarr                scores against the MODIS map of 2019
  xland publish land_use.zarr --catalog catalog.yaml --name land-use-2015
"""

_LEARNED_NOTE = (
    "All cells were scored. A model that was trained on the observed map learned from most of them, so these scores "
    "flatter it; with --held-out only cells that the shipped models never saw a target of are scored."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 after an error that was answered in one line, or 143 after SIGTERM."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except TrainingStoppedError as stopped:
        print(_on_the_command_line(str(stopped), options.usage()), file=sys.stderr)
        return stopped.status
    except (XlandError, OSError) as error:
        print(f"{type(error).__name__}: {_on_the_command_line(str(error), options.usage())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; an unfinished store can be completed with --resume", file=sys.stderr)
        return 130


def _on_the_command_line(message: str, usage: str) -> str:
    """Turn the arguments that a message names as in Python, ``direction='backward'``, into options of a command."""
    known = {*re.findall(r"--([a-z-]+)", usage), "overwrite", "resume"}

    def option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if name not in known:
            return found[0]
        values = re.findall(r"[^\[\]'\", ]+", value)
        return " ".join([f"--{name}"] if values in ([], ["True"]) else [f"--{name} {each}" for each in values])

    return re.sub(r"(?<![\w(./?&])([a-z_]+)=(True|'[^']*'|\[[^\]]*\]|\d[\d.]*\d|\d|(?![\w{(=]))", option, message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "xland", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_demo, _check, _downscale, _evaluate, _publish, _verify, _prepare, _train, _calibrate, _join, _models):
        add(commands)
    return parser


def _command(commands: Any, name: str, run: Any, text: str, more: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}".strip()
    )
    parser.set_defaults(run=run, usage=parser.format_usage)
    return parser


def _demo(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.demo import demo

        demo(options.output, forcing=options.forcing, region=options.region)

    parser = _command(
        commands,
        "demo",
        run,
        "downscale, write, publish, reopen and score real data",
        "Leaves land_use.zarr, catalog.yaml, map.png, report.html and scores.json in the output folder.",
    )
    parser.add_argument("--output", default="demo-output", help="folder for the results (%(default)s)")
    parser.add_argument("--forcing", help="a LUH2 file for the model luh2-0p05, in place of the class shares of MODIS")
    _add_region(parser)


def _check(commands: Any) -> None:
    def run(options: argparse.Namespace) -> int:
        import xland.accessor  # noqa: F401 - registers .ai4land

        table = open_coarse(options.forcing).ai4land.check()
        print(table)
        return 0 if table.ok else 1

    parser = _command(
        commands,
        "check",
        run,
        "list what is in a coarse land-use file, and every fault",
        "Ends with status 1 if there is a fault that downscale would refuse.",
    )
    parser.add_argument("forcing", help="NetCDF file or Zarr store, as released")


def _downscale(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.downscaling.call import downscale
        from xland.downscaling.conserving import read_crosswalk
        from xland.store.exporting import write_netcdf
        from xland.store.writing import write

        if _dry_run(options):
            return
        fine = downscale(
            open_coarse(options.forcing),
            model=options.model,
            static=None if options.static is None else open_coarse(options.static),
            prior=None if options.prior is None else open_map(options.prior),
            years=options.years,
            region=options.region,
            chunks=options.chunks,
            outputs=options.outputs,
            direction=options.direction,
            device=options.device,
            flips=options.flips,
            conserve=options.conserve,
            crosswalk=None if options.crosswalk is None else read_crosswalk(options.crosswalk),
            tolerance=options.tolerance,
        )
        if PurePath(options.store).suffix.lower() in (".nc", ".nc4"):
            if options.resume or options.cluster:
                raise StoreError("a NetCDF file is written at once and here: leave --resume and --cluster out")
            write_netcdf(fine, options.store, overwrite=options.overwrite)
        else:
            with _workers(options):
                write(fine, options.store, overwrite=options.overwrite, resume=options.resume)
        print(f"wrote {options.store}")

    parser = _command(
        commands,
        "downscale",
        run,
        "turn coarse fractions into fine maps on disk",
        "Streams to a Zarr store, or one NetCDF file if its name ends with .nc or .nc4; what was stopped resumes.",
    )
    parser.add_argument("forcing", help="NetCDF file or Zarr store of coarse fractions")
    parser.add_argument(
        "store", help="Zarr store to write, a folder or an fsspec URL such as s3://bucket/maps.zarr; or a .nc file"
    )
    parser.add_argument(
        "--model",
        action=_OneOrMore,
        default=DEFAULT_MODEL,
        help="shipped model or folder of one (%(default)s); several times for the mean of several",
    )
    parser.add_argument("--static", help="static predictors on the fine grid; else those xland provides")
    parser.add_argument(
        "--prior",
        help="map of the adjacent year, for models that read one, or of the year changes count from",
    )
    parser.add_argument("--years", type=int, nargs="+", help="calendar years; all by default")
    _add_region(parser)
    parser.add_argument("--chunks", type=int, help="fine cells along a block")
    parser.add_argument(
        "--outputs",
        nargs="+",
        default=["land_use"],
        choices=list(OUTPUTS),
        help="what to write (land_use)",
    )
    parser.add_argument(
        "--direction", default="forward", choices=["forward", "backward"], help="order of years with a prior"
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="where the network runs (a GPU if there is one)",
    )
    parser.add_argument("--flips", action="store_true", help="average four mirror images, at four times the cost")
    parser.add_argument(
        "--conserve",
        choices=["fractions", "map", "changes"],
        help="keep the forcing's totals in each coarse cell: in the probabilities, in the map, or its changes since "
        "the year of --prior",
    )
    parser.add_argument("--crosswalk", help="TOML file that says which states belong to which class")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="PIXELS",
        help="how far class areas may be from their totals with --conserve map: 0 (default, as near as can be) to 1",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a store that exists")
    parser.add_argument("--resume", action="store_true", help="finish a store that was left unfinished")
    _add_cluster(parser)


class _OneOrMore(argparse.Action):
    """Keep a single value as it is, and put several into a list."""

    given: tuple[Any, ...] = ()

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: str | None = None) -> None:
        self.given = (*self.given, values)
        setattr(namespace, self.dest, list(self.given) if len(self.given) > 1 else values)


def _evaluate(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.report.report import report
        from xland.sources.files import open_maps

        observed = observed_map(options.observed)
        maps = open_maps(options.map)
        learned = options.observed == "modis-2019" and not options.held_out
        found = report(
            maps,
            observed,
            forcing=None if options.forcing is None else open_coarse(options.forcing),
            start=None if options.start is None else open_map(options.start),
            factor=options.factor,
            year=options.year,
            within=held_out(observed) if options.held_out else None,
            cells="held-out cells of the split" if options.held_out else None,
            regions=regions(options.regions),
            title=f"{maps.attrs.get('title', PurePath(options.map).name)}: how good it is",
            notes=[_LEARNED_NOTE] if learned else [],
            provenance={str(key): str(value) for key, value in maps.attrs.items()},
        )
        print(found)
        if options.report is not None:
            print(f"wrote {found.to_html(options.report)}")
        if options.json is not None:
            print(f"wrote {found.to_json(options.json)}")

    parser = _command(
        commands,
        "evaluate",
        run,
        "score a map against an observed one",
        "Accuracy, IoU, precision, recall and F1 on all, land and mixed cells, by area and by pixels; with --report a "
        "page of maps, charts and tables, and with --forcing, --start and probabilities in the store what they allow.",
    )
    parser.add_argument("map", help="store or file with land_use")
    parser.add_argument(
        "--observed", default="modis-2019", help="store or file with the observed land_use, or %(default)s (default)"
    )
    parser.add_argument("--report", help="write a page to look at, one HTML file that needs no other")
    parser.add_argument("--json", help="write every number to this file, too")
    parser.add_argument("--forcing", help="coarse fractions the map was made from: for baselines and coarse agreement")
    parser.add_argument("--start", help="observed map of an earlier year: for scores of change")
    parser.add_argument("--year", type=int, help="which year to judge, of stores that hold several")
    parser.add_argument("--factor", type=int, default=5, help="fine cells along a coarse cell (%(default)s)")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="score only the cells of the split that the shipped models never saw a target of; else all cells, "
        "most of which they learned from",
    )
    parser.add_argument(
        "--regions",
        default="latitude",
        help="score apart by latitude (default), koppen (climate zones), continents, or the numbers in a map "
        "(store or file); none to leave it out",
    )


def _publish(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.catalog import publish

        path = publish(options.catalog, name=options.name, store=options.store, description=options.description)
        print(f"published {options.name} in {path}")

    parser = _command(
        commands, "publish", run, "enter a finished store in an intake catalog", "Replaces an entry of the same name."
    )
    parser.add_argument("store", help="Zarr store in the catalog's folder or below it")
    parser.add_argument("--catalog", default="catalog.yaml", help="YAML file (%(default)s)")
    parser.add_argument("--name", required=True, help="name of the entry")
    parser.add_argument("--description", help="one sentence for readers; else the title of the store")


def _verify(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.store.reading import verify

        print(f"{options.store} is whole; sha256 {verify(options.store)}")

    parser = _command(
        commands,
        "verify",
        run,
        "read every file of a store and name what is damaged",
        "Maps and training stores hold the SHA-256 of each of their files. Ends with status 1 if any is damaged.",
    )
    parser.add_argument("store", help="Zarr store that xland wrote, in a folder or behind a URL")


def _prepare(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.training.data.prepare import prepare

        source = prepare(
            options.configuration,
            options.store,
            **_training_data(options),
            tile=options.tile,
            resume=options.resume,
            overwrite=options.overwrite,
        )
        print(f"wrote {source.path}: {len(source.years)} maps of {source.shape[0]} x {source.shape[1]} cells")

    parser = _command(
        commands,
        "prepare",
        run,
        "write the store that a large training reads its patches from",
        "Forcing, maps and static predictors in one Zarr store, laid out for patches; a run that was stopped resumes.",
    )
    parser.add_argument("configuration", help="shipped configuration or TOML file")
    parser.add_argument("store", help="folder to write")
    _add_training_data(parser)
    parser.add_argument("--tile", type=int, help="fine cells along a chunk; by default the patch of the configuration")
    parser.add_argument("--resume", action="store_true", help="finish a store that was left unfinished")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that exists")


def _train(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.training.ranks.launching import training_script
        from xland.training.run import train

        if _dry_run(options, training_script):
            return
        checkpoint = train(
            options.configuration,
            options.output,
            **_training_data(options),
            store=options.store,
            device=options.device,
            cluster=options.cluster,
            workers=options.workers,
            profile=options.profile,
            restarts=options.restarts,
            resume=options.resume,
        )
        if os.environ.get("RANK", "0") == "0":
            print(f"wrote {checkpoint.folder}: validation {checkpoint.card['validation']}")

    parser = _command(
        commands,
        "train",
        run,
        "train a model from a configuration",
        "The shipped models were made by `xland train luh2-0p05` and `xland train fractions-0p05`. "
        "On several GPUs: with --cluster, or under torchrun.",
    )
    parser.add_argument("configuration", help="shipped configuration or TOML file")
    parser.add_argument("output", help="folder for model, log and state")
    _add_training_data(parser)
    parser.add_argument("--store", help="training store of xland prepare, in place of all of these")
    parser.add_argument("--resume", action="store_true", help="go on from the last state")
    parser.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="where the network learns (a GPU if there is one)",
    )
    _add_cluster(parser)
    parser.add_argument(
        "--restarts",
        type=int,
        default=3,
        help="how often a training on a cluster starts again because a worker was lost (%(default)s)",
    )


def _calibrate(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.training.learn.calibrating import calibrate

        checkpoint = calibrate(options.model, **_training_data(options), store=options.store, device=options.device)
        fitted = checkpoint.card["calibration"]
        error = fitted["validation_calibration_error"]
        print(
            f"wrote the card of {checkpoint.folder}: {fitted['method']} scaling, calibration error on validation cells "
            f"{error['before']} before and {error['after']} after"
        )

    parser = _command(
        commands,
        "calibrate",
        run,
        "fit what a model says of its own certainty",
        "Calibration, class offsets of the decision and distance to the training inputs go into the model's card; "
        "the weights stay. Needs the data of the training, at whose end the same is done.",
    )
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="shipped model or folder of one (%(default)s)")
    _add_training_data(parser)
    parser.add_argument("--store", help="training store of xland prepare, in place of all of these")
    parser.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="where the network runs (a GPU if there is one)",
    )


def _join(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from xland.models.joining import join

        checkpoint = join(options.models, options.folder, name=options.name)
        card = checkpoint.card
        print(
            f"wrote {checkpoint.folder}: {card['architecture']['members']} networks, {card['parameters']:,} parameters"
        )
        print(f"run xland calibrate {checkpoint.folder}, which makes its probabilities fit")

    parser = _command(
        commands,
        "join",
        run,
        "put several trained models together into one",
        "It answers with the mean of their scores, and costs as many times the network. Calibrate it afterwards.",
    )
    parser.add_argument("folder", help="folder of the new model")
    parser.add_argument("models", nargs="+", help="two models or more, of the same inputs and the same architecture")
    parser.add_argument("--name", help="name of the new model; by default that of the first")


def _add_training_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--forcing", help="coarse fractions, in place of the configuration's")
    parser.add_argument("--target", help="maps to learn from (land_use), in place of the configuration's")
    parser.add_argument("--static", help="static predictors, in place of the configuration's")
    parser.add_argument("--prior", help="maps of the adjacent years; by default the target's")


def _training_data(options: argparse.Namespace) -> dict[str, Any]:
    openers = {"target": open_map, "static": open_coarse, "prior": open_map}
    given = {name: getattr(options, name) for name in openers}
    opened = {name: None if path is None else openers[name](path) for name, path in given.items()}
    return {"forcing": options.forcing, **opened}


def _models(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        import json

        from rich.console import Console
        from rich.table import Table

        from xland.models import find_model, list_models

        if options.name is not None:
            print(json.dumps(dict(find_model(options.name).card), indent=2, ensure_ascii=False))
            return
        table = Table("model", "from", "to", "title")
        for name in list_models():
            checkpoint = find_model(name)
            inputs = checkpoint.inputs
            table.add_row(
                name,
                f"{inputs.resolution * inputs.factor:g}°",
                f"{inputs.resolution:g}°",
                str(checkpoint.card.get("title", "")),
            )
        Console().print(table)

    parser = _command(commands, "models", run, "list the shipped models, or print the card of one")
    parser.add_argument("name", nargs="?", help="model whose card to print")


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--cluster", help="run on workers: local, cuda, slurm or tcp://host:port of a scheduler; threads by default"
    )
    group.add_argument("--workers", type=int, help="worker processes; by default one a core or GPU, or one SLURM job's")
    group.add_argument("--profile", help="what a SLURM job asks for: a shipped profile or a TOML file")
    group.add_argument("--dry-run", action="store_true", help="print the SLURM job script, and submit nothing")


def _dry_run(options: argparse.Namespace, script: Callable[[str | None], str] | None = None) -> bool:
    """Check that the options of the cluster fit each other; print the job script if that is all that is wanted."""
    from xland.clusters import job_script

    given = [f"--{name}" for name in ("workers", "profile") if getattr(options, name) is not None]
    if given and options.cluster is None:
        raise ClusterError(f"{', '.join(given)} without --cluster: say which, or leave them out to run on threads")
    if options.dry_run and options.cluster != "slurm":
        raise ClusterError("--dry-run prints the job script of --cluster slurm")
    if options.dry_run:
        print((script or job_script)(options.profile), end="")
    return bool(options.dry_run)


def _workers(options: argparse.Namespace) -> AbstractContextManager[object]:
    """Open the cluster that is asked for; begin with the first worker that comes."""
    from xland.clusters import open_cluster

    if options.cluster is None:
        return nullcontext()
    return open_cluster(options.cluster, workers=options.workers, minimum=1, profile=options.profile)


def _add_region(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--region",
        "--bbox",
        nargs=4,
        type=float,
        metavar=("WEST", "SOUTH", "EAST", "NORTH"),
        help="region in degrees; everything by default",
    )


def held_out(observed: xr.DataArray) -> xr.DataArray:
    """Cells that the split of the shipped models holds out, on the grid of a map."""
    from xland.geo.grid import Grid
    from xland.geo.orientation import orient
    from xland.geo.split import Part, divide

    canonical, _ = orient(observed, what="observed map")
    template = canonical.isel(time=0, drop=True) if "time" in canonical.dims else canonical
    grid = Grid.from_centres(template["lat"].values, template["lon"].values)
    return template.copy(data=divide(grid) == Part.TEST)


def regions(name: str) -> str | xr.Dataset | None:
    """Return what ``--regions`` means: a kind that xland knows, none, or the numbers in a map."""
    from xland.scores.regions import KINDS

    if name == "none":
        return None
    return name if name in KINDS else open_coarse(name)


def observed_map(name: str) -> xr.DataArray:
    """Open the observed map: ``modis-2019``, or a path."""
    if name == "modis-2019":
        from xland.datasets import land_use_modis

        return land_use_modis()
    return open_map(name)


if __name__ == "__main__":
    sys.exit(main())
