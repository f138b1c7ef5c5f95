// What shims share whose model has AXI4 managers and an AXI4-Lite slave: memory with timing, bus host.
#ifndef BANKSIDE_AXI_SHIM_H
#define BANKSIDE_AXI_SHIM_H

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <new>

#include "bankside_shim.h"

namespace bankside {

constexpr unsigned kOkay = 0, kDecodeError = 3;

// Cycles. The k-th read burst comes `read_latency` + (x_k mod (jitter + 1)) after its acceptance at the earliest; x_k: xorshift32
// from `seed` (docs/npu.md section 7).
struct AxiTiming {
    uint64_t read_latency, write_latency, beat_cycles, jitter, seed;
};

// Bytes, zero at first. Pages that nobody touches cost nothing.
class Storage {
public:
    explicit Storage(uint64_t size) : size_(size), bytes_(static_cast<uint8_t*>(std::calloc(size, 1))) {
        if (!bytes_) throw std::bad_alloc();
    }
    Storage(const Storage&) = delete;
    ~Storage() { std::free(bytes_); }

    bool holds(uint64_t address, uint64_t count) const { return address < size_ && count <= size_ - address; }
    uint8_t* at(uint64_t address) { return bytes_ + address; }

private:
    uint64_t size_;
    uint8_t* bytes_;
};

struct AxiBurst {
    uint64_t address, beats, cycle;
};

// Read bursts of one port, in order. An address outside the storage gives zeros and a decode error.
template <unsigned Bits>
class ReadChannel {
public:
    ReadChannel(Storage& storage, const AxiTiming& timing)
        : storage_(storage), timing_(timing), x_(static_cast<uint32_t>(timing.seed)) {}

    void accept(uint64_t address, uint64_t beats, uint64_t now) {
        uint64_t late = 0;
        if (timing_.jitter) {
            x_ ^= x_ << 13, x_ ^= x_ >> 17, x_ ^= x_ << 5;
            late = x_ % (timing_.jitter + 1);
        }
        bursts_.push_back({address, beats, now + timing_.read_latency + late});
    }

    bool valid(uint64_t now) const { return !bursts_.empty() && now >= std::max(bursts_.front().cycle, next_); }

    // The beat of cycle `now`, which is not taken by it.
    void show(uint64_t* data, unsigned& resp, bool& last) {
        const auto& burst = bursts_.front();
        const bool inside = storage_.holds(burst.address, Bits / 8);
        std::memset(data, 0, (Bits + 63) / 64 * 8);
        if (inside) std::memcpy(data, storage_.at(burst.address), Bits / 8);
        resp = inside ? kOkay : kDecodeError;
        last = burst.beats == 1;
    }

    void take(uint64_t now) {
        auto& burst = bursts_.front();
        burst.address += Bits / 8;
        next_ = now + timing_.beat_cycles;
        if (!--burst.beats) bursts_.pop_front();
    }

private:
    Storage& storage_;
    AxiTiming timing_;
    uint32_t x_;
    std::deque<AxiBurst> bursts_;
    uint64_t next_ = 0;  // first cycle in which a beat may come
};

// Write bursts of one port, in order; responses `write_latency` after the last beat.
template <unsigned Bits>
class WriteChannel {
public:
    WriteChannel(Storage& storage, const AxiTiming& timing) : storage_(storage), timing_(timing) {}

    void accept(uint64_t address, uint64_t beats, uint64_t now) { bursts_.push_back({address, beats, now}); }

    bool ready(uint64_t now) const { return now >= next_; }

    void take(const uint64_t* data, const uint64_t* strobes, bool last, uint64_t now) {
        auto& burst = bursts_.front();
        const auto* bytes = reinterpret_cast<const uint8_t*>(data);
        if (storage_.holds(burst.address, Bits / 8)) {
            for (unsigned i = 0; i < Bits / 8; ++i)
                if (strobes[i / 64] >> i % 64 & 1) storage_.at(burst.address)[i] = bytes[i];
        } else {
            error_ = true;
        }
        burst.address += Bits / 8;
        next_ = now + timing_.beat_cycles;
        if (!last) return;
        responses_.push_back({now + timing_.write_latency, error_ ? kDecodeError : kOkay});
        error_ = false;
        bursts_.pop_front();
    }

    bool answers(uint64_t now) const { return !responses_.empty() && responses_.front().cycle <= now; }

    unsigned answer() {
        const unsigned code = responses_.front().code;
        responses_.pop_front();
        return code;
    }

private:
    struct Response {
        uint64_t cycle;
        unsigned code;
    };

