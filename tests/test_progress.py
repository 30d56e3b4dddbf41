from __future__ import annotations

import re
import time
import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.diagnostics import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from tests.forcing.test_check import states
from tests.notebooks import notebook
from tests.scores.maps import on_grid
from xland.forcing.check import examine
from xland.progress import Bar
from xland.scores.change import assess_change
from xland.scores.evaluation import evaluate
from xland.store.writing import write, write_netcdf

__all__ = ["notebook"]
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def maps():
    codes = da.from_array(np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) % 8, chunks=(3, 4))
    return on_grid(codes, 1.0, 50.0, 0.0).rename("land_use").expand_dims(time=[2015]).to_dataset()


def test_a_table_is_shown_once_in_a_notebook_because_nothing_but_its_repr_is(notebook, capsys, maps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing changes here, so scores of change are not defined
        tables = [
            examine(states((2015,))),
            evaluate(maps, maps, factor=1),
            evaluate(maps, maps, factor=1)["all"],
            assess_change(maps, maps, maps),
        ]
    for table in tables:
        assert str(table) == repr(table)
        assert "<table" in table._repr_html_()
    assert notebook == []
    assert capsys.readouterr() == ("", "")


def test_a_notebook_without_ipywidgets_shows_one_line_of_progress_that_is_replaced(notebook, capsys):
    with Bar(BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("", total=3)
        for _ in range(3):
            bar.advance(task)
            time.sleep(0.3)
    (line,) = notebook
    assert line.texts[0]["text/plain"].strip() in ("", "0/3")
    assert {text["text/plain"].split()[-1] for text in line.texts[1:]} >= {"1/3", "3/3"}
    assert line.shown.endswith("3/3")
    assert capsys.readouterr() == ("", "")


def test_writing_checking_and_waiting_show_their_progress_in_a_notebook(notebook, tmp_path, maps, capsys):
    write(maps, tmp_path / "a.zarr")
    assert notebook.pop().shown.startswith("writing")
    examine(states(tuple(range(2000, 2006)))[["urban"]], progress=True)
    assert notebook.pop().shown == ""  # it goes when the table comes
    assert notebook == []
    write_netcdf(maps, tmp_path / "a.nc")
    assert "100% Completed" in capsys.readouterr().out


def test_a_bar_that_is_not_wanted_shows_nothing_in_a_notebook(notebook, tmp_path, maps, capsys):
    write(maps, tmp_path / "a.zarr", progress=False)
    write_netcdf(maps, tmp_path / "a.nc", progress=False)
    assert notebook == []
    assert capsys.readouterr() == ("", "")


def test_the_bars_of_dask_count_what_a_selection_computes(maps, capsys):
    with ProgressBar():
        maps.sel(lat=slice(50, 48)).compute()
    assert "100% Completed" in capsys.readouterr().out


def test_where_a_client_is_there_its_own_bar_shows_the_export(tmp_path, maps, capsys, monkeypatch):
    from distributed import Client

    monkeypatch.setattr("xland.progress.is_watched", lambda: True)

    with (
        Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        path = write_netcdf(maps, tmp_path / "a.nc")
    assert "Completed" in capsys.readouterr().out
    with xr.open_dataset(path) as found:
        np.testing.assert_array_equal(found["land_use"], maps["land_use"])


def test_the_log_of_a_batch_job_has_lines_with_the_time_and_the_share_that_is_done(tmp_path, maps, capsys, monkeypatch):
    monkeypatch.setattr("xland.progress.AT_ONCE", 0.0)
    with Bar(TextColumn("writing"), BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("", total=4)
        for _ in range(4):
            time.sleep(0.15)
            bar.advance(task)
    shown, log = capsys.readouterr()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d writing "
    assert shown == ""
    assert re.fullmatch(rf"({stamp}[0-4]/4, \d+ %(, \d+ min left)?\n)+", log)
    assert len(log.splitlines()) >= 4
    assert log.endswith("4/4, 100 %\n")
    write(maps, tmp_path / "a.zarr")
    assert re.search(rf"{stamp}4/4, 100 %", capsys.readouterr().err)


def test_work_that_is_done_at_once_leaves_no_line_in_a_log(tmp_path, maps, capsys):
    write(maps, tmp_path / "a.zarr")
    write_netcdf(maps, tmp_path / "a.nc")
    assert capsys.readouterr() == ("", "")
