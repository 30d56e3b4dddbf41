"""The command line: same names and defaults as in Python, errors by name, nothing lost."""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.catalog import publish
from xland.cli import COMMANDS, main
from xland.clusters import open_cluster
from xland.downscaling.call import downscale
from xland.errors import TrainingStoppedError, XlandError
from xland.forcing.check import check
from xland.report.report import report
from xland.scores.evaluation import evaluate
from xland.sources.files import open_coarse, open_map
from xland.store.writing import write
from xland.totals.crosswalk import Crosswalk
from xland.totals.modes import Totals
from xland.training.data.prepare import prepare
from xland.training.learn.calibrating import calibrate
from xland.training.run import train
from xland.vocabulary import STATE_CLASSES


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    coarse, static, maps = tiny_world((2000, 2001))
    coarse.to_netcdf(folder / "states.nc")
    static.to_netcdf(folder / "static.nc")
    maps.to_netcdf(folder / "maps.nc")
    tiny_checkpoint(folder / "model", tiny_inputs())
    return folder


@pytest.fixture(scope="module")
def store(files):
    return run_downscale(files, "land_use.zarr")


def run_downscale(files, name, *more):
    target = files / name
    arguments = [str(files / "states.nc"), str(target), "--model", str(files / "model")]
    assert main(["downscale", *arguments, "--static", str(files / "static.nc"), "--years", "2000", *more]) == 0
    return target


@pytest.mark.parametrize(
    ("command", "functions", "without"),
    [
        ("train", [train], ["generator", "client", "report"]),
        ("downscale", [downscale, write, open_cluster], ["minimum"]),
        ("evaluate", [evaluate], ["within"]),
        ("report", [report], ["within", "baselines", "card", "provenance", "max_pixels"]),
        ("publish", [publish], ["metadata", "expected"]),
        ("prepare", [prepare], []),
        ("calibrate", [calibrate], []),
        ("check", [check], []),
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
    assert set(options) <= {"held_out", "html", "json", "dry_run", "crosswalk", "tolerance"}


def test_unknown_options_and_commands_are_refused_with_the_nearest(capsys):
    assert main(["downscale", "a.nc", "b.zarr", "--statc", "x"]) == 2
    assert "unknown option '--statc': did you mean '--static'? Known are --chunks, " in capsys.readouterr().err
    assert main(["dwonscale", "a.nc"]) == 2
    assert "unknown command 'dwonscale': did you mean 'downscale'? Known are demo, " in capsys.readouterr().err
    assert main(["verify"]) == 2
    assert "--store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outputs": ["land_us"]}, "unknown outputs 'land_us': did you mean 'land_use'? Known are land_use, "),
        ({"direction": "forwrd"}, "direction must be one of 'forward', 'backward', not 'forwrd': did you mean 'forwa"),
        ({"chunks": "many"}, "chunks must be a whole number or None, not 'many'"),
    ],
)
def test_the_command_line_answers_in_the_words_of_python(files, options, said, capsys):
    with pytest.raises(XlandError) as refused:
        downscale(xr.open_dataset(files / "states.nc"), model=files / "model", **options)
    flags = [part for name, value in options.items() for part in (f"--{name}", *np.atleast_1d(value))]
    assert main(["downscale", str(files / "states.nc"), "b.zarr", "--model", str(files / "model"), *flags]) == 1
    assert capsys.readouterr().err == f"{type(refused.value).__name__}: {refused.value}\n"
    assert said in str(refused.value)


