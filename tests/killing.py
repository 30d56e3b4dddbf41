"""Processes that are killed while they write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def kill_this_process() -> None:
    """End at once, as when the memory of a machine runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(code: str, *arguments: object) -> None:
    """Run Python code in a process of its own, which must kill itself; ``sys.argv[1:]`` are the arguments."""
    script = "import sys\nsys.path.insert(0, sys.argv.pop())\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", script, *map(str, arguments), str(PROJECT)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
