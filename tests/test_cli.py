"""The command line: same names and defaults as in Python, errors by name, nothing lost."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import xarray as xr

from tests.training.commands import write_files
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.cli import _parser, main
from xland.downscaling.call import downscale
from xland.errors import TrainingStoppedError, XlandError
from xland.totals.crosswalk import Crosswalk
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


def test_train_has_the_arguments_and_defaults_of_the_function():
    options = _parser().parse_args(["train", "name", "folder"])
    for name, parameter in inspect.signature(train).parameters.items():
        if parameter.default is not inspect.Parameter.empty and name not in (
            "progress",
            "report",
            "client",
            "generator",
        ):
            assert getattr(options, name) == parameter.default, name


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("pass overwrite=True to replace it", "pass --overwrite to replace it"),
        ("finish it with resume=True or anew (`overwrite=True`).", "finish it with --resume or anew (`--overwrite`)."),
        ("set direction='backward'", "set --direction backward"),
        ("give more, model=['a', 'b'], or leave it out", "give more, --model a --model b, or leave it out"),
        ("choose conserve=, too; pass tolerance=0.5.", "choose --conserve, too; pass --tolerance 0.5."),
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
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "file" / "scores.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_every_command_explains_itself(capsys):
    for command in ("demo", "check", "prepare", "train", "calibrate", "downscale", "evaluate", "publish", "models"):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
        assert len(capsys.readouterr().out) > 150


def test_downscale_has_the_arguments_and_defaults_of_the_function():
    options = _parser().parse_args(["downscale", "in.nc", "out.zarr"])
    for name, parameter in inspect.signature(downscale).parameters.items():
        if name == "ds":
            continue
        found = getattr(options, name)
        expected = parameter.default
        assert (tuple(found) if isinstance(found, list) else found) == expected, name


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


def test_several_models_are_an_ensemble(files):
    second = tiny_checkpoint(files / "second", tiny_inputs(), seed=1)
    region = ["--region", "0", "0", "40", "40", "--outputs", "land_use", "spread"]
    target = run_downscale(files, "ensemble.zarr", "--model", str(second.folder), *region)
    coarse, static, _ = tiny_world((2000, 2001))
    both = {"model": [files / "model", second], "outputs": ("land_use", "spread")}
    expected = downscale(coarse, static=static, years=2000, region=(0, 0, 40, 40), **both)
    with xr.open_zarr(target) as opened:
        np.testing.assert_array_equal(opened["land_use"], expected["land_use"])
        np.testing.assert_allclose(opened["spread"], expected["spread"], atol=0.0011)


def test_totals_are_kept_as_in_python(files, tmp_path):
    coarse, static, maps = tiny_world((2000, 2001))
    maps.sel(time=[2000]).to_netcdf(files / "base.nc")
    states = {**STATE_CLASSES, "range": "grass_shrub"}
    lines = [f'{state} = "{name}"' for state, name in states.items()]
    (tmp_path / "crosswalk.toml").write_text("\n".join(["protected = []", "[states]", *lines]))
    more = ["--region", "0", "0", "40", "40", "--conserve", "changes", "--prior", str(files / "base.nc"), "--overwrite"]
    target = run_downscale(
        files, "kept.zarr", *more, "--crosswalk", str(tmp_path / "crosswalk.toml"), "--years", "2001"
    )
    wishes = {"conserve": "changes", "crosswalk": Crosswalk(states, protected=()), "prior": maps.sel(time=[2000])}
    expected = downscale(coarse, model=files / "model", static=static, years=2001, region=(0, 0, 40, 40), **wishes)
    with xr.open_zarr(target) as opened:
        np.testing.assert_array_equal(opened["land_use"], expected["land_use"])


def test_a_map_may_be_off_its_totals_by_part_of_a_pixel(files):
    coarse, static, _ = tiny_world((2000, 2001))
    more = ["--region", "0", "0", "40", "40", "--conserve", "map"]
    target = run_downscale(files, "near.zarr", *more, "--tolerance", "0.5")
    wishes = {"conserve": "map", "tolerance": 0.5}
    expected = downscale(coarse, model=files / "model", static=static, years=2000, region=(0, 0, 40, 40), **wishes)
    with xr.open_zarr(target) as opened:
        np.testing.assert_array_equal(opened["land_use"], expected["land_use"])


def test_a_file_that_is_no_crosswalk_is_one_line(files, tmp_path, capsys):
    (tmp_path / "crosswalk.toml").write_text('urban = "urban"')
    arguments = [str(files / "states.nc"), str(tmp_path / "out.zarr"), "--conserve", "map"]
    assert main(["downscale", *arguments, "--crosswalk", str(tmp_path / "crosswalk.toml")]) == 1
    error = capsys.readouterr().err
    assert "crosswalk.toml is no crosswalk" in error
    assert "needs a table [states]" in error
    assert error.count("\n") == 1


def test_a_cluster_writes_the_same(files, store):
    target = run_downscale(files, "clustered.zarr", "--cluster", "local", "--workers", "2", "--chunks", "120")
    with xr.open_zarr(store) as one, xr.open_zarr(target) as other:
        np.testing.assert_array_equal(one["land_use"], other["land_use"])


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
    monkeypatch.setattr("xland.clusters.existing.ANSWER", 0.5)
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
    arguments = [str(store), "--observed", str(files / "maps.nc"), "--factor", "4", "--json", str(target)]
    assert main(["evaluate", *arguments]) == 0
    assert "accuracy" in capsys.readouterr().out
    scores = json.loads(target.read_text())
    assert 0 <= scores["scores"]["map"]["land"]["area"]["accuracy"] <= 1


def test_held_out_cells_are_scored_apart(files, store, capsys):
    scores = {}
    for name, more in (("all", []), ("held out", ["--held-out"])):
        target = files / f"{name}.json"
        arguments = [str(store), "--observed", str(files / "maps.nc"), "--factor", "4", "--json", str(target)]
        assert main(["evaluate", *arguments, *more]) == 0
        scores[name] = json.loads(target.read_text())
    assert scores["held out"]["cells"] == "held-out cells of the split"
    pixels = {name: each["scores"]["map"]["all"]["pixels"]["total"] for name, each in scores.items()}
    assert 0 < pixels["held out"] < 0.25 * pixels["all"]


def test_publish_makes_an_entry(files, store):
    catalog = files / "catalog.yaml"
    assert main(["publish", str(store), "--catalog", str(catalog), "--name", "tiny-2000"]) == 0
    assert "tiny-2000" in catalog.read_text()


def test_models_lists_the_shipped_ones_and_prints_a_card(files, capsys):
    assert main(["models"]) == 0
    assert "model" in capsys.readouterr().out
    assert main(["models", str(files / "model")]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny-0"


def test_train_runs_a_configuration_and_resumes(tmp_path, capsys):
    configuration = write_files(tmp_path)
    output = tmp_path / "run"
    assert main(["train", str(configuration), str(output)]) == 0
    assert (output / "card.json").exists()
    assert (output / "log.csv").read_text().startswith("epoch,loss")
    assert main(["train", str(configuration), str(output)]) == 1
    assert "resume" in capsys.readouterr().err
    assert main(["train", str(configuration), str(output), "--resume"]) == 0


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
    assert main(["evaluate", str(store), *arguments, *given, "--report", str(page), "--json", str(numbers)]) == 0
    assert "persistence" in capsys.readouterr().out
    written = json.loads(numbers.read_text())
    assert list(written["scores"]) == ["map", "crosswalk", "most frequent class", "mode of the observed cell"]
    assert written["regions"]["title"].startswith("continents")
    assert written["change"]["map"]["figure_of_merit"] is not None
    assert written["coarse_agreement"]["cells"] > 0
    text = page.read_text()
    assert "Figure of merit" in text
    assert "scores flatter" not in text  # said of the map that the shipped models learned from
    for regions, count in ((str(files / "zones.nc"), 2), ("none", 0)):
        command = ["evaluate", str(store), *arguments, "--regions", regions, "--json", str(numbers)]
        assert main(command) == 0
        assert len(json.loads(numbers.read_text())["regions"]["scores"]) == count
    assert main(["evaluate", str(store), *arguments, "--regions", "nations"]) == 1
    assert "nations does not exist" in capsys.readouterr().err
