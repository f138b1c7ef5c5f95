"""Timeline events and trace JSON of the timing model."""

from __future__ import annotations

import json

import pytest

from bankside.config import HardwareConfig
from bankside.isa.machine import Machine
from bankside.isa.program import Builder
from bankside.sim.timing.events import (
    chrome_trace,
    command_events,
    macro_events,
    row_events,
    samples,
    timeline,
    write_chrome_trace,
)
from bankside.sim.timing.pim import PimTiming


@pytest.fixture(scope="module")
def traced():
    """A score pass over one row of every bank, and a row that stays open."""
    machine = Machine.of(HardwareConfig.load("dimm_pim_ddr4"))
    b = Builder("pim", machine.burst_elements)
    b.OPEN(mode="staggered", row=5)
    b.WRR(cpt=4)
    b.MAC(count=64, signal="buffer")
    b.CLOSE(mode="all")
    b.RDRBS(groups=2, valid=1, wait="array", signal="rank")
    b.SFM(groups=2, valid=1, wait="buffer")
    b.OPEN(mode="bank", bank=3, row=7)
    return machine, PimTiming(machine).run(b.build(), trace=True)


def test_macro_events_cover_the_busy_cycles(traced):
    _, result = traced
    events = {e.kind: e for e in macro_events(result)}
    assert set(events) == {"OPEN", "WRR", "MAC", "CLOSE", "RDRBS", "SFM"}
    assert events["SFM"].unit == "rank"
    assert events["SFM"].end - events["SFM"].start == (2 * 16 + 5) * 4
    assert events["RDRBS"].start > events["MAC"].args["complete"]
    assert all(e.clock_domain == "mem" for e in events.values())


def test_command_events_never_overlap(traced):
    machine, result = traced
    events = command_events(machine, result)
    assert len(events) == len(result.commands)
    assert all(a.end <= b.start for a, b in zip(events, events[1:], strict=False))


def test_rows_open_from_activation_to_precharge(traced):
    machine, result = traced
    events = row_events(machine, result)
    assert len(events) == machine.banks + 1
    assert [e.args["row"] for e in events] == [5] * machine.banks + [7]
    assert len({e.end for e in events[:-1]}) == 1  # one PREA
    assert events[-1].end == result.cycles


def test_counters_count(traced):
    machine, result = traced
    found = samples(machine, result)
    banks = [s.value for s in found if s.counter == "open banks"]
    assert max(banks) == machine.banks and banks[0] == 0 and min(banks) == 0
    rate = [s for s in found if s.counter != "open banks"]
    assert sum(s.value for s in rate) / 100 * 1024 / machine.mac_period == pytest.approx(64)


def test_trace_file_is_the_trace_event_format(traced, tmp_path):
    machine, result = traced
    path = tmp_path / "trace.json"
    write_chrome_trace(machine, result, path)
    data = json.loads(path.read_text())
    complete = [e for e in data["traceEvents"] if e["ph"] == "X"]
    assert len(complete) == len(timeline(machine, result))
    for event in complete:
        assert event["ts"] == pytest.approx(event["args"]["start_cycle"] * 625e-6)
        assert event["dur"] == pytest.approx(event["args"]["cycles"] * 625e-6)
    names = {e["args"]["name"] for e in data["traceEvents"] if e["name"] == "thread_name"}
    assert {"array", "buffer", "rank", "command bus", "bank 0"} <= names
    assert any(e["ph"] == "C" for e in data["traceEvents"])


def test_a_result_without_trace_is_refused(traced):
    machine, _ = traced
    b = Builder("pim", machine.burst_elements)
    b.WRR(cpt=1)
    result = PimTiming(machine).run(b.build())
    with pytest.raises(ValueError, match="trace=True"):
        timeline(machine, result)
    assert chrome_trace(machine, [])["traceEvents"][0]["ph"] == "M"
