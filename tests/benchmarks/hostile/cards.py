"""Model cards and weights of strangers: 500 damaged ones, each read and used to downscale a tiny world.

Each model has a process of its own, within 9 GiB of addresses and 30 seconds. It is refused by name, or its map is
sound: probabilities that are finite and sum to 1, and those of the undamaged model where the change has no effect.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.harness import megabytes
from tests.benchmarks.hostile import Tally, in_new_process, mutate
from xland.errors import XlandError

COUNT = 500
PATIENCE = 30.0
ADDRESSES = 9 * 2**30
REGION = (0, 0, 24, 24)

_FREE = {"title", "notes", "licence", "name", "parameters", "versions", "extra"}
_NUMBERS = (0, 1, -1, 2, 3, 0.5, 1.5, -0.0, 10**3, 10**6, 10**9, 10**18, -(10**18), 10**400, 1e300, 1e-300, -1e30)
_TEXTS = ("", "x", "5", "\0", "é" * 300, "../..", "x" * 10**5)
_LISTS = ([], [[]], [1], [None], ["a"], [1.0] * 8, [1e308] * 8, ["ocean"] * 8, list(range(1000)))
_NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
_OF_HEADERS = ("F16", "F64", "BF16", "I8", "U64", "BOOL", "F8_E4M3", "F32", [0, 10**12], [2**62, 2**62], [8, 0])
_VALUES: tuple[Any, ...] = (
    *(None, True, False, {}, {"a": {}}, {"name": "a"}),
    *(*_NUMBERS, *_NOT_FINITE, *_TEXTS, *_LISTS, *_OF_HEADERS),
)


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the number of bare errors and unsound maps, the longest time and the largest growth of memory."""
    tally = Tally()
    slowest, largest = (0.0, ""), (0.0, "")
    with tempfile.TemporaryDirectory() as place:
        in_new_process(_prepare, place)
        for number in range(COUNT // 10 if quick else COUNT):
            family = random.Random(f"{seed} {number}").choice(_OFTEN)  # noqa: S311 - no secret
            label = f"{family}, seed {seed}, number {number}"

            def case(family: str = family, number: int = number, label: str = label) -> str | None:
                nonlocal slowest, largest
                found = in_new_process(_judge, place, family, f"{seed}-{number}", seconds=PATIENCE)
                slowest = max(slowest, (found["seconds"], f"{label}: {found['what']}"))
                largest = max(largest, (found["megabytes"], f"{label}: {found['what']}"))
                return f"{found['what']}: {found['fault']}" if found["fault"] else None

            tally.judge(family, label, case)
    faults = tally.silent + tally.bare
    yield tally.line("cards_bare", len(faults), 0, faults)
    yield tally.line("cards_slowest", round(slowest[0], 2), 5, [slowest[1]])
    yield tally.line("cards_memory", round(largest[0]), 500, [largest[1]])


def _value(old: Any, random_: random.Random) -> Any:
    numbers = (old * random_.choice((-1, 2, 3, 10, 1000)), old + 1) if type(old) in (int, float) else ()
    return random_.choice((*_VALUES, *numbers, *numbers, *numbers))


def _card(folder: Path, card: Any, random_: random.Random) -> str:
    what = mutate(card, random_, partial(_value, random_=random_))
    (folder / "card.json").write_text(json.dumps(card))
    return what


def _text(folder: Path, card: Any, random_: random.Random) -> str:
    path = folder / "card.json"
    content = path.read_bytes()
    at = random_.randrange(len(content))
    forms = {
        "cut": content[:at],
        "flip": content[:at] + bytes([content[at] ^ 1 << random_.randrange(8)]) + content[at + 1 :],
        "twice": content[:at] + content[max(at - 20, 0) :],
        "zero": content[:at] + b"\0" + content[at:],
        "deep": b'{"a":' * random_.choice((500, 10**5)),
        "lists": b"[" * 10**6,
        "digits": content.rstrip()[:-1] + b',"x":' + b"9" * random_.choice((4000, 5000, 10**6)) + b"}",
        "nan": content.rstrip()[:-1] + b',"x":NaN}',
        "exponent": content.rstrip()[:-1] + b',"x":1e9999999999}',
        "utf-16": content.decode().encode("utf-16"),
        "mark": b"\xef\xbb\xbf" + content,
        "long": content + b" " * 2**25,
        "empty": b"",
        "list": b"[" + content + b"]",
    }
    form = random_.choice(sorted(forms))
    path.write_bytes(forms[form])
    return f"{form} at {at}"


def _seal(folder: Path, card: Any, content: bytes) -> None:
    (folder / "weights.safetensors").write_bytes(content)
    (folder / "card.json").write_text(json.dumps({**card, "weights_sha256": hashlib.sha256(content).hexdigest()}))


def _header(folder: Path, card: Any, random_: random.Random) -> str:
    content = (folder / "weights.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    form = random_.choice(("length", "bytes", "deep", "entry", "entry", "entry"))
    if form == "length":
        length = random_.choice((0, 1, length - 1, length + 8, len(content), 2**31, 2**63, 2**64 - 1))
        _seal(folder, card, length.to_bytes(8, "little") + content[8:])
        return f"length {length}"
    if form == "bytes":
        at = random_.randrange(8 + length)
        _seal(folder, card, content[:at] + bytes([random_.randrange(256)]) + content[at + 1 :])
        return f"byte {at}"
    what = "deep" if form == "deep" else mutate(header, random_, partial(_value, random_=random_))
    text = b"[" * 10**5 if form == "deep" else json.dumps(header).encode()
    _seal(folder, card, len(text).to_bytes(8, "little") + text + data)
    return what


def _data(folder: Path, card: Any, random_: random.Random) -> str:
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    form = random_.choice(("value", "value", "all", "cut", "longer", "sparse", "unsealed", "pickle"))
    value = random_.choice((float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 1e30, -1e5, 1e-42))
    if form in ("value", "all"):
        body = np.frombuffer(content[start:], np.float32).copy()
        body[random_.randrange(len(body)) if form == "value" else slice(None)] = value
        _seal(folder, card, content[:start] + body.tobytes())
        return f"{form} {value}"
    if form == "sparse":
        with path.open("r+b") as file:
            file.truncate(random_.choice((2**28, 2**33, 2**40)))
        return form
    at = random_.randrange(len(content))
    forms = {
        "cut": content[:at],
        "longer": content + b"\0" * at,
        "pickle": b"\x80\x04" + content,
        "unsealed": content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :],
    }
    if form == "unsealed":
        path.write_bytes(forms[form])
    else:
        _seal(folder, card, forms[form])
    return f"{form} {at}"


def _kind(folder: Path, card: Any, random_: random.Random) -> str:
    path = folder / random_.choice(("card.json", "weights.safetensors", "applicability.safetensors"))
    form = random_.choice(("pipe", "folder", "zeros", "loop", "elsewhere", "missing", "empty"))
    path.unlink()
    if form == "pipe":
        os.mkfifo(path)
    elif form == "folder":
        path.mkdir()
    elif form == "empty":
        path.touch()
    elif form != "missing":
        path.symlink_to({"zeros": "/dev/zero", "loop": path.name, "elsewhere": "/etc/passwd"}[form])
    return f"{path.name} {form}"


_FAMILIES = {each.__name__[1:]: each for each in (_card, _text, _header, _data, _kind)}
_OFTEN = (*["card"] * 5, *_FAMILIES)


def _prepare(place: str) -> bool:
    """Write the undamaged model, and its map."""
    from tests.worlds import COARSE, tiny_checkpoint, tiny_inputs, tiny_world
    from xland.models.applicability import Applicability, Coverage
    from xland.models.checkpoint import update_card

    base = Path(place, "base")
    cells = np.isfinite(tiny_world((2000,))[0]["primf"].isel(time=0).values)
    learned = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)
    more = {"decision": [0.1] * 8, "calibration": {"scale": [1.5] * 8, "bias": [0.0] * 8}, "notes": "a model"}
    tiny_checkpoint(base, tiny_inputs(), kind="context", depth=1, head=4, detail=True)
    coverage = asdict(Coverage.of(COARSE, cells))
    update_card(base, {**more, "coverage": coverage}, applicability=Applicability(learned, 5.0, 0.5))
    np.savez(Path(place, "map.npz"), **_map(base))
    return True