def test_help_needs_no_torch():
    code = "import sys; from xland.cli import main; main(['--help']); main(['downscale', '--help']); "
    code += "print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.endswith("False\n")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("pass overwrite=True to replace it", "pass --overwrite to replace it"),
        ("finish it with resume=True or anew (`overwrite=True`).", "finish it with --resume or anew (`--overwrite`)."),
        ("set direction='backward'", "set --direction backward"),
        ("pass progress=False", "pass --no-progress"),
        ("give more, model=['a', 'b'], or leave it out", "give more, --model a --model b, or leave it out"),
        ("choose totals=, too; pass tolerance=0.5.", "choose --totals, too; pass --tolerance 0.5."),
        ("its map, prior.assign_coords(time=2000)", "its map, prior.assign_coords(time=2000)"),
        ("array.to_dataset(name='primf')", "array.to_dataset(name='primf')"),
        ("/years=2000/a.zarr?years=5, static==1, outputs_=5", "/years=2000/a.zarr?years=5, static==1, outputs_=5"),
    ],
)  # fmt: skip
def test_messages_name_options_as_the_command_has_them(said, shown, capsys, monkeypatch):
    def fail(*_args, **_options):
        raise XlandError(said)

    monkeypatch.setattr("xland.cli.open_coarse", fail)
    assert main(["downscale", "a.nc", "b.zarr"]) == 1
    assert capsys.readouterr().err == f"XlandError: {shown}\n"


