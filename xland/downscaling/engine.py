"""Where networks run, and the static fields that stay in memory or on the device between years."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import dask
import numpy as np
from dask.system import CPU_COUNT
from numpy.typing import NDArray

from xland.errors import ModelError
from xland.models.calibration import Calibration
from xland.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from xland.models.networks.unet import DownscalingNetwork


CUDA_BATCH = 32
"""Windows that go through the network together on a GPU; on a CPU one at a time stays in its cache."""

CPU_BUDGET = 256 * 2**20
"""Bytes of static fields that a process keeps; those of further blocks are read again for each year."""

CUDA_SHARE = 0.5
"""Share of a GPU's memory for static fields."""

_IMAGES: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes along which each image of a window is mirrored."""

_Item = TypeVar("_Item")
_Value = TypeVar("_Value")

_lock = threading.Lock()
_engines: dict[tuple[int, str, bool, Calibration], Engine] = {}
_pools: dict[tuple[str, int], ThreadPoolExecutor] = {}
_residencies: dict[str, Residency] = {}
# a child process has none of its parent's threads
os.register_at_fork(after_in_child=_pools.clear)


@dataclass(frozen=True, eq=False)
class Engine:
    """A network on its device, in evaluation mode.

    `batch` windows go through it in one call. With `flips` probabilities are averaged over the four mirror images of a
    window. `call` runs the network: itself, or a compiled form of it. `calibration` scales scores before they become
    probabilities. With `apart`, what windows know of their surroundings and the decision at a pixel are two steps.
    """

    network: DownscalingNetwork
    device: str
    batch: int = 1
    flips: bool = False
    call: Callable[..., Tensor] | None = None
    calibration: Calibration | None = None
    apart: bool = False

    def start(
        self,
        function: Callable[..., _Value],
        *given: Any,
        after: Sequence[Future[None]] = (),
        check: Callable[[], None] | None = None,
    ) -> Future[_Value]:
        """Start a function of the engine, once what was started ``after`` which it comes is done.

        ``check`` raises an error if nobody waits for the result any more.
        """

        def run() -> _Value:
            for each in after:
                each.result()
            if check is not None:
                check()
            return function(*given)

        return _pool(self.device).submit(run)

    def around(
        self, coarse: Sequence[Tensor], static: Sequence[Tensor], prior: Sequence[Tensor] | None
    ) -> list[list[Any]]:
        """Return what windows know of their surroundings, for each network whose scores are averaged."""
        import torch

        with torch.inference_mode():
            known: Sequence[Tensor | None] = prior or [None] * len(static)
            first = self.network.bodies[0]
            # a window at a time stays in the cache of a core
            low = [first.low(self._fine(*each)) for each in zip(static, known, strict=True)]
            return [body.around(torch.stack(list(coarse)), torch.cat(low)) for body in self.network.bodies]

    def _fine(self, static: Tensor, prior: Tensor | None) -> Tensor:
        return self.network.fine(static[None], None if prior is None else prior[None])

    def decide(
        self,
        static: Tensor,
        prior: Tensor | None,
        points: Tensor,
        windows: Sequence[tuple[Future[list[list[Any]]], int, int, int]],
        weights: NDArray[np.float32],
    ) -> Tensor:
        """Return class probabilities of a tile, ``(classes, rows, columns)``, 0 but at flat indices ``points``.

        `windows` are those over the tile: what :meth:`around` gives, which of its windows, and where the tile begins.
        """
        import torch

        with torch.inference_mode():
            # windows have waited for the fields around the tile: without them, these may still be read
            known = [(future.result(), window, top, left) for future, window, top, left in windows]
            fine = self._fine(static, prior)
            scores = [
                body.scores(
                    fine, points, [(each[number][window], top, left) for each, window, top, left in known], weights
                )
                for number, body in enumerate(self.network.bodies)
            ]
            total = scores[0] if len(scores) == 1 else torch.stack(scores).mean(dim=0)
            shares = self._shares(total[None], None if prior is None else prior[None], points[None])
            return _spread(shares, points[None], static[0])[0]

    def run(
        self, coarse: Sequence[Tensor], static: Sequence[Tensor], prior: Sequence[Tensor] | None, land: Sequence[Tensor]
    ) -> Tensor:
        """Return class probabilities of one batch of windows, ``(windows, classes, size, size)`` on the device."""
        import torch

        points = self._points(land)
        missing = self.batch - len(static) if self.call is not None else 0
        layers = [torch.stack([*each, *[each[-1]] * missing]) for each in (coarse, static, prior) if each is not None]
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            if points is not None:
                shares = self._shares(self.network(*layers, points=points), _prior(layers), points)
                total = _spread(shares, points, land[0])
            else:
                call, images = self.call or self.network, _IMAGES if self.flips else _IMAGES[:1]
                parts = []
                for axes in images:
                    given = _mirrored(layers, axes, self.network)
                    parts.append(self._shares(call(*given), _prior(given)).flip(axes))
                total = parts[0] if len(parts) == 1 else torch.stack(parts).mean(dim=0)
        return total[: len(static)]

    def _shares(self, scores: Tensor, prior: Tensor | None, points: Tensor | None = None) -> Tensor:
        """Turn scores, ``(windows, classes, ...)``, into probabilities; the network has read `prior`."""
        scores = scores.float()
        if self.calibration is None:
            return scores.softmax(dim=1)
        scores = self.calibration.apply(scores)
        if self.calibration.of_change and prior is not None:
            latest = prior[:, 0] if prior.ndim > 3 else prior
            latest = latest if points is None else latest.flatten(1).gather(1, points)
            scores = self.calibration.apply_to_change(scores, latest)
        return scores.softmax(dim=1)

    def _points(self, land: Sequence[Tensor]) -> Tensor | None:
        """Flat indices of land where only that is computed."""
        import torch

        if self.device != "cpu" or self.flips or len(land) > 1:
            return None
        inside = land[0].numpy()
        if np.count_nonzero(inside) >= self.network.picks * inside.size:
            return None
        return torch.from_numpy(np.flatnonzero(inside)[None])


def _prior(layers: Sequence[Tensor]) -> Tensor | None:
    return layers[2] if len(layers) > 2 else None


def engine_of(checkpoint: Checkpoint, device: str = "auto", *, flips: bool = False) -> Engine:
    """Return the engine of a model, made once a process; `auto` takes a GPU where the process sees one.

    ModelError for a GPU that is not there, CheckpointError if the weights cannot be read.
    """
    import copy

    import torch

    chosen = choose_device(device)
    network, calibration = checkpoint.network(), checkpoint.calibration
    key = (id(network), chosen, flips, calibration)
    with _lock:
        if key not in _engines:
            if chosen == "cpu":
                faster = network.compiled()
                apart = not flips and all(hasattr(body, "around") for body in faster.bodies)
                _engines[key] = Engine(faster, chosen, 1, flips, None, calibration, apart)
            else:
                moved: Any = copy.deepcopy(network).to(chosen).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                call = None if flips else torch.compile(moved)
                _engines[key] = Engine(moved, chosen, CUDA_BATCH, flips, call, calibration)
        return _engines[key]


def choose_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``; :class:`ModelError` for a GPU that is not there, and for other names."""
    if device not in ("auto", "cpu", "cuda"):
        raise ModelError(f"device must be one of 'auto', 'cpu', 'cuda', not {device!r:.60}")
    if device == "cpu":
        return device
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ModelError(
            f"device='cuda': this process sees no GPU (torch {torch.__version__}); "
            "install a torch built for CUDA, or leave device at 'auto'"
        )
    return "cuda" if there else "cpu"


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread in this thread: others use the remaining cores, and sums have one order.

    Two threads that each wait busily for a second one slow a block down several times. And some kernels, such as
    convolutions by matrix products, round differently with another number of threads.
    """
    import torch

    before = torch.get_num_threads()
    if before != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


def _stay_with_one_thread() -> None:
    """Keep torch to one thread in this thread for good."""
    import torch

    # a thread that has not asked yet takes, with its first operation, the number that any thread has set last
    torch.get_num_threads()
    torch.set_num_threads(1)


def start_all(function: Callable[[_Item], None], items: Iterable[_Item]) -> list[Future[None]]:
    """Start a function on many items, on threads beside those of the windows: reading is mostly waiting."""
    pool = _pool("read")
    return [pool.submit(function, item) for item in items]


def threads() -> int:
    """Return how many windows run at once: cores of this process, or threads of its Dask worker."""
    if (worker := _worker()) is not None:
        return max(int(worker.state.nthreads), 1)
    if multiprocessing.parent_process() is not None:
        return 1
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def _worker() -> Any:
    """Return the Dask worker that runs the task of this thread, if one does."""
    if "distributed" in sys.modules:
        from distributed import get_worker

        with suppress(ValueError, AttributeError):  # not in a task of a worker
            return get_worker()
    return None


@dataclass
class Stop:
    """Whether a computation on this machine has ended, so that nobody waits for the blocks that it began."""

    asked: bool = False


def check_of(stop: Stop) -> Callable[[], None]:
    """Return what raises an error once nobody waits for the task of this thread."""
    if (worker := _worker()) is None:

        def check() -> None:
            if stop.asked:
                raise CancelledError

        return check
    from distributed import Reschedule

    task = worker.state.tasks.get(worker.get_current_task())

    def check_worker() -> None:
        if getattr(task, "state", "") == "cancelled":
            raise Reschedule  # if somebody waits for it again by now, it is computed again

    return check_worker


def _pool(kind: str) -> ThreadPoolExecutor:
    count = 1 if kind == "cuda" else threads()
    with _lock:
        if (kind, count) not in _pools:
            _pools[kind, count] = ThreadPoolExecutor(count, f"xland-{kind}", initializer=_stay_with_one_thread)
        return _pools[kind, count]


def _spread(values: Tensor, points: Tensor, land: Tensor) -> Tensor:
    full = values.new_zeros(*values.shape[:2], land.numel())
    return full.scatter_(2, points[:, None].expand_as(values), values).unflatten(2, land.shape)


def _mirrored(layers: list[Tensor], axes: tuple[int, ...], network: DownscalingNetwork) -> list[Tensor]:
    """Return a mirror image of the inputs, in which slopes that faced north face south."""
    if not axes:
        return layers
    image = [layer.flip(axes) for layer in layers]
    if -2 in axes:
        static = image[1]
        signs = static.new_ones(static.shape[1])
        offsets = static.new_zeros(static.shape[1])
        for position, channel in enumerate(network.inputs.static):
            if channel.sources == ("cos_aspect",):
                signs[position], offsets[position] = -1, -2 * channel.mean / channel.scale
        image[1] = static * signs[:, None, None] + offsets[:, None, None]
    return image


@dataclass
class Residency:
    """Values of one run that are kept while there is room, up to `budget` bytes.

    Years go over the same blocks again and again. So what came first stays: were the oldest to make
    room, each block would be gone just before its turn.
    """

    budget: int
    used: int = 0
    run: str = ""
    _kept: dict[Hashable, Any] = field(default_factory=dict)
    _made: dict[Hashable, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, run: str, key: Hashable, make: Callable[[], tuple[_Value, int]]) -> _Value:
        """Return the value of a key; ``make`` gives it and its bytes where it is not there.

        Of several threads that ask for the same one makes it, and the others wait.
        """
        with self._lock:
            if run != self.run:
                self.run, self.used, self._kept, self._made = run, 0, {}, {}
            alone = self._made.setdefault(key, threading.Lock())
        with alone:
            if run == self.run and key in self._kept:
                return self._kept[key]
            value, size = make()
            with self._lock:
                if run == self.run and self.used + size <= self.budget:
                    self._kept[key] = value
                    self.used += size
        return value


def residency_of(device: str) -> Residency:
    """Return what this process keeps for a device."""
    with _lock:
        if device not in _residencies:
            import torch

            budget = CPU_BUDGET if device == "cpu" else int(CUDA_SHARE * torch.cuda.mem_get_info()[1])
            _residencies[device] = Residency(budget)
        return _residencies[device]


def give_back() -> None:
    """Give freed memory back to the system, where the C library keeps it for the thread that had it (glibc).

    Without it memory grows with the number of blocks: by 50 MB over the 8 blocks of a 0.05 degree globe.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
    return found
