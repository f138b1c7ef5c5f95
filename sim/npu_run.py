"""Runs on the `npu` engine: a quantised language model that generates text, or a quantised network
that classifies images. Every operation of the model is a command of the engine; each program runs
on each execution that the description names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bankside.cache import file_hash
from bankside.config import HardwareConfig
from bankside.errors import ConfigError
from bankside.isa.machines import AnyMachine, machine_of
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_verify import Buffers, verify
from bankside.isa.program import Program
from bankside.mapping import npu_digits
from bankside.mapping.llm.loader import SHIPPED, find_model, load_model
from bankside.mapping.llm.model import Model
from bankside.mapping.llm.quantise import check_supported
from bankside.provenance import collect
from bankside.schema import Section, key_problem, validate
from bankside.sim.compared import Agreements, Compared, check_executions
from bankside.sim.engine import Engine, Result
from bankside.sim.executions import NPU_EXECUTIONS
from bankside.strict_yaml import Locations

Make = Callable[[str, AnyMachine], Engine]
TEXT = SHIPPED / "text_kjv"
WINDOW = 256
"""Bytes of calibration and held-out text that are read as one sequence."""


class NpuReport(Section):
    """Which files a run writes besides its result."""

    html: bool = True
    timeline: bool = True


class _Description(Section):
    """What both kinds of run say."""

    machine: str
    executions: list[str] = list(NPU_EXECUTIONS)
    report: NpuReport = NpuReport()

    @model_validator(mode="after")
    def _check_executions(self) -> Self:
        if problem := check_executions(self.executions, NPU_EXECUTIONS):
            raise key_problem("executions", f"is {self.executions}: {problem}")
        return self


class GenerateDescription(_Description):
    """A language model continues a prompt; always the likeliest byte.

    Attributes:
        format: weights of 8 bits, or of 4 bits in groups of 32; activations of 8 bits.
        calibration, held_out: text files; parts of the Bible that come with the package if absent.
        held_out_bytes: how many of the latter are predicted, by the float and the integer model.
    """

    model: str
    prompt: str = Field(min_length=1)
    new_tokens: int = Field(ge=2, le=100_000)
    format: Literal["w8a8", "w4a8"] = "w8a8"
    calibration: str | None = None
    held_out: str | None = None
    held_out_bytes: int = Field(default=1024, ge=2, le=1 << 20)


class ImagesDescription(_Description):
    """A network classifies images that were held out of its training.

    Attributes:
        images: how many of the shipped ones, from the first on.
    """

    model: Literal["digits_cnn"] = "digits_cnn"
    images: int = Field(ge=1, le=100)


@dataclass(frozen=True)
class NpuJob:
    """A description with everything it names loaded. `model` is None where images are classified;
    calibration: runs of tokens; held_out: text to predict.
    """

    description: GenerateDescription | ImagesDescription
    name: str
    machine: NpuMachine
    model_hash: str
    model: Model | None = None
    calibration: tuple[bytes, ...] = ()
    held_out: bytes = b""


def wanted(data: Any, beside: Callable[[str], str]) -> bool:
    """Whether a description names a machine of this engine."""
    source = data.get("machine") if isinstance(data, dict) else None
    if not isinstance(source, str):
        return False
    try:
        return HardwareConfig.load(beside(source)).engine == "npu"
    except ConfigError:
        return False


def load(path: Path, data: Any, locations: Locations, beside: Callable[[str], str]) -> NpuJob:
    """The job of a description that `wanted`. Raises ConfigError with file and line."""
    kind = ImagesDescription if "images" in data else GenerateDescription
    what = validate(kind, data, locations)
    machine = machine_of(HardwareConfig.load(beside(what.machine)))
    if isinstance(what, ImagesDescription):
        digest = _digest(npu_digits.FOLDER)
        return NpuJob(what, path.stem, machine, digest)
    with _blame(locations, "model"):
        folder = find_model(beside(what.model))
        model = load_model(folder)
        check_supported(model)
        if model.vocabulary != 256:
            raise ConfigError(
                f"{what.model} has {model.vocabulary} tokens; expected 256 (bytes), for the text "
                "of prompt, calibration and held_out is not tokenised"
            )
    texts = []
    for key, name in (("calibration", "calibration.txt"), ("held_out", "held_out.txt")):
        with _blame(locations, key):
            given = getattr(what, key)
            texts.append(_read(TEXT / name if given is None else path.parent / given))
    total = len(what.prompt.encode()) + what.new_tokens
    if total > model.context:
        where = locations.where(("new_tokens",))
        raise ConfigError(
            f"{where}: prompt and new_tokens are {total} tokens, the context of {what.model} is "
            f"{model.context}; shorten the prompt or generate less"
        )
    size = min(WINDOW, model.context)
    windows = tuple(texts[0][i : i + size] for i in range(0, len(texts[0]), size))
    return NpuJob(
        what, path.stem, machine, _digest(folder), model, windows, texts[1][: what.held_out_bytes]
    )


def _digest(folder: Path) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("".join(map(file_hash, weights)).encode()).hexdigest()


def _read(path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) < 2:
        raise ConfigError(f"{path}: {len(text)} bytes; expected at least 2 bytes of text")
    return text


@contextmanager
def _blame(locations: Locations, key: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{locations.where((key,))}: {key}: {error}") from error


# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One program: what for, tokens or image it ends with, cycles and their reasons, products."""

    what: str
    last: int
    cycles: int
    stalls: dict[str, int]
    macs: int = 0


