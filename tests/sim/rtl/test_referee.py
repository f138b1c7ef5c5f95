"""The referee: every bit in reach, effects of known faults, from power-on as from a checkpoint."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError, ProgramError, ToolError
from bankside.isa.machines import load_machine
from bankside.isa.program import Builder, Program
from bankside.sim.elaborate import to_json, to_verilog
from bankside.sim.faults import END_DONE, END_LIMIT, STORE, Action
from bankside.sim.random_programs import random_programs as pim_programs
from bankside.sim.random_programs_npu import random_programs as npu_programs
from bankside.sim.rtl.array import ArrayRtl
from bankside.sim.rtl.netlist_verilog import find_nets, netlist_verilog
from bankside.sim.rtl.npu import NpuRtl
from bankside.sim.rtl.pim import PimRtl
from bankside.sim.rtl.referee import Referee
from bankside.sim.rtl.state import StateMap
from bankside.sim.rtl.tops import top_of

sys.path.insert(0, str(Path(__file__).parents[2] / "cosim" / "benches"))

from array_top_program import attention_program, random_operands  # noqa: E402

MACHINES = {"array": "array_4x4", "npu": "npu_u55_32", "pim": "pim_tiny_ddr4"}
RTL = {"array": ArrayRtl, "npu": NpuRtl, "pim": PimRtl}
ENGINES = pytest.mark.parametrize("engine", MACHINES)


@pytest.fixture(scope="module")
def referees() -> dict[str, Referee]:
    return {}


@pytest.fixture
def referee(engine, referees) -> Referee:
    if engine not in referees:
        referees[engine] = Referee(load_machine(MACHINES[engine]))
    return referees[engine]


@pytest.fixture
def array(referees) -> Referee:
    if "array" not in referees:
        referees["array"] = Referee(load_machine(MACHINES["array"]))
    return referees["array"]


def program_of(engine: str) -> Program:
    """A short program that delivers something."""
    machine, rng = load_machine(MACHINES[engine]), np.random.default_rng(1)
    if engine == "array":
        return attention_program(machine, *random_operands(rng, machine.columns, 13))
    if engine == "npu":
        named = itertools.islice(npu_programs(rng, machine), 9)
        return min((p for _, p in named), key=lambda p: len(p.words))
    return min(
        (p for p in itertools.islice(pim_programs(rng, machine), 12) if p.outputs),
        key=lambda p: len(p.words),
    )


# --- sites --------------------------------------------------------------------------------------


def bits_of(modules: dict, module: str) -> tuple[int, int]:
    """(bits in registers, bits in memories that are written) below a module, counted anew."""
    flops = cells = 0
    for cell in modules[module]["cells"].values():
        number = {k: v for k, v in cell["parameters"].items() if set(v) <= set("01")}
        if cell["type"] in modules:
            below = bits_of(modules, cell["type"])
            flops, cells = flops + below[0], cells + below[1]
        elif cell["type"] == "$dff":
            flops += len(cell["connections"]["Q"])
        elif cell["type"] == "$mem_v2":
            width = int(number["WIDTH"], 2)
            flops += width * number["RD_CLK_ENABLE"].count("1")
            if int(number["WR_PORTS"], 2):
                cells += width * int(number["SIZE"], 2)
    return flops, cells


@ENGINES
def test_every_bit_of_the_netlist_has_a_site(engine):
    top, name = top_of(load_machine(MACHINES[engine]))
    netlist = to_json(top, name)
    state = StateMap(netlist, to_verilog(top, name)).variables()
    assert len({v.path for v in state}) == len({(v.scope, v.variable) for v in state}) == len(state)
    found = tuple(
        sum(v.width * v.depth for v in state if v.kind == kind) for kind in ("flop", "memory")
    )
    assert found == bits_of(json.loads(netlist.read_text())["modules"], name)
    assert min(found) > 9000


@ENGINES
def test_every_bit_can_be_written(referee):
    """Each register, and of each memory the first, the last and a few words."""
    referee.golden(program_of(referee.machine.engine))
    rng = np.random.default_rng(3)
    for site in referee.sites.values():
        if site.kind not in ("flop", "memory"):
            continue
        for word in {0, site.depth - 1, *map(int, rng.integers(site.depth, size=3))}:
            assert referee.problem(site, word) is None, site


@pytest.mark.parametrize("machine", [*MACHINES.values(), "npu_llm_32"])
def test_the_verilog_of_the_netlist_has_the_same_state(machine):
    """Also where a memory is read into a register that is nothing but an output port (`llm`)."""
    top, name = top_of(load_machine(machine))
    netlist = to_json(top, name)
    first, second = (
        StateMap(netlist, verilog).variables()
        for verilog in (to_verilog(top, name), netlist_verilog(netlist, name))
    )
    assert len({(v.scope, v.variable) for v in second}) == len(second)
    found, expected = (
        [(v.kind, v.path, v.width, v.depth, v.falling) for v in variables]
        for variables in (second, first)
    )
    assert found == expected


def test_a_register_without_a_name_in_the_verilog_is_refused(tmp_path):
    top, name = top_of(load_machine("array_4x4"))
    changed = tmp_path / "changed.v"
    changed.write_text(to_verilog(top, name).read_text().replace("bus_error <=", "bus_errors <="))
    with pytest.raises(ToolError, match="no register for 'fault' of its netlist"):
        StateMap(to_json(top, name), changed)


# --- runs ---------------------------------------------------------------------------------------


@ENGINES
def test_without_faults_it_is_the_rtl(referee):
    engine = referee.machine.engine
    program = program_of(engine)
    golden = referee.golden(program)
    assert golden["cycles"] == RTL[engine](referee.machine).run(program).cycles
    assert golden["end"] == END_DONE and golden["first"] == -1
    (again,) = referee.run(program, [()])
    assert again == golden


def random_actions(referee: Referee, cycles: int, seed: int) -> Iterator[list[Action]]:
    rng = np.random.default_rng(seed)
    sites = {
        kind: [s for s in referee.sites.values() if s.kind == kind and s.path != "rst"]
        for kind in ("flop", "memory", "port", "store")
    }
    kinds = [kind for kind in sites if sites[kind]]
    while True:
        site = sites[kinds[rng.integers(len(kinds))]]
        site = site[rng.integers(len(site))]
        word = int(rng.integers(min(site.depth, 4096)))
        mask = 1 << int(rng.integers(site.width))
        first = int(rng.integers(cycles))
        value = [None, 0, mask][rng.integers(3)]
        op = "force" if site.kind == "port" else "flip" if value is None else "hold"
        last = first + int(rng.integers(9)) if op != "flip" else None
        yield [Action(op, site.path, word, mask, value, first, last)]


@ENGINES
def test_a_checkpoint_changes_nothing(referee):
    program = program_of(referee.machine.engine)
    cycles = int(referee.golden(program)["cycles"])
    faults = list(itertools.islice(random_actions(referee, cycles, 11), 60))
    from_reset = referee.run(program, faults)
    resumed = referee.run(program, faults, checkpoints=7)
    different = [f for f, a, b in zip(faults, from_reset, resumed, strict=True) if a != b]
    assert not different
    effects = (from_reset["first"] >= 0).sum(), (from_reset["state"] == 0).sum()
    assert min(effects) > 3, effects  # faults that do something are among them


# --- known effects ------------------------------------------------------------------------------
N = load_machine("array_4x4").bus_elements


def copy_program() -> Program:
    """Bus words 0..3 to 4..7, nothing computed."""
    b = Builder("array", N)
    for name, value in {"outer": 1, "inner": 1, "beats": 4, "ring": 1, "mem": 0}.items():
        b.SET(reg=name, value=value)
    b.LOAD(side="column", signal="store")
    b.SET(reg="mem", value=4 * 2 * N)
    b.STORE(wait="load")
    b.HALT()
    return Program("array", tuple(b.words), np.arange(8 * N, dtype=np.uint16).reshape(8, N))


def test_a_byte_of_the_store(array):
    """Changed before it is read, it spoils the copy, afterwards itself alone; in words that are
    overwritten it heals.
    """
    program = copy_program()
    cycles = int(array.golden(program)["cycles"])
    early, late, healed, held = array.run(
        program,
        [
            [Action("flip", STORE, 3, 0x81, None, 0)],
            [Action("flip", STORE, 3, 0x01, None, cycles - 1)],
            [Action("flip", STORE, 4 * 2 * N, 0x10, None, 0)],
            [Action("hold", STORE, 4 * 2 * N, 0x10, 0x10, 0)],
        ],
    )
    assert [row["output"] for row in (early, late, healed, held)] == [0, 0, 1, 0]
    # The first of them is seen by the machine, which keeps it in a buffer.
    assert early["first"] > 0 and early["state"] == 0
    assert late["first"] == healed["first"] == -1 and late["state"] == healed["state"] == 1
    assert {row["cycles"] for row in (early, late, healed, held)} == {cycles}


def test_what_a_run_delivers(array):
    """Byte 3 of the store spoilt before it is copied: itself and its copy differ, nothing else."""
    program, found = copy_program(), []
    early = [Action("flip", STORE, 3, 0x81, None, 0)]
    array.run(program, [early, []], after=lambda _: found.append(array.delivered()))
    wrong, right = found
    assert wrong.address.tolist() == [3, 4 * 2 * N + 3]
    assert (wrong.golden ^ wrong.faulty).tolist() == [0x81, 0x81] and wrong.golden.tolist() == [
        0,
        0,
    ]
    assert wrong.golden_size == wrong.faulty_size == array.machine.config.memory.bytes
    assert not len(right.address)
    array.golden(program)
    none = array.delivered()  # no run with faults since
    assert (len(none.address), none.golden_size, none.faulty_size) == (0, 0, 0)


@ENGINES
def test_what_is_delivered_says_whether_the_output_is_right(referee):
    program, found = program_of(referee.machine.engine), []
    cycles = int(referee.golden(program)["cycles"])
    faults = list(itertools.islice(random_actions(referee, cycles, 12), 40))
    rows = referee.run(
        program, faults, checkpoints=3, after=lambda _: found.append(referee.delivered())
    )
    same = [not len(d.address) and d.golden_size == d.faulty_size for d in found]
    assert same == (rows["output"] == 1).tolist() and 0 < sum(same) < len(same)


def test_registers_of_control(array):
    program = copy_program()
    cycles = int(array.golden(program)["cycles"])
    stopped, counted, stuck = array.run(
        program,
        [
            [Action("flip", "core.control.front.running", 0, 1, None, 20)],
            [Action("flip", "core.control.front.cycle", 0, 1 << 40, None, 20)],
            [Action("hold", "core.control.front.running", 0, 1, 1, 0)],
        ],
    )
    # Stopped neither by HALT nor by an error: a host would wait for ever.
    assert (stopped["cycles"], stopped["end"]) == (20, END_LIMIT)
    array.run(program, [[Action("flip", "core.control.front.cycle", 0, 1 << 40, None, 20)]])
    assert array.differences() == ["core.control.front.cycle"]
    assert array.peek("core.control.front.cycle") == cycles + (1 << 40)
    # The counter of cycles delivers nothing; it stays wrong.
    assert (counted["output"], counted["state"], counted["cycles"]) == (1, 0, cycles)
    assert (stuck["end"], stuck["cycles"]) == (END_LIMIT, 2 * cycles + 1000)


def test_a_bit_of_the_bus(array):
    program = copy_program()
    everywhere = [Action("force", "m_axi_rdata", 0, 4, None, 0)]
    never = [Action("force", "m_axi_rdata", 0, 4, None, 0, 3)]  # before the first beat
    silent = [Action("force", "m_axi_wstrb", 0, 1, 0, 0)]  # one byte is not written
    waiting = [Action("force", "m_axi_arvalid", 0, 1, 0, 0)]  # no address reaches the memory
    spoilt, right, unwritten, hanging = array.run(program, [everywhere, never, silent, waiting])
    assert (spoilt["output"], right["output"], unwritten["output"]) == (0, 1, 0)
    assert spoilt["first"] > 0 and right["first"] == -1 and hanging["end"] == END_LIMIT
    assert unwritten["first"] == 0  # the strobes differ also while nothing is written


def test_bits_of_the_host_bus():
    """Bursts of the `pim` engine are delivered through ports."""
    referee, program, found = Referee(load_machine("pim_tiny_ddr4")), program_of("pim"), []
    spoilt, silent = referee.run(
        program,
        [
            [Action("force", "host_out__payload", 0, 1 << 100, None, 0)],
            [Action("force", "host_out__valid", 0, 1, 0, 0)],
        ],
        after=lambda _: found.append(referee.delivered()),
    )
    assert spoilt["output"] == silent["output"] == 0
    assert spoilt["end"] == silent["end"] == END_DONE
    size, bursts = 2 * referee.machine.burst_elements, sum(n for _, n in program.outputs.values())
    assert [(d.golden_size, d.faulty_size) for d in found] == [
        (size * bursts,) * 2,
        (size * bursts, 0),
    ]
    assert found[0].address.tolist() == [size * i + 100 // 8 for i in range(bursts)]
    assert set(found[0].golden ^ found[0].faulty) == {1 << 100 % 8}
    assert found[1].address.tolist() == list(range(size * bursts)) and not found[1].faulty.any()


@pytest.mark.slow  # a model of its own, of the netlist cell by cell
def test_nets():
    """The netlist's Verilog runs as the component's does; forced nets act while they are forced."""
    machine = load_machine("array_4x4")
    top, name = top_of(machine)
    modules = json.loads(to_json(top, name).read_text())["modules"]
    nets = {net.path: net for net in find_nets(modules, name)}
    rng = np.random.default_rng(5)
    chosen = [list(nets)[i] for i in rng.choice(len(nets), 40, replace=False)]
    referee, program = Referee(machine, nets=chosen), program_of("array")
    golden = referee.golden(program)
    assert golden == Referee(machine).golden(program)
    cycles = int(golden["cycles"])
    faults = [[Action("force", p, 0, 1, None, int(rng.integers(cycles // 2)))] for p in chosen]
    rows = referee.run(program, faults)
    assert np.array_equal(rows, referee.run(program, faults, checkpoints=5))
    seen = (rows["first"] >= 0) | (rows["state"] == 0)
    assert seen.sum() > 3
    # None acts after its last cycle, nor in the run of another.
    late = [[Action("force", path, 0, 1, None, cycles + 1)] for path in chosen]
    assert (referee.run(program, late) == golden).all()


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action,text",
    [
        (Action("flip", "core.nothing"), "no site 'core.nothing'"),
        (Action("force", "core.control.front.pc"), "force is for net, port"),
        (Action("flip", "m_axi_rdata"), "flip is for flop, memory, store"),
        (Action("flip", "core.control.front.pc", 1), "word 1; expected 0 to 0"),
        (Action("flip", "core.control.front.pc", 0, 1 << 12), "one or more of the 12 bits"),
        (Action("hold", "core.control.front.pc"), "hold needs the value"),
        (Action("flip", "core.control.front.pc", 0, 1, None, 9, 3), "expected 0 <= first <= last"),
        (Action("toggle", "core.control.front.pc"), "no operation 'toggle'"),
    ],
)
def test_actions_that_do_not_fit(array, action, text):
    with pytest.raises(ConfigError, match=text):
        array.run(copy_program(), [[action]])


def test_a_net_that_is_none():
    with pytest.raises(
        ConfigError, match=r"no net 'core.control.front.is_hal'; nearest: '.*is_halt'"
    ):
        Referee(load_machine("array_4x4"), nets=["core.control.front.is_hal"])


def test_programs_that_do_not_end_well(array):
    program = copy_program()
    with pytest.raises(ProgramError, match="does not end well: end 2 after 30 cycles"):
        array.golden(program, limit=30)
    endless = Program("array", program.words[:-1], program.host_in)
    with pytest.raises(ProgramError, match="does not end well: end 1"):
        array.golden(endless)
