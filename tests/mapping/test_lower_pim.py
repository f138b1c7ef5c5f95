"""Attention kernels: placement of the KV cache, what does not fit, programs of every shape."""

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ConfigError
from bankside.isa.machine import Machine
from bankside.isa.verify import verify
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.golden.pim import PimGolden
from bankside.sim.random_programs import random_fp16

NAMES = ("pim_tiny_ddr4", "pim_tiny_ddr5", "dimm_pim_ddr4", "dimm_pim_ddr5", "pim_ddr4_gqa8")
MACHINES = {name: Machine.of(HardwareConfig.load(name)) for name in NAMES}
TINY = MACHINES["pim_tiny_ddr4"]


def small(**pim: int) -> Machine:
    """The tiny machine with other buffer sizes."""
    config = HardwareConfig.load("pim_tiny_ddr4")
    return Machine.of(config.model_copy(update={"pim": config.pim.model_copy(update=pim)}))


def layouts():
    """Many shapes on every machine, those that fit."""
    for name, machine in MACHINES.items():
        for nhc in (1 << i for i in range(machine.chips.bit_length())):
            for dim in (8, 64, 80, 100, 128):
                for tokens, slots in ((1, None), (45, 2), (400, None), (1500, 4)):
                    try:
                        yield name, KvLayout.of(machine, Shape(1, 2, 4, dim, tokens), nhc, slots)
                    except ConfigError:
                        continue


ALL = list(layouts())


def test_many_layouts_fit():
    assert len(ALL) > 150
    assert {layout.nhc for _, layout in ALL} == {1, 2, 4, 8}


def test_a_token_has_one_place_of_its_own():
    """No two tokens, K or V, layers or passes share a row range; chunks do not cross rows."""
    for name, layout in ALL:
        machine = MACHINES[name]
        assert layout.row_slots * layout.cpt <= machine.columns
        assert layout.row_slots % layout.chunk_slots == 0
        assert layout.rows_each * layout.row_tokens >= layout.shape.max_tokens
        assert layout.padded_dim >= layout.shape.head_dim
        starts = [layout.row(layer, p, value) for layer in range(layout.shape.layers)
                  for p in range(layout.passes) for value in (False, True)]  # fmt: skip
        assert starts == [i * layout.rows_each for i in range(len(starts))]
        assert starts[-1] + layout.rows_each <= machine.rows


@pytest.mark.parametrize("open_mode", ["staggered", "group", "all"])
def test_kernels_are_legal(open_mode):
    """Every layout at lengths around its chunk and row boundaries."""
    rng = np.random.default_rng(1)
    for name, layout in ALL[::3]:
        machine, shape = MACHINES[name], layout.shape
        kernels = PimKernels(layout, open_mode=open_mode)
        chunk = layout.chunk_slots * machine.banks
        lengths = {1, chunk - 1, chunk, chunk + 1, 3 * chunk + 5, layout.row_tokens + 1,
                   shape.max_tokens}  # fmt: skip
        for tokens in sorted(n for n in lengths if 1 <= n <= shape.max_tokens):
            q, k, v = (random_fp16(rng, (h, shape.head_dim)) for h in (4, 2, 2))
            try:
                programs = kernels.decode(0, tokens, q, k, v)
            except ConfigError as error:
                assert "the program memory holds" in str(error)
                continue
            assert len(programs) == layout.passes * layout.lane_passes
            for program in programs:
                verify(program, machine)


def test_append_splits_long_inputs_and_fills_every_bank():
    layout = KvLayout.of(TINY, Shape(1, 1, 1, 8, 40))
    data = np.arange(40 * 8, dtype=np.uint16).reshape(40, 1, 8)
    model = PimGolden(TINY)
    short = KvLayout.of(small(program_words=64), layout.shape)
    programs = PimKernels(short).append(0, 0, data, data)
    assert len(programs) > 10
    for program in programs:
        verify(program, TINY)
        model.run(program)
    # Token t: bank t mod B, slot t div B; N_hc = 2, so dimension d lies in chip d mod 2.
    for token in (0, 1, 17, 39):
        row, within = divmod(token, layout.row_tokens)
        slot, bank = divmod(within, TINY.banks)
        columns = slice(slot * layout.cpt, (slot + 1) * layout.cpt)
        cells = model.memory[:, bank, row, columns].reshape(2, -1)
        np.testing.assert_array_equal(cells.T.reshape(-1)[:8], data[token, 0])


def test_long_contexts_become_loops():
    """The program does not grow with the context, only the loop count does."""
    machine = MACHINES["dimm_pim_ddr4"]
    layout = KvLayout.of(machine, Shape(1, 1, 1, 128, 8192))
    q, chunk = np.zeros((1, 128), np.uint16), layout.chunk_slots * machine.banks
    short, long = (PimKernels(layout).decode(0, n * chunk, q)[0] for n in (10, 16))
    assert len(short.words) == len(long.words)
    counts = [ins.count for p in (short, long) for ins in p.instructions() if ins.name == "LOOP"]
    assert len(counts) == 2 and counts[0] < counts[1]


