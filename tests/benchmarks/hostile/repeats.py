"""The same twice: one region fifty times, and fifty trainings of two ranks, beside a process that burns a core.

``python -m tests.benchmarks.hostile repeats``. All maps, probabilities included, must have one digest: on threads and
on local workers, whatever else runs, and whatever number of threads torch is set to. All trainings under torchrun must
end with status 0.
"""

from __future__ import annotations

import collections
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COUNT = 50
REGION = (-60, -20, 60, 60)
_BURN = "while True: pass"
_RANKS = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the number of digests, and that of trainings that ended otherwise than with status 0."""
    count = COUNT // 10 if quick else COUNT
    sizes = {"runs": count}
    with tempfile.TemporaryDirectory() as place, subprocess.Popen([sys.executable, "-c", _BURN]) as burning:
        try:
            digests = collections.Counter(_digests(Path(place), count, seed))
            yield {"name": "digests", "value": len(digests), "target": 1, "sizes": sizes, "examples": [digests]}
            bad = [end for end in _trainings(Path(place), count) if end["status"]]
            yield {"name": "torchrun_status", "value": len(bad), "target": 0, "sizes": sizes, "examples": bad[:5]}
        finally:
            burning.kill()


def _digests(place: Path, count: int, seed: int) -> Iterator[str]:
    """Digests of one region: most of them of one process, every tenth of local workers."""
    import torch

    from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
    from xland.clusters import open_cluster
    from xland.downscaling.call import downscale

    coarse, static, _ = tiny_world((2000,))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads on a busy machine wait for each other most of the time
    models = [tiny_checkpoint(place / f"model-{number}", tiny_inputs(), number) for number in range(3)]
    models.append(
        tiny_checkpoint(place / "context", tiny_inputs(), 3, kind="context", depth=1, head=48, width=48, detail=True)
    )

    def digest(chunks: int) -> str:
        outputs = ("land_use", "probability", "confidence", "spread")
        options = {"static": static, "years": 2000, "region": REGION, "outputs": outputs, "chunks": chunks}
        found = downscale(coarse, model=models, **options).compute()
        return hashlib.sha256(b"".join(found[name].values.tobytes() for name in outputs)).hexdigest()[:16]

    random_ = random.Random(seed)  # noqa: S311 - not a secret
    for _ in range(count - count // 10):
        torch.set_num_threads(random_.randint(1, 4))
        yield digest(random_.choice((20, 44, 60, 360)))
    torch.set_num_threads(before)
    with open_cluster("local", workers=2, progress=False):
        for _ in range(count // 10 or 1):
            yield digest(random_.choice((44, 60)))


def _trainings(place: Path, count: int) -> Iterator[dict[str, Any]]:
    from tests.training.commands import write_files
    from xland.cli import main

    configuration = write_files(place, epochs=1, candidates=8, common_statistics="false")
    store = place / "store.zarr"
    assert main(["prepare", str(configuration), str(store)]) == 0
    for number in range(count):
        command = [*_RANKS, "xland.cli", "train", str(configuration), str(place / f"run-{number}")]
        done = subprocess.run(
            [*command, "--store", str(store), "--device", "cpu"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        yield {"number": number, "status": done.returncode, "said": done.stderr[-500:] if done.returncode else ""}
