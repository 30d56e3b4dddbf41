"""One block: windows blended into probabilities."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import tiny_inputs
from xland.downscaling.engine import Engine
from xland.downscaling.fields import Block
from xland.downscaling.predict import Static, predict_block
from xland.outputs import OUTPUTS


class Constant(torch.nn.Module):
    """Gives every pixel the same scores, and counts the windows that it was asked for."""

    picks = 0.0

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.inputs = tiny_inputs()
        self.scores = torch.tensor(scores)
        self.windows = 0

    def forward(self, coarse: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        self.windows += len(static)
        return self.scores[None, :, None, None].expand(len(static), -1, *static.shape[2:])


def run(network: torch.nn.Module, block: Block, land: np.ndarray, static: np.ndarray | None = None) -> dict:
    rows, columns = map(len, block.halo)
    coarse = np.zeros((7, rows // 4, columns // 4), np.float32)
    fields = np.zeros((3, rows, columns), np.float16) if static is None else static
    outputs = [each for each in OUTPUTS.values() if not each.needs]
    return predict_block(
        [Engine(network, "cpu")], block, Static(torch.from_numpy(fields), land), coarse, outputs=outputs
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(-20, 20), st.integers(1, 20), st.lists(st.floats(-4, 4), min_size=8, max_size=8))
def test_the_same_scores_everywhere_are_blended_into_themselves(start, length, scores):
    block = Block(range(4 * start, 4 * (start + length)), range(8, 40), 40, 20)
    land = np.ones([*map(len, block.halo)], bool)
    found = run(Constant(scores), block, land)["probability"]
    expected = torch.tensor(scores, dtype=torch.float32).softmax(0).numpy()
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], found.shape), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)


class MeanOfWindow(torch.nn.Module):
    """Gives all pixels of a window one score, which depends on the window."""

    inputs = tiny_inputs()
    picks = 0.0

    def forward(self, coarse: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        level = static[:, 0].float().mean(dim=(1, 2))
        scores = torch.zeros(len(static), 8, *static.shape[2:])
        scores[:, 1] = level[:, None, None]
        return scores


def test_windows_that_differ_are_blended_with_gaussian_weights():
    block = Block(range(20), range(40, 60), 40, 20)
    rows, columns = map(len, block.halo)
    static = np.random.default_rng(0).normal(scale=30, size=(3, rows, columns)).astype(np.float16)
    found = run(MeanOfWindow(), block, np.ones((rows, columns), bool), static)["probability"]
    row, column = 7, 15  # of the block; 20 more of the halo, which begins a stride earlier
    above, below = np.zeros(8), 0.0
    for top in (0, 20):
        for left in (0, 20):
            level = static[0, top : top + 40, left : left + 40].astype(np.float32).mean()
            scores = torch.tensor([0, level, 0, 0, 0, 0, 0, 0]).softmax(0).numpy()
            distance = np.array([row + 20 - top, column + 20 - left]) - 19.5
            weight = max(np.exp(-0.5 * (distance**2).sum() / (40 / 8) ** 2), 0.001)
            above, below = above + weight * scores, below + weight
    np.testing.assert_allclose(found[:, row, column], above / below, atol=1e-6)


def test_windows_without_land_in_the_block_are_not_run():
    block = Block(range(80), range(80), 40, 20)
    land = np.zeros([*map(len, block.halo)], bool)
    network = Constant([0.0] * 8)
    found = run(network, block, land)
    assert (found["land_use"] == 0).all()
    assert (found["probability"][0] == 1).all()
    assert (found["margin"] == 1).all()
    assert (found["entropy"] == 0).all()
    assert network.windows == 0
    land[block.core][0, 0] = True
    run(network, block, land)
    assert network.windows == 4, "a pixel at the corner of the lattice lies in four windows"
    land[0, 0] = True
    run(network, block, land)
    assert network.windows == 8, "land in the halo alone runs no further window"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=8, max_size=8))
def test_class_confidence_margin_and_entropy_are_those_of_the_probabilities(scores):
    block = Block(range(20), range(20), 40, 20)
    found = run(Constant(scores), block, np.ones([*map(len, block.halo)], bool))
    shares = found["probability"][:, 0, 0]
    assert found["land_use"][0, 0] == shares.argmax(), "the lower code where two are equal"
    assert found["confidence"][0, 0] == shares[found["land_use"][0, 0]]
    np.testing.assert_allclose(found["margin"][0, 0], np.sort(shares)[-1] - np.sort(shares)[-2], atol=1e-6)
    np.testing.assert_allclose(found["entropy"][0, 0], -(shares * np.log(shares)).sum() / np.log(8), atol=1e-5)
