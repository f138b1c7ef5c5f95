"""Recorded error patterns replayed in the matching tiles of a language model.

The result of one operation of the model is changed as the fault changed the recorded tile; all else
of the model follows. That stands for the fault where the tile holds all of its effect: patterns of
faults in control are counted and not replayed. Ref: docs/llm_faults.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bankside.config import PimHardware
from bankside.errors import ConfigError
from bankside.fault_injection.llm.forced import Forced
from bankside.fault_injection.llm.metrics import bits_per_token, effect
from bankside.fault_injection.llm.patterns import (
    ErrorPattern,
    Recording,
    Represented,
    read_recorded,
)
from bankside.fault_injection.llm.tables import replay_summary
from bankside.fault_injection.llm.windows import (
    HELD_OUT,
    Window,
    calibration_windows,
    check_length,
    check_windows,
    text_windows,
)
from bankside.isa.machine import Machine
from bankside.mapping.llm import quantise_np
from bankside.mapping.llm.loader import find_model, load_model
from bankside.mapping.llm.model import Model
from bankside.mapping.lower_pim import KvLayout, Shape
from bankside.mapping.npu_gpt import QuantGpt, prepared
from bankside.provenance import collect
from bankside.schema import Section, validate
from bankside.strict_yaml import load_yaml

PRODUCTS = ("query_key", "value", "output", "gate", "up", "down")
"""Matrix products of a decoder layer; `head` follows the last one."""
PHASES = {"npu": ("prefill", "decode"), "array": ("prefill",), "pim": ("decode",)}
"""What each engine computes: the array the prompt's attention, the rank that of new tokens."""


class LlmReplay(Section):
    """A replay.

    Attributes:
        patterns: file of `ErrorPattern`s, one a line.
        represented: what they stand for; by default what the campaign wrote into the file. There is
            no other default.
        machine: `pim` preset whose arithmetic decodes in FP16 (patterns of `pim` and `array`).
        form: of the integer model (patterns of `npu`).
        placements: replays per pattern, shared among them by their weights: layer, operation,
            phase, prompt and place are drawn anew.
        calibration: text to calibrate the integer model on.
    """

    kind: Literal["llm_replay"]
    patterns: str
    represented: Represented | None = None
    model: str = "gpt_mha"
    machine: str = "dimm_pim_ddr4"
    form: Literal["w8a8", "w4a8"] = "w8a8"
    text: str | None = None
    calibration: str | None = None
    tokens: list[list[int]] | None = None
    windows: int = Field(default=8, ge=2, le=10_000)
    prompt_tokens: int = Field(default=48, ge=2)
    new_tokens: int = Field(default=16, ge=3)
    placements: int = Field(default=8, ge=1, le=100_000)
    seed: int = Field(default=0, ge=0)
    level: float = Field(default=0.95, gt=0.5, lt=1)
    draws: int = Field(default=1000, ge=100, le=1_000_000)


@dataclass(frozen=True)
class Target:
    """An operation of a model and where in its result a tile goes."""

    layer: int
    product: str
    row: int
    column: int


class Runs(Protocol):
    """Fault-free runs of one prompt, and what becomes of them."""

    def golden(self, along: str) -> NDArray:
        """Logits along `text` or `greedy`."""

    def faulty(self, along: str, pattern: ErrorPattern, target: Target) -> NDArray:
        """The same with a pattern in the result of one operation."""


