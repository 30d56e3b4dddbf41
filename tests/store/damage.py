"""Damage to stores, and stores whose digests were taken anew after a change on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xland.store.storage import ATTRIBUTE, ROOT, sha256


def change_root(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the attributes of a store, and take its digests anew."""
    root = json.loads((store / ROOT).read_text())
    change(root["attributes"])
    (store / ROOT).write_text(json.dumps(root))
    table = store / root["attributes"][ATTRIBUTE]
    names = sorted(file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file())
    lines = [f"{sha256((store / name).read_bytes())}  {name}\n" for name in names if store / name != table]
    table.write_text("".join(lines))


def flip(file: Path, byte: int, bit: int = 0) -> None:
    """Turn one bit of a file."""
    content = bytearray(file.read_bytes())
    content[byte % len(content)] ^= 1 << bit
    file.write_bytes(content)
