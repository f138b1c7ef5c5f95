"""Synthetic traces: Poisson or bursty arrivals, log-normal lengths, after published statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bankside.mapping.serving.trace import Trace
from bankside.registry import Registry
from bankside.schema import Section

_NORMAL = NormalDist()
#: Spreads of logarithms that are tried; steps of the search for their centres.
_SPREAD, _TRIED, _STEPS = (1e-3, 4.0), 800, 60


@dataclass(frozen=True)
class Lengths:
    """Log-normal lengths below `top`, with this median and mean."""

    median: float
    mean: float
    top: int

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """[count] whole tokens, 1 to `top`."""
        centre, spread = self._fit
        below = _NORMAL.cdf((math.log(self.top) - centre) / spread)
        at = np.maximum(below * rng.random(count), 1e-300)
        normal = np.fromiter(map(_NORMAL.inv_cdf, at.tolist()), float, count)
        found = np.exp(centre + spread * normal)
        return np.clip(np.rint(found), 1, self.top).astype(np.int64)

    @cached_property
    def _fit(self) -> tuple[float, float]:
        """Centre and spread of the logarithms: those below `top` have the median and the mean."""
        # Cut at the top, the mean may stay below what is wanted; then the largest nearby counts.
        nearby = 2 * math.sqrt(2 * math.log(max(self.mean / self.median, 1.0))) + _SPREAD[0]
        spreads = np.geomspace(_SPREAD[0], min(max(nearby, 2 * _SPREAD[0]), _SPREAD[1]), _TRIED)
        means = [self._mean(self._centre(spread), spread) for spread in spreads]
        # Near its maximum a wide distribution has a smaller mean again: the narrowest one counts.
        above = [i for i, mean in enumerate(means) if mean >= self.mean] or [int(np.argmax(means))]
        spread = float(spreads[above[0]])
        return self._centre(spread), spread

    def _centre(self, spread: float) -> float:
        """With which the median is right."""
        low, high = math.log(self.median), math.log(self.median) + 8 * spread
        for _ in range(_STEPS):
            centre = (low + high) / 2
            whole = _NORMAL.cdf((math.log(self.top) - centre) / spread)
            if _NORMAL.cdf((math.log(self.median) - centre) / spread) > whole / 2:
                low = centre
            else:
                high = centre
        return low

    def _mean(self, centre: float, spread: float) -> float:
        end = (math.log(self.top) - centre) / spread
        share = _NORMAL.cdf(end - spread) / _NORMAL.cdf(end)
        return math.exp(centre + spread**2 / 2) * share


@dataclass(frozen=True)
class Statistics:
    """A published trace: lengths, and requests per second."""

    inputs: Lengths
    outputs: Lengths
    rate: float
    source: str


#: Medians, means and maxima as measured on the published files; rates: requests / span.
PRESETS: Registry[Statistics] = Registry("trace preset")
for _name, _inputs, _outputs, _rate, _source in (
    ("azure_code", (1469, 2048, 7437), (13, 28, 1899), 8819 / 3420,
     "Azure/AzurePublicDataset, AzureLLMInferenceTrace_code"),
    ("azure_conv", (1020, 1155, 14050), (129, 211, 1000), 19366 / 3480,
     "Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv"),
    ("mooncake", (11587, 15325, 191378), (69, 149, 893), 3993 / 1020,
     "kvcache-ai/Mooncake, FAST25 synthetic trace"),
    ("sharegpt", (733, 857, 3998), (633, 653, 1021), 10.0,
     "ShareGPT lengths for Llama-3.1-8B, as in LLMServingSim"),
):  # fmt: skip
    PRESETS.add(_name, Statistics(Lengths(*_inputs), Lengths(*_outputs), _rate, _source))


class Generate(Section):
    """What to generate.

    Attributes:
        preset: whose statistics.
        requests: how many.
        rate: requests per second; the preset's if absent.
        arrivals: `poisson`, or `gamma` with `burstiness`: coefficient of variation of the gaps.
        seed: the same one gives the same requests.
    """

    preset: str = "azure_conv"
    requests: int = Field(default=1000, ge=1, le=10_000_000)
    rate: float | None = Field(default=None, gt=0)
    arrivals: Literal["poisson", "gamma"] = "poisson"
    burstiness: float = Field(default=1.0, gt=0, le=100)
    seed: int = Field(default=1, ge=0)


def generate(what: Generate) -> Trace:
    """The requests. Raises ConfigError for an unknown preset."""
    statistics = PRESETS.get(what.preset)
    rng = np.random.default_rng(what.seed)
    mean = 1 / (what.rate or statistics.rate)
    variation = 1.0 if what.arrivals == "poisson" else what.burstiness
    shape = 1 / variation**2
    gaps = rng.gamma(shape, mean / shape, what.requests)
    gaps[0] = 0
    return Trace(
        f"{what.preset} ({what.requests} generated)",
        np.cumsum(gaps),
        statistics.inputs.draw(rng, what.requests),
        statistics.outputs.draw(rng, what.requests),
    )