class HalfRuns:
    """FP16 attention: patterns in the output of one attention call (all heads of each token)."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def _forced(self, along: str) -> Forced:
        return self._window.text if along == "text" else self._window.greedy

    def golden(self, along: str) -> NDArray:
        """See `Runs.golden`."""
        return self._forced(along).logits

    def faulty(self, along: str, pattern: ErrorPattern, target: Target) -> NDArray:
        """See `Runs.faulty`."""

        def tap(layer: int, first: int, y: NDArray[np.float16]) -> NDArray[np.float16]:
            if layer != target.layer:
                return y
            bits = np.ascontiguousarray(y).view(np.uint16).reshape(len(y), -1)
            changed = pattern.apply(bits, target.row - first, target.column)
            return changed.view(np.float16).reshape(y.shape)

        return self._forced(along).faulty(tap=tap, first=target.row, lowest=target.layer)


class IntegerRuns:
    """The integer model: patterns in the result of one matrix product, or of attention."""

    def __init__(self, model: QuantGpt, tokens: Sequence[int], prompt: int, new: int) -> None:
        self.model, self.prompt = model, prompt
        self._tokens = {"text": list(tokens[: prompt + new - 1])}
        self._tokens["greedy"] = self._continued(list(tokens[:prompt]), new)
        self._golden = {name: self._run(name) for name in self._tokens}

    def _continued(self, fed: list[int], new: int) -> list[int]:
        for _ in range(new - 1):
            fed.append(int(quantise_np.logits(self.model, fed)[-1].argmax()))
        return fed

    def _run(self, along: str, tap: quantise_np.Tap = quantise_np.no_tap) -> NDArray:
        scores = quantise_np.logits(self.model, self._tokens[along], tap)
        return self.model.head.out.real(scores)

    def golden(self, along: str) -> NDArray:
        """See `Runs.golden`."""
        return self._golden[along]

    def faulty(self, along: str, pattern: ErrorPattern, target: Target) -> NDArray:
        """See `Runs.faulty`."""
        name = _name(target.layer, target.product)

        def tap(product: str, result: NDArray) -> NDArray:
            if product != name:
                return result
            return pattern.apply(result, target.row, target.column)

        return self._run(along, tap)


def _name(layer: int, product: str) -> str:
    return product if product == "head" else f"{layer}.{product}"


def load(path: Path) -> LlmReplay:
    """Read a description. Raises ConfigError with file, line and key."""
    data, locations = load_yaml(path)
    return validate(LlmReplay, data, locations)


def run(
    config: LlmReplay,
    *,
    base: Path = Path(),
    quick: bool = False,
    on_fault: Callable[[int, int], None] | None = None,
) -> dict:
    """Replay patterns: plain data with tables, and `runs`, one entry per replay.

    base: folder that relative paths are meant from. quick: two prompts, two placements. on_fault:
    called with (patterns done, patterns in all). Equal descriptions give equal results.
    """
    if quick:
        config = config.model_copy(update={"windows": 2, "placements": 2, "new_tokens": 4})
    patterns, recording = read_recorded(base / config.patterns)
    represented = _represented(config, recording, base / config.patterns)
    replay = _Replay(config, base)
    runs, unplaced = [], []
    weights = [0.0 if p.control else p.weight for p in patterns]
    turns = shared_out(weights, config.placements, config.seed)
    for done, (pattern, count) in enumerate(zip(patterns, turns, strict=True), 1):
        if count:
            found = replay.runs(done, pattern, count)
            runs += found
            if not found:
                unplaced.append(pattern.fault)
        if on_fault is not None:
            on_fault(done, len(patterns))
    return replay_summary(config, runs) | {
        "patterns": len(patterns),
        "control_patterns": sum(pattern.control for pattern in patterns),
        "unplaced": unplaced,
        "represented": represented.model_dump(exclude_none=True),
        "recording": None if recording is None else recording.model_dump(exclude_none=True),
        "provenance": collect(seed=config.seed) | {"description": config.model_dump(mode="json")},
        "runs": runs,
    }


def _represented(config: LlmReplay, recording: Recording | None, path: Path) -> Represented:
    found = config.represented or (recording and recording.represented)
    if found is None:
        raise ConfigError(
            f"represented: is missing, and no campaign wrote it into {path}; give the share of the "
            "faults with an effect that the patterns hold, and its source"
        )
    return found


def shared_out(weights: Sequence[float], each: int, seed: int) -> list[int]:
    """`each` turns per weight above 0, shared among all in proportion: none differs by one turn or
    more from its due. Ref: Madow, Annals of Mathematical Statistics 20, 1949 (systematic sampling).
    """
    total = sum(weights)
    number = each * sum(weight > 0 for weight in weights)
    edges = np.cumsum([number * weight / total if total else 0.0 for weight in weights])
    start = np.random.default_rng([seed, 0]).random()
    # Equal weights do not hang on how their sums are rounded.
    return np.diff(np.floor(edges.round(9) + start), prepend=0.0).astype(int).tolist()


class _Replay:
    """Models and fault-free runs, made when the first pattern needs them."""

    def __init__(self, config: LlmReplay, base: Path) -> None:
        self.config, self.base = config, base
        self.model: Model = load_model(find_model(self._beside(config.model)))
        length = config.prompt_tokens + config.new_tokens
        check_length(self.model, length)
        path = HELD_OUT if config.text is None else base / config.text
        self.texts = config.tokens or text_windows(path, config.windows, length)
        check_windows(self.model, self.texts, length)

    def _beside(self, name: str) -> str:
        beside = self.base / name
        return str(beside) if "/" in name and beside.exists() else name

    @cached_property
    def _half(self) -> list[HalfRuns]:
        what, model = self.config, self.model
        machine = Machine.of(PimHardware.load(self._beside(what.machine)))
        shape = Shape(
            len(model.layers), model.kv_heads, model.query_heads, model.head_dim,
            what.prompt_tokens + what.new_tokens,
        )  # fmt: skip
        layout = KvLayout.of(machine, shape)
        sizes = what.prompt_tokens, what.new_tokens
        return [HalfRuns(Window.of(model, text, *sizes, layout)) for text in self.texts]

    @cached_property
    def _integer(self) -> list[IntegerRuns]:
        what = self.config
        windows = self._calibration()
        model = prepared(self.model, windows, what.form, name=what.model)
        sizes = what.prompt_tokens, what.new_tokens
        return [IntegerRuns(model, text, *sizes) for text in self.texts]

    def _calibration(self) -> list[list[int]]:
        given = self.config.calibration
        if given is None and self.model.vocabulary != 256:
            return [list(text) for text in self.texts]
        return calibration_windows(self.model, None if given is None else self.base / given)

    def runs(self, number: int, pattern: ErrorPattern, count: int) -> list[dict]:
        """`count` replays of a pattern; none where no operation has its shape."""
        random = np.random.default_rng([self.config.seed, number])
        # A decode step has one row.
        phases = [p for p in PHASES[pattern.engine] if p != "decode" or pattern.tile.rows == 1]
        if not phases:
            return []
        found = []
        first = int(random.integers(len(phases)))  # patterns of one turn are not all in one phase
        for i in range(first, first + count):
            phase = phases[i % len(phases)]
            target = self._target(pattern, phase, random)
            if target is None:
                continue
            window = int(random.integers(len(self.texts)))
            runs: Runs = (self._integer if pattern.engine == "npu" else self._half)[window]
            found.append(
                {"fault": pattern.fault, "engine": pattern.engine, "op": pattern.op,
                 "top_bit": pattern.top_bit, "bits": pattern.bits, "phase": phase,
                 "window": window, "elements": len(pattern.elements)}
                | asdict(target)
                | self._change(runs, pattern, target, window)
            )  # fmt: skip
        return found

    def _target(
        self, pattern: ErrorPattern, phase: str, random: np.random.Generator
    ) -> Target | None:
        """A tile of the pattern's size and number format; None where the phase has none."""
        prompt = self.config.prompt_tokens
        last = prompt + self.config.new_tokens - 1
        rows = range(0, prompt) if phase == "prefill" else range(prompt, last)
        choices = [
            (layer, product)
            for layer, product, width, bits in self._operations(pattern)
            if bits == pattern.bits and width >= pattern.tile.columns
        ]
        tiles = (len(rows) - pattern.tile.rows) // pattern.tile.rows + 1
        if not choices or tiles < 1:
            return None
        layer, product = choices[int(random.integers(len(choices)))]
        width = next(w for i, p, w, _ in self._operations(pattern) if (i, p) == (layer, product))
        row = rows.start + int(random.integers(tiles)) * pattern.tile.rows
        columns = width // pattern.tile.columns
        return Target(layer, product, row, int(random.integers(columns)) * pattern.tile.columns)

    def _operations(self, pattern: ErrorPattern) -> list[tuple[int, str, int, int]]:
        """(layer, product, columns, bits of a result) of the operations of a pattern's kind."""
        model, layers = self.model, range(len(self.model.layers))
        wide = model.query_heads * model.head_dim
        if pattern.op == "attention":
            bits = 8 if pattern.engine == "npu" else 16
            return [(i, "context", wide, bits) for i in layers]
        if pattern.engine != "npu":
            raise ConfigError(
                f"pattern of fault {pattern.fault!r}: the {pattern.engine} computes attention of "
                "this model; expected op attention"
            )
        quant = self._integer[0].model
        found = [
            (i, p, len(part.mult), part.out.bits)
            for i, layer in enumerate(quant.layers)
            for p in PRODUCTS
            for part in (getattr(layer, p),)
        ]
        return [*found, (len(quant.layers), "head", quant.vocabulary, quant.head.out.bits)]

    def _change(self, runs: Runs, pattern: ErrorPattern, target: Target, window: int) -> dict:
        """Metrics over the tokens predicted from the wrong row on, and at least from the prompt's
        last one.
        """
        first = max(target.row, self.config.prompt_tokens - 1)
        change = effect(
            runs.golden("greedy")[first:], runs.faulty("greedy", pattern, target)[first:]
        )
        text = self.texts[window]
        following = np.asarray(text[first + 1 : len(runs.golden("text")) + 1], np.int64)
        bits: list[Any] = [
            bits_per_token(logits[first:], following)
            for logits in (runs.faulty("text", pattern, target), runs.golden("text"))
        ]
        found = asdict(change) | {"added_bits": bits[0] - bits[1]}
        return {key: None if value != value else value for key, value in found.items()}
