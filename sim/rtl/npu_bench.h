// What surrounds the machine `bankside_npu_top`, whoever executes it: main memory on port m0, the words of the stream on port m1, and
// how a run is started and judged (docs/npu.md sections 7, 9 and 10).
//
// Built with -DBUS_BITS, -DBURSTS (under way at m0), -DREASONS (stall counters), -DREGIONS, -DCONTROL, -DSTATUS, ... (byte addresses
// and bits of the register map), -DTRACE_... (bits of the port `events`).
#ifndef BANKSIDE_NPU_BENCH_H
#define BANKSIDE_NPU_BENCH_H

#include "axi_bench.h"

namespace bankside {

// Plain data, but for the memories, which are the executor's.
struct NpuBench {
    static constexpr unsigned kWordBits = 64, kFetches = 2;
    static constexpr uint32_t kFetchSeed = 0x9E3779B9;

    ReadChannel<BUS_BITS, BURSTS> reads;
    WriteChannel<BUS_BITS, BURSTS> writes;
    ReadChannel<kWordBits, kFetches> fetches;

    static NpuBench of(const AxiTiming& timing) {
        AxiTiming fetch = timing;
        if (const uint64_t seed = timing.seed ^ kFetchSeed) fetch.seed = seed;
        return {decltype(reads)::of(timing), decltype(writes)::of(timing), decltype(fetches)::of(fetch)};
    }

    // The inputs of cycle `now`, from the outputs of that cycle.
    template <typename Ports, typename Storage, typename Words>
    void drive(Ports& top, Storage& main, const Words& words, uint64_t now) {
        BANKSIDE_DRIVE_READ(reads, main, top, m0_axi_, BUS_BITS, now);
        BANKSIDE_DRIVE_WRITE(writes, main, top, m0_axi_, BUS_BITS, now);
        BANKSIDE_DRIVE_READ(fetches, words, top, m1_axi_, kWordBits, now);
    }

    template <typename Ports>
    static bool running(const Ports& top) {
        return get_bits(top.events, TRACE_RUNNING, 1);
    }

    // Registers that the host reads after a run: status, cycles, stall counters.
    static constexpr unsigned kReport = 2 + REASONS;
    static uint64_t report_address(unsigned index) {
        return index == 0 ? STATUS : index == 1 ? CYCLES : COUNTERS + 8 * (index - 2);
    }
    static constexpr unsigned kFirstCounter = 2;

    // 0 done, 1 stopped with an error, 2 neither (docs/faults.md).
    static unsigned end(uint64_t status) { return status & STATUS_FAULT ? 1 : status & STATUS_DONE ? 0 : 2; }
};

}  // namespace bankside

#endif
