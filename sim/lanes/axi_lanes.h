// Benches of the machines with AXI (sim/rtl/array_bench.h, npu_bench.h) for the sweep: the host, the run, its registers.
#ifndef BANKSIDE_AXI_LANES_H
#define BANKSIDE_AXI_LANES_H

#include "axi_bench.h"
#include "sweep_functions.h"

namespace bankside {

// Words that nobody writes, the same for all lanes.
struct Words {
    std::vector<uint8_t> bytes;
    bool holds(uint64_t address, uint64_t count) const { return address < bytes.size() && count <= bytes.size() - address; }
    void read(uint64_t address, uint64_t count, uint8_t* into) const { std::memcpy(into, bytes.data() + address, count); }
};

template <typename Derived, typename Bench>
class AxiEngine {
public:
    static constexpr bool kEarly = true;

    // Plain data of one lane.
    struct State {
        Bench bench;
        RegisterReads reads;
        uint64_t reading;
        uint64_t registers[Bench::kReport];
    };

    bool over(const State&, const Ports& ports) const { return !Bench::running(ports); }

    // The inputs of a cycle; true when the run is over and its registers have been read.
    bool drive(State& state, Ports& ports, LaneStore& store, uint64_t cycle, bool over) const {
        self().bench_drive(state.bench, ports, store, cycle + before_);
        if (!over) return false;
        if (!state.reading) {
            state.reading = 1;
            state.reads = RegisterReads::of(Bench::kReport);
            ports.s_axil_bready = 0;
        }
        uint64_t addresses[Bench::kReport];
        for (unsigned i = 0; i < Bench::kReport; ++i) addresses[i] = Bench::report_address(i);
        if (!state.reads.over()) state.reads.drive(ports, addresses, state.registers);
        if (state.reads.over()) state.reads.finish(ports);
        return state.reads.over();
    }

    void judge(const State& state, const Ports&, Outcome& outcome, const State& golden) const {
        outcome.status = state.registers[0];
        outcome.end = static_cast<uint8_t>(Bench::end(outcome.status));
        for (unsigned i = Bench::kFirstCounter; i < Bench::kReport; ++i)
            outcome.counters &= state.registers[i] == golden.registers[i];
    }

    // The main memory after the run without faults, as far as it was used.
    static void image(const Golden& golden, uint8_t* into, uint64_t size) {
        std::memcpy(into, golden.final.data(), std::min<uint64_t>(size, golden.final.size()));
    }

    // From power-on to the first cycle of the run, all lanes alike.
    template <typename Group, typename Sweep>
    void set_up(Group& group, Sweep& sweep, const AxiTiming& timing) {
        auto& lane = group.lanes[0];
        lane.state = State{};
        lane.ports = Ports{};
        group.cycle = before_ = 0;
        cycles(group, sweep, 3, [](Ports& ports) { ports.rst = 1; });
        lane.ports.rst = 0;
        broadcast_inputs(lane.ports, *group.g);
        lane.state.bench = Bench::of(timing);
        world_ = true;
        self().registers(group, sweep);
        start(group, sweep);
        before_ = group.cycle;
    }

protected:
    uint64_t before_ = 0;  // cycles before the run
    bool world_ = false;

    const Derived& self() const { return static_cast<const Derived&>(*this); }
    Derived& self() { return static_cast<Derived&>(*this); }

    template <typename Group, typename Sweep, typename Host>
    void cycles(Group& group, Sweep& sweep, uint64_t count, Host&& host) {
        while (count--) {
            sweep.together(group, [&](Lane<Derived>& lane) {
                if (world_) self().bench_drive(lane.state.bench, lane.ports, lane.store, group.cycle);
                host(lane.ports);
            });
            ++group.cycle;
        }
    }

    template <typename Group, typename Sweep>
    void write(Group& group, Sweep& sweep, uint64_t address, const std::vector<uint64_t>& values) {
        auto writes = RegisterWrites::of(address, values.size());
        while (!writes.over()) cycles(group, sweep, 1, [&](Ports& ports) { writes.drive(ports, values.data()); });
        writes.finish(group.lanes[0].ports);
        broadcast_inputs(group.lanes[0].ports, *group.g);
    }

    template <typename Group, typename Sweep>
    void start(Group& group, Sweep& sweep) {
        cycles(group, sweep, 1, [](Ports& ports) {
            ports.s_axil_awaddr = CONTROL;
            ports.s_axil_wdata = START;
            ports.s_axil_awvalid = ports.s_axil_wvalid = ports.s_axil_bready = 1;
            ports.s_axil_wstrb = 0xFF;
        });
        auto& lane = group.lanes[0];
        lane.ports.s_axil_awvalid = lane.ports.s_axil_wvalid = 0;
        broadcast_inputs(lane.ports, *group.g);
        for (unsigned wait = 0; wait < 16; ++wait) {
            lanes_before(sweep.machines());
            gather_outputs(lane.ports, group.g->t, 0);
            lanes_disturb(group.g);
            if (Bench::running(lane.ports)) break;
            cycles(group, sweep, 1, [](Ports&) {});
        }
    }
};

}  // namespace bankside

#endif
