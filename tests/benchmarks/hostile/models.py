"""Model cards and weights of strangers: 500 damaged ones, each read and used to downscale a tiny world.

``python -m tests.benchmarks.hostile models``. A process takes one model after the other, within 9 GiB of addresses; one
that is stuck for 30 seconds or dies is a fault, and another process goes on after it. A model is refused by name, or
its map is sound: probabilities that are finite and sum to 1, and those of the undamaged model where the change has no
effect. Seconds and memory are those of the slowest and the largest.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

COUNT = 500
PATIENCE = 30.0
ADDRESSES = 9 * 2**30
REGION = (0, 0, 24, 24)

_FREE = ("title", "notes", "licence", "name", "parameters", "versions", "extra")
_NUMBERS = (0, 1, -1, 2, 3, 0.5, 1.5, -0.0, 10**3, 10**6, 10**9, 10**18, -(10**18), 10**400, 1e300, 1e-300, -1e30)
_TEXTS = ("", "x", "5", "\0", "é" * 300, "../..", "x" * 10**5)
_LISTS = ([], [[]], [1], [None], ["a"], [1.0] * 8, [1e308] * 8, ["ocean"] * 8, list(range(1000)))
_NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
_VALUES: tuple[Any, ...] = (
    *(None, True, False, {}, {"a": {}}, {"name": "a"}),
    *(*_NUMBERS, *_NOT_FINITE, *_TEXTS, *_LISTS),
)


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the number of bare errors and unsound maps, the longest time and the largest growth of memory."""
    count = COUNT // 10 if quick else COUNT
    with tempfile.TemporaryDirectory() as place:
        found = list(_verdicts(Path(place), count, seed))
    faults = [each for each in found if each["verdict"] == "fault"]
    sizes = {"models": len(found), "refused": sum(each["verdict"] == "named" for each in found)}
    slowest, largest = (max(found, key=lambda each: each[key]) for key in ("seconds", "megabytes"))
    yield {"name": "cards_bare", "value": len(faults), "target": 0, "sizes": sizes, "examples": faults[:20]}
    yield {"name": "cards_slowest", "value": slowest["seconds"], "target": 5, "sizes": sizes, "examples": [slowest]}
    yield {"name": "cards_memory", "value": largest["megabytes"], "target": 500, "sizes": sizes, "examples": [largest]}


