"""Commands of an `npu` program with the state registers they copy, checked one by one.

The checks are those that the machine makes at dispatch (docs/npu.md section 9); whether the waits
order what uses the same words is another matter. Ref: docs/npu.md sections 1 to 3, 6 and 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bankside.errors import ProgramError
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_weights import PACKED, W4, WeightLayout
from bankside.isa.numerics_npu import (
    EXP_ENTRIES,
    LUT_BYTES,
    RECORD_BYTES,
    SHIFT_MAX,
    SHIFT_MIN,
)
from bankside.isa.program import Program
from bankside.isa.spec import load_spec

_SPEC = load_spec("npu")
_REGISTERS = {code: name for name, code in _SPEC.enums["register"].items()}
_ENUMS = {name: _SPEC.enums[name] for name in ("elementwise", "scale_mode", "bits", "direction")}
BYPASS, CHANNEL = _ENUMS["scale_mode"]["bypass"], _ENUMS["scale_mode"]["channel"]
INT16 = _ENUMS["bits"]["int16"]
ADD, SUB, MUL, LUT = (_ENUMS["elementwise"][name] for name in ("add", "sub", "mul", "lut"))
TO_WEIGHTS, TO_MEMORY = (_ENUMS["direction"][name] for name in ("to_weights", "to_memory"))
REGIONS = 8
NORM_CHANNELS = 4096
WINDOWED = ("CONV", "DEPTHWISE", "POOL")
MAC_OPERATIONS = (*WINDOWED, "MATMUL")
OPERATIONS = (*MAC_OPERATIONS, "ELEMENTWISE", "SOFTMAX", "NORM", "COPY")
_COPY = tuple(f"{side}_s{i}" for side in ("src", "dst") for i in range(3))
_SIGNED = {
    *("ifm_zero", "ifm2_zero", "ofm_zero", "ofm_min", "ofm_max", "a_mult", "a_shift", "b_mult"),
    *("b_shift", "o_mult", "o_shift", *_COPY),
}

# Codes of section 9.
ILLEGAL, UNABLE, REGION, MISALIGNED, BUS, OVERLAP, OUTSIDE = range(1, 8)


class NpuFault(ProgramError):
    """What stops the machine. code: of docs/npu.md section 9. position: of the command."""

    def __init__(self, code: int, position: int, message: str) -> None:
        super().__init__(f"{message} (fault {code})")
        self.code, self.position = code, position


@dataclass(frozen=True)
class Range:
    """Bytes [first, stop) of the shared buffer that an operation uses, and the registers that say
    so.
    """

    what: str
    first: int
    stop: int

    def meets(self, other: Range) -> bool:
        return self.first < other.stop and other.first < self.stop


def register_limits(machine: NpuMachine) -> dict[str, tuple[int, int]]:
    """Least and largest value of each register that an operation of the kernel engine uses.

    `ifm_bits` and the zero points depend on the operation; see `Command.check`.
    """
    words = (1 << (machine.shared_words - 1).bit_length()) - 1
    reach = (words + 1) * WORD_BYTES
    limits = dict.fromkeys(
        (*("ifm", "ifm_sy", "ifm_sx", "ifm2", "ifm2_sy", "ifm2_sx"),
         *("ofm", "ofm_sy", "ofm_sx", "scale", "lut")), (0, words)
    )  # fmt: skip
    limits |= dict.fromkeys(
        ("ifm_h", "ifm_w", "ifm_c", "ofm_h", "ofm_w", "ofm_c", "n0", "n1", "n2"), (1, 0xFFFF)
    )
    limits |= dict.fromkeys(
        ("kernel_h", "kernel_w", "stride_y", "stride_x", "dilation_y", "dilation_x"), (1, 255)
    )
    limits |= dict.fromkeys(("pad_top", "pad_left"), (0, 255))
    limits |= dict.fromkeys(
        ("ifm_bits", "ifm2_bits", "ofm_bits", "weight_mode", "lut_enable", "depend", "wide"), (0, 1)
    )
    limits |= dict.fromkeys(
        ("ifm_zero", "ifm2_zero", "ofm_zero", "ofm_min", "ofm_max"), (-(1 << 15), (1 << 15) - 1)
    )
    limits |= dict.fromkeys(("a_shift", "b_shift"), (SHIFT_MIN, SHIFT_MAX))
    limits |= dict.fromkeys(("src", "dst"), (0, reach - 1))
    limits |= dict.fromkeys(_COPY, (-reach, reach - 1))
    return limits | {
        "block": (1, machine.config.npu.accumulators), "weights": (0, machine.weight_words - 1),
        "weight_format": (0, 2), "scale_mode": (0, 2), "rounding": (0, 3), "ifm2_broadcast": (0, 7),
        "left_shift": (0, 31), "o_shift": (-128, 127), "epsilon_shift": (0, 63),
    }  # fmt: skip


_IFM = ("ifm", "ifm_sy", "ifm_sx", "ifm_zero", "ifm_bits")
_IFM2 = ("ifm2", "ifm2_sy", "ifm2_sx", "ifm2_zero", "ifm2_bits")
_OFM = ("ofm", "ofm_sy", "ofm_sx", "ofm_h", "ofm_w", "ofm_c", "ofm_zero", "ofm_bits",
        "ofm_min", "ofm_max")  # fmt: skip
_WINDOW = ("ifm_h", "ifm_w", "ifm_c", "kernel_h", "kernel_w", "stride_y", "stride_x", "pad_top",
           "pad_left", "dilation_y", "dilation_x")  # fmt: skip
_MAC = ("block", "weight_mode", "lut_enable", "depend")
_SCALE = ("scale_mode", "rounding")
_WEIGHTS = ("weights", "weight_format")
_USED = {
    "CONV": (*_IFM, *_OFM, *_WINDOW, *_MAC, *_SCALE, *_WEIGHTS),
    "DEPTHWISE": (*_IFM, *_OFM, *_WINDOW, *_MAC, *_SCALE, *_WEIGHTS),
    "MATMUL": (*_IFM, "ifm_c", *_IFM2, *_OFM, *_MAC, *_SCALE),
    "POOL": (*_IFM, *_OFM, *_WINDOW, *_MAC),
    "SOFTMAX": (*_IFM, *_OFM, "lut"),
    "NORM": (*_IFM, *_OFM, "scale", "epsilon_shift", "o_shift"),
    "COPY": ("n0", "n1", "n2", "src", "dst", *_COPY, "wide"),
}
_ELEMENTWISE = {
    LUT: (*_IFM, *_OFM, "lut"),
    MUL: (*_IFM, *_IFM2, *_OFM, "ifm2_broadcast", "rounding"),
}
_ADD = (*_ELEMENTWISE[MUL], "a_shift", "b_shift", "left_shift")


@dataclass(frozen=True)
class Command:
    """Where a command stands, its operands, the registers at that time (signed where they are)."""

    machine: NpuMachine
    pc: int
    name: str
    fields: Mapping[str, int]
    reg: Mapping[str, int]

    @property
    def where(self) -> str:
        """The command in messages."""
        return f"command {self.pc} ({self.name})"

    def fault(self, code: int, message: str) -> NpuFault:
        """The fault that names this command."""
        return NpuFault(code, self.pc, f"{self.where}: {message}")

    @property
    def op(self) -> int:
        """Operand `mode` or `op`, 0 where there is none."""
        return self.fields.get("mode", self.fields.get("op", 0))

    # --- sizes --------------------------------------------------------------------------------
    @property
    def group(self) -> int:
        """G."""
        return self.machine.group(bool(self.reg["weight_mode"]))

    @property
    def weights(self) -> WeightLayout:
        """Tiles of a CONV or DEPTHWISE."""
        reg = self.reg
        return WeightLayout(
            reg["weight_format"], self.group, self.machine.weight_port_bytes, reg["ofm_c"],
            (reg["kernel_h"], reg["kernel_w"]), None if self.name == "DEPTHWISE" else reg["ifm_c"],
        )  # fmt: skip

    def ifm_shape(self) -> tuple[int, int, int]:
        """(rows, columns, channels) of the first input."""
        reg = self.reg
        if self.name in WINDOWED:
            return reg["ifm_h"], reg["ifm_w"], reg["ifm_c"]
        return reg["ofm_h"], reg["ofm_w"], reg["ifm_c" if self.name == "MATMUL" else "ofm_c"]

    def ifm2_shape(self) -> tuple[int, int, int]:
        """Of the second input; MATMUL: (1, rows, channels), with `ifm2_sx` between rows."""
        reg = self.reg
        if self.name == "MATMUL":
            return 1, reg["ofm_c"], reg["ifm_c"]
        full, flags = (reg["ofm_h"], reg["ofm_w"], reg["ofm_c"]), reg["ifm2_broadcast"]
        h, w, c = (1 if flags >> i & 1 else n for i, n in enumerate(full))
        return h, w, c

    @property
    def has_ifm2(self) -> bool:
        return self.name == "MATMUL" or self.name == "ELEMENTWISE" and self.op != LUT

    @property
    def has_records(self) -> bool:
        scaled = self.name in MAC_OPERATIONS and self.name != "POOL"
        return scaled and self.reg["scale_mode"] != BYPASS

    @property
    def has_lut(self) -> bool:
        if self.name == "ELEMENTWISE":
            return self.op == LUT
        return self.name in MAC_OPERATIONS and bool(self.reg["lut_enable"])

    # --- bytes of the shared buffer -----------------------------------------------------------
    def _map(self, name: str, shape: tuple[int, int, int]) -> Range:
        """A feature map (ifm, ifm2 or ofm)."""
        reg, (h, w, c) = self.reg, shape
        last = reg[name] + (h - 1) * reg[f"{name}_sy"] + (w - 1) * reg[f"{name}_sx"]
        channels = WORD_BYTES >> reg[f"{name}_bits"]
        return Range(name, reg[name] * WORD_BYTES, (last + -(-c // channels)) * WORD_BYTES)

    def _table(self, name: str, size: int) -> Range:
        first = self.reg[name] * WORD_BYTES
        return Range(name, first, first + -(-size // WORD_BYTES) * WORD_BYTES)

    def _copied(self, side: str) -> Range:
        reg = self.reg
        size = WORD_BYTES if reg["wide"] else 1
        ends = [(reg[f"n{i}"] - 1) * reg[f"{side}_s{i}"] for i in range(3)]
        low, high = sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends)
        return Range(side, reg[side] + low, reg[side] + high + size)

    def reads(self) -> list[Range]:
        """What an operation of the kernel engine reads."""
        if self.name == "COPY":
            return [self._copied("src")]
        ranges = [self._map("ifm", self.ifm_shape())]
        if self.has_ifm2:
            ranges.append(self._map("ifm2", self.ifm2_shape()))
        if self.has_records:
            count = self.reg["ofm_c"] if self.reg["scale_mode"] == CHANNEL else 1
            ranges.append(self._table("scale", count * RECORD_BYTES))
        if self.name == "NORM":
            ranges.append(self._table("scale", 2 * self.reg["ofm_c"]))
        if self.has_lut:
            ranges.append(self._table("lut", LUT_BYTES))
        if self.name == "SOFTMAX":
            ranges.append(self._table("lut", 4 * EXP_ENTRIES))
        return ranges

    def writes(self) -> Range:
        """What it writes."""
        if self.name == "COPY":
            return self._copied("dst")
        return self._map("ofm", (self.reg["ofm_h"], self.reg["ofm_w"], self.reg["ofm_c"]))

    # --- checks -------------------------------------------------------------------------------
    def used(self) -> tuple[str, ...]:
        """Registers that an operation of the kernel engine uses and that have limits."""
        if self.name == "ELEMENTWISE":
            return _ELEMENTWISE.get(self.op, _ADD)
        scale = ("scale",) if self.has_records else ()
        return (*_USED[self.name], *scale, *(("lut",) if self.has_lut else ()))

    def check(self, regions: tuple[tuple[int, int], ...]) -> None:
        """Raise the NpuFault that the machine shows, the one of the lowest code."""
        if self.name == "DMA":
            self._check_transfer(regions)
        elif self.name in OPERATIONS:
            self._check_able()
            self._check_ranges()

    def _check_able(self) -> None:
        limits = register_limits(self.machine)
        for name in self.used():
            low, high = limits[name] if name in limits else (0, (1 << 32) - 1)
            if not low <= self.reg[name] <= high:
                raise self.fault(
                    UNABLE, f"register {name} is {self.reg[name]}; expected {low}..{high}"
                )
        for refused, message in self._unable():
            if refused:
                raise self.fault(UNABLE, message)

    def _unable(self) -> Iterator[tuple[bool, str]]:
        """What this machine or this operation cannot do."""
        reg, wide, name = self.reg, self.machine.wide, self.name
        if name in MAC_OPERATIONS:
            yield not wide and name == "MATMUL", "MATMUL; profile u55 has no product of inputs"
            yield not wide and reg["weight_mode"] != 0, "row mode; profile u55 has grid mode only"
            yield reg["lut_enable"] and reg["ofm_bits"], "a table for int16 results; use int8"
        if name in ("CONV", "DEPTHWISE"):
            packed = reg["weight_format"] == PACKED
            yield packed == wide, "weight_format; expected packed (u55), raw8 or w4 (llm)"
            yield name == "DEPTHWISE" and reg["weight_format"] == W4, "w4; use raw8"
        if name in ("DEPTHWISE", "POOL"):
            yield reg["ifm_c"] != reg["ofm_c"], "ofm_c is not ifm_c; make them equal"
        narrow = name in (*MAC_OPERATIONS, "SOFTMAX") or name == "ELEMENTWISE" and self.op == LUT
        yield narrow and reg["ifm_bits"], "an int16 input; this operation takes int8"
        if narrow and name not in ("CONV", "DEPTHWISE", "MATMUL"):
            yield reg["ofm_bits"], "an int16 result; this operation gives int8"
        yield name == "MATMUL" and reg["ifm2_bits"], "an int16 input; this operation takes int8"
        if name == "ELEMENTWISE" and self.op != LUT:
            yield not SHIFT_MIN <= reg["o_shift"] <= SHIFT_MAX, "o_shift; expected -31..30"
        if name == "NORM":
            yield reg["ofm_c"] > NORM_CHANNELS, f"ofm_c is above {NORM_CHANNELS}; split it"
        if name == "COPY" and reg["wide"]:
            odd = any(reg[r] % WORD_BYTES for r in ("src", "dst", *_COPY))
            yield odd, "addresses of words; make src, dst and strides multiples of 32"
        yield from self._zero_points()

    def _zero_points(self) -> Iterator[tuple[bool, str]]:
        inputs = ("ifm", "ifm2") if self.has_ifm2 else ("ifm",)
        for name in inputs if self.name != "COPY" else ():
            half = 1 << 7 + 8 * self.reg[f"{name}_bits"]
            outside = not -half <= self.reg[f"{name}_zero"] < half
            yield outside, f"{name}_zero; expected {-half}..{half - 1}"

    def _check_ranges(self) -> None:
        written, read = self.writes(), self.reads()
        for other in read:
            if written.meets(other):
                raise self.fault(
                    OVERLAP,
                    f"{written.what} takes bytes {written.first}..{written.stop - 1} of the shared "
                    f"buffer, {other.what} {other.first}..{other.stop - 1}; move one",
                )
        size = self.machine.shared_words * WORD_BYTES
        for used in (written, *read):
            if used.first < 0 or used.stop > size:
                raise self.fault(
                    OUTSIDE,
                    f"{used.what} takes bytes {used.first}..{used.stop - 1} of the shared buffer, "
                    f"which has 0..{size - 1}; correct its address, strides or sizes",
                )
        if self.name in ("CONV", "DEPTHWISE") and self.reg["weight_format"] != PACKED:
            self._check_weights()

    def _check_weights(self) -> None:
        """Packed tiles end where their data say."""
        layout, first = self.weights, self.reg["weights"]
        stop = first + layout.groups * layout.steps * layout.fixed_words
        if stop > self.machine.weight_words:
            raise self.fault(
                OUTSIDE,
                f"weights take words {first}..{stop - 1} of the weight buffer, which has "
                f"0..{self.machine.weight_words - 1}; split the layer",
            )

    def _check_transfer(self, regions: tuple[tuple[int, int], ...]) -> None:
        reg, bus = self.reg, self.machine.bus_bytes
        for name in ("rows", "row_bytes"):
            if not reg[name]:
                raise self.fault(UNABLE, f"register {name} is 0; SET it to at least 1")
        base, size = regions[reg["region"]] if reg["region"] < len(regions) else (0, 0)
        end = reg["offset"] + (reg["rows"] - 1) * reg["row_step"] + reg["row_bytes"]
        if end > size:
            raise self.fault(
                REGION,
                f"bytes {reg['offset']}..{end - 1} of region {reg['region']}, which has {size}; "
                f"correct region, offset, rows or row_step",
            )
        numbers = {n: reg[n] for n in ("offset", "row_bytes", "row_step", "buf", "buf_step")}
        for name, value in (numbers | {"base of the region": base}).items():
            if value % bus:
                raise self.fault(MISALIGNED, f"{name} is {value}; expected a multiple of {bus}")
        weights = self.fields["direction"] == TO_WEIGHTS
        room = self.machine.config.npu.weight_bytes if weights else (
            self.machine.shared_words * WORD_BYTES
        )  # fmt: skip
        stop = reg["buf"] + (reg["rows"] - 1) * reg["buf_step"] + reg["row_bytes"]
        if stop > room:
            raise self.fault(
                OUTSIDE,
                f"bytes {reg['buf']}..{stop - 1} of a buffer of {room}; correct buf or buf_step",
            )


def commands(program: Program, machine: NpuMachine) -> Iterator[Command]:
    """Commands up to STOP, each with a copy of the registers. Nothing is checked but the encoding.

    Raises NpuFault at an illegal command, ProgramError when STOP is missing.
    """
    registers = dict.fromkeys(_REGISTERS.values(), 0)
    for pc, word in enumerate(program.words):
        try:
            ins = _SPEC.decode(word, f"command {pc}")
        except ProgramError as error:
            raise NpuFault(ILLEGAL, pc, str(error)) from None
        copied = registers if ins.name == "SET" else dict(registers)
        yield Command(machine, pc, ins.name, ins.fields, copied)
        if ins.name == "STOP":
            return
        if ins.name == "SET":
            name, value = _REGISTERS[ins.reg], ins.value
            registers[name] = value - (value >> 31 << 32) if name in _SIGNED else value
    raise ProgramError(f"command {len(program.words)}: the program runs past its end; end it with "
                       f"STOP")  # fmt: skip
