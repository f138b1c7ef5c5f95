"""`Stream`: what is sent and what is left out; weights are there when they are used and never
overwritten before (checked by an account of the weight buffer).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.isa.machines import load_machine
from bankside.isa.spec import load_spec
from bankside.mapping.npu_stream import Chunk, Stream

SPEC = load_spec("npu")
MACHINE = load_machine("npu_llm_256")
REGISTERS = {code: name for name, code in SPEC.enums["register"].items()}


def decoded(stream: Stream) -> list:
    return [SPEC.decode(word) for word in stream.finish()]


def test_only_changes_are_sent() -> None:
    stream = Stream(MACHINE)
    stream.set(ifm=0, ofm=7, o_shift=-3)
    stream.set(ofm=7, o_shift=-3, lut=1)
    stream.set(ofm=0)
    sent = [(REGISTERS[i.reg], i.value) for i in decoded(stream)[:-1]]
    assert sent == [("ofm", 7), ("o_shift", (1 << 32) - 3), ("lut", 1), ("ofm", 0)]


def test_fulfilled_waits_are_left_out() -> None:
    stream = Stream(MACHINE)
    first, second = (stream.transfer("to_shared", {"rows": 1}) for _ in range(2))
    stream.await_transfer(second)
    stream.await_transfer(first)
    waits = [i.outstanding for i in decoded(stream) if i.name == "DMA_WAIT"]
    assert waits == [0]


def test_waits_count_what_came_after() -> None:
    stream = Stream(MACHINE)
    numbers = [stream.operation("COPY", {}) for _ in range(4)]
    stream.await_operation(numbers[1])
    assert [i.outstanding for i in decoded(stream) if i.name == "KERNEL_WAIT"] == [2]


def test_a_chunk_larger_than_the_buffer_is_refused() -> None:
    chunk = Chunk(0, MACHINE.config.npu.weight_bytes + 256)
    with pytest.raises(ConfigError, match="do not fit the weight buffer of 131072"):
        Stream(MACHINE, [chunk]).weights(chunk)


def replayed(stream: Stream, chunks: list[Chunk], uses: list[tuple[int, int]]) -> None:
    """Follow the words: at every use the chunk's bytes are complete and still its own; a transfer
    never begins while an operation that may still read its place is under way.
    """
    owner = np.full(MACHINE.config.npu.weight_bytes, -1)
    state: dict[str, int] = {}
    transfers = done = operations = finished = 0
    for ins in decoded(stream):
        if ins.name == "SET":
            state[REGISTERS[ins.reg]] = ins.value
        elif ins.name == "DMA":
            first, size = state.get("buf", 0), state["row_bytes"]
            for number in range(finished, operations):
                busy = chunks[number]
                assert busy.first + busy.size <= first or first + size <= busy.first
            owner[first : first + size] = transfers
            transfers += 1
        elif ins.name == "DMA_WAIT":
            done = max(done, transfers - ins.outstanding)
        elif ins.name == "KERNEL_WAIT":
            finished = max(finished, operations - ins.outstanding)
        elif ins.name == "COPY":
            chunk = chunks[operations]
            assert operations < done and chunk.transfer == operations
            assert (owner[chunk.first : chunk.first + chunk.size] == operations).all()
            operations += 1
    assert operations == len(uses)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 512), min_size=1, max_size=60))
def test_weights_are_fetched_in_time_and_kept_until_used(words: list[int]) -> None:
    chunks = [Chunk(0, n * 256) for n in words]
    stream, uses = Stream(MACHINE, chunks), []
    for chunk in chunks:
        word = stream.weights(chunk)
        number = stream.operation("COPY", {})
        stream.used(chunk, number)
        uses.append((word, number))
    replayed(stream, chunks, uses)


def test_weights_come_while_operations_run() -> None:
    """As many are asked for before the first operation as the queue takes."""
    chunks = [Chunk(i * 256, 256) for i in range(8)]
    stream = Stream(MACHINE, chunks)
    for chunk in chunks:
        stream.weights(chunk)
        stream.used(chunk, stream.operation("COPY", {}))
    names = [i.name for i in decoded(stream) if i.name in ("DMA", "COPY")]
    assert names[:5] == ["DMA"] * MACHINE.config.npu.queue_depth + ["COPY"]
