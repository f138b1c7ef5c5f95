"""Synthetic traces: Poisson or bursty arrivals, log-normal lengths, after published statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bankside.mapping.serving.trace import Trace
from bankside.registry import Registry
from bankside.schema import Section


@dataclass(frozen=True)
class Lengths:
    """Log-normal lengths with a given median and mean, cut at a maximum."""

    median: float
    mean: float
    top: int

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Whole tokens, 1 to the maximum. Of a log-normal, mean / median = exp(sigma^2 / 2)."""
        sigma = math.sqrt(2 * math.log(max(self.mean / self.median, 1.0)))
        found = np.exp(math.log(self.median) + sigma * rng.standard_normal(count))
        # What is cut off is drawn again, as a pile at the maximum would be no length of the trace.
        while (over := found > self.top).any():
            again = sigma * rng.standard_normal(int(over.sum()))
            found[over] = np.exp(math.log(self.median) + again)
        return np.maximum(np.rint(found), 1).astype(np.int64)


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
