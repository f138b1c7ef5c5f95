"""Where a quantised Llama decoder lies on an `npu` machine: regions of main memory, shared buffer.

Constants (scale records, gains, tables) and the key/value caches stay in the shared buffer from
program to program; weights are streamed. Keys lie row by row, values transposed, so that both
products of attention are MATMUL. Ref: docs/npu.md sections 1 to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bankside.errors import ConfigError
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_weights import RAW8, W4, WeightLayout
from bankside.isa.numerics_npu import Record
from bankside.mapping.npu_gpt import QuantGpt, QuantLinear, QuantNorm

WEIGHTS, CONSTANTS, EMBEDDING, ROPE, LOGITS = range(5)
"""Regions of main memory."""
MAX_RUN = 16
"""Tokens of one program."""


def padded(size: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-size // unit) * unit


@dataclass(frozen=True, eq=False)
class PlacedLinear:
    """A linear layer in memory: (chunk bytes in region WEIGHTS, first and number of outputs) of
    every operation, first word of its records.
    """

    part: QuantLinear
    pieces: tuple[tuple[int, int, int, int], ...]
    records: int


class _Area:
    """Bytes that are collected; `add` gives where they begin."""

    def __init__(self, unit: int) -> None:
        self.unit, self.parts, self.size = unit, list[bytes](), 0

    def add(self, data: bytes) -> int:
        first = self.size
        self.parts.append(data.ljust(padded(len(data), self.unit), b"\0"))
        self.size += len(self.parts[-1])
        return first

    @property
    def content(self) -> bytes:
        return b"".join(self.parts)


def _records(mult: Sequence[int], shift: Sequence[int]) -> bytes:
    return b"".join(Record(0, int(m), int(s)).pack() for m, s in zip(mult, shift, strict=True))


class GptLayout:
    """Where everything of a model lies on a machine: main memory and shared buffer.

    tokens: longest sequence (prompt and generated tokens).
    Raises ConfigError when the machine cannot hold the model.
    """

    def __init__(self, machine: NpuMachine, model: QuantGpt, tokens: int) -> None:
        _check(machine, model, tokens)
        self.machine, self.model = machine, model
        self.tokens = padded(tokens, WORD_BYTES)
        self.run = min(MAX_RUN, tokens, machine.config.npu.accumulators)
        self._streamed, self._constants = _Area(machine.weight_port_bytes), _Area(WORD_BYTES)
        self.linear: dict[str, PlacedLinear] = {}
        self.constant: dict[str, int] = {}
        self._collect()
        self._place_buffers()
        self._build_image()

    # --- constants and weights
    def _collect(self) -> None:
        model = self.model
        for index, layer in enumerate(model.layers):
            for name in ("norm1", "norm2"):
                self._gain(f"{index}.{name}", getattr(layer, name))
            for name in ("query_key", "value", "output", "gate", "up", "down"):
                self._linear(f"{index}.{name}", getattr(layer, name))
            self.constant[f"{index}.silu"] = self._word(layer.silu.tobytes())
            for h, head in enumerate(layer.heads):
                self.constant[f"{index}.{h}.score"] = self._word(Record(0, *head.score).pack())
                self.constant[f"{index}.{h}.context"] = self._word(Record(0, *head.context).pack())
                self.constant[f"{index}.{h}.table"] = self._word(head.table.astype("<i4").tobytes())
        self._gain("final", model.final)
        self._linear("head", model.head)

    def _word(self, data: bytes) -> int:
        return self._constants.add(data) // WORD_BYTES

    def _gain(self, name: str, norm: QuantNorm) -> None:
        self.constant[name] = self._word(norm.gain.astype("<i2").tobytes())

    def _linear(self, name: str, part: QuantLinear) -> None:
        weights, machine = part.weights, self.machine
        outputs, inputs = weights.numbers.shape
        scales = weights.group_scales
        group = machine.group(True)
        layout = WeightLayout(
            RAW8 if scales is None else W4, group, machine.weight_port_bytes, outputs, (1, 1),
            inputs,
        )  # fmt: skip
        content = layout.encode(
            weights.numbers[:, None, None, :], None if scales is None else scales[:, None, None, :]
        )
        per_group = len(content) // layout.groups
        # A piece begins at a word of its result.
        unit = -(-WORD_BYTES // group)
        step = max(1, machine.config.npu.weight_bytes // 4 // (unit * per_group)) * unit
        start, pieces = self._streamed.add(content), []
        for first in range(0, layout.groups, step):
            count = min(step, layout.groups - first)
            stop = min((first + count) * group, outputs)
            pieces.append(
                (start + first * per_group, count * per_group, first * group, stop - first * group)
            )
        self.linear[name] = PlacedLinear(
            part, tuple(pieces), self._word(_records(part.mult, part.shift))
        )

    # --- shared buffer
    def _place_buffers(self) -> None:
        model, run = self.model, self.run
        narrow, wide = model.hidden // WORD_BYTES, 2 * model.hidden // WORD_BYTES
        dim = model.head_dim // WORD_BYTES
        heads, kv = model.query_heads, model.kv_heads
        mlp = model.inner // WORD_BYTES
        sizes = {
            "constants": self._constants.size // WORD_BYTES,
            "keys": len(model.layers) * kv * self.tokens * dim,
            "values": len(model.layers) * kv * model.head_dim * self.tokens // WORD_BYTES,
            "rope": run * 4 * dim,
            "x": run * wide, "y": run * wide, "delta": run * wide,
            "normed": run * narrow,
            "qk": run * (heads + kv) * 2 * dim,
            "swapped": run * (heads + kv) * 2 * dim,
            "with_cos": run * (heads + kv) * 2 * dim,
            "with_sin": run * (heads + kv) * 2 * dim,
            "q": run * heads * dim, "v": run * kv * dim, "context": run * heads * dim,
            "scores": self.tokens // WORD_BYTES, "chances": self.tokens // WORD_BYTES,
            "gate": run * mlp, "up": run * mlp, "product": run * mlp,
            "logits": padded(2 * model.vocabulary, self.machine.bus_bytes) // WORD_BYTES,
        }  # fmt: skip
        unit = max(self.machine.bus_bytes // WORD_BYTES, 1)
        self.word, place = dict[str, int](), 0
        for name, size in sizes.items():
            self.word[name] = place
            place += padded(size, unit)
        self.words = place
        if place > self.machine.shared_words:
            fits = self.machine.shared_words - place + sizes["keys"] + sizes["values"]
            per_token = (sizes["keys"] + sizes["values"]) / self.tokens
            raise ConfigError(
                f"{self.machine.config.name}: {self.tokens} tokens of {model.name} take {place} "
                f"words of the shared buffer, which has {self.machine.shared_words}; about "
                f"{max(int(fits / per_token), 0)} tokens would fit"
            )

    # --- main memory
    def _build_image(self) -> None:
        model, bus = self.model, self.machine.bus_bytes
        rope = np.concatenate([model.cosines, model.sines], axis=1)
        parts = {
            WEIGHTS: self._streamed.content,
            CONSTANTS: self._constants.content,
            EMBEDDING: model.embedding.astype("<i2").tobytes(),
            ROPE: rope.astype("<i2").tobytes(),
            LOGITS: bytes(2 * model.vocabulary),
        }
        image, regions = bytearray(), []
        for data in parts.values():
            regions.append((len(image), padded(len(data), bus)))
            image += data.ljust(regions[-1][1], b"\0")
        size = self.machine.config.memory.bytes
        if len(image) > size:
            raise ConfigError(
                f"{self.machine.config.name}: {model.name} takes {len(image)} bytes of main "
                f"memory, which has {size}; raise memory.bytes"
            )
        self.regions = tuple(regions)
        self.image = np.frombuffer(bytes(image), "<u2").reshape(-1, bus // 2)

    @property
    def constant_bytes(self) -> int:
        return self._constants.size

    @property
    def weight_bytes(self) -> int:
        """Bytes that one program streams."""
        return self._streamed.size

    def keys(self, layer: int, head: int, token: int) -> int:
        """First word of a cached key."""
        model = self.model
        row = (layer * model.kv_heads + head) * self.tokens + token
        return self.word["keys"] + row * model.head_dim // WORD_BYTES

    def values(self, layer: int, head: int) -> int:
        """First word of the cached values of a head: a row of `tokens` bytes per dimension."""
        model = self.model
        row = (layer * model.kv_heads + head) * model.head_dim
        return self.word["values"] + row * self.tokens // WORD_BYTES


def _check(machine: NpuMachine, model: QuantGpt, tokens: int) -> None:
    name = machine.config.name
    if not machine.wide:
        raise ConfigError(
            f"{name}: profile u55 has no product of two inputs, which attention needs; use a "
            "machine of profile llm"
        )
    if not 1 <= tokens <= model.context:
        raise ConfigError(
            f"{tokens} tokens with {model.name}, whose context is {model.context}; shorten the "
            "prompt or generate less"
        )
    bus = machine.bus_bytes
    rows = {
        "hidden": (model.hidden, 2 * model.hidden, bus),
        "head_dim": (model.head_dim, 4 * model.head_dim, bus),
        "vocabulary": (model.vocabulary, 2 * model.vocabulary, bus),
        "intermediate": (model.inner,) * 2 + (WORD_BYTES,),
    }
    for what, (value, size, unit) in rows.items():
        if size % unit or (what == "head_dim" and value % WORD_BYTES):
            raise ConfigError(
                f"{name}: {model.name} has {what} = {value}, whose rows of {size} bytes are no "
                f"multiple of {unit}"
            )
