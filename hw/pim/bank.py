"""One DRAM bank with the compute unit beside it."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.fp16 import Fp16Mul
from bankside.hw.arith.fp32 import Fp32Add, ScaleDown
from bankside.hw.dram.array import BankArray
from bankside.hw.lib.unit import Unit
from bankside.hw.pim.layouts import command_layout
from bankside.isa.machine import Machine


def result_read_layout(machine: Machine) -> data.StructLayout:
    """Which half of which result-buffer word of which lane a burst shows."""
    command = command_layout(machine)
    return data.StructLayout({name: command[name].shape for name in ("lane", "rb", "half")})


def add_layout(machine: Machine) -> data.StructLayout:
    """What the adders do in the third stage of a MAC; decoded once per chip for all banks.

    mode : 0 tree, 1 acc.
    start : tree: the first column of a token, whose sum replaces the accumulator.
    rb : result-buffer word.
    mask : which positions of the word are written.
    """
    rb = command_layout(machine)["rb"].shape
    return data.StructLayout({"mode": 1, "start": 1, "rb": rb, "mask": machine.elements})


class BankCompute(wiring.Component):
    """Multipliers, adders, accumulators and result buffer of one bank; the lanes work in parallel.

    NE multipliers and NE adders per lane. The adders form the tree with the accumulation at its
    root (mode tree), or each adds its own product to its own position (mode acc).

    Members
    -------
    cells : In(NE*16)
        The column that was read.
    query : In(lanes of NE*16), probability : In(lanes of 16)
        Operands of the modes tree and acc; `acc_operand` chooses the second.
    multiply : In(1)
        Take the products of `cells` and the operand at the end of this cycle.
    add : In(1), step : In(add_layout), k : In(lanes of 8)
        Add the products and write at the end of this cycle; acc: the old value is multiplied by
        2^-k first.
    read : In(1), source : In(result_read_layout)
        Take half a result-buffer word; `result` shows it from the next cycle on.
    result : Out(NE*16)

    No register of the data path changes in a cycle with neither `multiply` nor `add`.

    Ref: docs/pim.md section 6.
    """

    def __init__(self, machine: Machine) -> None:
        self.lanes = machine.lanes
        self.elements = machine.elements
        self.words = machine.sizes["result_buffer_words"]
        width = machine.slice_bits
        super().__init__(
            {
                "cells": In(width),
                "query": In(data.ArrayLayout(width, self.lanes)),
                "probability": In(data.ArrayLayout(16, self.lanes)),
                "acc_operand": In(1),
                "multiply": In(1),
                "add": In(1),
                "step": In(add_layout(machine)),
                "k": In(data.ArrayLayout(8, self.lanes)),
                "read": In(1),
                "source": In(result_read_layout(machine)),
                "result": Out(width),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        halves = []
        for lane in range(self.lanes):
            products = self._multiply(m, lane)
            halves.append(self._accumulate(m, lane, products))
        chosen = Signal(self.source.shape()["lane"].shape)
        with m.If(self.read):
            m.d.sync += chosen.eq(self.source.lane)
        with m.Switch(chosen):
            for lane, half in enumerate(halves):
                with m.Case(lane):
                    m.d.comb += self.result.eq(half)
        return m

    def _multiply(self, m: Module, lane: int) -> list[Signal]:
        """Product registers of one lane."""
        products = [Signal(32, name=f"product{lane}_{i}") for i in range(self.elements)]
        for i, product in enumerate(products):
            part = slice(16 * i, 16 * i + 16)
            unit = m.submodules[f"mul{lane}_{i}"] = Unit(Fp16Mul(), "bankside_fp16_mul")
            operand = Mux(self.acc_operand, self.probability[lane], self.query[lane][part])
            m.d.comb += [unit.a.eq(self.cells[part]), unit.b.eq(operand)]
            with m.If(self.multiply):
                m.d.sync += product.eq(unit.y)
        return products

    def _accumulate(self, m: Module, lane: int, products: list[Signal]) -> Value:
        """Adders, accumulator and result buffer of a lane; returns the half word that was read."""
        memory = Memory(shape=32 * self.elements, depth=self.words, init=[])
        m.submodules[f"result_buffer{lane}"] = memory
        old, write = memory.read_port(domain="comb"), memory.write_port(granularity=32)
        scaled = []
        for i in range(self.elements):
            scale = m.submodules[f"scale{lane}_{i}"] = Unit(ScaleDown(), "bankside_scale_down")
            m.d.comb += [scale.a.eq(old.data[32 * i : 32 * i + 32]), scale.k.eq(self.k[lane])]
            scaled.append(scale.y)
        sums = self._adders(m, lane, products, scaled)
        m.d.comb += [
            old.addr.eq(self.step.rb),
            write.addr.eq(self.step.rb),
            write.en.eq(Mux(self.add, self.step.mask, 0)),
            write.data.eq(Mux(self.step.mode, Cat(sums), sums[-1].replicate(self.elements))),
        ]
        return self._read_half(m, lane, memory)

    def _adders(
        self, m: Module, lane: int, products: list[Signal], scaled: list[Value]
    ) -> list[Signal]:
        """NE sums: of the positions in mode acc; in mode tree the last one is the accumulation."""
        accumulator = Signal(32, name=f"accumulator{lane}")
        sums: list[Signal] = []
        terms: list[Value] = list(products)
        for i in range(self.elements):
            unit = m.submodules[f"add{lane}_{i}"] = Unit(Fp32Add(), "bankside_fp32_add")
            # Taking two from the front and appending their sum walks the tree level by level.
            last = i == self.elements - 1
            left = Mux(self.step.start, 0, accumulator) if last else terms.pop(0)
            right = terms.pop(0)
            m.d.comb += [
                unit.a.eq(Mux(self.step.mode, scaled[i], left)),
                unit.b.eq(Mux(self.step.mode, products[i], right)),
            ]
            sums.append(unit.y)
            terms.append(unit.y)
        with m.If(self.add & ~self.step.mode):
            m.d.sync += accumulator.eq(sums[-1])
        return sums

    def _read_half(self, m: Module, lane: int, memory: Memory) -> Value:
        """Independent read for the rank unit, S values at a time."""
        port = memory.read_port()
        half = Signal(name=f"half{lane}")
        m.d.comb += port.en.eq(self.read & (self.source.lane == lane))
        m.d.comb += port.addr.eq(self.source.rb)
        with m.If(port.en):
            m.d.sync += half.eq(self.source.half)
        return port.data.word_select(half, len(self.result))


# Ports of the bank that go straight to its compute unit.
_BROADCAST = ("query", "probability", "acc_operand", "multiply", "add", "step", "k", "source")


class Bank(wiring.Component):
    """Cell array, open row and compute unit of one bank. All timing is decided by the chip.

    Members
    -------
    open : In(1), row : In
        Open `row` (from the next cycle on).
    read : In(1), column : In
        Read a column of the open row; the compute unit and `rdata` have it from the next cycle on.
    write : In(1), write_column : In, wdata : In(NE*16)
        Write a column of the open row.
    read_result : In(1), source : In(result_read_layout)
        Read half a result-buffer word; `rdata` shows it from the next cycle on.
    rdata : Out(NE*16)
        What was read last.
    query, probability, acc_operand, multiply, add, step, k
        As in `BankCompute`.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        command = command_layout(machine)
        width, lanes = machine.slice_bits, machine.lanes
        super().__init__(
            {
                "open": In(1),
                "row": In(command["row"].shape),
                "read": In(1),
                "column": In(command["col"].shape),
                "write": In(1),
                "write_column": In(command["col"].shape),
                "wdata": In(width),
                "read_result": In(1),
                "source": In(result_read_layout(machine)),
                "rdata": Out(width),
                "query": In(data.ArrayLayout(width, lanes)),
                "probability": In(data.ArrayLayout(16, lanes)),
                "acc_operand": In(1),
                "multiply": In(1),
                "add": In(1),
                "step": In(add_layout(machine)),
                "k": In(data.ArrayLayout(8, lanes)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.array = array = BankArray(machine.slice_bits, machine.rows, machine.columns)
        m.submodules.compute = compute = BankCompute(machine)
        row = Signal(self.row.shape())
        with m.If(self.open):
            m.d.sync += row.eq(self.row)
        m.d.comb += [
            array.read_en.eq(self.read),
            array.read_row.eq(row),
            array.read_column.eq(self.column),
            array.write_en.eq(self.write),
            array.write_row.eq(row),
            array.write_column.eq(self.write_column),
            array.write_data.eq(self.wdata),
            compute.cells.eq(array.read_data),
            compute.read.eq(self.read_result),
        ]
        for name in _BROADCAST:
            m.d.comb += getattr(compute, name).eq(getattr(self, name))
        # Accesses never coincide (one command per cycle, equal delays), so the last one wins.
        shows_result = Signal()
        with m.If(self.read | self.read_result):
            m.d.sync += shows_result.eq(self.read_result)
        m.d.comb += self.rdata.eq(Mux(shows_result, compute.result, array.read_data))
        return m