def test_collect_undoes_passes_and_padding():
    machine = TINY
    layout = KvLayout.of(machine, Shape(1, 3, 6, 12, 8), nhc=1)
    kernels = PimKernels(layout)
    wanted = np.arange(6 * 12, dtype=np.uint16).reshape(6, 12)
    outputs = [kernels._queries(wanted, p, lane).reshape(-1, machine.burst_elements)
               for p in range(layout.passes) for lane in range(layout.lane_passes)]  # fmt: skip
    assert len(outputs) == 2
    np.testing.assert_array_equal(kernels.collect(outputs), wanted)


REFUSED = {
    "layers": (lambda: KvLayout.of(TINY, Shape(0, 1, 1, 8, 1)),
               "attention shape: layers=0; expected at least 1"),
    "heads": (lambda: KvLayout.of(TINY, Shape(1, 2, 3, 8, 1)),
              "attention shape: 3 query heads do not divide into 2 KV heads; use a multiple"),
    "chips per head": (lambda: KvLayout.of(TINY, Shape(1, 1, 1, 8, 1), nhc=4),
                       "pim_tiny_ddr4: N_hc=4 must be a power of two up to 2"),
    "head_dim": (lambda: KvLayout.of(TINY, Shape(1, 1, 1, 200, 1), nhc=1),
                 ("pim_tiny_ddr4: a token of head_dim 200 with N_hc=1 takes 50 columns, at most 32 "
                 "are possible; use a larger N_hc")),
    "head_dim in the command": (
        lambda: KvLayout.of(MACHINES["dimm_pim_ddr4"], Shape(1, 1, 1, 512, 1), nhc=1),
        ("dimm_pim_ddr4: a token of head_dim 512 with N_hc=1 takes 128 columns, at most 127 are "
        "possible; use a larger N_hc")),
    "capacity": (lambda: KvLayout.of(TINY, Shape(2, 1, 1, 16, 200)),
                 ("pim_tiny_ddr4: a context of 200 tokens needs 16 rows per bank, the rank has 8; "
                 "128 tokens fit: shorten max_tokens or raise dram.rows")),
    "context sums": (lambda: KvLayout.of(small(score_words=10), Shape(1, 1, 2, 20, 1)),
                     ("pim_tiny_ddr4: pim.score_words is 10, but 3 columns per token and 2 lanes "
                     "need 12; raise it or use a larger N_hc")),
    "staging": (lambda: KvLayout.of(small(staging_words=16), Shape(1, 1, 2, 40, 1)),
                ("pim_tiny_ddr4: pim.staging_words is 16, but 5 columns per token and 2 lanes need "
                "20; raise it or use a larger N_hc")),
    "scores": (lambda: KvLayout.of(small(score_words=10), Shape(1, 1, 2, 8, 1)),
               ("pim_tiny_ddr4: pim.score_words is too small for 1 columns per token and 2 lanes; "
               "double it or use a larger N_hc")),
    "shared buffer": (lambda: KvLayout.of(small(shared_buffer_words=4), Shape(1, 1, 2, 8, 1)),
                      ("pim_tiny_ddr4: pim.shared_buffer_words is too small for 1 columns per "
                      "token and 2 lanes; double it or use a larger N_hc")),
    "length": (lambda: PimKernels(KvLayout.of(TINY, Shape(1, 1, 1, 8, 9))).decode(
                   0, 10, np.zeros((1, 8), np.uint16)),
               "context of 10 tokens; this layout holds 1..9"),
    "append": (lambda: PimKernels(KvLayout.of(TINY, Shape(1, 1, 1, 8, 9))).append(
                   0, 128, *[np.zeros((1, 1, 8), np.uint16)] * 2),
               "token 128 lies beyond the context of 9 tokens; raise max_tokens"),
    "program": (lambda: PimKernels(
                   KvLayout.of(small(program_words=64), Shape(1, 1, 1, 8, 99), None, 2)
               ).decode(0, 99, np.zeros((1, 8), np.uint16)),
                ("pim_tiny_ddr4: 99 tokens in chunks of 2 slots take 151 commands, the "
                "program memory holds 64; use larger chunks or raise pim.program_words")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, message = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        build()
    assert str(error.value) == message


@pytest.mark.parametrize("key", ["result_buffer_words", "score_words", "staging_words"])
def test_sizes_that_no_operand_reaches(key):
    with pytest.raises(ConfigError, match=f"{key} is 8192, but operand .* lower it"):
        small(**{key: 8192})
