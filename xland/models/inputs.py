"""What a model reads: channels, their order and normalisation, and the hiding of parts of the prior map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from xland.arguments import shown
from xland.errors import ModelError, StaticError
from xland.geo.grid import expand
from xland.records import Limits, check_entries
from xland.vocabulary import CLASS_NAMES, LUH2_STATES

Transform = Literal["none", "sqrt", "signed_sqrt", "log1p"]
PriorEncoding = Literal["none", "code", "one_hot"]
Name = Annotated[str, Limits(1, 200)]
Names = Annotated[tuple[Name, ...], Limits(most=100)]

MASKED = 255
"""Code of a hidden pixel of the prior, and of a target pixel that does not count."""

_MOST_OVERLAP = 16  # windows that may cover a cell along each axis

# in place where they can be: what stays in a core's cache is done several times faster
_TRANSFORMS = {
    "none": lambda values: values,
    "sqrt": lambda values: np.sqrt(np.maximum(values, 0, out=values), out=values),
    "signed_sqrt": lambda values: np.copysign(np.sqrt(np.abs(values)), values, out=values),
    "log1p": lambda values: np.log1p(np.maximum(values, 0, out=values), out=values),
}


@dataclass(frozen=True)
class Channel:
    """One channel: named variables added up, transformed, centred and scaled.

    Parameters
    ----------
    name : str
        Name of the channel.
    sources : tuple of str
        Variables that are added up; a coarse channel without sources says where there are data.
    transform : {"none", "sqrt", "signed_sqrt", "log1p"}
        Applied to the sum before centring.
    mean, scale : float
        The channel is ``(transform(sum) - mean) / scale``.
    optional : bool
        Whether the channel may be missing; it is then 0 everywhere, the mean of the training data.
    extras : tuple of str
        Variables that are added, too, where there are any: ``pltns``, which LUH3 splits off.
    """

    name: Name
    sources: Names
    transform: Transform = "none"
    mean: Annotated[float, Limits(-1e12, 1e12)] = 0.0
    scale: Annotated[float, Limits(1e-12, 1e12)] = 1.0
    optional: bool = False
    extras: Names = ()

    def __post_init__(self) -> None:
        try:
            check_entries(self, ModelError)
        except ModelError as error:
            raise ModelError(f"channel {shown(self.name)}: {error}") from error

    def compute(self, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Make the channel from its sources, in float32; NaN stays NaN."""
        names = [*self.sources, *(name for name in self.extras if name in values)]
        first = np.asarray(values[names[0]])
        if first.dtype == np.float16:  # torch widens half precision five times as fast as NumPy
            import torch

            total = torch.from_numpy(np.ascontiguousarray(first)).float().numpy()
        else:
            total = np.array(first, dtype=np.float32)
        for name in names[1:]:
            total += np.asarray(values[name], dtype=np.float32)
        total = _TRANSFORMS[self.transform](total)
        total -= np.float32(self.mean)
        total /= np.float32(self.scale)
        return total


