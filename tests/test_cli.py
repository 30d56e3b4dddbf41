"""The command line: same names and defaults as in Python, errors by name, nothing lost."""

from __future__ import annotations

import functools
import inspect
import json
import re
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from tests.strategies import canonical_states
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.catalogs import publish
from xland.cli import COMMANDS, main
from xland.clusters import open_cluster
from xland.downscaling.call import downscale
from xland.downscaling.reconstruct import reconstruct
from xland.errors import TrainingStoppedError, XlandError
from xland.forcing.check import check
from xland.forcing.conversion import to_luh2
from xland.forcing.read import read_forcing
from xland.geo.grid import Grid
from xland.report.report import report
from xland.scores.evaluation import evaluate
from xland.sources.files import open_coarse, open_map
from xland.store.writing import write, write_netcdf
from xland.totals.crosswalk import Crosswalk
from xland.totals.modes import Totals
from xland.training.data.prepare import prepare
from xland.training.learn.calibrating import calibrate
from xland.training.run import train
from xland.typed import in_options, of_year
from xland.vocabulary import STATE_CLASSES


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    coarse, static, maps = tiny_world((2000, 2001))
    for name, each in (("states", coarse), ("static", static), ("maps", maps), ("percent", coarse * 100)):
        each.to_netcdf(folder / f"{name}.nc")
    tiny_checkpoint(folder / "model", tiny_inputs())
    (folder / "text.nc").write_text("not a file of that kind")
    (folder / "crosswalk.toml").write_text('urban = "urban"')
    return folder


@pytest.fixture
def run(files, capsys, monkeypatch):
    """Return a function that runs a command in the folder of the files: status, output, errors."""
    monkeypatch.chdir(files)

    def call(*arguments):
        capsys.readouterr()
        status = main([str(each) for each in arguments])
        return status, *capsys.readouterr()

    return call


DOWNSCALE = ("--model", "model", "--static", "static.nc", "--years", 2000)


@pytest.fixture(scope="module")
def store(files):
    options = {"--model": files / "model", "--static": files / "static.nc", "--years": 2000}
    arguments = [files / "states.nc", files / "land_use.zarr", *(part for option in options.items() for part in option)]
    assert main(["downscale", *map(str, arguments)]) == 0
    return files / "land_use.zarr"


@pytest.mark.parametrize(
    ("command", "functions", "without"),
    [
        ("train", [train], ["generator", "client", "report"]),
        ("downscale", [downscale, write, open_cluster], ["minimum"]),
        ("evaluate", [evaluate], ["within"]),
        ("report", [report], ["within", "baselines", "card", "provenance", "max_pixels"]),
        ("publish", [publish], ["metadata", "expected", "overwrite", "progress"]),
        ("prepare", [prepare], []),
        ("calibrate", [calibrate], []),
        ("check", [check], []),
        ("convert", [to_luh2, write_netcdf], []),
        ("reconstruct", [reconstruct, write, open_cluster], ["futures", "minimum"]),
    ],
)
def test_a_command_has_the_options_and_defaults_of_its_functions(command, functions, without):
    options = COMMANDS[command].options()
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            option = options.pop({"ds": "forcing", "path": "store", "spec": "cluster"}.get(name, name), None)
            assert (option is None) == (name in without) or function is not functions[0], name
            if option is not None and name not in ("spec", "observed"):
                assert option.default == parameter.default, name
                assert option.help, name
    own = {
        "held_out",
        "html",
        "json",
        "dry_run",
        "crosswalk",
        "tolerance",
        "exchange",
        "overwrite",
        "prior_year",
        "start_year",
        "mapping",
        "future",
    }
    assert set(options) <= own | {"quiet", "verbose"}


def test_every_command_explains_itself(run):
    for command in COMMANDS:
        status, shown, _ = run(*command.split(), "--help")
        assert status == 0
        assert len(shown) > 150


