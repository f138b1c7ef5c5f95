"""What an operation of the vector unit does to the shared buffer, and when it is complete.

Written from docs/npu.md with isa.numerics_npu; shared by the tests in Amaranth's simulator and the
cocotb bench.
"""

from random import Random

from bankside.config import HardwareConfig
from bankside.hw.npu.operation import opcode
from bankside.isa import numerics_npu as ref
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.spec import load_spec

WORDS = 1024
IFM, IFM2, PARAMETERS, OFM = 0, 320, 640, 704  # areas of the shared buffer, first words
ENUMS = load_spec("npu").enums
KINDS = ("add", "sub", "mul", "lut", "softmax", "rms", "layer", "copy", "copy_wide")


def make_machine(macs: int) -> NpuMachine:
    return NpuMachine.of(
        HardwareConfig.parse(
            f"name: vector\nengine: npu\nnpu:\n  macs: {macs}\n  profile: llm\n"
            f"  shared_words: {WORDS}\n"
        )
    )


def _signed(random: Random, bits: int) -> int:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return random.choice((low, high, 0, -1, random.randint(low, high), random.randint(low, high)))


def _multiplier(random: Random) -> int:
    return random.choice((1 << 30, random.randrange(1 << 30, 1 << 31), _signed(random, 32)))


def _shift(random: Random) -> int:
    return random.choice((ref.SHIFT_MIN, ref.SHIFT_MAX, 0, *random.choices(range(-31, 31), k=4)))


def _map(random: Random, op: dict, name: str, area: int, words: int) -> None:
    """Random base and strides of a feature map in `area`."""
    sx = words + random.randrange(3)
    op[f"{name}_sx"] = sx
    op[f"{name}_sy"] = op["ofm_w"] * sx + random.randrange(4)
    op[name] = area + random.randrange(4)