@dataclass(frozen=True)
class InputSpec:
    """Everything that fixes what a network reads and writes.

    Parameters
    ----------
    coarse : tuple of Channel
        Channels at coarse resolution, repeated for every step.
    static : tuple of Channel
        Channels at fine resolution that do not change with time.
    steps : tuple of int
        Years relative to the year of the map at which the coarse channels are read; ``(0,)`` or,
        as in the published system, ``(0, -1)``.
    prior : {"none", "code", "one_hot"}
        How the map of the adjacent year is read: not at all, as one channel with the class code
        divided by the number of classes, or as one channel a class; a masked pixel is 0 in all.
    prior_step : {-1, 1}
        Year of the prior relative to the map: -1 for models of the future, 1 for models of the past.
    intervals : tuple of int
        Years from the prior map to the map that the model can cross, of which a rollout may take any. `steps` count
        in intervals: with steps ``(0, -1)``, a model of the future reads the states of both maps. With several
        intervals, the last coarse channel is the interval divided by the longest one.
    history : int
        Maps beyond the prior map that are read too where they are known, a year apart (before it in models of the
        future): how often each class was there, for how many years the class has been the same, and how many maps are
        known.
    classes : tuple of str
        Names of the classes in the order of the outputs.
    factor : int
        Fine cells along one coarse cell.
    resolution : float
        Fine resolution in degrees.
    window, stride : int
        Size and step of the inference windows in fine cells: multiples of ``factor``.
    domain : str
        Static variable (share of land) that is above 0 where a class is predicted; elsewhere is ocean.
    """

    coarse: Annotated[tuple[Channel, ...], Limits(1, 500)]
    static: Annotated[tuple[Channel, ...], Limits(most=500)]
    steps: Annotated[tuple[Annotated[int, Limits(-500, 500)], ...], Limits(1, 50)] = (0,)
    prior: PriorEncoding = "none"
    prior_step: Literal[-1, 1] = -1
    intervals: Annotated[tuple[Annotated[int, Limits(1, 500)], ...], Limits(1, 100)] = (1,)
    history: Annotated[int, Limits(0, 100)] = 0
    classes: Annotated[tuple[Name, ...], Limits(1, len(CLASS_NAMES))] = CLASS_NAMES
    factor: Annotated[int, Limits(1, 1000)] = 5
    resolution: Annotated[float, Limits(1e-4, 90)] = 0.05
    window: Annotated[int, Limits(1, 2**14)] = 160
    stride: Annotated[int, Limits(1, 2**14)] = 80
    domain: Name = "land_share"

    def __post_init__(self) -> None:
        check_entries(self, ModelError)
        names = [channel.name for channel in (*self.coarse, *self.static)]
        if len(set(names)) != len(names):
            raise ModelError(f"channel names must be unique: {', '.join(names)}")
        if not self.coarse_variables:
            raise ModelError("at least one coarse channel must always be there: it says where there are data")
        for channel in self.static:
            if not channel.sources:
                raise ModelError(f"static channels need at least one variable as source, but {channel.name} has none")
        if self.classes != CLASS_NAMES[: len(self.classes)]:
            raise ModelError(
                f"classes must be in the order of their codes, {', '.join(CLASS_NAMES)}, not {self.classes}"
            )
        if self.window % self.factor or self.stride % self.factor:
            raise ModelError(f"window {self.window} and stride {self.stride} must be multiples of factor {self.factor}")
        if not self.window / _MOST_OVERLAP <= self.stride <= self.window:
            raise ModelError(
                f"stride {self.stride} must be at most the window {self.window}, and at least 1/{_MOST_OVERLAP} of it"
            )
        around = round(360 / self.resolution)
        if around % self.stride:
            raise ModelError(
                f"{around} cells round the globe must be a multiple of stride {self.stride}, so that windows meet at "
                "the date line"
            )
        for name, what in (("steps", "years relative to the map"), ("intervals", "numbers of years")):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ModelError(f"{name} must be different {what}, not {values}")
        if self.prior == "none" and (self.intervals != (1,) or self.history):
            raise ModelError(
                "intervals and history are of models that read a prior map: set prior to 'one_hot', or leave them out"
            )

    @property
    def coarse_variables(self) -> tuple[str, ...]:
        """Names of the forcing variables that must be there, without repetition."""
        return tuple(dict.fromkeys(name for each in self.coarse if not each.optional for name in each.sources))

    @property
    def optional_coarse_variables(self) -> tuple[str, ...]:
        """Names of the forcing variables that are read if they are there."""
        read = [(*each.sources, *each.extras) if each.optional else each.extras for each in self.coarse]
        return tuple(dict.fromkeys(name for names in read for name in names))

    @property
    def static_variables(self) -> tuple[str, ...]:
        """Names of the static variables that must be there, the domain's included."""
        return tuple(dict.fromkeys([*(name for each in self.static for name in each.sources), self.domain]))

    @property
    def coarse_channels(self) -> int:
        """Number of coarse channels over all steps, and the one of the interval if there are several."""
        return len(self.coarse) * len(self.steps) + (len(self.intervals) > 1)

    @property
    def fine_channels(self) -> int:
        """Number of channels on the fine grid: static fields, the prior map and the maps beyond it."""
        prior = {"none": 0, "code": 1, "one_hot": len(self.classes)}[self.prior]
        return len(self.static) + prior + (len(self.classes) + 2 if self.history else 0)

    @property
    def channels(self) -> int:
        """Number of channels that the network reads."""
        return self.coarse_channels + self.fine_channels

    def states_of(self, year: int, interval: int) -> tuple[int, ...]:
        """Years of the states that a map reads, in the order of `steps`."""
        return tuple(year + step * interval for step in self.steps)

    def maps_of(self, year: int, interval: int) -> tuple[int, ...]:
        """Years of the prior map and of the maps beyond it that a map reads."""
        first = year + self.prior_step * interval
        return tuple(first + self.prior_step * beyond for beyond in range(self.history + 1))

    def coarse_array(self, values: Mapping[str, NDArray[Any]], interval: int = 1) -> NDArray[np.float32]:
        """Stack the coarse channels in float32, ``(coarse_channels, rows, columns)``; 0 where there are no data.

        ``values`` are forcing variables, ``(steps, rows, columns)`` each. All channels of a step come before those of
        the next.
        """
        return self.with_interval(self.state_array(values), interval)

    def with_interval(self, states: NDArray[np.float32], interval: int) -> NDArray[np.float32]:
        """Return the coarse channels of states, ``(steps, channels, rows, columns)``; see :meth:`coarse_array`."""
        layers = states.reshape(-1, *states.shape[2:])
        if len(self.intervals) == 1:
            return layers
        return np.concatenate([layers, np.full_like(layers[:1], interval / max(self.intervals))])

    def state_array(self, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Stack the channels of each step, ``(steps, channels, rows, columns)``, in float32; 0 without data."""
        missing = [name for name in self.coarse_variables if name not in values]
        if missing:
            raise ModelError(f"the model needs the forcing variables {', '.join(missing)}, which are missing")
        some = np.asarray(values[self.coarse_variables[0]])
        has_data = np.isfinite(some)
        layers = []
        for channel in self.coarse:
            if not channel.sources:
                layers.append(has_data.astype(np.float32))
            elif channel.optional and any(name not in values for name in channel.sources):
                layers.append(np.zeros(some.shape, dtype=np.float32))
            else:
                layers.append(np.where(has_data, np.nan_to_num(channel.compute(values)), np.float32(0)))
        return np.stack(layers, axis=1)

    def static_array(self, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float16]:
        """Stack the static channels, ``(len(static), rows, columns)`` float16; StaticError if values are missing."""
        missing = [name for name in self.static_variables if name not in values]
        if missing:
            raise StaticError(f"static predictors lack {', '.join(missing)}, which the model needs")
        domain = np.asarray(values[self.domain])
        result = np.empty((len(self.static), *domain.shape), dtype=np.float16)
        for layer, channel in zip(result, self.static, strict=True):
            layer[...] = self.static_layer(channel, values, domain > 0)
        return result

    def static_layer(
        self, channel: Channel, values: Mapping[str, NDArray[Any]], land: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return one static channel within the range of half precision, ``(rows, columns)``; errors as above."""
        layer = channel.compute(values)
        finite = np.isfinite(layer)
        if not finite.all():
            if bad := int((~finite & land).sum()):
                raise StaticError(
                    f"static predictor {channel.name!r} is NaN or infinite in {bad} cells of land: "
                    f"fill it, or set {self.domain!r} to 0 there"
                )
            layer[~finite] = 0
        # half precision ends at 65504; normalised channels are far smaller
        return np.clip(layer, -60000, 60000, out=layer)

    def normalised(self, statistics: Mapping[str, tuple[float, float]]) -> InputSpec:
        """Return the same channels with the given (mean, scale) by channel name."""
        channels = {each.name: each for each in (*self.coarse, *self.static)}
        for name, (mean, scale) in statistics.items():
            if name in channels:
                channels[name] = replace(channels[name], mean=float(mean), scale=float(scale))
        every = tuple(channels.values())
        return replace(self, coarse=every[: len(self.coarse)], static=every[len(self.coarse) :])


def published_inputs() -> InputSpec:
    """Return the 35 input channels of AI4Land (arXiv 2606.11793).

    Two steps of twelve LUH2 states, age and biomass of secondary land, six static fields and the
    prior map of the adjacent year in one channel, on 0.01 degree.
    """
    return InputSpec(
        coarse=(
            *(Channel(name, (name,)) for name in sorted(LUH2_STATES)),
            Channel("secma", ("secma",), optional=True),
            Channel("secmb", ("secmb",), optional=True),
        ),
        static=tuple(
            Channel(name, (name,)) for name in ("elevation", "slope", "cos_aspect", "clay", "sand", "organic_matter")
        ),
        steps=(0, -1),
        prior="code",
        factor=25,
        resolution=0.01,
        window=400,
        stride=200,
    )


def mask_prior(
    prior: NDArray[np.uint8], share: float, random: np.random.Generator, block: int = 1
) -> NDArray[np.uint8]:
    """Return a copy of a prior map, 255 in a share of its cells: single ones, or blocks of ``block`` x ``block`` cells.

    Of several maps the same cells are hidden. The published system hides 60 % of the pixels (arXiv 2606.11793).
    """
    rows, columns = prior.shape[-2:]
    drawn = random.random((-(-rows // block), -(-columns // block)), dtype=np.float32) < share
    hidden = expand(drawn, block)[:rows, :columns] if block > 1 else drawn
    return np.where(hidden, np.uint8(MASKED), prior)
