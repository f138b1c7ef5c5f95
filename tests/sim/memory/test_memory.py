"""Address maps, request files, policies, transfers, energy, and the command line."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bankside.cli import main
from bankside.errors import ConfigError, ProgramError
from bankside.isa.dram.table import load_standard
from bankside.isa.dram.trace import read_trace
from bankside.sim.dram_replay import replay
from bankside.sim.memory.address import MAPS, AddressMap
from bankside.sim.memory.energy import Currents, command_energies_pj, load_currents
from bankside.sim.memory.model import Memory
from bankside.sim.memory.policy import POLICIES, Policy
from bankside.sim.memory.requests import PATTERNS, pattern
from bankside.sim.memory.summary import commands, summary, text
from bankside.sim.memory.transfer import DIRECTIONS, Transfer, transfer, transfer_seconds

STD = load_standard("ddr4_3200")


def parse(written, channels=1, ranks=1):
    return AddressMap.parse(written, STD.geometry, channels=channels, ranks=ranks, burst_bytes=64)


# --- address maps -----------------------------------------------------------------------------


def test_map_of_the_reference_runs():
    """Map B of the reference data: bank groups rotate burst by burst."""
    found = parse("row16 bank2 column7 bankgroup2 offset6").decode(np.arange(5000) * 64)
    i = np.arange(5000)
    expected = {"bankgroup": i & 3, "column": i >> 2 & 127, "bank": i >> 9 & 3, "row": i >> 11}
    assert all((found[name] == values).all() for name, values in expected.items())
    assert str(parse("group_interleave")) == "row16 bank2 column7 bankgroup2 offset6"


@given(
    written=st.sampled_from(
        [*MAPS, "row8 bank bankgroup column3 rank row8 channel column4 offset",
         "column row bank^row5 bankgroup^row0 rank^row9 channel^row14 offset"]
    ),
    addresses=st.lists(st.integers(0, 2**36 - 1), min_size=1, max_size=20),
)  # fmt: skip
def test_decode_and_encode_are_inverse(written, addresses):
    mapped = parse(written, channels=4, ranks=2)
    assert mapped.bits == 36
    fields = mapped.decode(addresses)
    assert (mapped.encode(fields) == np.array(addresses) & ~63).all()
    sizes = {"channel": 4, "rank": 2, "bankgroup": 4, "bank": 4, "row": 65536, "column": 128}
    for name, size in sizes.items():
        assert fields[name].min() >= 0 and fields[name].max() < size


@pytest.mark.parametrize("written", MAPS)
def test_maps_are_one_to_one(written):
    bursts = np.random.default_rng(1).permutation(1 << 14) * 64
    fields = parse(written, channels=2, ranks=2).decode(bursts)
    assert len(set(zip(*(values.tolist() for values in fields.values()), strict=True))) == 1 << 14


def test_hashing_spreads_rows_of_one_bank():
    """A stride of one row of every bank stays in one bank, unless rows are mixed in."""
    stride = np.arange(16) << 17
    plain, hashed = parse("group_interleave").decode(stride), parse("hashed").decode(stride)
    assert len(set(zip(plain["bankgroup"].tolist(), plain["bank"].tolist(), strict=True))) == 1
    assert len(set(zip(hashed["bankgroup"].tolist(), hashed["bank"].tolist(), strict=True))) == 16


@pytest.mark.parametrize(
    "written, message",
    [
        ("row15 bank2 bankgroup2 column7 offset6", "15 bits of row; expected 16 for 65536"),
        ("row16 bank2 bankgroup2 column7", "0 bits of offset"),
        ("row16 bank2 offset6 bankgroup2 column7", "offset is not one field at the end"),
        ("rows16 bank2 bankgroup2 column7 offset6", r"unknown field \(did you mean 'row'\?\)"),
        ("row16 bank bank2 bankgroup2 column7 offset6", "the field is split"),
        ("row16 bank2^column0 bankgroup2 column7 offset6", "only row bits can be mixed"),
        ("row16 bank=2 bankgroup2 column7 offset6", "'bank=2': expected FIELD"),
    ],
)
def test_bad_maps(written, message):
    with pytest.raises(ConfigError, match=message):
        parse(written)


def test_addresses_outside_are_refused():
    with pytest.raises(ProgramError, match="address 0x200000000 lies outside of the memory"):
        parse("hashed").decode([0, 2**33])
    with pytest.raises(ConfigError, match="channel: 3 of them; expected a power of two"):
        Memory.of(channels=3)


# --- requests ---------------------------------------------------------------------------------


def test_request_files(tmp_path):
    memory = Memory.of(address_map="row_bank_group_column")
    formats = {
        "dramsim3": "0x40 READ 0\n0x20000 WRITE 7\n\n",
        "ramulator2": "LD 0x40\nST 131072\n",
        "csv": "idx,op,rank,bg,bank,row,burst_col\n0,R,0,0,0,0,1\n1,W,0,0,0,1,0\n",
    }
    for name, content in formats.items():
        (tmp_path / name).write_text(content)
        records = memory.read(tmp_path / name).records
        assert records[["row", "column", "write"]].tolist() == [(0, 1, 0), (1, 0, 1)]
        assert records["arrival"].tolist() == ([0, 7] if name == "dramsim3" else [0, 0])


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "t: no request in the file"),
        ("0x40 READ 0\n0x40 FETCH 0\n", "t:2: '0x40 FETCH 0'; expected `0xADDRESS READ"),
        ("0x40\n", "t:1: '0x40'; expected"),
        ("0x400000000 READ 0\n", "address 0x400000000 lies outside"),
        ("op,bg,bank,row\nR,0,0,0\n", "t:1: no column burst_col"),
        ("op,bg,bank,row,burst_col\nR,0,0,0,0\nR,0,4,0,0\n", "t:3: bank 4 does not exist"),
        ("op,bg,bank,row,burst_col\nR,0,0,x,0\n", "t:2: 'R,0,0,x,0'; expected 5 values"),
    ],
)
def test_bad_request_files(content, message, tmp_path):
    (tmp_path / "t").write_text(content)
    with pytest.raises(ProgramError, match=message):
        Memory.of().read(tmp_path / "t")


def test_patterns():
    sizes = {"memory_bytes": 1 << 30, "burst_bytes": 64, "block_bytes": 4096}
    for name in PATTERNS:
        found = pattern(name, 1000, **sizes)
        assert len(found) == 1000 and not (found % 64).any() and found.max() < 1 << 30
    blocks = pattern("blocks", 1000, **sizes).reshape(-1)[:960].reshape(15, 64)
    assert (np.diff(blocks, axis=1) == 64).all() and not (blocks[:, 0] % 4096).any()
    assert (pattern("random", 50, **sizes) != pattern("random", 50, **sizes, seed=2)).any()
    for bad in ({"block_bytes": 100}, {"block_bytes": 1 << 31}):
        with pytest.raises(ConfigError, match="block_bytes"):
            pattern("blocks", 10, **(sizes | bad))
    with pytest.raises(ConfigError, match=r"unknown pattern 'block' \(did you mean 'blocks'\?\)"):
        pattern("block", 10, **sizes)


# --- running ----------------------------------------------------------------------------------


def test_one_read_and_one_write():
    """Accepted at clock 1, ACT at 2, access tRCD later; the data ends CL (CWL) + BL/2 after it."""
    memory = Memory.of()
    for write, latency in ((False, 22 + 4), (True, 16 + 4)):
        result = memory.run(memory.requests([0], write=write), trace=True)
        assert [(c.clock, c.command) for c in commands(result)] == [
            (2, "ACT"), (24, "WR" if write else "RD"),
        ]  # fmt: skip
        assert result.cycles == 24 + latency
        assert result.latency(write=write).tolist() == [24 + latency - 1]


def test_write_left_in_the_queue():
    """A simulator that stops at the last answer leaves writes; ours by default does not."""
    for policy, left in (("dramsim3", 1), ("fr_fcfs", 0)):
        memory = Memory.of(policy=policy)
        result = memory.run(memory.requests([0, 1 << 20], write=[True, False]))
        assert result.counts["left"] == left and (result.finished < 0).sum() == left
        assert result.counts["WR"] == 1 - left


def test_reads_are_answered_from_waiting_writes():
    memory = Memory.of()
    result = memory.run(memory.requests([1 << 20, 0, 0], write=[False, True, False]))
    assert result.counts["forwarded"] == 1 and result.counts["RD"] == 1
    assert result.finished[2] == result.accepted[2] + 1


def test_channels_work_side_by_side():
    addresses = np.arange(4000) * 64
    one, four = Memory.of(), Memory.of(channels=4)
    first, second = (memory.run(memory.requests(addresses)) for memory in (one, four))
    assert second.cycles < first.cycles / 3
    assert four.peak_bytes_per_s == 4 * one.peak_bytes_per_s == pytest.approx(4 * 25.6e9)
    assert second.counts["RD"] == 4000 and (second.finished > 0).all()
    # Each channel by itself is a memory of one channel with a quarter of the requests.
    alone = one.run(one.requests(np.arange(1000) * 64))
    assert (second.finished[1::4] == alone.finished).all()


def test_arrivals_are_kept():
    memory = Memory.of()
    arrival = np.array([0, 5, 5, 1000, 50_000])
    result = memory.run(memory.requests(np.arange(5) * 64, arrival=arrival))
    assert result.accepted.tolist() == [1, 5, 6, 1000, 50_000]
    assert result.counts["REF"] == 4  # also while there is nothing to do


def test_more_memory_is_not_slower_and_no_request_takes_no_time():
    memory = Memory.of()
    result = memory.run(memory.requests([]))
    assert result.cycles == 0 and result.bytes_per_s == 0.0
    assert summary(result)["read_latency_cycles"] is None
    assert "0 requests" in text(summary(result))


# --- policies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES.names())
def test_policies_survive_their_own_description(name):
    assert Policy.of(name, POLICIES.get(name).model_dump()) == POLICIES.get(name)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("dramsim", {}, r"unknown memory policy 'dramsim' \(did you mean 'dramsim3'\?\)"),
        ("fifo", {"refesh": "none"}, r"refesh: unknown key \(did you mean 'refresh'\?\)"),
        ("fifo", {"queues": "per_bank"}, "queues: is per_bank, which knows order fr_fcfs"),
        ("fr_fcfs", {"write_low": 0.9}, "write_low: is 0.9; expected less than write_high 0.8"),
        ("fr_fcfs", {"refresh": "staggered"}, "refresh: is staggered; expected all_bank or none"),
        ("fr_fcfs", {"merge_reads": "true"}, "merge_reads: is true"),
        ("fr_fcfs", {"read_queue": 0}, "read_queue: is 0; expected an integer from 1 to 4096"),
        ("fr_fcfs", {"read_queue": "many"}, "read_queue: is 'many'"),
    ],
)
def test_bad_policies(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        Policy.of(name, changes)


def test_turnaround_is_the_policys_unless_given():
    assert Memory.of(policy="dramsim3").standard.params["nRTW"] == 11
    assert Memory.of(policy="ramulator2").standard.params["nRTW"] == 12
    given_one = Memory.of(policy="ramulator2", options={"rd_to_wr": 11})
    assert given_one.standard.params["nRTW"] == 11


# --- energy -----------------------------------------------------------------------------------


def test_energy_of_commands():
    """VDD times current above standby times duration times chips, by hand (DDR4-3200)."""
    found = command_energies_pj(STD, 8)
    scale = 1.2 * 0.625 * 8
    assert found == pytest.approx(
        {"ACT": (57 * 74 - 52 * 52 - 37 * 22) * scale, "RD": (168 - 52) * 4 * scale,
         "WR": (150 - 52) * 4 * scale, "REF": (250 - 52) * 560 * scale}
    )  # fmt: skip


def test_energy_is_unknown_without_published_currents():
    assert command_energies_pj(load_standard("ddr5_4800"), 4) is None
    memory = Memory.of("ddr5_4800")
    found = summary(memory.run(memory.requests([0])))
    assert found["command_energy_j"] is None and found["command_energy_source"] is None
    assert "energy of the commands: not known" in text(found)


def test_energy_of_nothing_is_refused():
    currents = load_currents()["ddr4_3200"].model_copy(update={"idd4r_ma": 52.0})
    with pytest.raises(ConfigError, match="RD would take 0 pJ with the currents of DS3_3200"):
        command_energies_pj(STD, 8, currents)


def test_currents_are_cited_and_above_zero(tmp_path):
    (tmp_path / "c.yaml").write_text("sources: {A: x}\ngrades: {g: {source: B, vdd_v: 1.2}}\n")
    with pytest.raises(ConfigError, match="grades.g.idd0_ma: is missing"):
        load_currents(tmp_path / "c.yaml")
    values = dict.fromkeys(Currents.model_fields, 1.0) | {"source": "B"}
    content = json.dumps({"sources": {"A": "x"}, "grades": {"g": values}})
    (tmp_path / "d.yaml").write_text(content)
    with pytest.raises(ConfigError, match="grades.g.source: is 'B'; expected one of A"):
        load_currents(tmp_path / "d.yaml")


# --- transfers --------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("standard", ["ddr4_3200", "ddr5_4800"])
def test_transfer_predicts_a_longer_run(standard, name, direction):
    """Three times the sample, simulated in full."""
    memory, count = Memory.of(standard), 300_000
    addresses = pattern(
        name, count, memory_bytes=memory.bytes, burst_bytes=64, block_bytes=4096, seed=9
    )
    fraction = DIRECTIONS[direction]
    write = np.arange(count) // 64 % 2 == 1 if fraction == 0.5 else np.full(count, fraction > 0)
    simulated = memory.run(memory.requests(addresses, write=write)).seconds
    assert transfer_seconds(standard, count * 64, name, direction) == pytest.approx(simulated, 0.02)


def test_transfer_bounds_and_order():
    speed = {name: transfer("ddr4_3200", name) for name in PATTERNS}
    assert speed["random"].bytes_per_s < speed["blocks"].bytes_per_s < speed["stream"].bytes_per_s
    for found in speed.values():
        assert found.bytes_per_s < found.peak_bytes_per_s == pytest.approx(25.6e9)
        assert 1e-9 < found.latency_s < 100e-9
    wide = transfer("ddr4_3200", "blocks", channels=16)
    assert wide.bytes_per_s == 16 * speed["blocks"].bytes_per_s
    small = transfer("ddr4_3200", "blocks", block_bytes=256)
    assert small.bytes_per_s < speed["blocks"].bytes_per_s
    grouped = transfer("ddr4_3200", "stream", address_map="row_bank_group_column")
    assert grouped.bytes_per_s < 0.7 * speed["stream"].bytes_per_s  # tCCD_L binds


def test_transfer_of_arrays():
    sizes = np.array([[0, 1e6], [2e6, 4e6]])
    seconds = transfer_seconds("ddr4_3200", sizes, channels=2)
    assert seconds.shape == (2, 2) and seconds[0, 0] == 0.0
    assert (np.diff(seconds.ravel()) > 0).all()
    assert float(transfer_seconds("ddr4_3200", 1e6, channels=2)) == seconds[0, 1]


def test_transfer_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path))
    transfer.cache_clear()
    first = transfer("ddr4_2400", "random")
    transfer.cache_clear()

    def never(*_args, **_options):
        raise AssertionError("measured again")

    monkeypatch.setattr(Memory, "run", never)
    assert transfer("ddr4_2400", "random") == first
    transfer.cache_clear()


def test_bad_transfers():
    with pytest.raises(ConfigError, match="unknown direction 'up'"):
        transfer("ddr4_3200", "blocks", "up")
    with pytest.raises(ConfigError, match="unknown pattern 'pages'"):
        transfer("ddr4_3200", "pages")
    with pytest.raises(ConfigError, match="0 channels; expected 1 or more"):
        transfer("ddr4_3200", channels=0)
    with pytest.raises(ConfigError, match="-1 bytes to transfer"):
        Transfer(1e-9, 1e9, 2e9).seconds([3, -1])


# --- command line -----------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(main, ["dram", *map(str, arguments)])


def test_run_on_the_command_line(tmp_path):
    trace = tmp_path / "t.trace"
    done = invoke(
        "run", "random:400", "--writes", 0.4, "--ranks", 2, "--channels", 2, "--policy",
        "dramsim3", "--set", "row_cap=2", "--option", "trfc_ns=360", "--trace", trace, "--style",
        "dramsim3", "--json", "--out", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found == json.loads((tmp_path / "dram_run.json").read_text())
    assert found["options"]["trfc_ns"] == 360 and found["policy"]["row_cap"] == 2
    counts = found["counts"]
    assert counts["requests"] == 400 == counts["reads"] + counts["writes"]
    assert 0 < counts["writes"] < 400
    std = Memory.of(policy="dramsim3", options={"trfc_ns": 360}).standard
    written = 0
    for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        report = replay(read_trace(trace, std, only=place), std, execution="rules")
        assert report.refused == 0
        written += report.commands
    assert written == sum(counts[name] for name in ("ACT", "PRE", "PREA", "RD", "WR", "REF"))
    table = [
        word for pair in found["options"].items() for word in ("--option", "=".join(map(str, pair)))
    ]
    shown = invoke("replay", trace, "--only", 0, 1, "--execution", "rules", *table)
    assert shown.exit_code == 0 and "refused 0" in shown.output


def test_run_of_a_file_for_people(tmp_path):
    (tmp_path / "r.trc").write_text("0x0 READ 0\n0x40 READ 0\n")
    done = invoke("run", tmp_path / "r.trc", "--outstanding", 1)
    assert done.exit_code == 0, done.output
    assert "2 requests (2 reads, 0 writes)" in done.output
    assert "commands ACT 2, PRE 0, PREA 0, RD 2, WR 0, REF 0" in done.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("run", "nowhere.trc"), "nowhere.trc: cannot read the requests"),
        (("run", "random:few"), "neither a file nor PATTERN:COUNT"),
        (("run", "random:5", "--set", "refresh"), "expected NAME=VALUE, e.g. refresh=none"),
        (("run", "random:5", "--map", "rows"), "unknown field (did you mean 'row'?)"),
        (("run", "random:5", "--option", "trfc_ns=1"), "option trfc_ns: '1' does not exist"),
    ],
)
def test_bad_command_lines(arguments, message):
    done = invoke(*arguments)
    assert done.exit_code == 2 and message in done.output
