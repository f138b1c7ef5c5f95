"""Faults of DRAM chips under the keys and values of a language model, with and without ECC.

The cache lies in a DIMM-PIM rank (`placement`). A GPU reads it through the host's channel, behind
the rank's ECC; the bank units read it inside the chips, where only on-die ECC can help. Every fault
is shown to every scheme, and each run is compared with its own fault-free twin.
Ref: docs/llm_faults.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from bankside.config import PimHardware
from bankside.fault_injection.llm.dram_faults import (
    TRANSIENT,
    Errors,
    Model,
    Rank,
    Seen,
    errors_of,
    read,
    site_of,
)
from bankside.fault_injection.llm.forced import corruption
from bankside.fault_injection.llm.metrics import bits_per_token, effect
from bankside.fault_injection.llm.placement import Placement
from bankside.fault_injection.llm.tables import summary
from bankside.fault_injection.llm.windows import (
    HELD_OUT,
    Window,
    check_length,
    check_windows,
    text_windows,
)
from bankside.isa.machine import Machine
from bankside.mapping.llm.loader import find_model, load_model
from bankside.mapping.lower_pim import KvLayout, Shape
from bankside.provenance import collect
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import load_yaml

MODELS: tuple[Model, ...] = ("cell", "burst", "row", "column", "pin", "chip")
PHASES = ("prefill", "decode")
SIDES = ("key", "value")


class Scheme(Section):
    """Who computes attention, behind which codes.

    Attributes:
        attention: `banks` reads inside the chips, so the rank's code does not act; `gpu` reads
            through the channel.
        on_die: single-error correction of 128 bits in each chip.
        rank: `secded` 64 + 8 bits a word; `sddc` corrects one chip (two check chips).
    """

    name: str = Field(min_length=1)
    attention: Literal["banks", "gpu"]
    on_die: bool = False
    rank: Rank = "none"

    @property
    def seen_through(self) -> tuple[bool, Rank]:
        """Codes between cells and reader."""
        return self.on_die, self.rank if self.attention == "gpu" else "none"


SCHEMES = [
    Scheme(name="no ECC, banks", attention="banks"),
    Scheme(name="rank SEC-DED, GPU", attention="gpu", rank="secded"),
    Scheme(name="rank SEC-DED, banks", attention="banks", rank="secded"),
    Scheme(name="on-die SEC, banks", attention="banks", on_die=True),
    Scheme(name="rank SDDC, GPU", attention="gpu", rank="sddc"),
]


class FaultCounts(Section):
    """How many faults of each model are drawn; 0 leaves it out.

    Attributes:
        cell: per bit position (16) and side (key, value).
        burst_bits: neighbouring cells that a burst inverts.
    """

    cell: int = Field(default=32, ge=0, le=100_000)
    burst: int = Field(default=256, ge=0, le=100_000)
    row: int = Field(default=192, ge=0, le=100_000)
    column: int = Field(default=256, ge=0, le=100_000)
    pin: int = Field(default=96, ge=0, le=100_000)
    chip: int = Field(default=96, ge=0, le=100_000)
    burst_bits: int = Field(default=2, ge=2, le=64)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(getattr(self, name) for name in MODELS):
            raise key_problem("cell", "no model has faults; expected at least one above 0")
        return self


class LlmKvCache(Section):
    """A whole experiment.

    Attributes:
        model: shipped model or folder. machine: `pim` preset or file.
        text: file of bytes to cut windows from (default: held-out text of the shipped models).
        tokens: windows as lists of tokens instead, for models whose tokens are not bytes.
        windows: prompts; the clusters of every interval.
        level, draws: of the intervals.
    """

    kind: Literal["llm_kv_cache"]
    model: str = "gpt_mha"
    machine: str = "dimm_pim_ddr5"
    text: str | None = None
    tokens: list[list[int]] | None = None
    windows: int = Field(default=16, ge=2, le=10_000)
    prompt_tokens: int = Field(default=48, ge=1)
    new_tokens: int = Field(default=24, ge=3)
    schemes: list[Scheme] = Field(default=SCHEMES, min_length=1)
    faults: FaultCounts = FaultCounts()
    seed: int = Field(default=0, ge=0)
    level: float = Field(default=0.95, gt=0.5, lt=1)
    draws: int = Field(default=1000, ge=100, le=1_000_000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [scheme.name for scheme in self.schemes]
        if len(set(names)) < len(names):
            raise key_problem("schemes", f"are called {names}; expected a name each of its own")
        if self.text is not None and self.tokens is not None:
            raise key_problem("tokens", "give either text or tokens")
        if self.tokens is not None and len(self.tokens) < 2:
            raise key_problem("tokens", "intervals need at least 2 windows")
        return self

    def quick(self) -> LlmKvCache:
        """A small experiment of the same kind."""
        counts = {name: -(-getattr(self.faults, name) // 16) for name in MODELS}
        return self.model_copy(
            update={
                "windows": min(self.windows, 4),
                "tokens": self.tokens and self.tokens[:4],
                "new_tokens": min(self.new_tokens, 10),
                "faults": self.faults.model_copy(update=counts),
                "draws": min(self.draws, 200),
            }
        )


@dataclass(frozen=True)
class KvFault:
    """One fault: model, and a bit of an element of the cache it goes through.

    first: position of the first row that reads it. phase: whether it is there when decoding begins
    or comes later.
    """

    number: int
    model: Model
    phase: str
    window: int
    first: int
    layer: int
    side: str
    token: int
    head: int
    dim: int
    bit: int


def load(path: Path) -> LlmKvCache:
    """Read a description. Raises ConfigError with file, line and key."""
    data, locations = load_yaml(path)
    return validate(LlmKvCache, data, locations)


def run(
    config: LlmKvCache,
    *,
    base: Path = Path(),
    quick: bool = False,
    on_fault: Callable[[int, int], None] | None = None,
) -> dict:
    """Carry out an experiment: plain data with tables, and `runs`, one entry per fault and scheme.

    base: folder that relative paths are meant from. quick: a smaller one (`LlmKvCache.quick`).
    on_fault: called with (faults done, faults in all). Equal descriptions give equal results.
    """
    config = config.quick() if quick else config
    experiment = _Experiment(config, base)
    faults = list(experiment.faults())
    runs = []
    for done, fault in enumerate(faults, 1):
        runs += experiment.outcomes(fault)
        if on_fault is not None:
            on_fault(done, len(faults))
    return summary(config, runs) | {
        "facts": experiment.facts(),
        "provenance": collect(config_hash=experiment.machine.config.content_hash, seed=config.seed)
        | {"description": config.model_dump(mode="json")},
        "runs": runs,
    }


class _Experiment:
    """Model, machine and fault-free runs of a description."""

    def __init__(self, config: LlmKvCache, base: Path) -> None:
        self.config = config
        self.model = load_model(find_model(_beside(base, config.model)))
        self.machine = Machine.of(PimHardware.load(_beside(base, config.machine)))
        length = config.prompt_tokens + config.new_tokens
        check_length(self.model, length)
        if config.tokens is not None:
            texts = config.tokens
        else:
            path = HELD_OUT if config.text is None else base / config.text
            texts = text_windows(path, config.windows, length)
        check_windows(self.model, texts, length)
        model = self.model
        shape = Shape(
            len(model.layers), model.kv_heads, model.query_heads, model.head_dim, length - 1
        )
        self.layout = KvLayout.of(self.machine, shape)
        self.placement = Placement(self.layout)
        self.rows = length - 1
        self.windows = {
            attention: [
                Window.of(model, text, config.prompt_tokens, config.new_tokens, layout)
                for text in texts
            ]
            for attention, layout in (("banks", self.layout), ("gpu", None))
            if any(scheme.attention == attention for scheme in config.schemes)
        }
        self._live: dict[int, np.ndarray] = {}

    @property
    def count(self) -> int:
        """Windows."""
        return len(next(iter(self.windows.values())))

    def faults(self) -> Iterator[KvFault]:
        """All faults, each drawn with a generator of its own."""
        number = 0
        for place, model in enumerate(MODELS):
            strata = 32 if model == "cell" else 1
            total = getattr(self.config.faults, model) * strata
            random = np.random.default_rng([self.config.seed, place])
            windows = random.permutation(np.arange(total) % self.count)
            phases = random.permutation(np.arange(total) % 2)
            for i in range(total):
                stratum = i % strata if model == "cell" else None
                yield self._fault(number, model, PHASES[phases[i]], int(windows[i]), stratum)
                number += 1

    def _fault(
        self, number: int, model: Model, phase: str, window: int, stratum: int | None
    ) -> KvFault:
        """A bit, uniform over what is stored at that moment; of a given side and position."""
        random = np.random.default_rng([self.config.seed, len(MODELS), number])
        first = self.config.prompt_tokens
        if phase == "decode":
            first = int(random.integers(first + 1, self.rows))
        layers, _, _, heads, dims = self.placement.shape
        side, bit = divmod(int(random.integers(32)) if stratum is None else stratum, 16)
        layer, token, head, dim = (int(random.integers(n)) for n in (layers, first, heads, dims))
        return KvFault(
            number, model, phase, window, first, layer, SIDES[side], token, head, dim, bit
        )

    def errors(self, fault: KvFault) -> Errors:
        """Errors that a fault makes."""
        tokens = self.hit(fault, "gpu").stop
        if tokens not in self._live:
            self._live[tokens] = self.placement.live(tokens)
        where = (fault.layer, SIDES.index(fault.side), fault.token, fault.head, fault.dim)
        element = int(np.ravel_multi_index(where, self.placement.shape))
        site = site_of(self.placement, element, fault.bit)
        random = np.random.default_rng([self.config.seed, len(MODELS) + 1, fault.number])
        bits = self.config.faults.burst_bits
        live = self._live[tokens]
        return errors_of(fault.model, self.placement, site, live, random, burst_bits=bits)

    def hit(self, fault: KvFault, attention: str) -> range:
        """Tokens whose keys and values a reader may get wrong.

        A later write replaces an inverted bit. A data pin spoils what crosses it: for bank units
        only what is written from then on.
        """
        last = fault.first if fault.model in TRANSIENT else self.rows
        inside = fault.model == "pin" and attention == "banks"
        return range(fault.first if inside else 0, last)

    def outcomes(self, fault: KvFault) -> Iterator[dict]:
        """What each scheme makes of a fault."""
        errors = self.errors(fault)
        known: dict[tuple, dict] = {}
        for scheme in self.config.schemes:
            on_die, rank = scheme.seen_through
            tokens = self.hit(fault, scheme.attention)
            seen = read(self.placement, errors, tokens, on_die=on_die, rank=rank)
            key = (scheme.attention, seen.element.tobytes(), seen.xor.tobytes())
            found = _UNCHANGED
            if seen.flagged:
                found = _STOPPED
            elif len(seen.element):
                found = known.get(key) or self._silent(scheme.attention, fault, seen)
                known[key] = found
            state = {
                "outcome": _outcome(seen),
                "hit_elements": seen.raw,
                "wrong_elements": len(seen.element),
                "flagged_words": seen.flagged,
            }
            yield asdict(fault) | {"scheme": scheme.name} | state | found

    def _silent(self, attention: str, fault: KvFault, seen: Seen) -> dict:
        """The model with wrong keys and values that nobody noticed."""
        window = self.windows[attention][fault.window]
        wrong = corruption(self.placement.shape, seen.element, seen.xor, fault.first)
        rows = slice(fault.first, None)
        change = effect(window.greedy.logits[rows], window.greedy.faulty(wrong)[rows])
        following = window.following[rows]
        bits = [
            bits_per_token(logits[rows], following)
            for logits in (window.text.faulty(wrong), window.text.logits)
        ]
        found = asdict(change) | {"added_bits": bits[0] - bits[1]}
        return {key: None if value != value else value for key, value in found.items()}

    def facts(self) -> dict:
        """Sizes that a report names."""
        layout, machine = self.layout, self.machine
        goldens = {
            name: float(
                np.mean([bits_per_token(w.text.logits[self.config.prompt_tokens :],
                         w.following[self.config.prompt_tokens :]) for w in windows])
            )
            for name, windows in self.windows.items()
        }  # fmt: skip
        return {
            "standard": machine.std.name,
            "chips": machine.chips,
            "banks": machine.banks,
            "rows_used": self.placement.rows,
            "columns_per_token": layout.cpt,
            "chips_per_head": layout.nhc,
            "layers": layout.shape.layers,
            "kv_heads": layout.shape.kv_heads,
            "head_dim": layout.shape.head_dim,
            "windows": self.count,
            "bytes_are_tokens": self.model.vocabulary == 256,
            "golden_bits": goldens,
        }


_UNCHANGED = {"first_flip": False, "any_flip": False, "same_tokens": None, "tokens": None,
              "kl_bits": 0.0, "broken": False, "added_bits": 0.0}  # fmt: skip
_STOPPED = dict.fromkeys(_UNCHANGED)


def _outcome(seen: Seen) -> str:
    """detected: ECC reported an uncorrectable word. silent: wrong data, unnoticed."""
    if seen.flagged:
        return "detected"
    if len(seen.element):
        return "silent"
    return "corrected" if seen.raw else "not stored"


def _beside(base: Path, name: str) -> str:
    beside = base / name
    return str(beside) if "/" in name and beside.exists() else name
