"""The ``xland`` command: each command calls a plain function, whose signature and docstring give its options.

A command names its functions by :func:`_command`. Their keywords become options, and their docstrings the help. Values
stay text until the function is called (:func:`_call`), so that a wrong one is refused in the same words as in Python.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePath
from pkgutil import resolve_name
from time import perf_counter
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import xarray as xr
from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

from xland.arguments import OTHER_NAMES, guess, hints_of, plain, unknown
from xland.errors import (
    AllocationError,
    ClusterError,
    KeywordError,
    StoreError,
    TrainingStoppedError,
    XlandError,
)
from xland.paths import check_ending, check_file_place, local_path
from xland.sources.files import open_product
from xland.totals.crosswalk import LUH_CROSSWALK, Crosswalk, read_crosswalk
from xland.totals.modes import Totals
from xland.typed import MODIS, in_options, of_year, open_input, open_observed, open_typed_maps, years_of

_DESCRIPTION = """\
High-resolution land-use maps from coarse scenarios.

A first run:
  xland demo                                  everything once, on real data
  xland check states.nc                       what is in a LUH2-like file
  xland downscale states.nc land_use.zarr --region 0 35 30 55
  xland evaluate land_use.zarr --no-match-years
                                              scores against the MODIS map of 2019
  xland publish catalog.yaml --name land-use-2015 --store land_use.zarr
"""

_LEARNED_NOTE = (
    "All cells were scored. A model that was trained with the observed map has seen most of them, so these scores are "
    "too good. --held-out scores only the test cells of the shipped models."
)

_DOWNSCALE = "xland.downscaling.call:downscale"
_RECONSTRUCT = "xland.downscaling.reconstruct:reconstruct"
_CONVERT = "xland.forcing.conversion:to_luh2"
_WRITE = "xland.store.writing:write"
_WRITE_NETCDF = "xland.store.writing:write_netcdf"
_CLUSTER = "xland.clusters:open_cluster"
_EVALUATE = "xland.scores.evaluation:evaluate"
_REPORT = "xland.report.report:report"
_TRAIN = "xland.training.run:train"
_SERVE = "xland.coupling.service:serve"
_LEAF_AREA = "xland.biophysical.leaf_area:leaf_area_index"

_NAMES = {"ds": "forcing", "path": "store", "spec": "cluster"}  # parameters that have another name here
_ALIASES = {name: f"--{other}" for other, name in OTHER_NAMES.items()} | {"quiet": "-q", "verbose": "-v"}

logger = logging.getLogger("xland.cli")  # also where this module is run

Given = dict[str, Any]


@dataclass(frozen=True)
class _Option:
    """What can be typed for one name: its cyclopts type, default and help, and what the help calls its value."""

    kind: Any
    default: Any
    help: str
    metavar: str | None = None
    positional: bool = False

    @property
    def negated(self) -> bool:
        """Whether only ``--no-NAME`` can be typed."""
        return self.kind is bool and self.default is True

    def parameter(self, name: str) -> inspect.Parameter:
        kind, default, required = self.kind, self.default, self.default is inspect.Parameter.empty
        text = f"{self.help.rstrip('.')}."
        if self.negated:
            text = f"Do not {text[0].lower()}{text[1:]}"
        elif not required and default not in (None, (), False):
            text += f" Default: {' '.join(map(str, default)) if isinstance(default, tuple | list) else default}"
        more = Parameter(
            name=f"--no-{name.replace('_', '-')}" if self.negated else None,
            alias=_ALIASES.get(name),
            negative=(),
            consume_multiple=get_origin(kind) is list,
            help=text,
            metavar=self.metavar,
            show_default=False,
        )
        return inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if self.positional else inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[kind if required else kind | None, more],
            default=inspect.Parameter.empty if required else None,
        )


_COMMON = {
    "quiet": _Option(bool, False, "Print results and errors only"),
    "verbose": _Option(bool, False, "Log each step with its time, and show where an error was raised"),
}


@dataclass(frozen=True)
class _Command:
    run: Callable[[Given], int | None]
    functions: tuple[str, ...]
    without: tuple[str, ...]
    more: Mapping[str, _Option]

    @property
    def help(self) -> str:
        return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(self.run) or "")

    def options(self) -> dict[str, _Option]:
        """Positional arguments and options by name; what several functions have is the first one's."""
        found: dict[str, _Option] = {}
        for function in self.functions:
            found = found | {name: each for name, each in _options_of(function).items() if name not in found}
        wanted = {name: each for name, each in (found | dict(self.more)).items() if name not in self.without}
        wanted |= _COMMON
        return dict(
            sorted(
                wanted.items(),
                key=lambda item: (not item[1].positional, item[0] != "catalog", item[1].kind == list[str]),
            )
        )

    def function(self) -> Callable[..., int | None]:
        """Return the command as cyclopts wants it: a function with a signature and a docstring."""
        known = self.options()

        def call(*args: Any, **options: Any) -> int | None:
            typed = inspect.signature(call).bind(*args, **options).arguments
            own = {name: option.default for name, option in self.more.items() if option.default is not False}
            given = {name: value for name, value in (own | typed).items() if value is not None}
            given |= {name: False for name in given if known[name].negated}
            if "quiet" in given and "progress" in known:
                given["progress"] = False
            with _logging() if given.pop("verbose", False) else nullcontext():
                return self.run(given)

        parameters = [option.parameter(name) for name, option in known.items()]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        call.__doc__ = self.help
        return call


