"""Where networks run: pools, mirror images, pixels of land alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import dask
import numpy as np
import pytest
import torch

from tests.waiting import PATIENCE
from tests.worlds import tiny_inputs, tiny_network
from xland.downscaling import engine
from xland.downscaling.call import downscale
from xland.downscaling.engine import Engine, choose_device, engine_of, start_all, threads
from xland.errors import ModelError
from xland.models.inputs import Channel

SIZE = 40


def aspect_inputs():
    """Inputs whose last static channel is the cosine of aspect, with a mean that is not 0."""
    inputs = tiny_inputs()
    aspect = Channel("cos_aspect", ("cos_aspect",), mean=0.1, scale=0.5)
    return replace(inputs, static=(*inputs.static, aspect))


def windows(inputs, count: int, land_share: float = 1.0, seed: int = 0):
    """Coarse fields, static fields, priors and land of some windows."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, inputs.coarse_channels, SIZE // 4, SIZE // 4)).astype(np.float32)
    static = random.normal(size=(count, len(inputs.static), SIZE, SIZE)).astype(np.float16)
    prior = random.integers(0, 8, (count, SIZE, SIZE)).astype(np.uint8)
    land = random.random((count, SIZE, SIZE)) < land_share
    prior_or_none = None if inputs.prior == "none" else list(torch.from_numpy(prior))
    return list(torch.from_numpy(coarse)), list(torch.from_numpy(static)), prior_or_none, list(torch.from_numpy(land))


@pytest.fixture(scope="module")
def context_network():
    return tiny_network(kind="context", depth=1, head=4, detail=True)


@pytest.mark.parametrize("land_share", [0.02, 0.3, 0.59])
def test_computing_land_alone_gives_the_same_on_land(context_network, land_share):
    some = windows(tiny_inputs(), 1, land_share)
    everywhere = [torch.ones(SIZE, SIZE, dtype=torch.bool)]
    engine = Engine(context_network, "cpu")
    sparse, full = engine.run(*some), engine.run(*some[:3], everywhere)
    land = some[3][0]
    np.testing.assert_allclose(sparse[0][:, land], full[0][:, land], atol=1e-6)
    assert (sparse[0][:, ~land] == 0).all(), "elsewhere nothing is computed"
    assert (full[0][:, ~land] > 0).any()


@dataclass
class Late:
    """What an engine knows of a window; the fields of the tile have been read when it is there."""

    known: list
    fields: torch.Tensor
    read: torch.Tensor

    def result(self):
        self.fields.copy_(self.read)
        return self.known


def test_a_tile_waits_for_its_windows_before_it_looks_at_the_fields(context_network):
    engine = Engine(context_network.compiled(), "cpu")
    coarse, static, _, _ = windows(tiny_inputs(), 1)
    known = engine.around(coarse, static, None)
    points, weights = torch.arange(SIZE * SIZE), np.ones((SIZE, SIZE), np.float32)
    expected = engine.decide(static[0], None, points, [(Late(known, static[0], static[0]), 0, 0, 0)], weights)
    unread = torch.zeros_like(static[0])
    found = engine.decide(unread, None, points, [(Late(known, unread, static[0]), 0, 0, 0)], weights)
    assert torch.equal(found, expected)


def mirror(layers: list[torch.Tensor], axes: tuple[int, ...]) -> list[torch.Tensor]:
    return [layer.flip(axes) for layer in layers]


@pytest.mark.parametrize("prior", ["none", "one_hot"])
def test_flips_are_the_mean_over_mirror_images(prior):
    inputs = replace(aspect_inputs(), prior=prior)
    network = tiny_network(inputs)
    coarse, static, codes, land = windows(inputs, 1)
    total = torch.zeros(1, 8, SIZE, SIZE)
    for axes in ((), (-1,), (-2,), (-2, -1)):
        image = mirror(static, axes)
        if -2 in axes:  # what faced north faces south: the cosine of aspect, 0.5 * channel + 0.1, changes its sign
            channel = image[0][-1].float()
            image[0][-1] = ((-(channel * 0.5 + 0.1) - 0.1) / 0.5).half()
        flipped = Engine(network, "cpu").run(
            mirror(coarse, axes), image, None if codes is None else mirror(codes, axes), mirror(land, axes)
        )
        total += flipped.flip(axes)
    found = Engine(network, "cpu", flips=True).run(coarse, static, codes, land)
    # the mirrored channel is rounded to half precision
    np.testing.assert_allclose(found, total / 4, atol=1e-3)
    np.testing.assert_allclose(found.sum(dim=1), 1, atol=1e-6)