def random_operation(random: Random, kind: str) -> dict[str, int]:
    """Registers, opcode and mode of a legal operation."""
    if kind.startswith("copy"):
        return _random_copy(random, kind == "copy_wide")
    single = kind in ("softmax", "rms", "layer")
    channels = random.choice((1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65, 100))
    positions = 20 if single else 40
    op = {"ofm_c": channels, "ofm_h": random.randint(1, 4)}
    op["ofm_w"] = random.randint(1, max(1, min(5, positions // op["ofm_h"])))
    for bits in ("ifm_bits", "ifm2_bits", "ofm_bits"):
        op[bits] = 0 if kind in ("lut", "softmax") else random.getrandbits(1)
    for name, area in (("ifm", IFM), ("ifm2", IFM2), ("ofm", OFM)):
        per_word = 16 if op[f"{name}_bits"] else 32
        _map(random, op, name, area, -(-channels // per_word))
        if kind != "lut":
            op[f"{name}_zero"] = _signed(
                random, 16 if op[f"{name}_bits"] else random.choice((4, 8))
            )
    if kind == "softmax" and random.random() < 0.5:
        op["ofm_zero"] = -128
    low, high = sorted(_signed(random, 16 if op["ofm_bits"] else 8) for _ in range(2))
    op |= {"ofm_min": low, "ofm_max": high, "rounding": random.randrange(4)}
    if random.random() < 0.7:
        span = 1 << (15 if op["ofm_bits"] else 7)
        op |= {"ofm_min": -span, "ofm_max": span - 1}
    op |= {"ifm2_broadcast": random.randrange(8)}
    op |= _scales(random, op, kind)
    op |= {"lut": PARAMETERS + random.randrange(8), "scale": PARAMETERS + random.randrange(8)}
    if kind in ("rms", "layer"):
        typical = 46 if op["ofm_bits"] else 54
        shifts = (typical, typical, typical - 3, random.randrange(60), -128, 127, -9)
        op |= {"o_shift": random.choice(shifts)}
        op |= {"epsilon": random.choice((0, 1, random.getrandbits(16), 0xFFFFFFFF))}
        op |= {"epsilon_shift": random.choice((0, 5, 29))}
        op |= {"opcode": opcode("NORM"), "mode": ENUMS["norm"][kind]}
    elif kind == "softmax":
        op |= {"opcode": opcode("SOFTMAX"), "mode": 0}
    else:
        op |= {"opcode": opcode("ELEMENTWISE"), "mode": ENUMS["elementwise"][kind]}
    return op


def _scales(random: Random, op: dict, kind: str) -> dict[str, int]:
    """Scales of an ELEMENTWISE: often such as a network has, which hit the range of the output."""
    scales = {"left_shift": random.choice((0, 20, 7, 31))}
    for name in "abo":
        scales |= {f"{name}_mult": _multiplier(random), f"{name}_shift": _shift(random)}
    if random.random() < 0.4:
        return scales
    typical = random.choices(range(1 << 30, 1 << 31), k=3)
    scales |= {f"{name}_mult": mult for name, mult in zip("abo", typical, strict=True)}
    wide = op["ifm_bits"] | op["ifm2_bits"]
    scales |= {"left_shift": 12 if wide else 20, "a_shift": random.randint(-3, 0), "b_shift": 0}
    if kind == "mul":
        scales["o_shift"] = -7 - 8 * (op["ifm_bits"] + op["ifm2_bits"] - op["ofm_bits"])
    else:
        scales["o_shift"] = (8 if op["ofm_bits"] else 0) - (20 if wide else 19)
    return scales


def _random_copy(random: Random, wide: bool) -> dict[str, int]:
    unit = 32 if wide else 1
    op = {"opcode": opcode("COPY"), "mode": 0, "wide": int(wide)}
    op |= {name: random.choice((1, 2, 3, 6)) for name in ("n0", "n1", "n2")}
    for name, area in (("src", IFM), ("dst", OFM)):
        steps = [unit * random.choice((1, 2, 3)) for _ in range(3)]
        if name == "dst":  # No element of the destination twice: any order of writes is right.
            steps = [unit * k for k in (op["n1"] * op["n2"] + 1, op["n2"], 1)]
        random.shuffle(steps if name == "src" else [])
        if name == "src" and random.random() < 0.5:
            steps[random.randrange(3)] *= -1
        below = sum(min(0, s * (op[f"n{i}"] - 1)) for i, s in enumerate(steps))
        op[name] = 32 * area + unit * random.randrange(50) - below
        op |= {f"{name}_s{i}": step for i, step in enumerate(steps)}
    return op


class Buffer:
    """The shared buffer as bytes."""

    def __init__(self, content: bytes) -> None:
        self.bytes = bytearray(content)

    def _place(self, op: dict, name: str, y: int, x: int, c: int) -> tuple[int, int]:
        two = op[f"{name}_bits"]
        base = op[name] + y * op[f"{name}_sy"] + x * op[f"{name}_sx"]
        return (32 * (base + c // 16) + 2 * (c % 16), 2) if two else (32 * base + c, 1)

    def read(self, op: dict, name: str, y: int, x: int, c: int) -> int:
        at, size = self._place(op, name, y, x, c)
        return self.number(at, size)

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.bytes[at : at + size], "little", signed=True)

    def write(self, op: dict, y: int, x: int, c: int, value: int) -> None:
        at, size = self._place(op, "ofm", y, x, c)
        self.bytes[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def fill(random: Random, op: dict[str, int]) -> bytes:
    """A buffer with data that suits the operation: noise, extremes, a softmax table."""
    content = bytearray(random.randbytes(32 * WORDS))
    extreme = random.choice((None, None, b"\x80", b"\x7f", b"\x00\x80", b"\xff\x7f", b"\x00"))
    if random.random() < 0.3:  # neighbours that are close, as a softmax has them
        content[: 32 * PARAMETERS] = bytes(
            random.choices((*range(9), *range(250, 256)), k=32 * PARAMETERS)
        )
    elif extreme:
        content[: 32 * PARAMETERS] = (extreme * (32 * PARAMETERS))[: 32 * PARAMETERS]
    if op["opcode"] == opcode("SOFTMAX") and random.random() < 0.7:
        table = ref.softmax_table(
            random.randrange(1 << 30, 1 << 31), random.randint(19, 24), -random.randint(1, 255)
        )
        if random.random() < 0.1:
            table = (0,) * 256
        packed = b"".join(entry.to_bytes(4, "little") for entry in table)
        content[32 * op["lut"] : 32 * op["lut"] + len(packed)] = packed
    return bytes(content)


def positions(op: dict) -> list[tuple[int, int]]:
    return [(y, x) for y in range(op["ofm_h"]) for x in range(op["ofm_w"])]


def apply(op: dict[str, int], content: bytes) -> bytes:
    """The buffer after the operation."""
    buffer = Buffer(content)
    if op["opcode"] == opcode("COPY"):
        _copy(op, buffer)
    elif op["opcode"] == opcode("ELEMENTWISE"):
        for y, x in positions(op):
            for c in range(op["ofm_c"]):
                buffer.write(op, y, x, c, _element(op, buffer, y, x, c))
    else:
        for y, x in positions(op):
            for c, value in enumerate(_row(op, buffer, y, x)):
                buffer.write(op, y, x, c, value)
    return bytes(buffer.bytes)


def _copy(op: dict, buffer: Buffer) -> None:
    size = 32 if op["wide"] else 1
    for i0 in range(op["n0"]):
        for i1 in range(op["n1"]):
            for i2 in range(op["n2"]):
                steps = tuple(zip((i0, i1, i2), range(3), strict=True))
                src = op["src"] + sum(i * op[f"src_s{k}"] for i, k in steps)
                dst = op["dst"] + sum(i * op[f"dst_s{k}"] for i, k in steps)
                buffer.bytes[dst : dst + size] = buffer.bytes[src : src + size]


def _output(op: dict) -> ref.Output:
    return ref.Output(op["ofm_zero"], op["ofm_min"], op["ofm_max"])


def _element(op: dict, buffer: Buffer, y: int, x: int, c: int) -> int:
    a = buffer.read(op, "ifm", y, x, c)
    if op["mode"] == ENUMS["elementwise"]["lut"]:
        return buffer.bytes[32 * op["lut"] + a + 128]
    a -= op["ifm_zero"]
    fixed = op["ifm2_broadcast"]
    place = (0 if fixed & 1 else y, 0 if fixed & 2 else x, 0 if fixed & 4 else c)
    b = buffer.read(op, "ifm2", *place) - op["ifm2_zero"]
    if op["mode"] == ENUMS["elementwise"]["mul"]:
        return ref.mul(a, b, (op["o_mult"], op["o_shift"]), _output(op), op["rounding"])
    scales = ref.Scales(
        *((op[f"{n}_mult"], op[f"{n}_shift"]) for n in "abo"), left_shift=op["left_shift"]
    )
    sign = -1 if op["mode"] == ENUMS["elementwise"]["sub"] else 1
    return ref.add(a, b, scales, _output(op), op["rounding"], sign=sign)


def _row(op: dict, buffer: Buffer, y: int, x: int) -> list[int]:
    values = [buffer.read(op, "ifm", y, x, c) for c in range(op["ofm_c"])]
    if op["opcode"] == opcode("SOFTMAX"):
        table = [buffer.number(32 * op["lut"] + 4 * d, 4) for d in range(256)]
        return ref.softmax(values, table, _output(op))
    gain = [buffer.number(32 * op["scale"] + 2 * c, 2) for c in range(op["ofm_c"])]
    return ref.norm(
        [v - op["ifm_zero"] for v in values],
        gain,
        op["epsilon"] << op["epsilon_shift"],
        op["o_shift"],
        _output(op),
        layer=op["mode"] == ENUMS["norm"]["layer"],
    )


def duration(machine: NpuMachine, op: dict[str, int]) -> int:
    """Cycles from the start to the first cycle in which the operation is complete."""
    if op["opcode"] == opcode("COPY"):
        return 4 + op["n0"] * op["n1"] * op["n2"] + 8
    count, channels = op["ofm_h"] * op["ofm_w"], op["ofm_c"]
    groups = -(-channels // machine.vector_rate)
    if op["opcode"] == opcode("ELEMENTWISE"):
        table = 8 if op["mode"] == ENUMS["elementwise"]["lut"] else 0
        return 4 + table + count * groups + 8
    if op["opcode"] == opcode("SOFTMAX"):
        return 4 + 32 + count * (groups + 2 * channels + 40) + 8
    layer = op["mode"] == ENUMS["norm"]["layer"]
    return 4 + count * (3 * channels + 110 if layer else 2 * channels + 60) + 8
