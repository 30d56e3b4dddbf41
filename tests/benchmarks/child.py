"""The fresh process of one measured run: ``python -m tests.benchmarks.child MODULE:FUNCTION ARGUMENTS``.

Calls the function with the JSON object of arguments and prints what it returns as the last line.
"""

from __future__ import annotations

import importlib
import json
import sys


def main(target: str, arguments: str) -> None:
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    print(json.dumps(function(**json.loads(arguments))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
