// The host of the machine `bankside_pim_top`, whoever executes it: bursts in, bursts out, the end of a run.
//
// `Ports` is any object whose members have the names of the Verilated top's; Verilator writes a double underscore as ___05F.
// Built with -DBURST_BITS (bits of a host burst), -DREASONS (stall counters), -DCOUNTER_BITS.
#ifndef BANKSIDE_PIM_BENCH_H
#define BANKSIDE_PIM_BENCH_H

#include "ports.h"

namespace bankside {

// Plain data. The host offers its bursts one after the other and takes every burst that comes.
struct PimBench {
    static constexpr unsigned kBurstWords = (BURST_BITS + 63) / 64;

    uint64_t taken, sent;  // bursts that the machine took and sent
    uint64_t digest;       // of the bursts sent
    uint64_t took;         // a burst is taken in this cycle
    uint64_t offered;      // one is offered in this cycle, whatever the machine sees of it

    // The burst of the next cycle, of `count` at `bursts`.
    template <typename Ports>
    void offer(Ports& top, const uint64_t* bursts, uint64_t count) {
        top.host_in___05Fvalid = offered = taken < count;
        if (offered) put_words(top.host_in___05Fpayload, BURST_BITS, bursts + taken * kBurstWords);
    }

    // The outputs of a cycle, settled; keep(number, words) gets the burst that was sent. True in the last cycle of a program.
    template <typename Ports, typename Keep>
    bool see(const Ports& top, Keep&& keep) {
        if (top.host_out___05Fvalid) {
            uint64_t words[kBurstWords];
            get_words(top.host_out___05Fpayload, BURST_BITS, words);
            keep(sent, words);
            for (const uint64_t word : words) digest = (digest ^ word) * 0x9E3779B97F4A7C15u ^ digest >> 29;
            ++sent;
        }
        took = offered && top.host_in___05Fready;
        return top.done;
    }

    // After the edge: true where the inputs of the next cycle changed.
    template <typename Ports>
    bool proceed(Ports& top, const uint64_t* bursts, uint64_t count) {
        if (!took) return false;
        ++taken;
        took = 0;
        offer(top, bursts, count);
        return true;
    }

    // Bits error, violation, unrefreshable (docs/faults.md).
    template <typename Ports>
    static uint64_t status(const Ports& top) {
        return uint64_t{top.error != 0} | uint64_t{top.violation != 0} << 1 | uint64_t{top.unrefreshable != 0} << 2;
    }

    template <typename Ports>
    static uint64_t counter(const Ports& top, unsigned reason) {
        return get_bits(top.counts, reason * COUNTER_BITS, COUNTER_BITS);
    }
};

}  // namespace bankside

#endif