def test_an_error_of_the_system_is_one_line(files, store, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = [str(store), "--observed", str(files / "maps.nc"), "--factor", "4"]
    assert main(["report", *arguments, "--json", str(tmp_path / "file" / "scores.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_every_command_explains_itself(capsys):
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert len(capsys.readouterr().out) > 150


def test_check_tells_good_from_bad(files, tmp_path, capsys):
    assert main(["check", str(files / "states.nc")]) == 0
    assert "2000" in capsys.readouterr().out
    coarse, _, _ = tiny_world((2000,))
    (coarse * 100).to_netcdf(tmp_path / "percent.nc")
    assert main(["check", str(tmp_path / "percent.nc")]) == 1
    assert "percent" in capsys.readouterr().out


def test_downscale_writes_what_python_computes(files, store):
    coarse, static, _ = tiny_world((2000, 2001))
    expected = downscale(coarse, model=files / "model", static=static, years=2000)["land_use"]
    with xr.open_zarr(store) as opened:
        np.testing.assert_array_equal(opened["land_use"], expected)


@pytest.fixture
def planned(files, monkeypatch):
    """Return the maps that a command would write, without computing them."""
    written = []

    @functools.wraps(write)
    def keep(ds, path, **_):
        written.append(ds)

    monkeypatch.setattr("xland.store.writing.write", keep)

    def plan(*options):
        arguments = [str(files / "states.nc"), "out.zarr", "--static", str(files / "static.nc"), *map(str, options)]
        assert main(["downscale", *arguments]) == 0
        return written.pop()

    return plan


def test_options_mean_what_keywords_mean(files, planned, tmp_path):
    second = tiny_checkpoint(files / "second", tiny_inputs(), seed=1).folder
    open_coarse(files / "maps.nc")["land_use"].sel(time=[2000]).to_netcdf(files / "base.nc")
    states = {**STATE_CLASSES, "range": "grass_shrub"}
    lines = [f'{state} = "{name}"' for state, name in states.items()]
    (tmp_path / "crosswalk.toml").write_text("\n".join(["protected = []", "[states]", *lines]))
    model, region = files / "model", ("--region", 0, 0, 40, 40)
    changes = ("--totals", "changes", "--prior", files / "base.nc", "--crosswalk", tmp_path / "crosswalk.toml")
    for options, keywords in (
        (("--model", model, "--years", 2000, 2001, "--flips"), {"model": model, "years": [2000, 2001], "flips": True}),
        (
            ("--model", model, "--model", second, *region, "--outputs", "land_use", "spread"),
            {"model": [model, second], "region": (0, 0, 40, 40), "outputs": ("land_use", "spread")},
        ),
        (
            ("--model", model, "--years", 2001, *changes),
            {
                "model": model,
                "years": 2001,
                "prior": open_map(files / "base.nc"),
                "totals": Totals("changes", Crosswalk(states, protected=())),
            },
        ),
        (
            ("--model", model, "--totals", "map", "--tolerance", 0.5),
            {"model": model, "totals": Totals("map", tolerance=0.5)},
        ),
    ):
        expected = downscale(open_coarse(files / "states.nc"), static=open_coarse(files / "static.nc"), **keywords)
        found = planned(*options)
        assert found.attrs["xland_fingerprint"] == expected.attrs["xland_fingerprint"]
        assert found.sizes == expected.sizes


def test_a_cluster_is_opened_while_maps_are_written(files, planned, monkeypatch):
    opened = []

    @functools.wraps(open_cluster)
    @contextmanager
    def cluster(spec, **options):
        opened.append({"spec": spec, **options})
        yield

    monkeypatch.setattr("xland.clusters.open_cluster", cluster)
    planned("--model", files / "model", "--cluster", "local", "--workers", 2, "--memory", "8GB")
    assert opened == [{"spec": "local", "workers": 2, "minimum": 1, "memory": "8GB"}]


def test_a_file_that_is_no_crosswalk_is_one_line(files, tmp_path, capsys):
    (tmp_path / "crosswalk.toml").write_text('urban = "urban"')
    arguments = [str(files / "states.nc"), str(tmp_path / "out.zarr"), "--totals", "map"]
    assert main(["downscale", *arguments, "--crosswalk", str(tmp_path / "crosswalk.toml")]) == 1
    error = capsys.readouterr().err
    assert "crosswalk.toml is not a crosswalk" in error
    assert "needs a table [states]" in error
    assert error.count("\n") == 1


def test_a_dry_run_prints_the_job_script_and_reads_nothing(capsys):
    arguments = ["nothing.nc", "nothing.zarr", "--cluster", "slurm", "--profile", "marenostrum5-acc", "--dry-run"]
    assert main(["downscale", *arguments]) == 0
    assert "#SBATCH --qos=acc_ehpc\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster", "laptop"], "unknown cluster 'laptop'"),
        (["--cluster", "local", "--workers", "0"], "workers must be a whole number of at least 1"),
        (["--cluster", "local", "--dry-run"], "--dry-run prints the job script of --cluster slurm"),
        (["--cluster", "slurm"], "SLURM jobs need a profile: one of marenostrum5-acc"),
        (["--workers", "2"], "--workers without --cluster"),
        (["--cluster", "tcp://127.0.0.1:9"], "no dask scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_one_line(files, options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("xland.clusters.opening.ANSWER", 0.5)
    arguments = [str(files / "states.nc"), str(tmp_path / "out.zarr"), "--model", str(files / "model")]
    assert main(["downscale", *arguments, "--static", str(files / "static.nc"), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ClusterError")
    assert message in error
    assert error.count("\n") == 1


def test_a_store_that_exists_is_refused_unless_told(files, store, capsys):
    arguments = [str(files / "states.nc"), str(store), "--model", str(files / "model"), "--years", "2000"]
    assert main(["downscale", *arguments, "--static", str(files / "static.nc")]) == 1
    assert "StoreError" in capsys.readouterr().err
    run_downscale(files, store.name, "--overwrite")


def test_netcdf_is_written_for_names_that_end_with_nc(files):
    path = run_downscale(files, "land_use.nc", "--region", "0", "-2", "40", "38", "--outputs", "land_use", "confidence")
    with xr.open_dataset(path) as opened:
        assert opened["land_use"].shape == (1, 40, 40)
        assert "confidence" in opened


def test_evaluate_prints_and_writes_scores(files, store, capsys):
    target = files / "scores.json"
    arguments = [str(store), str(files / "maps.nc"), "--factor", "4"]
    assert main(["evaluate", *arguments]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["report", *arguments, "--json", str(target)]) == 0
    scores = json.loads(target.read_text())
    assert 0 <= scores["scores"]["map"]["land"]["area"]["accuracy"] <= 1


def test_held_out_cells_are_scored_apart(files, store, capsys):
    scores = {}
    for name, more in (("all", []), ("held out", ["--held-out"])):
        target = files / f"{name}.json"
        arguments = [str(store), "--observed", str(files / "maps.nc"), "--factor", "4", "--json", str(target)]
        assert main(["report", *arguments, *more]) == 0
        scores[name] = json.loads(target.read_text())
    assert scores["held out"]["cells"] == "held-out cells of the split"
    pixels = {name: each["scores"]["map"]["all"]["pixels"]["total"] for name, each in scores.items()}
    assert 0 < pixels["held out"] < 0.25 * pixels["all"]


def test_publish_makes_an_entry(files, store):
    catalog = files / "catalog.yaml"
    assert main(["publish", str(catalog), "--store", str(store), "--name", "tiny-2000"]) == 0
    assert "tiny-2000" in catalog.read_text()


def test_models_lists_the_shipped_ones_and_prints_a_card(files, capsys):
    assert main(["models"]) == 0
    assert "luh2-0p05: 0.25 to 0.05 degree" in capsys.readouterr().out
    assert main(["models", str(files / "model")]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny-0"


def test_train_passes_on_what_was_typed(tmp_path, capsys, monkeypatch):
    given = []

    @functools.wraps(train)
    def learn(configuration, output, *, target, restarts, resume):
        given.append((configuration, output, target, restarts, resume))
        return SimpleNamespace(folder=output, card={"validation": {}})

    monkeypatch.setattr("xland.training.run.train", learn)
    assert main(["train", "mine.toml", "run", "--target", "a.nc", "--resume", "--restarts", "0"]) == 0
    assert given == [("mine.toml", "run", "a.nc", 0, True)]
    assert capsys.readouterr().out == "wrote run: validation {}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nothing.nc"], "does not exist"),
        (["evaluate", "nothing.zarr"], "does not exist"),
        (["models", "nonesuch"], "there is no model"),
        (["train", "nonesuch", "out"], "there is no configuration"),
    ],
)
def test_errors_are_one_line_with_a_name(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_training_that_was_asked_to_end_has_a_status_of_its_own(capsys, tmp_path, monkeypatch):
    @functools.wraps(train)
    def stop(*_, **__):
        raise TrainingStoppedError("stopped after step 3 of 8: resume it to go on")

    monkeypatch.setattr("xland.training.run.train", stop)
    assert main(["train", "luh2-0p05", str(tmp_path / "model")]) == 143
    assert capsys.readouterr().err == "stopped after step 3 of 8: resume it to go on\n"


def test_a_file_without_maps_cannot_be_evaluated(files, capsys):
    assert main(["evaluate", str(files / "states.nc"), "--observed", str(files / "maps.nc")]) == 1
    assert "no variable 'land_use'" in capsys.readouterr().err


def test_a_file_that_is_not_netcdf_is_named(tmp_path, capsys):
    (tmp_path / "text.nc").write_text("not a file of that kind")
    assert main(["check", str(tmp_path / "text.nc")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("StoreError")
    assert "text.nc" in error
    assert "NetCDF" in error
    assert error.count("\n") == 1


def test_evaluate_writes_a_report_of_everything_that_is_given(files, store, capsys):
    page, numbers = files / "report.html", files / "report.json"
    arguments = ["--observed", str(files / "maps.nc"), "--factor", "4", "--year", "2000"]
    given = ["--forcing", str(files / "states.nc"), "--start", str(files / "start.nc"), "--regions", "continents"]
    with xr.open_dataset(files / "maps.nc") as maps:
        maps.isel(time=[1]).to_netcdf(files / "start.nc")
        (maps.isel(time=0, drop=True)["land_use"] % 3).to_netcdf(files / "zones.nc")
    assert main(["report", str(store), *arguments, *given, "--html", str(page), "--json", str(numbers)]) == 0
    assert "persistence" in capsys.readouterr().out
    written = json.loads(numbers.read_text())
    assert list(written["scores"]) == ["map", "crosswalk", "most frequent class", "mode of the observed cell"]
    assert written["regions"]["title"].startswith("continents")
    assert written["change"]["map"]["figure_of_merit"] is not None
    assert written["coarse_agreement"]["cells"] > 0
    text = page.read_text()
    assert "Figure of merit" in text
    assert "scores are too good" not in text  # said of the map that the shipped models learned from
    for regions, count in ((str(files / "zones.nc"), 2), ("none", 0)):
        command = ["report", str(store), *arguments, "--regions", regions, "--json", str(numbers)]
        assert main(command) == 0
        assert len(json.loads(numbers.read_text())["regions"]["scores"]) == count
    assert main(["report", str(store), *arguments, "--regions", "nations"]) == 1
    assert "nations does not exist" in capsys.readouterr().err