@pytest.mark.parametrize("prior", ["none", "one_hot"])
def test_windows_in_a_batch_do_not_mix(prior):
    inputs = replace(tiny_inputs(), prior=prior)
    network = tiny_network(inputs)
    some = windows(inputs, 4)
    together = Engine(network, "cpu", batch=4).run(*some)
    for number in range(4):
        one = [None if each is None else each[number : number + 1] for each in some]
        np.testing.assert_allclose(Engine(network, "cpu").run(*one)[0], together[number], atol=1e-6)


def test_a_compiled_network_is_always_called_with_whole_batches():
    """Another shape would be compiled anew: the last batch is filled up, and what fills it is dropped."""
    network = tiny_network()
    shapes = []

    def compiled(coarse: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(static.shape))
        return network(coarse, static)

    some = windows(tiny_inputs(), 3)
    found = Engine(network, "cpu", batch=4, call=compiled).run(*some)
    assert shapes == [(4, 3, SIZE, SIZE)]
    np.testing.assert_allclose(found, Engine(network, "cpu", batch=4).run(*some), atol=1e-6)


def test_a_block_is_the_same_in_batches(world, model, monkeypatch):
    coarse, static, _ = world
    options = {"static": static, "model": model, "years": 2000, "region": (-60, -20, 40, 40)}
    one = downscale(coarse, **options, outputs=("land_use", "probability")).compute()
    monkeypatch.setattr(
        "xland.downscaling.block.engine_of",
        lambda checkpoint, device, *, flips: Engine(checkpoint.network(), device, batch=4, flips=flips),
    )
    four = downscale(coarse, **options, outputs=("land_use", "probability")).compute()
    np.testing.assert_allclose(four["probability"], one["probability"], atol=1e-5)


def test_a_gpu_that_is_not_there_is_named_when_maps_are_computed(world, model):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    coarse, static, _ = world
    lazy = downscale(coarse, model=model, static=static, device="cuda")["land_use"]
    with pytest.raises(ModelError, match=r"device='cuda': this process sees no GPU .*leave device at 'auto'"):
        lazy.compute()
    assert choose_device("auto") == "cpu"


def test_as_many_windows_run_at_once_as_dask_is_configured_for():
    with dask.config.set(num_workers=3):
        assert threads() == 3
        barrier = threading.Barrier(3, timeout=PATIENCE)
        # each waits for the two others: fewer threads would never pass
        assert len([each.result() for each in start_all(lambda _: barrier.wait(), range(3))]) == 3


def test_windows_wait_for_the_fields_that_they_need_and_hear_of_their_faults():
    def fault(_):
        raise ValueError("no such field")

    engine = Engine(tiny_network(), "cpu")
    result = engine.start(engine.run, *windows(tiny_inputs(), 1), after=start_all(fault, [0]))
    with pytest.raises(ValueError, match="no such field"):
        result.result()


def test_an_engine_is_made_once_a_process(model):
    assert engine_of(model, "cpu") is engine_of(model, "cpu")
    assert engine_of(model, "cpu") is not engine_of(model, "cpu", flips=True)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: id(engine_of(model, "cpu")), range(32)))) == 1


def test_runs_from_many_threads_at_once_stay_the_same():
    engine = Engine(tiny_network(), "cpu")
    jobs = [windows(tiny_inputs(), 1, seed=seed) for seed in range(6)]
    alone = [engine.run(*job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            at_once = list(pool.map(lambda job: engine.start(engine.run, *job).result(), jobs))
            assert all(torch.equal(a, b) for a, b in zip(alone, at_once, strict=True))


@pytest.fixture
def numbers_of_threads():
    """Set how many threads torch has in this thread, and put it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_window_is_computed_on_one_thread_whatever_others_set(monkeypatch, numbers_of_threads):
    """A thread that was idle so far would take the number that another one has set last."""
    monkeypatch.setattr(engine, "_pools", {})
    start_all(lambda _: None, range(8))
    for kind in ("cpu", "read"):
        pool = engine._pool(kind)
        pool.submit(lambda: None).result()
        numbers_of_threads(3)
        assert {pool.submit(torch.get_num_threads).result() for _ in range(8)} == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_the_number_of_threads_of_the_caller_changes_no_bit(world, model, scheduler, monkeypatch, numbers_of_threads):
    coarse, static, _ = world
    found = []
    for count in (1, 3):
        monkeypatch.setattr(engine, "_pools", {})
        numbers_of_threads(count)
        options = {"years": 2000, "region": (-60, -20, 60, 60), "outputs": ("probability", "margin", "entropy")}
        lazy = downscale(coarse, model=model, static=static, **options)
        found.append(lazy.compute(scheduler=scheduler))
        assert torch.get_num_threads() == count, "the caller keeps what it set"
    for name in found[0].data_vars:
        assert found[0][name].values.tobytes() == found[1][name].values.tobytes()