def _map(model: Path) -> dict[str, Any]:
    from tests.worlds import tiny_world
    from xland.downscaling.call import downscale

    coarse, static, _ = tiny_world((2000,))
    outputs = ("land_use", "probability", "applicability")
    lazy = downscale(coarse, model=model, static=static, region=REGION, outputs=outputs)
    return {str(name): each.values for name, each in lazy.compute().data_vars.items()}


def _judge(place: str, family: str, seed: str) -> dict[str, Any]:
    """Damage a copy of the model and use it: what was done, what is wrong, and how much memory grew."""
    base, folder = Path(place, "base"), Path(place, "damaged")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    original = json.loads((base / "card.json").read_text())
    what = _FAMILIES[family](folder, json.loads((folder / "card.json").read_text()), random.Random(seed))  # noqa: S311
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = megabytes("VmHWM"), time.monotonic()
    fault = None
    try:
        found = _map(folder)
        probability = found["probability"]
        card = json.loads((folder / "card.json").read_text())
        changed = {name for name in original.keys() | card.keys() if original.get(name) != card.get(name)}
        if not np.isfinite(probability).all() or np.abs(probability.sum(axis=1) - 1).max() > 1e-3:
            fault = "probabilities are not finite, or do not sum to 1"
        elif changed <= _FREE:
            with np.load(Path(place, "map.npz")) as whole:
                same = all(np.array_equal(found[name], whole[name], equal_nan=True) for name in whole.files)
            fault = None if same else "another map, though nothing but text is changed"
    except XlandError:
        pass
    seconds = time.monotonic() - begun
    return {"what": what, "fault": fault, "seconds": seconds, "megabytes": megabytes("VmHWM") - before}
