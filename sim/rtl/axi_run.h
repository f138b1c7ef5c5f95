// A Verilated machine in its AXI bench: cycles, host accesses, the run of a program.
#ifndef BANKSIDE_AXI_RUN_H
#define BANKSIDE_AXI_RUN_H

#include <memory>
#include <vector>

#include "axi_bench.h"
#include "bankside_shim.h"

namespace bankside {

// World: the bench with its memories; `drive(top, now)`, `Bench` (see array_bench.h).
template <typename Top, typename World>
struct AxiMachine {
    using Bench = typename World::Bench;

    Model<Top> model;
    std::unique_ptr<World> world;
    Waves waves;

    Top& ports() { return *model.top; }
    bool running() const { return Bench::running(*model.top); }
    bool traced(unsigned bit) const { return get_bits(model.top->events, bit, 1); }

    // One clock cycle. With `look` all outputs of the cycle are seen, also those that follow inputs at once.
    template <typename Look>
    void cycle(Look&& look) {
        if (world) world->drive(*model.top, model.cycle);
        look();
        model.step();
    }

    void cycle() {
        cycle([] {});
    }

    // How many of the writes were not answered with OKAY.
    uint64_t write(uint64_t address, const uint64_t* values, uint64_t count) {
        auto writes = RegisterWrites::of(address, count);
        while (!writes.over()) {
            writes.drive(ports(), values);
            cycle();
        }
        return writes.finish(ports());
    }

    uint64_t write(uint64_t address, uint64_t value) { return write(address, &value, 1); }

    void read(const uint64_t* addresses, uint64_t* values, uint64_t count) {
        auto reads = RegisterReads::of(count);
        while (!reads.over()) {
            reads.drive(ports(), addresses, values);
            cycle();
        }
        reads.finish(ports());
    }

    uint64_t read(uint64_t address) {
        uint64_t value;
        read(&address, &value, 1);
        return value;
    }

    // Wait until no bit of `bits` is set in a register; whether that happened.
    bool await_clear(uint64_t address, uint64_t bits) {
        for (uint64_t tries = 0; tries < kReads; ++tries)
            if (!(read(address) & bits)) return true;
        return false;
    }

    // The write that starts a run is sent in one cycle, and its answer not waited for; returns in the first cycle of the run.
    void start(uint64_t address, uint64_t value) {
        auto& top = ports();
        top.s_axil_awaddr = address;
        top.s_axil_wdata = value;
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 1;
        top.s_axil_wstrb = 0xFF;
        cycle();
        top.s_axil_awvalid = top.s_axil_wvalid = 0;
        for (unsigned wait = 0; wait < 16 && !running(); ++wait) cycle();
    }

    // Cycles from the first in which the program runs to the last, at most `limit`. look(cycle): outputs of each.
    template <typename Look>
    uint64_t execute(uint64_t limit, Look&& look) {
        uint64_t now = 0;
        for (; now < limit && running(); ++now) {
            waves.before(model, now);
            cycle([&] { look(now); });
            waves.after(model, now);
        }
        waves.stop(model);
        return now;
    }

    // Registers after a run, `Bench::kReport` of them.
    void read_report(uint64_t* values) {
        ports().s_axil_bready = 0;
        uint64_t addresses[Bench::kReport];
        for (unsigned i = 0; i < Bench::kReport; ++i) addresses[i] = Bench::report_address(i);
        read(addresses, values, Bench::kReport);
    }
};

}  // namespace bankside

#endif
