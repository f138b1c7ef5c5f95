// The world of a machine with AXI4 managers and an AXI4-Lite slave: memory with timing, bus host. Independent of what executes the
// machine: `Ports` is any object whose members have the names and widths of the ports (a Verilated top, one lane of many).
//
// The state of channels and host is plain data: copied by memcpy, zero where unused, so that equal states have equal bytes. No
// machine, however faulty, gets the bench out of its bounds: what it cannot take is not accepted.
#ifndef BANKSIDE_AXI_BENCH_H
#define BANKSIDE_AXI_BENCH_H

#include <algorithm>
#include <cstdlib>
#include <new>

#include "ports.h"

namespace bankside {

constexpr unsigned kOkay = 0, kDecodeError = 3;
// Cycles that a host waits for the answer of a register, and reads of a register that it waits for a state.
constexpr uint64_t kPatience = 1 << 12, kReads = 1 << 18;

// Cycles. The k-th read burst comes `read_latency` + (x_k mod (jitter + 1)) after its acceptance at the earliest; x_k: xorshift32
// from `seed` (docs/npu.md section 7).
struct AxiTiming {
    uint64_t read_latency, write_latency, beat_cycles, jitter, seed;
};

// At most N items in order; what is not in use is zero.
template <typename T, unsigned N>
struct Ring {
    uint64_t count;
    T items[N];

    bool empty() const { return count == 0; }
    bool full() const { return count == N; }
    T& front() { return items[0]; }
    const T& front() const { return items[0]; }
    void push(const T& item) { items[count++] = item; }
    void pop() {
        --count;
        for (uint64_t i = 0; i < count; ++i) items[i] = items[i + 1];
        items[count] = T{};
    }
};

// Bytes, zero at first. Pages that nobody touches cost nothing. What channels need of a storage: `holds`, `read`, `write`.
class Storage {
public:
    explicit Storage(uint64_t size) : size_(size), bytes_(static_cast<uint8_t*>(std::calloc(size, 1))) {
        if (!bytes_) throw std::bad_alloc();
    }
    Storage(const Storage&) = delete;
    ~Storage() { std::free(bytes_); }

    bool holds(uint64_t address, uint64_t count) const { return address < size_ && count <= size_ - address; }
    void read(uint64_t address, uint64_t count, uint8_t* into) const { std::memcpy(into, bytes_ + address, count); }
    void write(uint64_t address, uint8_t value) { bytes_[address] = value; }
    uint8_t* at(uint64_t address) { return bytes_ + address; }

private:
    uint64_t size_;
    uint8_t* bytes_;
};

struct AxiBurst {
    uint64_t address, beats, cycle;
};

// Read bursts of one port, in order. An address outside the storage gives zeros and a decode error. `Depth`: bursts under way.
template <unsigned Bits, unsigned Depth>
struct ReadChannel {
    AxiTiming timing;
    uint64_t x;     // state of the jitter
    uint64_t next;  // first cycle in which a beat may come
    Ring<AxiBurst, Depth> bursts;

    static ReadChannel of(const AxiTiming& timing) { return {timing, timing.seed, 0, {}}; }

    bool ready() const { return !bursts.full(); }

    void accept(uint64_t address, uint64_t beats, uint64_t now) {
        uint64_t late = 0;
        if (timing.jitter) {
            auto x32 = static_cast<uint32_t>(x);
            x32 ^= x32 << 13, x32 ^= x32 >> 17, x32 ^= x32 << 5;
            x = x32;
            late = x32 % (timing.jitter + 1);
        }
        bursts.push({address, beats, now + timing.read_latency + late});
    }

    bool valid(uint64_t now) const { return !bursts.empty() && now >= std::max(bursts.front().cycle, next); }

    // The beat of cycle `now` (only while `valid`).
    template <typename Storage>
    void take(const Storage& storage, uint64_t now, uint64_t* data, unsigned& resp, bool& last) {
        auto& burst = bursts.front();
        const bool inside = storage.holds(burst.address, Bits / 8);
        std::memset(data, 0, (Bits + 63) / 64 * 8);
        if (inside) storage.read(burst.address, Bits / 8, reinterpret_cast<uint8_t*>(data));
        resp = inside ? kOkay : kDecodeError;
        last = burst.beats == 1;
        burst.address += Bits / 8;
        next = now + timing.beat_cycles;
        if (!--burst.beats) bursts.pop();
    }
};

// Write bursts of one port, in order; each ends with its last beat, whatever length was announced. Responses come `write_latency`
// after it. A beat without a burst is not accepted.
template <unsigned Bits, unsigned Depth>
struct WriteChannel {
    struct Response {
        uint64_t cycle, code;
    };

    AxiTiming timing;
    uint64_t next, error;
    Ring<uint64_t, Depth> addresses;
    Ring<Response, Depth> responses;

    static WriteChannel of(const AxiTiming& timing) { return {timing, 0, 0, {}, {}}; }

    bool accepts() const { return !addresses.full(); }

    void accept(uint64_t address) { addresses.push(address); }

    bool ready(uint64_t now) const { return now >= next && !addresses.empty() && !responses.full(); }

