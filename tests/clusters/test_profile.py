"""Profiles say what a job asks for; wrong ones are refused by name."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace

import pytest

from xland.clusters import Profile, job_script, list_profiles, load_profile
from xland.errors import ClusterError


def written(folder, text):
    path = folder / "site.toml"
    path.write_text(text)
    return path


def command(script: str) -> dict[str, str]:
    """What the job runs, and its options with their values."""
    (line,) = (line for line in script.splitlines() if "SCHEDULER" in line)
    words = line.split()
    return {"": " ".join(words[1:6]), **{word: words[at] for at, word in enumerate(words[:-1], 1) if word[:2] == "--"}}


def test_every_shipped_profile_makes_a_script():
    assert "marenostrum5-acc" in list_profiles()
    for name in list_profiles():
        assert job_script(name).startswith("#!/usr/bin/env bash\n")
        assert load_profile(name).title


def test_a_job_on_marenostrum5_is_a_node_with_a_worker_for_each_gpu():
    script = job_script("marenostrum5-acc")
    for line in ("-J xland", "-p acc", "--qos=acc_ehpc", "-n 1", "--cpus-per-task=80", "--gres=gpu:4", "-t 06:00:00"):
        assert f"#SBATCH {line}\n" in script
    assert "--mem" not in script.replace("--memory-limit", "")
    assert "#SBATCH -A" not in script
    assert 'export OMP_NUM_THREADS="1"\n' in script
    found = command(script)
    expected = {"--nthreads": "2", "--memory-limit": "111.76GiB", "--local-directory": "$TMPDIR"}
    assert found.items() >= ({"": "-m dask cuda worker tls://SCHEDULER"} | expected).items()
    assert "--nworkers" not in found, "dask-cuda starts one for each GPU that it sees"


def test_a_dry_run_leaves_nothing_behind_and_ctrl_c_as_it_was(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dask_jobqueue")]:
        monkeypatch.delitem(sys.modules, name)  # its import changes what Ctrl-C does
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.chdir(tmp_path)
    job_script("marenostrum5-acc")
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.iterdir())


def test_a_file_of_ones_own_begins_from_a_shipped_profile(tmp_path):
    path = written(tmp_path, 'base = "marenostrum5-acc"\naccount = "ehpc1"\nwalltime = "00:30:00"\n')
    assert load_profile(path) == replace(load_profile("marenostrum5-acc"), account="ehpc1", walltime="00:30:00")
    assert "#SBATCH -A ehpc1\n" in job_script(str(path))


def test_cpu_jobs_hold_several_workers(tmp_path):
    path = written(
        tmp_path,
        'workers = 4\nthreads = 3\nmemory = "64GB"\nencrypted = false\ninterface = "lo"\nhost = "127.0.0.1"\n'
        'setup = ["module load python"]\ndirectives = ["--exclusive"]\nenvironment = { GDAL_CACHEMAX = "64" }\n',
    )
    script = job_script(path)
    for line in ("--cpus-per-task=12", "--mem=60G", "--exclusive"):
        assert f"#SBATCH {line}\n" in script
    assert 'export GDAL_CACHEMAX="64"\nmodule load python\n' in script
    expected = {"--nworkers": "4", "--nthreads": "3", "--interface": "lo", "--memory-limit": "14.90GiB"}
    found = command(script)
    assert found.items() >= expected.items()
    assert found[""].startswith("-m distributed.cli.dask_worker tcp://SCHEDULER")
    assert "--tls-key" not in found
    assert [Profile(gpus=4).jobs(workers) for workers in (None, 1, 4, 5, 8)] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queue = 'acc'", "unknown entries 'queue'. Known are title, partition"),
        ("cores = 'many'", "cores must be a whole number of at least 0 and at most 1000000, not 'many'"),
        ("workers = 0", "workers must be a whole number of at least 1 and at most 1000000, not 0"),
        ("directives = '--exclusive'", "directives must be a list, each a text, not '--exclusive'"),
        ("environment = { A = 1 }", "environment must be a table whose entries are each a text, not {'A': 1}"),
        ("memory = 'plenty'", "memory must be an amount such as '120GB', not 'plenty'"),
        ("base = 'mare'", "base 'mare' is none of marenostrum5-acc"),
        ("base = ", "cannot be read as TOML"),
    ],
)
def test_wrong_entries_are_named(tmp_path, text, message):
    with pytest.raises(ClusterError, match=r"site\.toml") as raised:
        load_profile(written(tmp_path, text))
    assert message in str(raised.value)


def test_paths_of_profiles_and_their_folders_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, 'base = "marenostrum5-acc"\nfolder = "~/logs"\naccount = "a"').rename(tmp_path / "mine.toml")
    assert f"{tmp_path}/logs" in job_script("~/mine.toml")


def test_a_profile_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ClusterError, match=r"there is no profile 'lumi'\. Choose one of marenostrum5-acc, or a file"):
        load_profile("lumi")
    with pytest.raises(ClusterError, match="cannot be read: it is a folder"):
        load_profile(tmp_path)
    with pytest.raises(ClusterError, match="need a profile"):
        load_profile(None)
