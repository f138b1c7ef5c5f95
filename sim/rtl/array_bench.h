// What surrounds the machine `bankside_array_top`, whoever executes it: the main memory on AXI4 and how a run is started and
// judged (docs/array.md section 4).
//
// Built with -DBUS_BITS, -DBURSTS (under way), -DREASONS (stall counters), -DCONTROL, -DSTATUS, ... (byte addresses and bits of the
// register map), -DTRACE_... (bits of the port `events`).
#ifndef BANKSIDE_ARRAY_BENCH_H
#define BANKSIDE_ARRAY_BENCH_H

#include "axi_bench.h"

namespace bankside {

// Plain data, but for the memory, which is the executor's.
struct ArrayBench {
    ReadChannel<BUS_BITS, BURSTS> reads;
    WriteChannel<BUS_BITS, BURSTS> writes;

    static ArrayBench of(const AxiTiming& timing) { return {decltype(reads)::of(timing), decltype(writes)::of(timing)}; }

    // The inputs of cycle `now`, from the outputs of that cycle.
    template <typename Ports, typename Storage>
    void drive(Ports& top, Storage& main, uint64_t now) {
        BANKSIDE_DRIVE_READ(reads, main, top, m_axi_, BUS_BITS, now);
        BANKSIDE_DRIVE_WRITE(writes, main, top, m_axi_, BUS_BITS, now);
    }

    template <typename Ports>
    static bool running(const Ports& top) {
        return get_bits(top.events, TRACE_RUNNING, 1);
    }

    // Registers that the host reads after a run: status, cycles, position, stall counters.
    static constexpr unsigned kReport = 3 + REASONS;
    static uint64_t report_address(unsigned index) {
        constexpr uint64_t first[] = {STATUS, CYCLES, POSITION};
        return index < 3 ? first[index] : COUNTERS + 8 * (index - 3);
    }
    static constexpr unsigned kFirstCounter = 3;

    // 0 done, 1 stopped with an error, 2 neither (docs/faults.md).
    static unsigned end(uint64_t status) { return status & STATUS_ERROR ? 1 : status == STATUS_DONE ? 0 : 2; }
};

}  // namespace bankside

#endif
