"""What a machine does while faults hit it: one program, from a section of the YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bankside.errors import ConfigError
from bankside.fault_injection import workloads_gpt as gpt
from bankside.fault_injection.operation import Operation, places_of, spans_of
from bankside.isa.machines import verify_program
from bankside.isa.program import Program
from bankside.registry import Registry
from bankside.schema import Section, validate
from bankside.strict_yaml import Locations

__all__ = ["WORKLOADS", "Workload", "build_workload", "joined", "operation_of"]

U16 = NDArray[np.uint16]


@dataclass(frozen=True)
class Workload:
    """A kind of work.

    Attributes:
        engines: that can do it. options: its section.
        build: (machine, options, folder of the description) -> programs, one after the other.
        result: of work that is one operation of a language model: (machine, options, folder,
            program) -> where its result lies.
    """

    engines: tuple[str, ...]
    options: type[Section]
    build: Callable[[Any, Any, Path], Sequence[Program]]
    result: Callable[[Any, Any, Path, Program], Operation] | None = None


WORKLOADS: Registry[Workload] = Registry("workload")


def build_workload(
    machine: Any, given: Mapping[str, Any], folder: Path, locations: Locations
) -> Program:
    """The program of `workload: {NAME: options}`.

    Raises:
        ConfigError: an unknown kind of work, one of another engine, or one that the machine cannot
            do in one program.
    """
    where = f"{locations.where(('workload',))}: workload"
    name = _name(given, where)
    try:
        kind, section = _chosen(machine, name, given[name], locations)
        program = joined(list(kind.build(machine, section, folder)))
        verify_program(program, machine)
    except ConfigError as error:
        if str(locations.path) in str(error):
            raise
        raise ConfigError(f"{where}: {name}: {error}") from error
    return program


def operation_of(
    machine: Any, given: Mapping[str, Any], folder: Path, program: Program, locations: Locations
) -> Operation:
    """The operation that `program`, from `build_workload`, is.

    Raises:
        ConfigError: the work is not one operation of a language model.
    """
    where = f"{locations.where(('workload',))}: workload"
    name = _name(given, where)
    kind, section = _chosen(machine, name, given[name], locations)
    if kind.result is None:
        able = [n for n in WORKLOADS if WORKLOADS.get(n).result]
        raise ConfigError(
            f"{where}: {name} is not one operation of a language model, so that its errors have no "
            f"place in one; choose from: {', '.join(able)}"
        )
    return kind.result(machine, section, folder, program)


def _name(given: Mapping[str, Any], where: str) -> str:
    if len(given) != 1:
        raise ConfigError(
            f"{where}: expected exactly one of {', '.join(WORKLOADS)}, found {sorted(given)}"
        )
    return next(iter(given))


def _chosen(
    machine: Any, name: str, options: Any, locations: Locations
) -> tuple[Workload, Section]:
    kind = WORKLOADS.get(name)
    if machine.engine not in kind.engines:
        able = [n for n in WORKLOADS if machine.engine in WORKLOADS.get(n).engines]
        raise ConfigError(
            f"{name} is work for {', '.join(kind.engines)}, not for {machine.engine}; choose "
            f"from: {', '.join(able)}"
        )
    return kind, validate(kind.options, options, locations.below(("workload", name)))


def joined(programs: Sequence[Program]) -> Program:
    """Programs as one: words without all ends but the last, host data in order.

    Raises:
        ConfigError: main memory images that are not the same.
    """
    first = programs[0]
    if len(programs) == 1:
        return first
    words = [word for p in programs[:-1] for word in p.words[:-1]]
    last = programs[-1]
    if first.engine == "pim":
        data, outputs, received = np.concatenate([p.host_in for p in programs]), {}, 0
        for number, program in enumerate(programs):
            outputs |= {f"{number}.{n}": (at + received, count)
                        for n, (at, count) in program.outputs.items()}  # fmt: skip
            received += sum(count for _, count in program.outputs.values())
        return Program("pim", (*words, *last.words), data, outputs)
    if any(not np.array_equal(p.host_in, last.host_in) for p in programs):
        raise ConfigError(
            f"the work takes {len(programs)} programs with main memories of their own; make it "
            f"smaller, so that one is enough"
        )
    return replace(last, words=(*words, *last.words))


def _random(random: np.random.Generator, *shape: int) -> U16:
    return random.standard_normal(shape).astype(np.float16).view(np.uint16)


# --- array ----------------------------------------------------------------------------------------


class Attention(Section):
    """Attention over random queries, keys and values (docs/array.md)."""

    queries: int = Field(default=4, ge=1)
    keys: int = Field(default=8, ge=1)
    heads: int = Field(default=1, ge=1)
    kv_heads: int = Field(default=1, ge=1)
    e: int = Field(default=8, ge=1)
    f: int = Field(default=8, ge=1)
    causal: bool = False
    binding: str = "interleaved"
    seed: int = Field(default=1, ge=0)


def _attention(machine: Any, what: Attention, folder: Path) -> list[Program]:
    from bankside.mapping.lower_array import ArrayKernels, AttentionShape

    shape = AttentionShape(what.queries, what.keys, what.heads, what.kv_heads, what.e, what.f,
                           causal=what.causal)  # fmt: skip
    random = np.random.default_rng(what.seed)
    kernels = ArrayKernels(machine, shape, what.binding)
    q = _random(random, 1, what.queries, what.heads, what.e)
    k = _random(random, 1, what.keys, what.kv_heads, what.e)
    v = _random(random, 1, what.keys, what.kv_heads, what.f)
    return kernels.programs(q, k, v)


def _attention_result(machine: Any, what: Attention, folder: Path, program: Program) -> Operation:
    from bankside.mapping.lower_array import ArrayKernels, AttentionShape

    shape = AttentionShape(what.queries, what.keys, what.heads, what.kv_heads, what.e, what.f,
                           causal=what.causal)  # fmt: skip
    kernels = ArrayKernels(machine, shape, what.binding)
    places = places_of(lambda memory: kernels.collect([memory]), program.host_in.shape)
    shaped = places.reshape(what.queries, -1)
    return Operation("array", "attention", 16, shaped, spans_of(program))


class Product(Section):
    """C [m, n] = A [m, k] B [k, n] of random numbers; mode: `os` or `ws` stationary."""

    m: int = Field(ge=1)
    k: int = Field(ge=1)
    n: int = Field(ge=1)
    mode: Literal["os", "ws"] = "os"
    seed: int = Field(default=1, ge=0)


def _product(machine: Any, what: Product, folder: Path) -> list[Program]:
    from bankside.mapping.gemm_array import GemmKernels, GemmShape

    random = np.random.default_rng(what.seed)
    kernels = GemmKernels(machine, GemmShape(what.m, what.k, what.n), what.mode)
    return kernels.programs(_random(random, what.m, what.k), _random(random, what.k, what.n))


# --- pim ------------------------------------------------------------------------------------------


class Decode(Section):
    """Keys and values of `tokens` tokens are written, then one query per head attends to them."""

    tokens: int = Field(default=4, ge=1)
    kv_heads: int = Field(default=1, ge=1)
    query_heads: int = Field(default=1, ge=1)
    head_dim: int = Field(default=16, ge=1)
    nhc: Literal[1, 2, 4, 8] = 1
    seed: int = Field(default=1, ge=0)


def _decode(machine: Any, what: Decode, folder: Path) -> list[Program]:
    from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape

    random = np.random.default_rng(what.seed)
    shape = Shape(1, what.kv_heads, what.query_heads, what.head_dim, what.tokens)
    kernels = PimKernels(KvLayout.of(machine, shape, what.nhc))
    k, v = (_random(random, what.tokens, what.kv_heads, what.head_dim) for _ in range(2))
    stored = kernels.append(0, 0, k[:-1], v[:-1]) if what.tokens > 1 else []
    q = _random(random, what.query_heads, what.head_dim)
    return [*stored, *kernels.decode(0, what.tokens, q, k[-1], v[-1])]


def _decode_result(machine: Any, what: Decode, folder: Path, program: Program) -> Operation:
    from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape

    shape = Shape(1, what.kv_heads, what.query_heads, what.head_dim, what.tokens)
    kernels = PimKernels(KvLayout.of(machine, shape, what.nhc))
    parts = sorted(program.outputs.values())

    def collect(bursts: U16) -> U16:
        return kernels.collect([bursts[first : first + count] for first, count in parts])

    bursts = max(first + count for first, count in parts)
    places = places_of(collect, (bursts, machine.burst_elements))
    return Operation("pim", "attention", 16, places.reshape(1, -1), spans_of(program))


# --- npu ------------------------------------------------------------------------------------------


class Digits(Section):
    """The shipped digits network classifies one of the shipped images."""

    image: int = Field(default=0, ge=0, lt=100)


def _digits(machine: Any, what: Digits, folder: Path) -> list[Program]:
    from bankside.mapping import npu_digits
    from bankside.mapping.lower_npu.compiled import compile_graph

    quant = npu_digits.quantise_network(npu_digits.load_network())
    pixels, _ = npu_digits.load_images()
    compiled = compile_graph(npu_digits.graph(quant), machine)
    return [compiled.bind({"image": quant.image(pixels[what.image])[..., None]})]


# --- any ------------------------------------------------------------------------------------------


class File(Section):
    """A program file: text for the assembler, or .npz (`bankside asm`)."""

    path: str = Field(min_length=1)


def _file(machine: Any, what: File, folder: Path) -> list[Program]:
    from bankside.isa.asm import assemble
    from bankside.isa.program_file import load_program

    path = folder / what.path
    if path.suffix == ".npz" or not path.is_file():
        return [load_program(path)]
    return [assemble(path.read_text(encoding="utf-8"), str(path), folder=path.parent)]


for _kind, _workload in {
    "attention": Workload(("array",), Attention, _attention, _attention_result),
    "product": Workload(("array",), Product, _product),
    "decode": Workload(("pim",), Decode, _decode, _decode_result),
    "digits": Workload(("npu",), Digits, _digits),
    "gpt_layer": Workload(("npu",), gpt.GptLayer, gpt.layer),
    "gpt_product": Workload(("npu",), gpt.GptProduct, gpt.product, gpt.product_result),
    "gpt_attention": Workload(("npu",), gpt.GptAttention, gpt.attention, gpt.attention_result),
    "program": Workload(("pim", "array", "npu"), File, _file),
}.items():
    WORKLOADS.add(_kind, _workload)
