// Drives the bench of the npu with outputs that no working machine has, for sanitizers; prints a digest of what it answers.
#include <cstdio>
#include <memory>

#include "npu_bench.h"

namespace {

// The ports of the machine; outputs are random, most of them mostly high.
struct Ports {
    uint8_t s_axil_awvalid, s_axil_wvalid, s_axil_bready, s_axil_arvalid, s_axil_rready, s_axil_wstrb;
    uint8_t s_axil_awready, s_axil_wready, s_axil_bvalid, s_axil_bresp, s_axil_arready, s_axil_rvalid;
    uint64_t s_axil_awaddr, s_axil_wdata, s_axil_araddr, s_axil_rdata;
    uint8_t m0_axi_arready, m0_axi_rvalid, m0_axi_rresp, m0_axi_rlast, m0_axi_awready, m0_axi_wready, m0_axi_bvalid, m0_axi_bresp;
    uint8_t m0_axi_arvalid, m0_axi_rready, m0_axi_arlen, m0_axi_awvalid, m0_axi_awlen, m0_axi_wvalid, m0_axi_wlast, m0_axi_bready;
    uint64_t m0_axi_araddr, m0_axi_awaddr;
    uint64_t m0_axi_rdata, m0_axi_wdata;
    uint8_t m0_axi_wstrb;
    uint8_t m1_axi_arready, m1_axi_rvalid, m1_axi_rresp, m1_axi_rlast, m1_axi_arvalid, m1_axi_rready, m1_axi_arlen;
    uint64_t m1_axi_araddr, m1_axi_rdata;
    uint32_t events;
};

uint64_t state = 1;

uint64_t random_word() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

uint64_t any_address() {
    const uint64_t kind = random_word() % 4;
    return kind == 0 ? random_word() : kind == 1 ? ~uint64_t{0} - random_word() % 16 : random_word() % 5000;
}

void misbehave(Ports& p, unsigned phase) {
    const auto high = [&](unsigned eighths) { return uint8_t(random_word() % 8 < eighths); };
    const unsigned busy = phase % 3 == 0 ? 8 : phase % 3 == 1 ? 4 : 1;
    for (uint8_t* bit : {&p.m0_axi_arvalid, &p.m0_axi_awvalid, &p.m0_axi_wvalid, &p.m1_axi_arvalid}) *bit = high(busy);
    for (uint8_t* bit : {&p.m0_axi_rready, &p.m0_axi_bready, &p.m1_axi_rready}) *bit = high(phase % 5 == 0 ? 0 : 6);
    if (phase % 4 == 1) p.m0_axi_awvalid = 0;
    p.m0_axi_wlast = high(phase % 3 * 4);
    p.m0_axi_arlen = random_word(), p.m0_axi_awlen = random_word(), p.m1_axi_arlen = random_word();
    p.m0_axi_araddr = any_address(), p.m0_axi_awaddr = any_address(), p.m1_axi_araddr = any_address();
    p.m0_axi_wdata = random_word(), p.m0_axi_wstrb = random_word();
    // A slave of the host that answers rarely, wrongly, or without having been asked.
    p.s_axil_awready = high(phase % 4), p.s_axil_wready = high(phase % 4), p.s_axil_arready = high(phase % 4);
    p.s_axil_bvalid = high(phase % 3), p.s_axil_rvalid = high(phase % 3), p.s_axil_bresp = random_word() % 4;
}

}  // namespace

int main() {
    bankside::Storage main_memory(4096), words(256);
    bankside::AxiTiming timing{3, 2, 1, 5, 9};
    std::unique_ptr<bankside::NpuBench> bench(new bankside::NpuBench(bankside::NpuBench::of(timing)));
    std::unique_ptr<bankside::NpuBench> copy(new bankside::NpuBench(*bench));
    Ports ports{};
    uint64_t digest = 0, beats = 0;
    for (uint64_t now = 0; now < 300000; ++now) {
        misbehave(ports, now / 1000);
        bench->drive(ports, main_memory, words, now);
        beats += ports.m0_axi_rvalid + (ports.m0_axi_wready && ports.m0_axi_wvalid) + ports.m0_axi_bvalid + ports.m1_axi_rvalid;
        digest = digest * 31 + ports.m0_axi_rdata + ports.m0_axi_bresp;
        if (now == 150000) std::memcpy(copy.get(), bench.get(), sizeof *bench);
    }
    uint64_t over = 0, values[8], addresses[8] = {};
    for (unsigned phase = 0; phase < 12; ++phase) {
        auto writes = bankside::RegisterWrites::of(0, 8);
        auto reads = bankside::RegisterReads::of(8);
        for (uint64_t cycle = 0; !(writes.over() && reads.over()); ++cycle, ++over) {
            misbehave(ports, phase);
            if (!writes.over()) writes.drive(ports, addresses);
            if (!reads.over()) reads.drive(ports, addresses, values);
            if (cycle > 100 * bankside::kPatience) return 1;
        }
        digest += writes.finish(ports);
    }
    std::printf("%llu %llu %llu\n", (unsigned long long)beats, (unsigned long long)over, (unsigned long long)digest);
    return beats > 1000 ? 0 : 2;
}