def test_importing_xland_imports_no_room_and_no_heavy_package_and_help_needs_no_torch():
    code = """if True:
        import sys, xland
        heavy = {"torch", "matplotlib", "rioxarray", "intake", "distributed", "sklearn", "scipy"}
        print(sorted(name for name in sys.modules if name.startswith("xland.") or name in heavy))
        from xland.cli import main
        main(["--help"])
        main(["downscale", "--help"])
        print("torch" in sys.modules)"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.startswith("['xland.accessor', 'xland.arguments', 'xland.errors']\n")
    assert shown.endswith("False\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("downscale", "a.nc", "b.zarr", "--statc", "x"),
            2,
            "unknown option '--statc': did you mean '--static'? Known",
        ),
        (("dwonscale", "a.nc"), 2, "unknown command 'dwonscale': did you mean 'downscale'? Known are demo, "),
        (("check", "nothing.nc"), 1, "does not exist"),
        (("check", "text.nc"), 1, "StoreError: text.nc"),
        (("evaluate", "nothing.zarr"), 1, "does not exist"),
        (("evaluate", "states.nc", "maps.nc"), 1, "no variable 'land_use'"),
        (("train", "nonesuch", "out"), 1, "there is no configuration"),
        (("report", "maps.nc", "maps.nc", "--factor", 4, "--regions", "nations"), 1, "nations does not exist"),
        (
            ("downscale", "states.nc", "a.zarr", "--totals", "map", "--crosswalk", "crosswalk.toml"),
            1,
            "not a crosswalk",
        ),
        (("downscale", "states.nc", "a.zarr", "--tolerance", 1), 1, "--tolerance without --totals"),
        (("downscale", "states.nc", "a.zarr", "--exchange", 2), 1, "--exchange without --totals"),
    ],
)
def test_errors_are_one_line_with_a_name(run, arguments, status, message):
    found, _, error = run(*arguments)
    assert found == status
    for part in message.split(": "):
        assert part in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster", "laptop"], "unknown cluster 'laptop'"),
        (["--cluster", "local", "--dry-run"], "--dry-run prints the job script of --cluster slurm"),
        (["--cluster", "slurm"], "SLURM jobs need a profile: one of marenostrum5-acc"),
        (["--workers", 2], "--workers without --cluster"),
        (["--cluster", "tcp://127.0.0.1:9"], "no dask scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_one_line(run, options, message, monkeypatch):
    monkeypatch.setattr("xland.clusters.opening.ANSWER", 0.5)
    status, _, error = run("downscale", "states.nc", "out.zarr", *DOWNSCALE, *options)
    assert status == 1
    assert error.startswith("ClusterError")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outputs": ["land_us"]}, "unknown outputs 'land_us': did you mean 'land_use'? Known are land_use, "),
        (
            {"direction": "forwrd"},
            "--direction must be one of 'forward', 'backward', not 'forwrd': did you mean 'forwa",
        ),
        ({"chunks": "many"}, "--chunks must be a whole number, not 'many'"),
    ],
)
def test_the_command_line_answers_as_python_does_but_names_its_options(run, options, said):
    flags = [part for name, value in options.items() for part in (f"--{name}", *np.atleast_1d(value))]
    status, _, error = run("downscale", "states.nc", "b.zarr", "--model", "model", *flags)
    with pytest.raises(XlandError) as refused:
        downscale(xr.open_dataset("states.nc"), model="model", **options)
    assert (status, error) == (1, f"{type(refused.value).__name__}: {in_options(str(refused.value), options)}\n")
    assert said in error


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Not a directory", "Not a directory"),
        ("pass overwrite=True to replace it", "pass --overwrite to replace it"),
        ("finish it with resume=True or anew (`overwrite=True`).", "finish it with --resume or anew (`--overwrite`)."),
        ("set direction='backward'", "set --direction backward"),
        ("pass progress=False", "pass --no-progress"),
        ("give more, model=['a', 'b'], or leave it out", "give more, --model a --model b, or leave it out"),
        ("choose totals=, too; pass tolerance=0.5.", "choose --totals, too; pass --tolerance 0.5."),
        ("its map, prior.assign_coords(time=2000)", "its map, --prior-year 2000"),
        ("changes count, prior.sel(time=2001)", "changes count, --prior-year 2001"),
        ("map.sel(time=2001), forcing.sel(time=1)", "map.sel(time=2001), forcing.sel(time=1)"),
        (
            "draws must be a whole number of at least 1 or None, not 0",
            "--draws must be a whole number of at least 1, not 0",
        ),
        ("the path must be short", "the path must be short"),
        ("region=(0, 10, 20): give four", "--region 0 10 20: give four"),
        ("years='x': give calendar years", "--years x: give calendar years"),
        ("array.to_dataset(name='primf')", "array.to_dataset(name='primf')"),
        ("/years=2000/a.zarr?years=5, static==1, outputs_=5", "/years=2000/a.zarr?years=5, static==1, outputs_=5"),
    ],
)
def test_messages_name_options_as_the_command_has_them(run, said, shown, monkeypatch):
    kind = OSError if said == shown else XlandError

    def fail(*_args, **_options):
        raise kind(said)

    monkeypatch.setattr("xland.cli.open_input", fail)
    assert run("downscale", "a.nc", "b.zarr") == (1, "", f"{kind.__name__}: {shown}\n")


@pytest.mark.parametrize(("file", "status", "said"), [("states.nc", 0, "2000"), ("percent.nc", 1, "percent")])
def test_check_tells_good_from_bad(run, file, status, said):
    found, shown, _ = run("check", file, "--model", "model")
    assert (found, said in shown) == (status, True)


def test_convert_writes_states_of_luh2_and_refuses_unknown_ones(run, tmp_path):
    hers = canonical_states(Grid(0.5, 50, 10, 2, 3), (2020, 2050), names=("crops", "nature"))
    luh2 = canonical_states(Grid(0.25, 50, 10, 4, 6))
    hers.to_netcdf(tmp_path / "hers.nc")
    luh2.to_netcdf(tmp_path / "luh2.nc")
    mapping, made = tmp_path / "mapping.toml", tmp_path / "states.nc"
    mapping.write_text('crops = "c3ann"\nnature = "natural"')
    arguments = ("convert", tmp_path / "hers.nc", made, "--mapping", mapping, "--reference", tmp_path / "luh2.nc")
    assert run(*arguments, "--no-progress")[:2] == (0, f"wrote {made}\n")
    wanted = hers.ai4land.to_luh2({"crops": "c3ann", "nature": "natural"}, reference=luh2)
    with open_coarse(made) as found:
        assert read_forcing(found).years == (2020, 2050)
        np.testing.assert_array_equal(found["secdf"], wanted["secdf"])
    assert "--overwrite" in run(*arguments)[2]
    mapping.write_text('crops = "c3an"\nnature = "natural"')
    assert "did you mean 'c3ann'" in run(*arguments, "--overwrite")[2]


def test_downscale_writes_what_python_computes_and_refuses_a_store_that_exists(run, files, store):
    coarse, static, _ = tiny_world((2000, 2001))
    expected = downscale(coarse, model=files / "model", static=static, years=2000)["land_use"]
    with xr.open_zarr(store) as opened:
        np.testing.assert_array_equal(opened["land_use"], expected)
    status, _, error = run("downscale", "states.nc", store, *DOWNSCALE)
    assert (status, error.split(":")[0]) == (1, "StoreError")
    assert "--overwrite" in error


def test_reconstruct_writes_a_store_that_seams_reads(run, files):
    base = xr.open_dataset(files / "maps.nc").isel(time=[0])
    base.to_netcdf(files / "base.nc")
    given = ("--observed", "base.nc", *DOWNSCALE[:4], "--region", -30, -30, 30, 30)
    futures = ("--future", "a=states.nc", "b=states.nc")
    status, _, errors = run("reconstruct", "through.zarr", *given, *futures)
    assert (status, errors.count("Error")) == (0, 0)
    status, shown, _ = run("seams", "through.zarr", "--scenario", "b", "--picture", "areas.png")
    assert "2000 to 2001" in shown
    assert (files / "areas.png").exists()
    assert status == 1  # nothing can be compared with the only change there is
    assert "unknown scenario 'c'" in run("seams", "through.zarr", "--scenario", "c")[2]
    assert "several futures need different names" in run("reconstruct", "b.zarr", *given, "--future", "a", "b")[2]
    assert (
        "applies changes to an observed map"
        in run("reconstruct", "b.zarr", "--history", "states.nc", *DOWNSCALE[:4])[2]
    )


def test_netcdf_is_written_for_names_that_end_with_nc(run):
    options = (*DOWNSCALE, "--region", 0, -2, 40, 38, "--outputs", "land_use", "confidence")
    assert run("downscale", "states.nc", "land_use.nc", *options, "--overwrite")[0] == 0
    with xr.open_dataset("land_use.nc") as opened:
        assert opened["land_use"].shape == (1, 40, 40)
        assert "confidence" in opened


@pytest.fixture
def planned(run, monkeypatch):
    """Return the maps that a command would write, without computing them."""
    written = []

    @functools.wraps(write)
    def keep(ds, path, **_):
        written.append(ds)

    monkeypatch.setattr("xland.store.writing.write", keep)

    def plan(*options):
        assert run("downscale", "states.nc", "out.zarr", "--static", "static.nc", "--model", "model", *options)[0] == 0
        return written.pop()

    return plan


def test_options_mean_what_keywords_mean(files, planned):
    second = tiny_checkpoint(files / "second", tiny_inputs(), seed=1).folder
    open_coarse(files / "maps.nc")["land_use"].sel(time=[2000]).to_netcdf(files / "base.nc")
    states = {**STATE_CLASSES, "range": "grass_shrub"}
    lines = [f'{state} = "{name}"' for state, name in states.items()]
    (files / "rangeland.toml").write_text("\n".join(["protected = []", "[states]", *lines]))
    changes = ("--totals", "changes", "--prior", "base.nc", "--crosswalk", "rangeland.toml")
    region = {"region": (0, 0, 40, 40), "outputs": ("land_use", "spread")}
    changed = Totals("changes", Crosswalk(states, protected=()))
    for options, keywords in (
        (("--years", 2000, 2001, "--flips"), {"years": [2000, 2001], "flips": True}),
        (
            ("--model", "second", "--region", 0, 0, 40, 40, "--outputs", "land_use", "spread"),
            {"model": ["model", second], **region},
        ),
        (("--years", "2000:2001"), {"years": slice(2000, 2001)}),
        (("--years", "2000,2001", "--bbox", 0, 0, 40, 40), {"years": [2000, 2001], "region": (0, 0, 40, 40)}),
        (("--years", 2001, *changes), {"years": 2001, "prior": open_map("base.nc"), "totals": changed}),
        (("--totals", "map", "--tolerance", 0.5), {"totals": Totals("map", tolerance=0.5)}),
    ):
        keywords = {"model": "model", **keywords}
        expected = downscale(open_coarse("states.nc"), static=open_coarse("static.nc"), **keywords)
        found = planned(*options)
        assert found.attrs["xland_fingerprint"] == expected.attrs["xland_fingerprint"]
        assert found.sizes == expected.sizes


def test_a_cluster_is_opened_while_maps_are_written(planned, monkeypatch):
    opened = []

    @functools.wraps(open_cluster)
    @contextmanager
    def cluster(spec, **options):
        opened.append({"spec": spec, **options})
        yield

    monkeypatch.setattr("xland.clusters.open_cluster", cluster)
    planned("--cluster", "local", "--workers", 2, "--memory", "8GB")
    assert opened == [{"spec": "local", "workers": 2, "minimum": 1, "memory": "8GB"}]


def test_a_dry_run_prints_the_job_script_and_reads_nothing(run):
    slurm = ("--cluster", "slurm", "--profile", "marenostrum5-acc", "--dry-run")
    status, shown, _ = run("downscale", "nothing.nc", "nothing.zarr", *slurm)
    assert status == 0
    assert "#SBATCH --qos=acc_ehpc\n" in shown


def test_a_report_of_everything_that_is_given(run, files, store):
    with xr.open_dataset(files / "maps.nc") as maps:
        maps.isel(time=[1]).to_netcdf(files / "start.nc")
    given = ("--factor", 4, "--year", 2000, "--forcing", "states.nc", "--start", "start.nc", "--regions", "continents")
    status, shown, _ = run("report", store, "maps.nc", *given, "--html", "report.html", "--json", "report.json")
    assert (status, "persistence" in shown) == (0, True)
    written = json.loads((files / "report.json").read_text())
    assert list(written["scores"]) == ["map", "crosswalk", "most frequent class", "mode of the observed cell"]
    assert written["regions"]["title"].startswith("continents")
    assert written["change"]["map"]["figure_of_merit"] is not None
    assert written["coarse_agreement"]["cells"] > 0
    text = (files / "report.html").read_text()
    assert "Figure of merit" in text
    assert "scores are too good" not in text  # said of the map that the shipped models learned from
    for name in ("html", "json"):
        refused = run("report", "nothing.zarr", "maps.nc", f"--{name}", f"report.{name}")
        assert (refused[0], f"report.{name} exists; pass --overwrite" in refused[2]) == (1, True)
    assert run("report", store, "maps.nc", "--factor", 4, "--json", "report.json", "--overwrite")[0] == 0
    assert json.loads((files / "report.json").read_text())["coarse_agreement"] is None, "it is another one now"


def test_regions_and_held_out_cells_of_a_report(run, files, store, monkeypatch):
    asked = {}

    @functools.wraps(report)
    def keep(predicted, observed, **options):
        asked.update(options, observed=observed)

    monkeypatch.setattr("xland.report.report.report", keep)
    with xr.open_dataset(files / "maps.nc") as maps:
        (maps.isel(time=0, drop=True)["land_use"] % 3).to_netcdf(files / "zones.nc")
    assert run("report", store, "maps.nc", "--regions", "zones.nc", "--no-match-years")[0] == 0
    assert (list(asked["regions"]), asked["match_years"]) == (["land_use"], False)
    assert run("report", store, "maps.nc", "--regions", "none", "--held-out")[0] == 0
    assert (asked["regions"], asked["cells"]) == (None, "held-out cells of the split")
    assert 0 < float(asked["within"].mean()) < 0.25
    assert asked["within"].shape == asked["observed"].shape[1:]


def test_scores_are_printed_and_maps_of_other_years_refused(run, store, files):
    status, shown, _ = run("evaluate", store, "maps.nc", "--factor", 4)
    assert (status, "accuracy" in shown) == (0, True)
    with xr.open_dataset(files / "maps.nc") as maps:
        maps.isel(time=[1]).to_netcdf(files / "later.nc")
    assert "pass --no-match-years to compare" in run("evaluate", store, "later.nc", "--factor", 4)[2]
    assert run("evaluate", store, "--observed", "later.nc", "--factor", 4, "--no-match-years")[0] == 0


def test_publish_makes_an_entry_and_models_are_listed(run, files, store):
    assert run("publish", "catalog.yaml", "--store", store, "--name", "tiny-2000")[0] == 0
    assert "tiny-2000" in (files / "catalog.yaml").read_text()
    assert "luh2-0p05: 0.25 to 0.05 degree" in run("models")[1]
    assert json.loads(run("models", "model")[1])["name"] == "tiny-0"


def test_train_passes_on_what_was_typed(run, monkeypatch):
    given = []

    @functools.wraps(train)
    def learn(configuration, output, *, target, restarts, resume):
        given.append((configuration, output, target, restarts, resume))
        if output == "stopped":
            raise TrainingStoppedError("stopped after step 3 of 8: resume it to go on")
        return SimpleNamespace(folder=output, card={"validation": {}})

    monkeypatch.setattr("xland.training.run.train", learn)
    options = ("--target", "a.nc", "--resume", "--restarts", 0)
    assert run("train", "mine.toml", "run", *options) == (0, "wrote run: validation {}\n", "")
    assert given == [("mine.toml", "run", "a.nc", 0, True)]
    assert run("train", "luh2-0p05", "stopped", *options) == (
        143,
        "",
        "stopped after step 3 of 8: resume it to go on\n",
    )


def test_the_prior_map_can_be_the_reference_map_as_the_observed_one_can(monkeypatch, run, files):
    asked = []
    monkeypatch.setattr("xland.datasets.land_use_modis", lambda: asked.append("modis") or open_map(files / "maps.nc"))
    status, _, error = run("downscale", "states.nc", "b.zarr", *DOWNSCALE, "--prior", "modis-2019")
    assert (status, asked) == (1, ["modis"])
    assert "the model reads no prior map" in error
    status, _, error = run("downscale", "states.nc", "b.zarr", *DOWNSCALE, "--prior", "modis-2091")
    assert "modis-2091 does not exist: give a NetCDF file or a Zarr store, or modis-2019: did you mean" in error


def test_the_year_of_the_prior_map_is_chosen_from_those_of_its_file(run, monkeypatch):
    asked = []

    @functools.wraps(downscale)
    def keep(ds, *, prior, **_):
        asked.append(prior["time"].values.tolist())
        raise XlandError("enough")

    monkeypatch.setattr("xland.downscaling.call.downscale", keep)
    given = ("downscale", "states.nc", "c.zarr", "--prior", "maps.nc")
    assert run(*given, "--prior-year", 2000)[2] == "XlandError: enough\n"
    assert asked == [[2000]]
    assert "the prior map is of 2000-2001, not of 1990" in run(*given, "--prior-year", 1990)[2]
    assert "--prior-year without --prior" in run(*given[:3], "--prior-year", 2000)[2]


def test_a_single_map_is_taken_for_that_of_the_year_that_is_typed(files):
    undated = open_map(files / "maps.nc").isel(time=0, drop=True)
    assert of_year(undated, 2000, "prior map")["time"] == 2000
    for given in (undated.expand_dims("time"), undated.expand_dims(time=[2019])):
        assert of_year(given, 2000, "prior map")["time"].values.tolist() == [2000]


def test_python_knows_bbox_as_the_command_line_does(files):
    coarse, static = open_coarse(files / "states.nc"), open_coarse(files / "static.nc")
    options = {"model": files / "model", "static": static}
    expected = downscale(coarse, region=(0, 0, 40, 40), **options)
    xr.testing.assert_identical(
        *(each.drop_attrs(deep=False) for each in (expected, downscale(coarse, bbox=(0, 0, 40, 40), **options)))
    )
    assert coarse.ai4land.downscale(bbox=(0, 0, 40, 40), **options).sizes == expected.sizes
    with pytest.raises(XlandError, match="bbox is another name of region: give one of the two"):
        downscale(coarse, region=(0, 0, 40, 40), bbox=(0, 0, 40, 40))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("downscale", "states.nc", "a.zarr", "--model", "luh2-0p5"), "'luh2-0p5': did you mean 'luh2-0p05'?"),
        (("train", "luh2-0p5", "out"), "'luh2-0p5': did you mean 'luh2-0p05'?"),
        (("config", "luh2-0p5"), "'luh2-0p5': did you mean 'luh2-0p05'?"),
        (("report", "maps.nc", "maps.nc", "--factor", 4, "--regions", "latitudes"), "did you mean 'latitude'?"),
        (("downscale", "states.nc", "a.zarr", "--years", "2100:2050"), "--years 2100:2050: 2100 is after 2050"),
        (("downscale", "states.nc", "a.zarr", "--years", "soon"), "--years soon: give calendar years: 2015, a list"),
        (
            ("downscale", "states.nc", "a.zarr", *DOWNSCALE, "--region", 0, 0, "x", 4),
            "--region 0.0 0.0 x 4.0: give four numbers",
        ),
    ],
)
def test_a_name_or_value_that_is_mistyped_is_answered_in_the_words_of_the_command_line(run, typed, said):
    status, _, error = run(*typed)
    assert status == 1
    assert said in error


@pytest.mark.parametrize("name", ["q.tif", "q.h5", "q.json"])
def test_a_path_with_the_ending_of_another_format_is_refused_before_anything_is_read(run, name):
    status, _, error = run("downscale", "nothing.nc", name)
    assert status == 1
    assert f"{name} is the name of a" in error
    assert "a Zarr store is written: choose a name that ends with .zarr" in error


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("downscale", "nothing.nc", "text.nc/a.zarr"), "a part of its path is a file"),
        (("downscale", "nothing.nc", "text.nc/a.nc"), "a part of its path is a file"),
        (("downscale", "nothing.nc", "text.nc"), "exists; pass --overwrite to replace it"),
        (("report", "nothing.zarr", "--html", "text.nc/a.html"), "a part of its path is a file"),
        (("report", "nothing.zarr", "--json", "model"), "it is a folder"),
        (
            ("report", "nothing.zarr", "--html", "a.zarr"),
            "a.zarr is the name of a Zarr store, but a web page is written",
        ),
        (("evaluate", "nothing.zarr", "--json", "a.html"), "a JSON file is written"),
        (("train", "luh2-0p05", "text.nc/model", "--forcing", "nothing.nc"), "a part of its path is a file"),
        (("prepare", "luh2-0p05", "text.nc/a.zarr", "--forcing", "nothing.nc"), "a part of its path is a file"),
    ],
)
def test_outputs_are_checked_before_anything_is_read(run, typed, said):
    status, _, error = run(*typed)
    assert status == 1
    assert said in error


def test_a_folder_that_is_not_writable_is_named_before_anything_is_read(run, files, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for typed in (("downscale", "nothing.nc", "a.zarr"), ("report", "nothing.zarr", "--html", "a.html")):
        assert f"the folder {files} is not writable" in run(*typed)[2]


def test_version_is_that_of_the_package(run):
    from xland import __version__

    assert run("--version")[:2] == (0, f"{__version__}\n")


def test_quiet_prints_results_only_and_verbose_each_step_and_where_an_error_was_raised(run, store, files):
    scored = ("evaluate", store, "maps.nc", "--factor", 4)
    plain, quiet, verbose = run(*scored), run("-q", *scored, "--json", "scores.json"), run(*scored, "-v")
    assert plain[1] == quiet[1] == verbose[1]
    assert plain[2] == quiet[2] == ""
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d evaluate took [\d.]+ s$", verbose[2], re.MULTILINE)
    assert json.loads((files / "scores.json").read_text())["scores"]["map"]["land"]["area"]["accuracy"] is not None
    assert run(*scored, "--json", "scores.json", "--overwrite")[1].endswith(f"wrote {files / 'scores.json'}\n")
    assert run("publish", "catalog.yaml", "--store", store, "--name", "quiet", "--quiet") == (0, "", "")
    assert "Traceback" not in run("check", "nothing.nc")[2]
    assert "Traceback" in run("check", "nothing.nc", "--verbose")[2]


def test_quiet_shows_no_progress(run, monkeypatch):
    asked = []

    @functools.wraps(write)
    def keep(ds, path, *, progress=True, **_):
        asked.append(progress)

    monkeypatch.setattr("xland.store.writing.write", keep)
    for flags in ((), ("-q",)):
        assert run("downscale", "states.nc", "out.zarr", "--static", "static.nc", *DOWNSCALE[:2], *flags)[0] == 0
    assert asked == [True, False]
