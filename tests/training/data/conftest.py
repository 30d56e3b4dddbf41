"""Training stores that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.region import write


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """Return the path of a store of these tiles, which is written once."""
    folder = tmp_path_factory.mktemp("stores")

    def stored(tile=40, *, own_prior=False):
        path = folder / f"{tile}-{own_prior}.zarr"
        return path if path.exists() else Path(write(path, tile, own_prior=own_prior).path)

    return stored
