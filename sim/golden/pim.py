"""Golden model of the `pim` engine: the exact bits of every command, no time.

Commands of one engine run in program order; between engines the tokens decide. A verified program
gives the same bits in
every order that the tokens allow, so commands simply run as soon as they may. Ref: docs/pim.md
sections 2, 3 and 6.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa import numerics_np as fp
from bankside.isa import relayout
from bankside.isa.machine import Machine
from bankside.isa.numerics import SCALE_CLEAR
from bankside.isa.program import Geometry, Program, Step, walk
from bankside.sim.engine import Result

TREE, ACC = 0, 1


@dataclass
class BankUnitMode:
    """Mode registers of the bank units (WRR) and their counters: column within the token, token
    slot.
    """

    mode: int = TREE
    kbuf: int = 0
    rescale: int = 0
    sb: int = 0
    rb: int = 0
    cpt: int = 1
    column: int = 0
    slot: int = 0

    def advance(self, columns: int) -> None:
        """Move the counters on by `columns` column accesses."""
        position = self.slot * self.cpt + self.column + columns
        self.slot, self.column = divmod(position, self.cpt)


@dataclass
class _Engines:
    """Queues of commands that are dispatched but not executed, and the token counters."""

    queues: list[deque[Step]] = field(default_factory=lambda: [deque() for _ in range(4)])
    tokens: NDArray[np.int64] = field(default_factory=lambda: np.zeros((4, 4), np.int64))


class PimGolden:
    """One rank with its rank unit.

    State: `memory` uint16 [C, B, rows, columns, NE] (FP16 bits) and the buffers of docs/pim.md
    section 2.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.reset()

    def reset(self) -> None:
        """Power-on state: every memory and register zero, every bank closed."""
        mc = self.machine
        size, lanes = mc.sizes, mc.lanes
        self.memory = np.zeros((mc.chips, mc.banks, mc.rows, mc.columns, mc.elements), np.uint16)
        self.open_row: list[int | None] = [None] * mc.banks
        self.unit = BankUnitMode()
        self.accumulator = np.zeros((mc.chips, mc.banks, lanes), np.float32)
        self.result = np.zeros(
            (mc.chips, mc.banks, lanes, size["result_buffer_words"], mc.elements), np.float32
        )
        self.shared = np.zeros(
            (mc.chips, lanes, size["shared_buffer_words"], mc.elements), np.uint16
        )
        self.scale = np.zeros((2, mc.chips, lanes), np.int64)
        self.score = np.zeros((size["score_words"], mc.chips, mc.slots_per_burst), np.float32)
        self.maximum = np.zeros((2, lanes, mc.chips), np.uint32)
        self.probability = np.zeros((size["probability_words"], mc.chips, mc.elements), np.uint16)
        self.stage_in = np.zeros((size["staging_words"], mc.chips, mc.elements), np.uint16)
        self.stage_out = np.zeros_like(self.stage_in)
        self.softmax_max = np.zeros((lanes, mc.chips), np.int64)
        self.softmax_sum = np.zeros((lanes, mc.chips), np.uint64)

    # --- order of execution -----------------------------------------------------------------------
    # ------------------------
    def run(self, program: Program, *, trace: bool = False) -> Result:
        """Execute `program`. Raises ProgramError when it cannot finish or uses a bank that is not
        open.
        """
        self._host, self._taken, self._sent = program.host_in, 0, []
        engines, spec = _Engines(), program.spec
        index = {name: i for i, name in enumerate(spec.engines)}
        for step in walk(program):
            engine = spec.commands[step.instruction.name].engine
            if engine != "control":
                engines.queues[index[engine]].append(step)
            elif step.instruction.name in ("BARRIER", "GEOM", "HALT"):
                self._drain(engines)
                self._require_empty(engines, step)
        outputs = (
            np.concatenate(self._sent)
            if self._sent
            else np.zeros((0, self.machine.burst_elements), np.uint16)
        )
        return Result(outputs=outputs, cycles=None)

    def _drain(self, engines: _Engines) -> None:
        """Run commands until every queue is empty or waits for tokens."""
        progress = True
        while progress:
            progress = False
            for own, queue in enumerate(engines.queues):
                while queue and self._ready(engines, own, queue[0]):
                    self._execute(engines, own)
                    progress = True

    def _execute(self, engines: _Engines, own: int) -> None:
        """The next command of one engine, with its tokens."""
        step = engines.queues[own].popleft()
        getattr(self, f"_{step.instruction.name.lower()}")(step)
        for other in range(4):
            engines.tokens[other, own] -= step.instruction.wait >> other & 1
            engines.tokens[own, other] += step.instruction.signal >> other & 1

    @staticmethod
    def _ready(engines: _Engines, own: int, step: Step) -> bool:
        wait = step.instruction.wait
        return all(engines.tokens[other, own] > 0 for other in range(4) if wait >> other & 1)

    def _require_empty(self, engines: _Engines, at: Step) -> None:
        for name, queue in zip(("array", "buffer", "rank", "host"), engines.queues, strict=True):
            if queue:
                stuck = queue[0]
                raise ProgramError(
                    f"command {stuck.pc} ({stuck.instruction.name}): engine {name} waits for a "
                    f"token that no command gives "
                    f"before command {at.pc} ({at.instruction.name}); add the missing signal"
                )

    # --- rows and columns -------------------------------------------------------------------------
    # --------------------------
    def _open(self, step: Step) -> None:
        mc, ins = self.machine, step.instruction
        banks = {
            0: [ins.bank],
            1: range(mc.banks),
            2: range(mc.banks),
            3: range(mc.banks),
        }[ins.mode]
        for bank in banks:
            if self.open_row[bank] is not None:
                raise ProgramError(
                    f"command {step.pc}: OPEN of bank {bank}, which is open; CLOSE it first"
                )
            self.open_row[bank] = step.row

    def _close(self, step: Step) -> None:
        banks = range(self.machine.banks) if step.instruction.mode else [step.instruction.bank]
        for bank in banks:
            self.open_row[bank] = None

    def _ref(self, step: Step) -> None:
        if any(row is not None for row in self.open_row):
            raise ProgramError(f"command {step.pc}: REF with an open bank; CLOSE all banks first")

    def _row(self, step: Step, bank: int) -> int:
        row = self.open_row[bank]
        if row is None:
            raise ProgramError(
                f"command {step.pc}: {step.instruction.name} on bank {bank}, which is closed; "
                f"OPEN a row first"
            )
        return row

    def _columns(self, step: Step) -> slice:
        return slice(step.instruction.col, step.instruction.col + step.instruction.count)

    def _wr(self, step: Step) -> None:
        ins = step.instruction
        cells = self.memory[:, ins.bank, self._row(step, ins.bank)]
        cells[:, self._columns(step)] = self._staged(
            self.stage_in, ins.stage, ins.count, step
        ).transpose(1, 0, 2)

    def _rd(self, step: Step) -> None:
        ins = step.instruction
        cells = self.memory[:, ins.bank, self._row(step, ins.bank)]
        self._stage(self.stage_out, ins.out, cells[:, self._columns(step)].transpose(1, 0, 2), step)

    def _ldsb(self, step: Step) -> None:
        ins = step.instruction
        cells = self.memory[:, ins.bank, self._row(step, ins.bank)]
        self.shared[:, ins.lane, ins.sb : ins.sb + ins.count] = cells[:, self._columns(step)]

    # --- bank units -------------------------------------------------------------------------------
    # ----------------------------
    def _wrr(self, step: Step) -> None:
        ins = step.instruction
        self.unit = BankUnitMode(ins.mode, ins.kbuf, ins.rescale, ins.sb, ins.rb, ins.cpt)

    def _mac(self, step: Step) -> None:
        mc, ins, unit = self.machine, step.instruction, self.unit
        rows = [self._row(step, bank) for bank in range(mc.banks)]
        data = self.memory[:, np.arange(mc.banks), rows, self._columns(step)]  # [C, B, count, NE]
        positions = unit.column + np.arange(ins.count)
        slots, columns = unit.slot + positions // unit.cpt, positions % unit.cpt
        (self._mac_tree if unit.mode == TREE else self._mac_acc)(data, slots, columns)
        unit.advance(ins.count)

    def _mac_tree(
        self, data: NDArray[np.uint16], slots: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> None:
        unit, elements = self.unit, self.machine.elements
        query = self.shared[:, :, unit.sb + columns]  # [C, lanes, count, NE]
        sums = fp.adder_tree(fp.fp16_mul(data[:, :, None], query[:, None]))  # [C, B, lanes, count]
        for i, (slot, column) in enumerate(zip(slots, columns, strict=True)):
            term = sums[..., i]
            self.accumulator = term if column == 0 else fp.fp32_add(self.accumulator, term)
            if column == unit.cpt - 1:
                self.result[..., unit.rb + slot // elements, slot % elements] = self.accumulator

    def _mac_acc(
        self, data: NDArray[np.uint16], slots: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> None:
        unit, mc = self.unit, self.machine
        bank = np.arange(mc.banks)
        words = unit.sb + slots[:, None] * mc.subbanks + bank // mc.elements  # [count, B]
        weight = self.shared[:, :, words, bank % mc.elements]  # [C, lanes, count, B]
        products = fp.fp16_mul(
            data[:, :, None], weight.transpose(0, 3, 1, 2)[..., None]
        )  # [C, B, lanes, count, NE]
        k = self.scale[unit.kbuf][:, None, :, None]  # [C, 1, lanes, 1]
        start = 0
        while start < len(slots):  # columns of one token touch different words: add them at once
            stop = start + int(np.searchsorted(slots[start:], slots[start], side="right"))
            words_now = unit.rb + columns[start:stop]
            old = self.result[:, :, :, words_now]
            if unit.rescale and slots[start] == 0:
                old = fp.fp32_scale_down(old, k[..., None])
            self.result[:, :, :, words_now] = fp.fp32_add(old, products[:, :, :, start:stop])
            start = stop

    # --- buffers ----------------------------------------------------------------------------------
    # ------------------------------
    def _wrsbq(self, step: Step) -> None:
        ins = step.instruction
        for lane in range(step.geometry.lanes):
            first = ins.stage + lane * ins.count
            words = self._staged(self.stage_in, first, ins.count, step)
            self.shared[:, lane, ins.sb : ins.sb + ins.count] = words.transpose(1, 0, 2)

    def _wrsbp(self, step: Step) -> None:
        mc, ins = self.machine, step.instruction
        words = ins.groups * mc.slots_per_burst * mc.subbanks
        head = np.arange(mc.chips) >> step.geometry.nhc_log2
        for lane in range(step.geometry.lanes):
            first = ins.prob + lane * (1 + words)
            block = self.probability[first : first + 1 + words, head]  # [words + 1, C, NE]
            self.scale[ins.kbuf, :, lane] = block[0, :, 0] & 0xFF
            self.shared[:, lane, ins.sb : ins.sb + words] = block[1:].transpose(1, 0, 2)

    def _heads(self, geometry: Geometry) -> int:
        return self.machine.chips >> geometry.nhc_log2

    def _rdrbs(self, step: Step) -> None:
        mc, ins, heads = self.machine, step.instruction, self._heads(step.geometry)
        order, s = list(mc.visiting), mc.slots_per_burst
        for lane in range(step.geometry.lanes):
            keys = np.zeros(heads, np.uint32)
            for group in range(ins.groups):
                half = slice(group % 2 * s, group % 2 * s + s)
                partial = self.result[:, :, lane, ins.rb + group // 2, half]  # [C, B, S]
                total = fp.adder_tree(partial.reshape(heads, -1, mc.banks, s), axis=1)  # [H, B, S]
                first = ins.score + (lane * ins.groups + group) * mc.banks
                self.score[first : first + mc.banks, :heads] = total[:, order].transpose(1, 0, 2)
                token = (group * s + np.arange(s)) * mc.banks + np.arange(mc.banks)[
                    :, None
                ]  # [B, S]
                valid = np.where(token < ins.valid, fp.order_key(total), np.uint32(0))
                keys = np.maximum(keys, valid.max(axis=(1, 2)))
            self.maximum[ins.buf, lane, :heads] = keys

    def _rdrbc(self, step: Step) -> None:
        mc, ins = self.machine, step.instruction
        for lane in range(step.geometry.lanes):
            words = self.result[:, :, lane, ins.rb : ins.rb + ins.count]  # [C, B, count, NE]
            total = words[:, mc.visiting[0]]
            for bank in mc.visiting[1:]:
                total = fp.fp32_add(total, words[:, bank])
            first = ins.score + lane * ins.count * 2
            halves = total.reshape(mc.chips, ins.count * 2, mc.slots_per_burst)
            self.score[first : first + ins.count * 2] = halves.transpose(1, 0, 2)

    # --- rank unit --------------------------------------------------------------------------------
    # ------------------------------
    def _sfm(self, step: Step) -> None:
        mc, ins, heads = self.machine, step.instruction, self._heads(step.geometry)
        s, slots = mc.slots_per_burst, ins.groups * mc.slots_per_burst
        token = np.arange(slots)[:, None] * mc.banks + np.arange(mc.banks)  # [slots, B]
        for lane in range(step.geometry.lanes):
            first = ins.score + lane * ins.groups * mc.banks
            words = self.score[first : first + ins.groups * mc.banks, :heads]
            scores = np.empty((heads, ins.groups, s, mc.banks), np.float32)
            scores[..., list(mc.visiting)] = words.reshape(
                ins.groups, mc.banks, heads, s
            ).transpose(2, 0, 3, 1)
            k, m = self._new_maximum(ins, lane, heads)
            exists = token < ins.valid
            clipped = np.where(
                exists, scores.reshape(heads, slots, mc.banks), m[:, None, None].astype(np.float32)
            )
            p = np.where(exists, fp.softmax_term(m[:, None, None], clipped), 0).astype(np.uint16)
            kept = fp.rescale_denominator(
                self.softmax_sum[lane, :heads], np.where(k == SCALE_CLEAR, 64, k)
            )
            self.softmax_sum[lane, :heads] = kept + fp.p24(p).sum(axis=(1, 2), dtype=np.uint64)
            self._write_probabilities(ins, lane, heads, k, p)

    def _new_maximum(
        self, ins, lane: int, heads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(k, new integer maximum) of the lane's heads; the maximum is stored."""
        chunk = fp.ceil_int(fp.order_unkey(self.maximum[ins.buf, lane, :heads]))
        old = self.softmax_max[lane, :heads].copy()
        new = chunk if ins.first else np.maximum(old, chunk)
        self.softmax_max[lane, :heads] = new
        k = np.full(heads, SCALE_CLEAR) if ins.first else np.minimum(new - old, SCALE_CLEAR)
        return k, new

    def _write_probabilities(
        self, ins, lane: int, heads: int, k: NDArray[np.int64], p: NDArray[np.uint16]
    ) -> None:
        mc = self.machine
        words = p.shape[1] * mc.subbanks
        first = ins.prob + lane * (1 + words)
        self.probability[first, :heads] = 0
        self.probability[first, :heads, 0] = k
        block = p.reshape(
            heads, words, mc.elements
        )  # slot-major, then sub-bank, then bank within it
        self.probability[first + 1 : first + 1 + words, :heads] = block.transpose(1, 0, 2)

    def _norm(self, step: Step) -> None:
        mc, ins = self.machine, step.instruction
        head = np.arange(mc.chips) >> step.geometry.nhc_log2
        for lane in range(step.geometry.lanes):
            total = self.softmax_sum[lane, head]
            if not total.all():
                raise ProgramError(f"command {step.pc}: NORM of lane {lane} without a finished SFM")
            q, e = fp.reciprocal(total)
            first = ins.score + lane * ins.count * 2
            words = self.score[first : first + ins.count * 2].reshape(
                ins.count, 2, mc.chips, mc.slots_per_burst
            )
            values = words.transpose(0, 2, 1, 3).reshape(ins.count, mc.chips, mc.elements)
            out = fp.normalise(values, q[:, None], e[:, None])
            self._stage(self.stage_out, ins.out + lane * ins.count, out, step)

    # --- staging: memories of columns, each piece in the column that its chip, address and N_hc
    # select ---------------------------
    def _staging_index(
        self, first: int, count: int, step: Step
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        address = np.arange(first, first + count)[:, None]
        nhc = 1 << step.geometry.nhc_log2
        return address, relayout.staging_column(
            np.arange(self.machine.chips), address, chips=self.machine.chips, nhc=nhc
        )

    def _stage(
        self, memory: NDArray[np.uint16], first: int, pieces: NDArray[np.uint16], step: Step
    ) -> None:
        memory[self._staging_index(first, len(pieces), step)] = pieces

    def _staged(
        self, memory: NDArray[np.uint16], first: int, count: int, step: Step
    ) -> NDArray[np.uint16]:
        return memory[self._staging_index(first, count, step)]

    # --- host -------------------------------------------------------------------------------------
    # ------------------------------
    def _hwr(self, step: Step) -> None:
        ins = step.instruction
        bursts = self._host[self._taken : self._taken + ins.count]
        if len(bursts) < ins.count:
            raise ProgramError(
                f"command {step.pc}: HWR of {ins.count} bursts, but the host data ends after "
                f"{len(self._host)} bursts"
            )
        self._taken += ins.count
        self._stage(self.stage_in, ins.stage, self._relayout(bursts, step), step)

    def _hrd(self, step: Step) -> None:
        ins = step.instruction
        self._sent.append(
            self._inverse(self._staged(self.stage_out, ins.out, ins.count, step), step)
        )

    def _layout_arguments(self, step: Step) -> dict[str, int]:
        geometry = step.geometry
        return {
            "chips": self.machine.chips,
            "elements": self.machine.elements,
            "nhc": 1 << geometry.nhc_log2,
            "cpt": geometry.cpt,
        }

    def _relayout(self, bursts: NDArray[np.uint16], step: Step) -> NDArray[np.uint16]:
        return relayout.relayout(bursts, step.instruction.layout, **self._layout_arguments(step))

    def _inverse(self, pieces: NDArray[np.uint16], step: Step) -> NDArray[np.uint16]:
        return relayout.inverse(pieces, step.instruction.layout, **self._layout_arguments(step))