def _verdicts(place: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Let processes judge one model after the other."""
    number = 0
    while number < count:
        command = [sys.executable, "-m", "tests.benchmarks.hostile.models", *map(str, (place, seed, number, count))]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            rest = b""
            while number < count:
                patience = PATIENCE if rest or number else 4 * PATIENCE  # of a process that begins
                said = select.select([process.stdout], [], [], patience)[0]
                new = os.read(process.stdout.fileno(), 2**16) if said else b""
                *lines, rest = (rest + new).split(b"\n")
                for line in lines:
                    number += 1
                    yield json.loads(line)
                if not new:
                    process.kill()
                    how = f"ended with status {process.wait()}" if said else f"was stuck for {patience:g} s"
                    fault = {"seed": seed, "number": number, "what": f"the process {how}", "verdict": "fault"}
                    yield {**fault, "seconds": 0.0 if said else patience, "megabytes": 0}
                    number += 1
                    break


def damage(base: Path, folder: Path, random_: random.Random) -> str:
    """Make a damaged copy of a model, and say what was done."""
    shutil.copytree(base, folder)
    family = random_.choice(("entry", "entry", "entry", "entry", "drop", "extra", "text", "header", "data", "kind"))
    card = json.loads((folder / "card.json").read_text())
    what = _FAMILIES[family](folder, card, random_)
    return f"{family}: {what}"


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*at, key)
        yield from _places(each, (*at, key))


def _parent(card: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        card = card[key]
    return card


def _write(folder: Path, card: Any) -> None:
    sys.set_int_max_str_digits(0)
    (folder / "card.json").write_text(json.dumps(card))
    sys.set_int_max_str_digits(4300)


def _entry(folder: Path, card: Any, random_: random.Random) -> str:
    place = random_.choice(list(_places(card)))
    parent, old = _parent(card, place), None
    old = parent[place[-1]]
    numbers = (old * random_.choice((-1, 2, 3, 10, 1000)), old + 1) if type(old) in (int, float) else ()
    new = random_.choice((*_VALUES, *numbers, *numbers, *numbers))
    parent[place[-1]] = new
    _write(folder, card)
    return f"{'.'.join(map(str, place))} = {repr(new)[:60] if new != 10**400 else '10**400'}"


def _drop(folder: Path, card: Any, random_: random.Random) -> str:
    place = random_.choice(list(_places(card)))
    del _parent(card, place)[place[-1]]
    _write(folder, card)
    return ".".join(map(str, place))


def _extra(folder: Path, card: Any, random_: random.Random) -> str:
    tables = [card, *(each for place in _places(card) if isinstance(each := _parent(card, (*place, 0)), dict))]
    table, value = random_.choice(tables), random_.choice(_VALUES)
    table["extra"] = value
    _write(folder, card)
    return repr(sorted(map(str, table)))[:60]


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
    _write(folder, {**card, "weights_sha256": hashlib.sha256(content).hexdigest()})


def _header(folder: Path, card: Any, random_: random.Random) -> str:
    content = (folder / "weights.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    form = random_.choice(("length", "entry", "drop", "name", "bytes", "deep"))
    if form == "length":
        length = random_.choice((0, 1, length - 1, length + 8, len(content), 2**31, 2**63, 2**64 - 1))
        _seal(folder, card, length.to_bytes(8, "little") + content[8:])
        return f"length {length}"
    if form == "bytes":
        at = random_.randrange(8 + length)
        _seal(folder, card, content[:at] + bytes([random_.randrange(256)]) + content[at + 1 :])
        return f"byte {at}"
    text = b"[" * 10**5
    what = ""
    if form != "deep":
        places = list(_places(header)) if form != "name" else [(name,) for name in header]
        place = random_.choice(places)
        what = ".".join(map(str, place))
        parent = _parent(header, place)
        old = parent.pop(place[-1])
        if form == "entry":
            kinds = ("F16", "F64", "BF16", "I8", "U64", "BOOL", "F8_E4M3", "F32")
            new = random_.choice((*_VALUES, *kinds, [0, 10**12], [2**62, 2**62], [8, 0]))
            parent.insert(place[-1], new) if isinstance(parent, list) else parent.update({place[-1]: new})
            what += f" = {repr(new)[:40] if new != 10**400 else '10**400'}"
        elif form == "name":
            parent[random_.choice(("", "x" * 10**5, "../x", "a.backdoor"))] = old
        sys.set_int_max_str_digits(0)
        text = json.dumps(header).encode()
        sys.set_int_max_str_digits(4300)
    _seal(folder, card, len(text).to_bytes(8, "little") + text + data)
    return f"{form} {what}"


def _data(folder: Path, card: Any, random_: random.Random) -> str:
    import numpy as np

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


_FAMILIES = {each.__name__[1:]: each for each in (_entry, _drop, _extra, _text, _header, _data, _kind)}


def _judge_all(place: Path, seed: int, first: int, count: int) -> None:
    """Print the verdict on each model from a number on."""
    import numpy as np

    from tests.worlds import COARSE, tiny_checkpoint, tiny_inputs, tiny_world
    from xland.downscaling.call import downscale
    from xland.errors import XlandError
    from xland.models.applicability import Applicability
    from xland.models.checkpoint import update_card
    from xland.models.coverage import Coverage

    coarse, static, _ = tiny_world((2000,))
    base = place / "base"
    if not base.exists():
        learned = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)
        cells = np.isfinite(coarse["primf"].isel(time=0).values)
        more = {"decision": [0.1] * 8, "calibration": {"scale": [1.5] * 8, "bias": [0.0] * 8}, "notes": "a model"}
        tiny_checkpoint(base, tiny_inputs(), kind="context", depth=1, head=4, detail=True)
        update_card(
            base,
            {**more, "coverage": asdict(Coverage.of(COARSE, cells))},
            applicability=Applicability(learned, 5.0, 0.5),
        )

    def answer(model: Path) -> dict[str, Any]:
        outputs = ("land_use", "probability", "applicability")
        lazy = downscale(coarse, model=model, static=static, region=REGION, outputs=outputs)
        return {name: each.values for name, each in lazy.compute().data_vars.items()}

    whole = answer(base)
    original = json.loads((base / "card.json").read_text())
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    for number in range(first, count):
        folder = place / str(number)
        line: dict[str, Any] = {"seed": seed, "number": number}
        line["what"] = damage(base, folder, random.Random(f"{seed}-{number}"))  # noqa: S311
        before, begun = _reset_peak(), time.monotonic()
        try:
            found = answer(folder)
            line["verdict"], line["message"] = _compare(folder, original, whole, found)
        except XlandError as error:
            line |= {"verdict": "named", "message": f"{type(error).__name__}: {error}"[:300]}
        except BaseException as error:  # noqa: BLE001 - whatever a stranger's model brings about
            line |= {"verdict": "fault", "message": f"{type(error).__name__}: {error}"[:300]}
        line |= {"seconds": round(time.monotonic() - begun, 2), "megabytes": round((_peak() - before) / 2**10)}
        shutil.rmtree(folder)
        print(json.dumps(line), flush=True)


def _compare(folder: Path, original: Any, whole: dict[str, Any], found: dict[str, Any]) -> tuple[str, str]:
    import numpy as np

    probability = found["probability"]
    if not np.isfinite(probability).all() or np.abs(probability.sum(axis=1) - 1).max() > 1e-3:
        return "fault", "probabilities are not finite, or do not sum to 1"
    card = json.loads((folder / "card.json").read_text())
    effective = {name for name in original.keys() | card.keys() if original.get(name) != card.get(name)} - {*_FREE}
    if not effective and not all(np.array_equal(found[name], whole[name], equal_nan=True) for name in whole):
        return "fault", "another map, though nothing but text is changed"
    return "right", ", ".join(sorted(effective))


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Largest memory since the last reset in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    return 0


if __name__ == "__main__":
    _judge_all(Path(sys.argv[1]), *map(int, sys.argv[2:]))