@dataclass
class NpuRunner:
    """All programs of a run on all executions.

    Attributes
    ----------
    calls: one record per program. trace: the last one with its macro-commands.
    """

    machine: NpuMachine
    executions: Sequence[str]
    make: Make
    calls: list[Call] = field(default_factory=list)
    trace: Result | None = None

    def __post_init__(self) -> None:
        self._compared = Compared(self.machine, self.executions, NPU_EXECUTIONS, self.make)
        self.restart()

    def restart(self) -> None:
        """All executions back to power-on; nothing ran yet."""
        self._compared.restart()
        self._buffers = Buffers(self.machine)
        self.calls.clear()

    @property
    def found(self) -> Agreements:
        """What the comparisons found."""
        return self._compared.found

    @property
    def program_hash(self) -> str:
        """Hash over all programs, in their order."""
        return self._compared.program_hash

    def run(self, program: Program, what: str, last: int, macs: int = 0) -> Result:
        """One program; its result has the bits and the cycles that count.

        Raises ProgramError for an illegal one, before any execution sees it.
        """
        verify(program, self.machine, self._buffers)
        where = f"{what} {last}"
        self.trace = result = self._compared.run(program, where, trace=True)
        stalls = {reason: int(count) for reason, count in result.counters.items()}
        cycles = int(result.cycles or 0)
        self.found.note_sum(stalls, cycles, where)
        self.calls.append(Call(what, last, cycles, stalls, macs))
        return result

    def of(self, *kinds: str) -> list[Call]:
        """Programs of these kinds."""
        return [call for call in self.calls if call.what in kinds]


def stalls_of(calls: Sequence[Call]) -> dict[str, int]:
    """Reasons of several programs together."""
    reasons = calls[0].stalls if calls else {}
    return {reason: sum(call.stalls[reason] for call in calls) for reason in reasons}


def common(job: NpuJob, runner: NpuRunner, counted: Sequence[Call]) -> dict[str, Any]:
    """What the results of both kinds share; `counted` are the programs whose cycles they show."""
    machine, what = job.machine, job.description
    cycles = sum(call.cycles for call in counted)
    macs = sum(call.macs for call in counted)
    npu = machine.config.npu
    return {
        "kind": "run",
        "engine": "npu",
        "name": job.name,
        "machine": machine.config.name,
        "machine_facts": {
            "macs": machine.macs,
            "profile": npu.profile,
            "shared_bytes": npu.shared_words * 32,
            "weight_bytes": npu.weight_bytes,
            "bus_bytes": machine.bus_bytes,
            "read_latency_cycles": machine.config.memory.read_latency_cycles,
        },
        "executions": list(what.executions),
        "programs": len(runner.calls),
        **runner.found.counts(),
        "differences": list(runner.found.details),
        "cycles": cycles,
        "rtl_cycles": cycles if "rtl" in what.executions else None,
        "setup_cycles": sum(call.cycles for call in runner.of("setup")),
        "clock_domain": machine.clock_domain,
        "clock_mhz": machine.clock_mhz,
        "stalls": stalls_of(counted),
        "macs": macs,
        "utilisation": macs / (cycles * machine.macs),
        "provenance": collect(
            config_hash=machine.config.content_hash, program_hash=runner.program_hash
        )
        | {"model_hash": job.model_hash, "description": what.model_dump(mode="json")},
    }


def calls_table(runner: NpuRunner) -> dict[str, Any]:
    """One entry per program and column; `stalls` by reason."""
    calls = runner.calls
    names = ("what", "last", "cycles", "macs")
    table: dict[str, Any] = {name: [getattr(call, name) for call in calls] for name in names}
    reasons = calls[0].stalls if calls else {}
    table["stalls"] = {reason: [call.stalls[reason] for call in calls] for reason in reasons}
    return table
