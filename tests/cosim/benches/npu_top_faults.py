"""Faulty streams for the whole `npu` machine, and what memory holds after them.

Every stream fills the start of the shared buffer, begins to copy it back behind (`BACK`), does what
is wrong, and would then copy it to `OUT` and raise another interrupt.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from npu_top_host import BEAT, MACHINE, SHARED_BYTES, USED, image, set_registers, transfer

from bankside.isa.npu_commands import BUS, ILLEGAL, MISALIGNED, OUTSIDE, OVERLAP, REGION, UNABLE
from bankside.isa.program import Builder, Program

Rng = np.random.Generator
#: Areas of main memory, each of USED bytes; 0 is the source.
BACK, OUT, FAILING = USED, 2 * USED, 3 * USED
#: Bytes of main memory that answer with an error, and where a read of them goes.
FAIL_FIRST, FAIL_LAST = FAILING + 32 * BEAT, FAILING + 40 * BEAT
READ_TO, READ_BYTES = 128 * BEAT, 64 * BEAT
INTERRUPT, LATER = 0xBEE, 0xDEAD


def unknown_opcode(b: Builder) -> None:
    b.words.append(0x7F << 56)


def illegal_operand(b: Builder) -> None:
    """A bit that no field has."""
    b.words.append(b.spec.encode("IRQ", code=LATER) | 1 << 20)


def missing_stop(b: Builder) -> None:
    """Nothing: `faulty_stream` ends here."""


def without_size(b: Builder) -> None:
    b.SOFTMAX()


def crooked_copy(b: Builder) -> None:
    """Of whole words, from an address that is none; the sizes are right."""
    set_registers(b, n0=1, n1=1, n2=2, src=1, dst=USED, src_s2=32, dst_s2=32, wide=1)
    b.COPY()


def outside_region(b: Builder) -> None:
    transfer(b, "to_memory", BEAT, region=1, rows=2, row_step=BEAT, buf_step=BEAT)


def no_such_region(b: Builder) -> None:
    transfer(b, "to_shared", BEAT, region=9)


def misaligned(b: Builder) -> None:
    transfer(b, "to_shared", BEAT, offset=BEAT // 2)


def misaligned_write(b: Builder) -> None:
    transfer(b, "to_memory", BEAT, buf=BEAT // 2, offset=OUT)


def failing_read(b: Builder) -> None:
    transfer(b, "to_shared", READ_BYTES, region=2, buf=READ_TO)


def failing_weights(b: Builder) -> None:
    transfer(b, "to_weights", READ_BYTES, region=2)


def failing_write(b: Builder) -> None:
    transfer(b, "to_memory", USED, region=2)


def overlap(b: Builder) -> None:
    set_registers(b, n0=1, n1=1, n2=64, src=USED, dst=USED + 63, src_s2=1, dst_s2=1)
    b.COPY()


def meets_operation(b: Builder) -> None:
    """A copy inside the part that is compared, and a transfer into its bank."""
    set_registers(b, n0=1, n1=1, n2=256, src=0, dst=2048, src_s2=0, dst_s2=0)
    b.COPY()
    transfer(b, "to_shared", 512, buf=3072)


def outside_buffer(b: Builder) -> None:
    set_registers(b, n0=1, n1=1, n2=64, src=USED, dst=SHARED_BYTES - 63, src_s2=1, dst_s2=1)
    b.COPY()


def transfer_outside_buffer(b: Builder) -> None:
    transfer(b, "to_shared", 2 * BEAT, buf=SHARED_BYTES - BEAT)


def no_tile(b: Builder) -> None:
    """Packed weights whose first word is no header, in banks that no transfer uses."""
    bank = MACHINE.shared_words // MACHINE.config.npu.banks
    names = ("ifm_h", "ifm_w", "ifm_c", "ofm_h", "ofm_w", "ofm_c", "kernel_h", "kernel_w")
    steps = ("stride_y", "stride_x", "dilation_y", "dilation_x", "block")
    set_registers(b, **dict.fromkeys((*names, *steps), 1), ifm=6 * bank, ofm=7 * bank,
                  scale_mode=2, ofm_min=-128, ofm_max=127)  # fmt: skip
    b.CONV()


@dataclass(frozen=True)
class Fault:
    """code: of docs/npu.md section 9. waits: it comes when nothing is under way, as it needs the
    transfers itself. unknown: bytes [first, end) of the shared buffer that it may change.
    """

    code: int
    waits: bool = False
    unknown: tuple[int, int] = (0, 0)


FAULTS: dict[Callable[[Builder], None], Fault] = {
    unknown_opcode: Fault(ILLEGAL),
    illegal_operand: Fault(ILLEGAL),
    missing_stop: Fault(ILLEGAL),
    without_size: Fault(UNABLE),
    crooked_copy: Fault(UNABLE),
    outside_region: Fault(REGION),
    no_such_region: Fault(REGION),
    misaligned: Fault(MISALIGNED),
    misaligned_write: Fault(MISALIGNED),
    failing_read: Fault(BUS, True, (READ_TO, READ_TO + READ_BYTES)),
    failing_weights: Fault(BUS, True),
    failing_write: Fault(BUS, True),
    overlap: Fault(OVERLAP),
    meets_operation: Fault(OVERLAP, True, (2048, 3584)),
    outside_buffer: Fault(OUTSIDE),
    transfer_outside_buffer: Fault(OUTSIDE),
}
if not MACHINE.wide:
    FAULTS[no_tile] = Fault(OUTSIDE)


@dataclass(frozen=True)
class FaultyStream:
    """position: of the command that is wrong. interrupts: an IRQ stands before it."""

    program: Program
    position: int
    interrupts: bool


def faulty_stream(
    wrong: Callable[[Builder], None],
    rng: Rng,
    *,
    waits: bool = False,
    interrupts: bool | None = None,
) -> FaultyStream:
    """`wrong` somewhere in the middle of the copy to `BACK`, or after it."""
    rows, b = image(5 * USED), Builder("npu", BEAT // 2)
    rows[:] = rng.integers(0, 1 << 16, rows.shape)
    # 9 bits per weight: what `no_tile` reads as a header.
    rows[FAILING // BEAT].view(np.uint8)[:8] = (9, *(0,) * 7)
    interrupts = bool(rng.integers(2)) if interrupts is None else interrupts
    transfer(b, "to_weights", BEAT, offset=FAILING)
    transfer(b, "to_shared", USED)
    if interrupts:
        b.IRQ(code=INTERRUPT)
    b.DMA_WAIT(outstanding=0)
    transfer(b, "to_memory", USED, offset=BACK)
    for _ in range(rng.integers(20, 40)):
        b.PMU(enable=1)
    if waits:
        b.DMA_WAIT(outstanding=0)
    wrong(b)
    position = len(b.words) - 1
    if wrong is missing_stop:
        position += 1
    else:
        transfer(b, "to_memory", USED, offset=OUT)
        b.DMA_WAIT(outstanding=0)
        b.IRQ(code=LATER)
        b.STOP()
    regions = ((0, rows.nbytes), (OUT, BEAT), (FAILING, USED))
    return FaultyStream(Program("npu", tuple(b.words), rows, regions=regions), position, interrupts)


def beats_copied(before: np.ndarray, after: np.ndarray, *areas: int) -> list[int]:
    """How many beats of the source stand in each of `areas`, one after the other from the first.

    Everything else must be as before, bytes that answer with an error too.
    """
    rows, want, counts = USED // BEAT, before.copy(), []
    failing = slice(FAIL_FIRST // BEAT, FAIL_LAST // BEAT)
    for area in areas:
        first = area // BEAT
        want[first : first + rows] = before[:rows]
        want[failing] = before[failing]
        same = (after[first : first + rows] == want[first : first + rows]).all(axis=1)
        count = rows if same.all() else int(np.argmin(same))
        want[first + count : first + rows] = before[first + count : first + rows]
        counts.append(count)
    wrong = np.flatnonzero((after != want).any(axis=1)) * BEAT
    assert not len(wrong), f"memory is wrong from byte {wrong[0]:#x} on"
    return counts


def buffer_after(stream: FaultyStream, wrong: Callable[[Builder], None]) -> np.ndarray:
    """uint8 [USED] of the shared buffer; -1 (int16) where it is not known."""
    content = stream.program.host_in.view(np.uint8).reshape(-1)
    want = content[:USED].astype(np.int16)
    want[slice(*FAULTS[wrong].unknown)] = -1
    if wrong is failing_read:
        # Beats before the error are written; the beat that comes with it may be.
        good = FAIL_FIRST - FAILING
        want[READ_TO : READ_TO + good] = content[FAILING : FAILING + good]
        late = slice(READ_TO + good + BEAT, READ_TO + READ_BYTES)
        want[late] = content[late]
    return want