COMMANDS: dict[str, _Command] = {}
GROUPS = {"catalog": "Keep a catalog: what is in it, its versions, and whether its stores are as it says."}
"""First words of commands of two words."""


def _command(*functions: str, without: Sequence[str] = (), **more: _Option) -> Callable[[Any], Any]:
    """Make a command of what follows; it does not get the keywords `without`, `more` are its own options."""

    def register(run: Callable[[Given], int | None]) -> Callable[[Given], int | None]:
        COMMANDS[run.__name__.lstrip("_").replace("_", " ")] = _Command(run, functions, tuple(without), more)
        return run

    return register


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0; 1 after a named error; 2 after wrong arguments; 130 after an interruption; 143 after SIGTERM.
    """
    words, given = _command_first(list(sys.argv[1:] if arguments is None else arguments))
    name = " ".join(words) or (given[0] if given else "--help")
    options: set[str] = set()
    try:
        if name not in COMMANDS and name not in GROUPS and not name.startswith("-"):
            known = [each.partition(" ")[2] for each in COMMANDS if each.split()[:-1] == words[:-1]]
            raise KeywordError(unknown("command", words[-1], known if words[1:] else {**COMMANDS, **GROUPS}))
        if name in COMMANDS:
            options = set(COMMANDS[name].options())
        return int(application(name)([*words, *given]) or 0)
    except UnknownOptionError as error:
        known = sorted(f"--{each.replace('_', '-')}" for each in options)
        print(f"KeywordError: {unknown('option', error.token.keyword or error.token.value, known)}", file=sys.stderr)
        return 2
    except CycloptsError as error:
        print(f"xland {name}: {error}", file=sys.stderr)
        return 2
    except TrainingStoppedError as stopped:
        print(in_options(str(stopped), options), file=sys.stderr)
        return stopped.status
    except (XlandError, OSError) as error:
        if {"-v", "--verbose"} & set(given):
            traceback.print_exc()
        print(f"{type(error).__name__}: {in_options(str(error), options)}", file=sys.stderr)
        return 2 if isinstance(error, KeywordError) else 1
    except KeyboardInterrupt:
        print("interrupted; an unfinished store can be completed with --resume", file=sys.stderr)
        return 130


def _command_first(given: list[str]) -> tuple[list[str], list[str]]:
    """Return the command, of one word or two, and the rest; options may come before it."""
    words: list[str] = []
    while not words or " ".join(words) in GROUPS:
        place = next((place for place, each in enumerate(given) if not each.startswith("-")), None)
        if place is None:
            break
        words.append(given[place])
        given = [*given[:place], *given[place + 1 :]]
    return words, given


def application(name: str | None = None) -> App:
    """Return the cyclopts application; only the command that is called imports its functions."""
    app = App(
        "xland",
        help=_DESCRIPTION,
        version=version("xland"),
        help_format="plaintext",
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    groups = {each: App(each, help=help_) for each, help_ in GROUPS.items()}
    for group in groups.values():
        app.command(group)
    for each, command in COMMANDS.items():
        group_name, _, own = each.rpartition(" ")
        place = groups.get(group_name, app)
        if each == name:
            place.command(command.function(), name=own)
        else:
            place.command(App(own, help=command.help))
    return app


@_command("xland.demo:demo")
def _demo(given: Given) -> None:
    """Downscale, write, publish, reopen and score real data.

    Leaves land_use.zarr, catalog.yaml, map.png, report.html and scores.json in the output folder.
    """
    with redirect_stdout(io.StringIO()) if "quiet" in given else nullcontext():
        _call("xland.demo:demo", given)


@_command("xland.forcing.check:check")
def _check(given: Given) -> int:
    """List what is in a coarse land-use file, and every fault.

    Ends with status 1 if there is a fault that downscale would refuse.
    """
    table = _call("xland.forcing.check:check", given)
    print(table)
    return 0 if table.ok else 1


@_command(
    _CONVERT,
    _WRITE_NETCDF,
    without=["mode", "chunks", "encoding"],
    mapping=_Option(str, None, "Which states each variable becomes: a TOML file", "FILE"),
)
def _convert(given: Given) -> None:
    """Bring a scenario with other names or cells to states of LUH2.

    Writes a NetCDF file for downscale. The reference is a file with LUH2 states, or luh2-2015 for those of xland.
    """
    from xland.forcing.conversion import read_mapping

    own: Given = {"mapping": read_mapping(given["mapping"]) if "mapping" in given else None}
    if given.get("reference") == "luh2-2015":
        own["reference"] = resolve_name("xland.datasets:luh2_2015")()
    _call(_WRITE_NETCDF, given, ds=_call(_CONVERT, given, **own))
    _tell(given, f"wrote {given['store']}")


_YEAR_OF = "Year of the {}, of those that its file has; a single map is taken for that of this year"
_TOTALS = {
    "crosswalk": _Option(str, None, "With --totals, which states belong to which class: a TOML file", "FILE"),
    "tolerance": _Option(
        str, None, "With --totals map, how far class areas may be off, in fine pixels: 0 to 1", "NUMBER"
    ),
    "exchange": _Option(str, None, "With --totals map and a prior, how much changes are favoured: 1 or more", "NUMBER"),
}
_DRY_RUN = _Option(bool, False, "Print the SLURM job script, and submit nothing")


@_command(
    _DOWNSCALE,
    _WRITE,
    _CLUSTER,
    without=["minimum"],
    **_TOTALS,
    prior_year=_Option(int, None, _YEAR_OF.format("prior map"), "YEAR"),
    dry_run=_DRY_RUN,
)
def _downscale(given: Given) -> None:
    """Turn coarse fractions into fine maps on disk.

    Writes a Zarr store, or a NetCDF file if the name ends with .nc or .nc4. --resume continues a run that was stopped.
    --cluster computes on workers; otherwise threads do.
    """
    _write_maps(given, lambda: _call(_DOWNSCALE, given, totals=_totals(given), **_dated(given, "prior")))


@_command(_LEAF_AREA, _WRITE, _CLUSTER, without=["forcing", "minimum"], dry_run=_DRY_RUN)
def _lai(given: Given) -> None:
    """Turn class maps into the leaf area index of each month, on disk.

    MAPS is modis-2019, or a store or file with probability, shares of the classes or land_use. Writes a Zarr store, or
    a NetCDF file if the name ends with .nc or .nc4. --resume continues a run that was stopped.
    """

    def plan() -> xr.Dataset:
        maps = open_observed(MODIS) if given["maps"] == MODIS else open_product(given["maps"])
        return _call(_LEAF_AREA, given, maps=maps)  # type: ignore[no-any-return]

    _write_maps(given, plan)


@_command(_SERVE)
def _serve(given: Given) -> None:
    """Serve maps of a forcing over http: OPeNDAP, EDR, fields on other grids, health and metrics.

    Maps are computed when they are asked for, and kept. The service ends with Ctrl-C or SIGTERM. TLS and access are
    left to a proxy in front of it.
    """
    _tell(given, f"serving on http://{given.get('host', '127.0.0.1')}:{given.get('port', 8000)}")
    _call(_SERVE, given)


@_command(
    _RECONSTRUCT,
    _WRITE,
    _CLUSTER,
    without=["minimum", "forcing", "futures"],
    **_TOTALS,
    future=_Option(list[str], None, "Forcing after the record; several scenarios with their names", "NAME=FILE"),
    dry_run=_DRY_RUN,
)
def _reconstruct(given: Given) -> None:
    """Join history, observed maps and futures in one store.

    History is computed backward from the first observed year, futures forward from the last. --resume continues a run
    that was stopped. --totals none keeps no totals. `xland seams` then compares the parts.
    """

    def plan() -> xr.Dataset:
        own: Given = {}
        if "future" in given:
            named = [text.partition("=") for text in given["future"]]
            several = {name: open_input(path) for name, equals, path in named if equals}
            if len(several) != len(named) and len(named) > 1:
                raise KeywordError("several futures need different names: --future ssp245=a.nc ssp370=b.nc")
            own["futures"] = several or open_input(named[0][0])
        if given.get("totals", "changes") == "none":
            own["totals"] = None
        elif {"totals", "crosswalk", "tolerance", "exchange"} & given.keys():
            own["totals"] = _totals({"totals": "changes", **given})
        return _call(_RECONSTRUCT, given, **own)  # type: ignore[no-any-return]

    _write_maps(given, plan, formats=())


@_command(
    store=_Option(str, inspect.Parameter.empty, "Store that xland reconstruct wrote", positional=True),
    scenario=_Option(str, None, "Name of the scenario, where there are several", "NAME"),
    picture=_Option(str, None, "Draw the area of each class by year: a PNG file", "FILE"),
)
def _seams(given: Given) -> int:
    """Compare the change where the parts of a product meet with that within them.

    Ends with status 1 if more land changes at a seam than in any year of the parts that meet there.
    """
    from xland.downscaling.reconstruct import choose_scenario
    from xland.plot import class_series
    from xland.scores.seams import check_seams

    found = check_seams(choose_scenario(open_typed_maps(given["store"]), given.get("scenario")))
    print(found)
    if "picture" in given:
        class_series(found.areas, path=given["picture"])
        _tell(given, f"wrote {given['picture']}")
    return 0 if found.ok else 1


_SCORED = {
    "observed": _Option(str, MODIS, f"Store or file with the observed land_use, or {MODIS}", positional=True),
    "held_out": _Option(bool, False, "Score only the test cells of the shipped models"),
}


_JSON = _Option(str, None, "Write every number to this file")
_REPLACE_FILE = _Option(bool, False, "Replace files that exist")


@_command(_EVALUATE, without=["within"], **_SCORED, json=_JSON, overwrite=_REPLACE_FILE)
def _evaluate(given: Given) -> None:
    """Score a map against an observed one.

    Prints accuracy, IoU, precision, recall and F1 on all, land and mixed cells, by area and by pixels.
    """
    _check_files(given)
    found = _call(_EVALUATE, given, **_scored(given))
    print(found)
    _write_files(given, found)


@_command(
    _REPORT,
    without=["within", "max_pixels"],
    **_SCORED,
    html=_Option(str, None, "Write a page to look at: one HTML file that needs no other"),
    json=_JSON,
    overwrite=_REPLACE_FILE,
    start_year=_Option(int, None, _YEAR_OF.format("start map"), "YEAR"),
)
def _report(given: Given) -> None:
    """Score a map, and write a page of maps, charts and tables.

    --forcing, --start and probabilities in the store add sections.
    """
    from xland.scores.regions import KINDS

    _check_files(given)
    maps = open_typed_maps(given["predicted"])
    told: Given = {
        "title": f"{maps.attrs.get('title', PurePath(given['predicted']).name)}: how good it is",
        "provenance": {str(key): str(value) for key, value in maps.attrs.items()},
    }
    if given["observed"] == MODIS and not given.get("held_out"):
        told["notes"] = [_LEARNED_NOTE]
    told = {name: value for name, value in told.items() if name not in given}
    if "regions" in given and given["regions"] not in KINDS:
        told["regions"] = None if given["regions"] == "none" else _open_regions(given["regions"], KINDS)
    found = _call(_REPORT, given, **_scored(given), **told, **_dated(given, "start"))
    print(found)
    _write_files(given, found)


_CATALOG = _Option(str, inspect.Parameter.empty, "Catalog, a path or URL", "CATALOG", positional=True)
_LIST, _SHOW, _RENAME, _REMOVE = (
    f"xland.catalogs.catalog:Catalog.{name}" for name in ("list", "show", "rename", "remove")
)


@_command("xland.catalogs.publishing:publish", without=["expected", "overwrite", "progress"])
def _publish(given: Given) -> None:
    """Enter a finished store in an intake catalog.

    An entry of the same name becomes an earlier version.
    """
    _tell(given, f"published {given['name']} in {_call('xland.catalogs.publishing:publish', given)}")


COMMANDS["catalog publish"] = COMMANDS["publish"]


@_command(_LIST, catalog=_CATALOG)
def _catalog_list(given: Given) -> None:
    """List the entries of a catalog.

    With options, those of a year, a region, a scenario, a variable, a model or a sub-catalog.
    """
    print(_call(_LIST, given, self=_catalog(given)))


@_command(_SHOW, catalog=_CATALOG)
def _catalog_show(given: Given) -> None:
    """Print all that a catalog says of an entry."""
    print(_call(_SHOW, given, self=_catalog(given)).text, end="")


@_command(_RENAME, catalog=_CATALOG)
def _catalog_rename(given: Given) -> None:
    """Rename an entry with all its versions.

    Stores stay where they are.
    """
    _tell(given, f"renamed {given['name']} to {_call(_RENAME, given, self=_catalog(given)).name}")


@_command(_REMOVE, catalog=_CATALOG)
def _catalog_remove(given: Given) -> None:
    """Take an entry out of a catalog, with all its versions, or one version.

    Its stores stay unless --stores is given.
    """
    _tell(given, f"removed {', '.join(_call(_REMOVE, given, self=_catalog(given)))}")


@_command("xland.catalogs.checking:check", catalog=_CATALOG)
def _catalog_check(given: Given) -> int:
    """Compare a catalog with its stores.

    Ends with status 1 if a store is missing, was replaced or is damaged, or an entry is unsafe.
    """
    found = _call("xland.catalogs.checking:check", given, catalog=_catalog(given))
    print(found)
    return 0 if found.ok else 1


@_command(catalog=_CATALOG)
def _catalog_page(given: Given) -> None:
    """Write a page about a catalog: pictures, years, areas, licences, and how to open the entries.

    From then on, each publication writes it again.
    """
    _tell(given, f"wrote {_catalog(given).page()}")


@_command(catalog=_CATALOG)
def _catalog_stac(given: Given) -> None:
    """Write the STAC twin of a catalog, for clients that search by place and time.

    From then on, each publication keeps it in step.
    """
    _tell(given, f"wrote {_catalog(given).stac()}")


def _catalog(given: Given) -> Any:
    from xland.catalogs.catalog import Catalog

    return Catalog(given["catalog"])


_EXPORT = "xland.exports.export:export"


@_command(_EXPORT)
def _export(given: Given) -> None:
    """Write a store in a form that other programs read.

    GeoTIFF with colours and names of the classes, NetCDF for each year or decade, Zarr 2, or a pyramid for map viewers.
    `xland export land_use.zarr maps --form geotiff` writes a GeoTIFF a year to the folder maps.
    """
    written = _call(_EXPORT, given, maps=open_typed_maps(given["maps"]))
    _tell(given, "wrote " + (str(written[0]) if len(written) == 1 else f"{len(written)} files to {given['out']}"))


@_command("xland.store.reading:verify")
def _verify(given: Given) -> None:
    """Read every file of a store and name what is damaged.

    Maps and training stores contain the SHA-256 of each of their files. Ends with status 1 if any is damaged.
    """
    _tell(given, f"{given['store']} is whole; sha256 {_call('xland.store.reading:verify', given)}")


@_command("xland.training.data.prepare:prepare")
def _prepare(given: Given) -> None:
    """Write the store that a large training reads its patches from.

    Forcing, maps and static predictors in one Zarr store, with chunks for patches.
    """
    source = _call("xland.training.data.prepare:prepare", given)
    maps = "map" if len(source.years) == 1 else "maps"
    _tell(given, f"wrote {source.path}: {len(source.years)} {maps} of {source.shape[0]} x {source.shape[1]} cells")


@_command(_TRAIN, dry_run=_DRY_RUN)
def _train(given: Given) -> None:
    """Train a model from a configuration.

    The shipped models were made by `xland train luh2-0p05 model` and `xland train fractions-0p05 model`. On several
    GPUs: with --cluster, or under torchrun.
    """
    from xland.clusters import job_script
    from xland.training.ranks.launching import training_profile

    if _dry_run(given, lambda profile: job_script(training_profile(profile))):
        return
    checkpoint = _call(_TRAIN, given)
    if os.environ.get("RANK", "0") == "0":
        _tell(given, f"wrote {checkpoint.folder}: validation {checkpoint.card['validation']}")


@_command("xland.training.explained:explain")
def _config(given: Given) -> None:
    """Print a configuration to begin from, with a comment for each entry.

    `xland config luh2-0p05 > mine.toml`, change mine.toml, then `xland train mine.toml my-model`.
    """
    print(_call("xland.training.explained:explain", given), end="")


@_command("xland.training.learn.calibrating:calibrate")
def _calibrate(given: Given) -> None:
    """Fit the probabilities of a model to validation cells.

    Writes calibration, class offsets of the decision and the distance to the training inputs into the model's card. The
    weights do not change. It needs the data of the training, which does the same at its end.
    """
    checkpoint = _call("xland.training.learn.calibrating:calibrate", given)
    fitted = checkpoint.card["calibration"]
    error = fitted["validation_calibration_error"]
    _tell(
        given,
        f"wrote the card of {checkpoint.folder}: {fitted['method']} scaling, calibration error on validation cells "
        f"{error['before']} before and {error['after']} after",
    )


@_command("xland.models:join")
def _join(given: Given) -> None:
    """Join several trained models into one.

    It gives the mean of their results, and costs as much as all of them. Calibrate it afterwards.
    """
    checkpoint = _call("xland.models:join", given)
    card = checkpoint.card
    _tell(
        given,
        f"wrote {checkpoint.folder}: {card['architecture']['members']} networks, {card['parameters']:,} parameters",
    )
    _tell(given, f"run `xland calibrate {checkpoint.folder}` to calibrate its probabilities")


@_command(name=_Option(str, None, "Model whose card to print", positional=True))
def _models(given: Given) -> None:
    """List the shipped models, or print the card of one."""
    import json

    from xland.models import find_model, list_models

    if "name" in given:
        print(json.dumps(dict(find_model(given["name"]).card), indent=2, ensure_ascii=False))
        return
    for checkpoint in map(find_model, list_models()):
        fine, factor = checkpoint.inputs.resolution, checkpoint.inputs.factor
        print(f"{checkpoint.name}: {fine * factor:g} to {fine:g} degree. {checkpoint.card.get('title', '')}")


def _write_maps(given: Given, plan: Callable[[], xr.Dataset], formats: Sequence[str] = (".nc", ".nc4")) -> None:
    """Write maps to a Zarr store, or to NetCDF where the name has one of the `formats`; the place is checked first."""
    from xland.clusters import job_script
    from xland.store.writing import check_netcdf_place, check_store_place

    if _dry_run(given, job_script):
        return
    store = given["store"]
    asked = {name: given[name] for name in ("mode", "overwrite", "resume") if name in given}
    if PurePath(store).suffix.lower() in formats:
        if asked.pop("resume", False) or "cluster" in given:
            raise StoreError("a NetCDF file can be neither resumed nor written on a cluster: leave both options out")
        check_netcdf_place(store, **asked)
        _call(_WRITE_NETCDF, given, ds=plan())
    else:
        check_store_place(store, **asked)
        maps = plan()
        with nullcontext() if "cluster" not in given else _call(_CLUSTER, given, minimum=1):
            _call(_WRITE, given, ds=maps)
    _tell(given, f"wrote {store}")


def _tell(given: Given, text: str) -> None:
    if "quiet" not in given:
        print(text)


@contextmanager
def _logging() -> Iterator[None]:
    """Log what xland does, with the time."""
    handler, room = logging.StreamHandler(), logging.getLogger("xland")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    before = room.level
    room.addHandler(handler)
    room.setLevel(logging.INFO)
    try:
        yield
    finally:
        room.removeHandler(handler)
        room.setLevel(before)


def _check_files(given: Given) -> None:
    """Refuse files that cannot be written, or that are there and are not to be replaced, before anything is read."""
    for name, what, endings in (("html", "a web page", (".html", ".htm")), ("json", "a JSON file", (".json",))):
        if name in given:
            check_ending(given[name], what, *endings)
            check_file_place(path := local_path(given[name], what=what))
            if os.path.lexists(path) and not given.get("overwrite"):
                raise StoreError(f"{path} exists; pass overwrite=True to replace it")


def _write_files(given: Given, found: Any) -> None:
    for name in ("html", "json"):
        if name in given:
            _tell(given, f"wrote {getattr(found, f'to_{name}')(given[name])}")


def _dated(given: Given, name: str) -> Given:
    """Open a map of a year that was typed, ``--NAME-year``; empty if none was."""
    if f"{name}_year" not in given:
        return {}
    if name not in given:
        raise KeywordError(f"--{name}-year without --{name}: give the map, too")
    return {name: of_year(open_observed(given[name]), given[f"{name}_year"], f"{name} map")}


def _open_regions(path: str, kinds: Collection[str]) -> xr.Dataset:
    try:
        return open_input(path)
    except StoreError as error:
        raise StoreError(f"{error}; or one of {', '.join(kinds)}{guess(path, kinds)}") from error


def _totals(given: Given) -> Totals | None:
    """Return the coarse totals that are kept."""
    if "totals" not in given:
        alone = [f"--{name}" for name in ("crosswalk", "tolerance", "exchange") if name in given]
        if alone:
            raise AllocationError(f"{', '.join(alone)} without --totals: choose how totals are kept, or leave it out")
        return None
    crosswalk = read_crosswalk(given["crosswalk"]) if "crosswalk" in given else LUH_CROSSWALK
    numbers = (_read(given.get(name, default), (float,)) for name, default in (("tolerance", 0.0), ("exchange", 1.0)))
    return Totals(given["totals"], crosswalk, *numbers)


def _scored(given: Given) -> Given:
    """Open the maps to compare, and the cells to score."""
    observed = open_observed(given["observed"], described=True)
    found: Given = {"predicted": open_typed_maps(given["predicted"]), "observed": observed}
    if given.get("held_out"):
        from xland.demo import held_out

        found |= {"within": held_out(observed), "cells": "held-out cells of the split"}
    return found


def _dry_run(given: Given, script: Callable[[str | None], str]) -> bool:
    """Check that the options of the cluster fit each other; print the job script if only that is asked for."""
    alone = [f"--{name}" for name in ("workers", "profile", "threads", "memory", "timeout") if name in given]
    if alone and "cluster" not in given:
        raise ClusterError(f"{', '.join(alone)} without --cluster: choose one, or leave them out to run on threads")
    if "dry_run" not in given:
        return False
    if given.get("cluster") != "slurm":
        raise ClusterError("--dry-run prints the job script of --cluster slurm")
    print(script(given.get("profile")), end="")
    return True


def _call(function: str, given: Given, **values: Any) -> Any:
    """Call a plain function with what was typed, read as its annotations say, and with values of Python."""
    call, options = resolve_name(function), _options_of(function)
    hints = hints_of(call)
    for name in inspect.signature(call).parameters.keys() - values.keys():
        typed = _NAMES.get(name, name)
        if typed in given and typed in options:
            values[name] = _read(given[typed], _members(hints[name]))
    started = perf_counter()
    logger.info("%s of xland %s", call.__qualname__, version("xland"))
    result = call(**values)
    logger.info("%s took %.1f s", call.__qualname__, perf_counter() - started)
    return result


@cache
def _options_of(function: str) -> dict[str, _Option]:
    """Return the options that the signature and the docstring of a function give, by their names here."""
    from docstring_parser import numpydoc

    call = resolve_name(function)
    hints = hints_of(call)
    described = {
        name.strip(): each
        for each in numpydoc.parse(inspect.getdoc(call) or "").params
        for name in each.arg_name.split(",")
    }
    found = {}
    for name, parameter in inspect.signature(call).parameters.items():
        about = described.get(name)
        kind, metavar = _type_of(_members(hints.get(name)), str(getattr(about, "type_name", "")))
        if kind is None:
            continue
        text = " ".join(str(getattr(about, "description", None) or name).split())
        text = re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", lambda part: part[1] or part[2], text)
        spec = name == "spec"  # a cluster is an option of a command
        found[_NAMES.get(name, name)] = _Option(
            kind,
            None if spec else parameter.default,
            re.split(r"(?<=[^.].)\. (?=[A-Z])", text)[0],
            metavar,
            positional=parameter.kind is parameter.POSITIONAL_OR_KEYWORD and not spec,
        )
    return found


def _members(hint: Any) -> list[Any]:
    """Return the types that an annotation allows."""
    hint = plain(hint)[0]
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return [each for part in parts for each in _members(part)] or [hint]


def _type_of(members: Sequence[Any], described: str) -> tuple[Any, str]:
    """Return the cyclopts type of an option (None if no text can give it), and what the help calls its value."""
    choices = [str(value) for each in members if get_origin(each) is Literal for value in get_args(each)]
    pairs = [len(get_args(each)) for each in members if get_origin(each) is tuple and ... not in get_args(each)]
    sequences = [each for each in members if _is_sequence(each)]
    every = {*members, *(part for each in sequences for part in _members(get_args(each)[0]))}
    files = every & {Path, xr.Dataset, xr.DataArray, Crosswalk}
    paths = any(get_origin(each) is os.PathLike for each in members)
    kind: Any = None
    if bool in members:
        kind = bool
    elif sequences:
        kind = tuple[(str,) * pairs[0]] if pairs else list[str]  # type: ignore[misc]
    elif choices or files or paths or every & {int, float, str}:
        kind = str
    if choices:
        return kind, "|".join(choices)
    if kind is not str and described.startswith("("):
        return kind, " ".join(re.findall(r"\w+", described)).upper()
    return kind, "NUMBER" if every & {int, float} else "FILE" if files or paths else "TEXT"


def _read(typed: Any, members: Sequence[Any]) -> Any:
    """Return the value that text stands for; text that is not a number stays text, for the function to refuse."""
    if slice in members:
        return years_of(typed)
    if isinstance(typed, list | tuple):
        inner = [part for each in members for argument in get_args(each) for part in _members(argument)]
        items = [_read(each, inner) for each in typed]
        return items[0] if len(items) == 1 and (int in members or str in members) else type(typed)(items)
    for number in (int, float):
        if number in members and isinstance(typed, str):
            with suppress(ValueError):
                return number(typed)
    if not isinstance(typed, str) or str in members:
        return typed
    openers: dict[Any, Callable[[str], Any]] = {
        Crosswalk: read_crosswalk,
        xr.Dataset: open_input,
        xr.DataArray: open_observed,
    }
    return next((open_(typed) for kind, open_ in openers.items() if kind in members), typed)


def _is_sequence(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Sequence)


if __name__ == "__main__":
    sys.exit(main())
