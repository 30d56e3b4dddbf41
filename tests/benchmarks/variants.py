"""Variants of a training recipe that differ from it in one thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from xland.datasets.prepared import PREDICTORS
from xland.models.inputs import InputSpec
from xland.training.configuration import Configuration

REFERENCE = "reference"

_SOURCES = {"topography": "terrain", "land-mask": "land and sea", "koppen": "climate zones"}
"""What groups of predictors are called whose source has another name."""

_WEIGHTS = (("equal weights", 0), ("weights 0.25", 0.25), ("weights 0.5", 0.5))
_ONE_ENTRY: tuple[tuple[str, str, str, tuple[tuple[str, Any], ...]], ...] = (
    ("rare classes", "objective", "class_weight_power", _WEIGHTS),
    ("rare classes", "objective", "focal_gamma", (("no focal loss", 0), ("focal loss 2", 2.0))),
    ("rare classes", "objective", "lovasz", (("no Lovasz term", 0), ("Lovasz term 0.5", 0.5))),
    ("rare classes", "schedule", "rare_classes", (("plain sampling", 0), ("rare sampling 0.5", 0.5))),
    ("regularisation", "architecture", "dropout", (("no dropout", 0),)),
    ("regularisation", "architecture", "context_dropout", (("context never dropped", 0),)),
    ("regularisation", "augmentation", "flip_north_south", (("no north-south flips", False),)),
    ("regularisation", "augmentation", "channel_dropout", (("no channels dropped", 0),)),
)  # fmt: skip
"""Group, section and entry of the configuration, and what it is called at each value."""


@dataclass(frozen=True)
class Variant:
    """One training of the ablation."""

    name: str
    group: str
    configuration: Configuration
    seed: int = 0


def list_variants(configuration: Configuration) -> list[Variant]:
    """Return the reference, which is the configuration itself, and every variant of it."""
    return [
        Variant(REFERENCE, REFERENCE, configuration),
        *_one_entry(configuration, "rare classes"),
        *_predictors(configuration),
        Variant("another seed", REFERENCE, configuration, seed=1),
        *_one_entry(configuration, "regularisation"),
        *_sizes(configuration),
    ]


def predictor_groups(inputs: InputSpec) -> dict[str, tuple[str, ...]]:
    """Static channels by the source that they come from; those without one go by their own name."""
    source = {each.name: each.sources[0] for each in PREDICTORS if each.sources}
    groups: dict[str, list[str]] = {}
    for channel in inputs.static:
        name = source.get(channel.sources[0], channel.name)
        groups.setdefault(_SOURCES.get(name, name), []).append(channel.name)
    return {name: tuple(channels) for name, channels in groups.items()}


def fits(configuration: Configuration, *, depth: int = 0, factor: int = 0) -> bool:
    """Whether the patches of a configuration can be halved as often as a depth and a factor ask for."""
    depth, factor = depth or configuration.architecture.depth, factor or configuration.inputs.factor
    patch, stride = configuration.schedule.patch, configuration.schedule.patch_stride
    whole = not (patch % factor or stride % factor)
    return whole and not configuration.architecture.cells(patch, factor) % 2**depth


def _one_entry(configuration: Configuration, wanted: str) -> Iterator[Variant]:
    for group, section, entry, values in _ONE_ENTRY:
        if group != wanted:
            continue
        part = getattr(configuration, section)
        for name, value in values:
            if value != getattr(part, entry):
                changed = replace(configuration, **{section: replace(part, **{entry: value})})
                yield Variant(name, group, changed)


def _predictors(configuration: Configuration) -> Iterator[Variant]:
    inputs = configuration.inputs
    for group, channels in predictor_groups(inputs).items():
        kept = tuple(channel for channel in inputs.static if channel.name not in channels)
        yield Variant(f"without {group}", "predictors", replace(configuration, inputs=replace(inputs, static=kept)))
    land = tuple(channel for channel in inputs.static if channel.sources == (inputs.domain,))
    yield Variant("land share alone", "predictors", replace(configuration, inputs=replace(inputs, static=land)))
    total = max(inputs.coarse, key=lambda channel: len(channel.sources))
    bare = tuple(channel for channel in inputs.coarse if channel == total or not channel.sources)
    yield Variant("sum of the states alone", "predictors", replace(configuration, inputs=replace(inputs, coarse=bare)))


def _sizes(configuration: Configuration) -> Iterator[Variant]:
    inputs, architecture = configuration.inputs, configuration.architecture
    for name, times in (("half width", 0.5), ("double width", 2)):
        wider = {each: max(1, round(getattr(architecture, each) * times)) for each in ("width", "head")}
        yield Variant(name, "size", replace(configuration, architecture=replace(architecture, **wider)))
    if fits(configuration, depth=architecture.depth + 1):
        deeper = replace(architecture, depth=architecture.depth + 1)
        yield Variant("one level more", "size", replace(configuration, architecture=deeper))
    factor = 2 * inputs.factor
    if fits(configuration, factor=factor):
        coarser = replace(configuration, inputs=replace(inputs, factor=factor))
        yield Variant(f"states on {factor * inputs.resolution:g} degree", "factor", coarser)
