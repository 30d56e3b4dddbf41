"""Run the campaigns and print one JSON object a line.

    python -m tests.benchmarks.hostile [--quick] [--seed N] [CAMPAIGN ...]

Each line has the ``name`` of the figure, its ``value``, the ``target``, whether it is ``met``, the ``sizes`` of the
campaign and ``examples`` of faults, with what it takes to repeat them. ``--quick`` is a tenth of the inputs. The
exit status is 1 if any target is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time

CAMPAIGNS = ("inputs", "kills")


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.hostile")
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=f"any of {', '.join(CAMPAIGNS)}; else all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the generators (%(default)s)")
    options = parser.parse_args()
    unknown = sorted(set(options.campaigns) - set(CAMPAIGNS))
    if unknown:
        parser.error(f"unknown campaigns: {', '.join(unknown)}")
    missed = 0
    for name in options.campaigns or CAMPAIGNS:
        begun = time.monotonic()
        for line in importlib.import_module(f"tests.benchmarks.hostile.{name}").campaign(options.quick, options.seed):
            met = line["value"] <= line["target"]
            missed += not met
            print(json.dumps({**line, "met": met, "seconds": round(time.monotonic() - begun)}), flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