    template <typename Storage>
    void take(Storage& storage, const uint64_t* data, const uint64_t* strobes, bool last, uint64_t now) {
        auto& address = addresses.front();
        const auto* bytes = reinterpret_cast<const uint8_t*>(data);
        if (storage.holds(address, Bits / 8)) {
            for (unsigned i = 0; i < Bits / 8; ++i)
                if (strobes[i / 64] >> i % 64 & 1) storage.write(address + i, bytes[i]);
        } else {
            error = 1;
        }
        address += Bits / 8;
        next = now + timing.beat_cycles;
        if (!last) return;
        responses.push({now + timing.write_latency, error ? kDecodeError : kOkay});
        error = 0;
        addresses.pop();
    }

    bool answers(uint64_t now) const { return !responses.empty() && responses.front().cycle <= now; }

    unsigned answer() {
        const auto code = static_cast<unsigned>(responses.front().code);
        responses.pop();
        return code;
    }
};

// --- host ----------------------------------------------------------------------------------------------------------------------
// `count` register writes from `address` on, as many per cycle as the machine takes. Ports `s_axil_*` of 64 bits.
struct RegisterWrites {
    uint64_t address, count;
    uint64_t addressed, sent, answered, refused, waited;

    static RegisterWrites of(uint64_t address, uint64_t count) { return {address, count, 0, 0, 0, 0, 0}; }

    bool over() const { return answered >= count || waited > kPatience; }

    // Drive the inputs of a cycle, only while not over.
    template <typename Ports>
    void drive(Ports& top, const uint64_t* values) {
        top.s_axil_bready = 1;
        top.s_axil_wstrb = 0xFF;
        top.s_axil_awvalid = addressed < count;
        top.s_axil_awaddr = address + 8 * addressed;
        top.s_axil_wvalid = sent < count;
        top.s_axil_wdata = sent < count ? values[sent] : 0;
        addressed += top.s_axil_awvalid && top.s_axil_awready;
        sent += top.s_axil_wvalid && top.s_axil_wready;
        ++waited;
        if (!top.s_axil_bvalid) return;
        ++answered;
        waited = 0;
        refused += top.s_axil_bresp != kOkay;
    }

    // Inputs afterwards; how many writes were not answered with OKAY.
    template <typename Ports>
    uint64_t finish(Ports& top) const {
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 0;
        return refused + (count - answered);
    }
};

// One register after the other; 0 where no answer comes.
struct RegisterReads {
    uint64_t count;
    uint64_t done, asked, waited;

    static RegisterReads of(uint64_t count) { return {count, 0, 0, 0}; }

    bool over() const { return done >= count; }

    // Drive the inputs of a cycle, only while not over. `addresses` and `values`: `count` each.
    template <typename Ports>
    void drive(Ports& top, const uint64_t* addresses, uint64_t* values) {
        const bool late = ++waited > kPatience;
        top.s_axil_arvalid = !asked;
        top.s_axil_rready = asked;
        if (!asked) {
            top.s_axil_araddr = addresses[done];
            asked = top.s_axil_arready;
        } else if (top.s_axil_rvalid || late) {
            values[done] = top.s_axil_rvalid ? top.s_axil_rdata : 0;
            ++done;
            asked = waited = 0;
            return;
        }
        if (late) values[done++] = asked = waited = 0;
    }

    template <typename Ports>
    void finish(Ports& top) const {
        top.s_axil_arvalid = top.s_axil_rready = 0;
    }
};

}  // namespace bankside

// Drive the inputs of cycle `now` of the ports `prefix*` from its outputs of that cycle, which depend on registers only. A port
// takes every beat and response that it waits for.
#define BANKSIDE_DRIVE_READ(channel, storage, top, prefix, bits, now)                                               \
    do {                                                                                                            \
        (top).prefix##arready = (channel).ready();                                                                  \
        if ((top).prefix##arvalid && (top).prefix##arready)                                                         \
            (channel).accept((top).prefix##araddr, (top).prefix##arlen + 1u, now);                                  \
        (top).prefix##rvalid = (top).prefix##rready && (channel).valid(now);                                        \
        if ((top).prefix##rvalid) {                                                                                 \
            uint64_t beat[((bits) + 63) / 64];                                                                      \
            unsigned resp;                                                                                          \
            bool last;                                                                                              \
            (channel).take(storage, now, beat, resp, last);                                                         \
            bankside::put_words((top).prefix##rdata, bits, beat);                                                   \
            (top).prefix##rresp = resp;                                                                             \
            (top).prefix##rlast = last;                                                                             \
        }                                                                                                           \
    } while (0)

#define BANKSIDE_DRIVE_WRITE(channel, storage, top, prefix, bits, now)                                              \
    do {                                                                                                            \
        (top).prefix##awready = (channel).accepts();                                                                \
        if ((top).prefix##awvalid && (top).prefix##awready) (channel).accept((top).prefix##awaddr);                 \
        (top).prefix##wready = (channel).ready(now);                                                                \
        if ((top).prefix##wvalid && (top).prefix##wready) {                                                         \
            uint64_t beat[((bits) + 63) / 64], strobes[((bits) / 8 + 63) / 64];                                     \
            bankside::get_words((top).prefix##wdata, bits, beat);                                                   \
            bankside::get_words((top).prefix##wstrb, (bits) / 8, strobes);                                          \
            (channel).take(storage, beat, strobes, (top).prefix##wlast, now);                                       \
        }                                                                                                           \
        (top).prefix##bvalid = (top).prefix##bready && (channel).answers(now);                                      \
        if ((top).prefix##bvalid) (top).prefix##bresp = (channel).answer();                                         \
    } while (0)

#endif
