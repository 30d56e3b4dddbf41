"""What is kept between requests: in memory up to some bytes, and in files that are compared with their digest."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xland.errors import StoreError, StoreWarning
from xland.paths import replacing

_Value = TypeVar("_Value")
Arrays = Mapping[str, NDArray[Any]]

_DIGEST = "sha256"


class Kept:
    """Values by key, each made once at a time; beyond `budget` bytes the least recently used are let go."""

    def __init__(self, budget: int) -> None:
        self.budget, self.used, self.hits, self.made = budget, 0, 0, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._pending: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()

    def __contains__(self, key: object) -> bool:
        """Whether a value is kept, or being made."""
        with self._lock:
            return key in self._values or key in self._pending

    def get(self, key: Hashable, make: Callable[[], _Value], size: Callable[[_Value], int]) -> _Value:
        """Return the value of a key. Of several threads that ask for it at the same time, one makes it."""
        with self._lock:
            if key in self._values:
                self.hits += 1
                self._values.move_to_end(key)
                found: _Value = self._values[key][0]
                return found
            waiting = self._pending.get(key)
            if waiting is None:
                mine: Future[Any] = Future()
                self._pending[key] = mine
        if waiting is not None:
            value: _Value = waiting.result()
            return value
        try:
            value = make()
        except BaseException as fault:
            with self._lock:
                del self._pending[key]
            mine.set_exception(fault)
            raise
        with self._lock:
            self.made += 1
            del self._pending[key]
            self._keep(key, value, size(value))
        mine.set_result(value)
        return value

    def _keep(self, key: Hashable, value: Any, size: int) -> None:
        if size > self.budget:
            return
        self._values[key] = value, size
        self.used += size
        while self.used > self.budget:
            self.used -= self._values.popitem(last=False)[1][1]


def bytes_of(arrays: Arrays) -> int:
    """Bytes of some arrays."""
    return sum(each.nbytes for each in arrays.values())


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that nobody can change: what is kept is given to all who ask."""
    array.flags.writeable = False
    return array


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Read arrays that :func:`write_arrays` wrote; None where there is no file, or it is damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            said = (file.metadata() or {}).get(_DIGEST)
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    return arrays if said == _digest(arrays) else None


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays to a file in one step; where that is not possible, warn, since the caller has them in memory."""
    from safetensors.numpy import save

    plain = {name: np.ascontiguousarray(each) for name, each in arrays.items()}
    try:
        with replacing(path) as part:
            part.write_bytes(save(plain, {_DIGEST: _digest(plain)}))
    except StoreError as fault:
        warnings.warn(f"{fault}; the answer is right, and will be computed again", StoreWarning, stacklevel=2)


def made_once(path: Path | None, make: Callable[[], Arrays]) -> Arrays:
    """Return arrays from a file, or make and write them; without a path only make them."""
    arrays: Arrays | None = None if path is None else read_arrays(path)
    if arrays is None:
        arrays = make()
        if path is not None:
            write_arrays(path, arrays)
    return {name: frozen(each) for name, each in arrays.items()}


def _digest(arrays: Arrays) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        each = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {each.dtype} {each.shape} ".encode())
        total.update(each.data.cast("B") if each.size else b"")
    return total.hexdigest()