    Storage& storage_;
    AxiTiming timing_;
    std::deque<AxiBurst> bursts_;
    std::deque<Response> responses_;
    uint64_t next_ = 0;
    bool error_ = false;
};

// `count` register writes, as many per cycle as the machine takes; how many were not answered with OKAY. Machine: members `model`
// and `cycle()`, ports `s_axil_*` of 64 bits.
template <typename Machine>
uint64_t write_registers(Machine& machine, uint64_t address, const uint64_t* values, uint64_t count) {
    auto& top = *machine.model.top;
    uint64_t addressed = 0, sent = 0, answered = 0, refused = 0;
    top.s_axil_bready = 1;
    top.s_axil_wstrb = 0xFF;
    while (answered < count) {
        top.s_axil_awvalid = addressed < count;
        top.s_axil_awaddr = address + 8 * addressed;
        top.s_axil_wvalid = sent < count;
        top.s_axil_wdata = sent < count ? values[sent] : 0;
        addressed += top.s_axil_awvalid && top.s_axil_awready;
        sent += top.s_axil_wvalid && top.s_axil_wready;
        if (top.s_axil_bvalid) {
            ++answered;
            refused += top.s_axil_bresp != kOkay;
        }
        machine.cycle();
    }
    top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 0;
    return refused;
}

// One register write that is sent in this cycle and whose answer is not waited for.
template <typename Machine>
void send_register(Machine& machine, uint64_t address, uint64_t value) {
    auto& top = *machine.model.top;
    top.s_axil_awaddr = address;
    top.s_axil_wdata = value;
    top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 1;
    top.s_axil_wstrb = 0xFF;
    machine.cycle();
    top.s_axil_awvalid = top.s_axil_wvalid = 0;
}

template <typename Machine>
uint64_t read_register(Machine& machine, uint64_t address) {
    auto& top = *machine.model.top;
    top.s_axil_araddr = address;
    top.s_axil_arvalid = 1;
    while (!top.s_axil_arready) machine.cycle();
    machine.cycle();
    top.s_axil_arvalid = 0;
    top.s_axil_rready = 1;
    while (!top.s_axil_rvalid) machine.cycle();
    const uint64_t value = top.s_axil_rdata;
    machine.cycle();
    top.s_axil_rready = 0;
    return value;
}

}  // namespace bankside

// Drive the inputs of cycle `now` of the ports `prefix*` from its outputs of that cycle, which depend on registers only. A port
// takes every beat and response that it waits for.
#define BANKSIDE_DRIVE_READ(channel, top, prefix, bits, now)                                                        \
    do {                                                                                                            \
        (top).prefix##arready = 1;                                                                                  \
        if ((top).prefix##arvalid) (channel).accept((top).prefix##araddr, (top).prefix##arlen + 1u, now);           \
        (top).prefix##rvalid = (top).prefix##rready && (channel).valid(now);                                        \
        if ((top).prefix##rvalid) {                                                                                 \
            uint64_t beat[((bits) + 63) / 64];                                                                      \
            unsigned resp;                                                                                          \
            bool last;                                                                                              \
            (channel).show(beat, resp, last);                                                                       \
            bankside::put_words((top).prefix##rdata, bits, beat);                                                   \
            (top).prefix##rresp = resp;                                                                             \
            (top).prefix##rlast = last;                                                                             \
            (channel).take(now);                                                                                    \
        }                                                                                                           \
    } while (0)

#define BANKSIDE_DRIVE_WRITE(channel, top, prefix, bits, now)                                                       \
    do {                                                                                                            \
        (top).prefix##awready = 1;                                                                                  \
        if ((top).prefix##awvalid) (channel).accept((top).prefix##awaddr, (top).prefix##awlen + 1u, now);           \
        (top).prefix##wready = (channel).ready(now);                                                                \
        if ((top).prefix##wvalid && (top).prefix##wready) {                                                         \
            uint64_t beat[((bits) + 63) / 64], strobes[((bits) / 8 + 63) / 64];                                     \
            bankside::get_words((top).prefix##wdata, bits, beat);                                                   \
            bankside::get_words((top).prefix##wstrb, (bits) / 8, strobes);                                          \
            (channel).take(beat, strobes, (top).prefix##wlast, now);                                                \
        }                                                                                                           \
        (top).prefix##bvalid = (top).prefix##bready && (channel).answers(now);                                      \
        if ((top).prefix##bvalid) (top).prefix##bresp = (channel).answer();                                         \
    } while (0)

#endif
