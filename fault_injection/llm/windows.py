"""Prompts of an experiment, each with its fault-free runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bankside.errors import ConfigError
from bankside.fault_injection.llm.forced import Forced, RankAttention
from bankside.mapping.llm.loader import SHIPPED
from bankside.mapping.llm.model import Model
from bankside.mapping.llm.transformer import NumpyAttention, generate
from bankside.mapping.lower_pim import KvLayout

HELD_OUT = SHIPPED / "text_kjv" / "held_out.txt"
CALIBRATION = SHIPPED / "text_kjv" / "calibration.txt"
_CALIBRATION_WINDOWS, _CALIBRATION_TOKENS = 4, 256


def text_windows(path: Path, count: int, length: int) -> list[list[int]]:
    """`count` evenly spaced runs of `length` bytes of a file. ConfigError if it is too short."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"text {path}: {error.strerror}; give a file of at least {count * length} bytes"
        ) from error
    stride = len(text) // count
    if stride < length:
        raise ConfigError(
            f"text {path} has {len(text)} bytes, but {count} windows of {length} bytes need "
            f"{count * length}; use fewer windows, fewer tokens or a longer text"
        )
    return [list(text[i * stride : i * stride + length]) for i in range(count)]


def calibration_windows(model: Model, path: Path | None = None) -> list[list[int]]:
    """Runs of bytes that an integer model is calibrated on; by default of the shipped text.

    Raises ConfigError where no file is given and the model's tokens are no bytes.
    """
    if path is None and model.vocabulary != 256:
        raise ConfigError(
            f"the model has {model.vocabulary} tokens, so that the shipped text, whose tokens are "
            "bytes, cannot calibrate it; use a model of bytes"
        )
    path = CALIBRATION if path is None else path
    size = min(_CALIBRATION_TOKENS, model.context)
    count = path.stat().st_size // size if path.is_file() else 1
    return text_windows(path, max(1, min(_CALIBRATION_WINDOWS, count)), size)


def check_length(model: Model, length: int) -> None:
    """A window of `length` tokens is within the model's context."""
    if length > model.context:
        raise ConfigError(
            f"prompt and new tokens are {length} tokens, the context of the model is "
            f"{model.context}; use fewer"
        )


def check_windows(model: Model, windows: Sequence[Sequence[int]], length: int) -> None:
    """Every window has `length` tokens of the model."""
    for number, window in enumerate(windows):
        if len(window) < length:
            raise ConfigError(
                f"tokens[{number}] has {len(window)} tokens, expected at least prompt_tokens + "
                f"new_tokens = {length}"
            )
        top = max(window[:length])
        if top >= model.vocabulary or min(window[:length]) < 0:
            raise ConfigError(
                f"tokens[{number}] holds token {top}, expected 0 to {model.vocabulary - 1}; "
                "tokenise it for this model"
            )


@dataclass(frozen=True, eq=False)
class Window:
    """Fault-free runs of one prompt: along its own text and along what the model would write."""

    text: Forced
    following: np.ndarray
    greedy: Forced

    @classmethod
    def of(
        cls, model: Model, tokens: Sequence[int], prompt: int, new: int, layout: KvLayout | None
    ) -> Window:
        """tokens: `prompt` + `new` of the text. layout: see `Forced`."""
        fed = list(tokens[: prompt + new - 1])
        engine = NumpyAttention() if layout is None else RankAttention(layout)
        made = generate(model, engine, fed[:prompt], new)
        greedy = Forced(model, [*fed[:prompt], *made.tokens[:-1]], prompt, layout)
        following = np.asarray(tokens[1 : prompt + new], np.int64)
        return cls(Forced(model, fed, prompt, layout), following, greedy)
