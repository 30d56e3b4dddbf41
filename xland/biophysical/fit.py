"""Learn the responses of the classes from blocks of cells, and judge them on blocks that were left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xland.biophysical.model import BiophysicalModel, network_of, save_model
from xland.biophysical.network import ResponseNetwork
from xland.biophysical.samples import Cells, VegetationConfiguration, read_blocks
from xland.errors import TrainingError
from xland.models.applicability import Applicability

_PROTOTYPES = 2000
_SMALLEST = 8  # cells of a block in a step
_INSIDE = 0.95  # share of the climates of left-out cells that are within the threshold


def train_vegetation(
    configuration: VegetationConfiguration, output: str | Path, folder: str | Path | None = None
) -> BiophysicalModel:
    """Leave out each block in turn, then learn from all, and write the model.

    Parameters
    ----------
    configuration : VegetationConfiguration
    output : path
        Folder for the model.
    folder : path, optional
        Where the files of the blocks are, in place of the folder of the configuration.

    Returns
    -------
    BiophysicalModel
        Its card has ``validation``: the root mean square error of each block that was left out, and their mean.

    Raises
    ------
    ConfigurationError
        If a file or its values do not fit the configuration.
    TrainingError
        If the loss is not finite.
    """
    blocks = read_blocks(configuration, folder)
    errors = {name: rmse(found, blocks[name].target) for name, found in left_out(configuration, blocks).items()}
    network = fit(configuration, blocks)
    reach = _reach(network, blocks, configuration.schedule.seed)
    network.prototypes = torch.from_numpy(reach.prototypes)
    plain = asdict(configuration)
    card = {name: plain[name] for name in ("name", "title", "licence", "notes", "target", "response")}
    card["coverage"] = {"prototypes": len(reach.prototypes), "typical": reach.typical, "threshold": reach.threshold}
    card["training"] = {"blocks": plain["blocks"], "schedule": plain["schedule"]}
    card["training"]["cells"] = {name: len(cells.target) for name, cells in blocks.items()}
    card["validation"] = {"left_out_rmse": round(float(np.mean(list(errors.values()))), 4), "blocks": errors}
    return save_model(output, network, card)


def left_out(configuration: VegetationConfiguration, blocks: Mapping[str, Cells]) -> dict[str, NDArray[np.float32]]:
    """Return the prediction for each block by a network that has learned from the other blocks, ``(cells, 12)``."""
    found = {}
    for name, cells in blocks.items():
        network = fit(configuration, {other: each for other, each in blocks.items() if other != name})
        found[name] = predict(network, cells)
    return found


def predict(network: ResponseNetwork, cells: Cells) -> NDArray[np.float32]:
    """Return the mean prediction of the members, ``(cells, 12)``."""
    with torch.inference_mode():
        answers = network(torch.from_numpy(cells.features)).mean(dim=0).numpy()
    return np.einsum("nc,nmc->nm", cells.shares, answers)


def rmse(predicted: NDArray[Any], observed: NDArray[Any]) -> float:
    """Root mean square error over all cells and months."""
    return round(float(np.sqrt(np.mean((predicted - observed) ** 2))), 4)


def fit(configuration: VegetationConfiguration, blocks: Mapping[str, Cells]) -> ResponseNetwork:
    """Return a network that has learned from blocks; each member has its own start and shares the cells of a step."""
    schedule, target = configuration.schedule, configuration.target
    with torch.random.fork_rng():
        torch.manual_seed(schedule.seed)
        network = network_of(configuration.response, target, 1)
        data = [tuple(map(torch.from_numpy, (each.features, each.shares, each.target))) for each in blocks.values()]
        rows = torch.cat([features.flatten(0, 1) for features, _, _ in data])
        network.mean, network.scale = rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-3)
        weights = np.sqrt([len(features) for features, _, _ in data])
        counts = np.maximum(schedule.batch * weights / weights.sum(), _SMALLEST).astype(int)
        optimizer = torch.optim.AdamW(network.parameters(), schedule.rate, weight_decay=schedule.decay)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, schedule.steps)
        for _ in range(schedule.steps):
            chosen = [torch.randint(len(each[0]), (int(n),)) for each, n in zip(data, counts, strict=True)]
            parts = zip(*([part[at] for part in each] for each, at in zip(data, chosen, strict=True)), strict=True)
            features, shares, observed = map(torch.cat, parts)
            found = (network(features, schedule.noise) * shares[:, None]).sum(dim=-1)
            loss = _loss(found, observed, target.loss)
            if not bool(torch.isfinite(loss)):
                raise TrainingError("the loss is not finite: lower [schedule] rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    return network.eval().requires_grad_(requires_grad=False)


def _loss(found: torch.Tensor, observed: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the sum over members, so that each learns as fast as it would alone."""
    if kind == "root":
        found, observed = (found + 0.1).sqrt(), (observed + 0.1).sqrt()
    return (found - observed).square().mean(dim=(1, 2)).sum()


def _reach(network: ResponseNetwork, blocks: Mapping[str, Cells], seed: int) -> Applicability:
    """Return climates that stand for all, and how far those of a left-out block usually are from the others."""
    random = np.random.default_rng(seed)
    climates = {name: network.standard(cells.features) for name, cells in blocks.items()}
    every = np.concatenate(list(climates.values())).astype(np.float32)
    pairs = random.integers(len(every), size=(2, 20_000))
    typical = float(np.linalg.norm(every[pairs[0]] - every[pairs[1]], axis=1).mean())
    most = _PROTOTYPES // len(blocks)
    parts = {name: each[random.permutation(len(each))[:most]].astype(np.float32) for name, each in climates.items()}
    found = []
    for name, part in parts.items():
        others = np.concatenate([each for other, each in parts.items() if other != name])
        empty = np.zeros((0, len(part), 1), np.float32)
        found.append(Applicability(others, typical, 0.0).distance(part.T[:, :, None], empty).ravel())
    threshold = float(np.quantile(np.concatenate(found), _INSIDE))
    return Applicability(np.concatenate(list(parts.values())), typical, threshold)
