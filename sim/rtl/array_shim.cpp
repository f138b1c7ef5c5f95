// Runs programs on the Verilated `bankside_array_top`: the host on AXI4-Lite, the main memory on AXI4 (docs/array.md
// section 4), traces.
//
// Built with -DBUS_BITS, -DREASONS (stall counters), -DCONTROL, -DSTATUS, ... (byte addresses and bits of the register map),
// -DTRACE_... (bits of the port `events`).
#include <cstdlib>
#include <deque>
#include <vector>

#include "Vbankside_array_top.h"
#include "bankside_shim.h"

namespace {

constexpr unsigned kBusBytes = BUS_BITS / 8, kBusWords = (BUS_BITS + 63) / 64;
constexpr unsigned kOkay = 0, kDecodeError = 3;

struct Timing {
    uint64_t bytes, read_latency, write_latency, beat_cycles;
};

struct Burst {
    uint64_t address, beats, accepted;
};

struct Response {
    uint64_t cycle;
    unsigned code;
};

// Main memory: zero, but for the image that it begins with.
class MainMemory {
public:
    MainMemory(const Timing& timing) : timing_(timing) {}
    ~MainMemory() { std::free(bytes_); }

    void load(const uint8_t* image, uint64_t size) {
        std::free(bytes_);
        // Pages that nobody touches cost nothing.
        bytes_ = static_cast<uint8_t*>(std::calloc(timing_.bytes, 1));
        if (!bytes_) throw std::bad_alloc();
        if (size) std::memcpy(bytes_, image, size);
    }

    void save(uint8_t* image, uint64_t size) const { std::memcpy(image, bytes_, size); }

    // Drive the inputs of cycle `now` from the outputs of that cycle, which depend on registers only.
    template <typename Top>
    void drive(Top& top, uint64_t now) {
        top.m_axi_arready = top.m_axi_awready = 1;
        if (top.m_axi_arvalid) reads_.push_back({top.m_axi_araddr, top.m_axi_arlen + 1u, now});
        if (top.m_axi_awvalid) writes_.push_back({top.m_axi_awaddr, top.m_axi_awlen + 1u, now});
        drive_read(top, now);
        drive_write(top, now);
        top.m_axi_bvalid = !responses_.empty() && responses_.front().cycle <= now;
        if (top.m_axi_bvalid) {
            top.m_axi_bresp = responses_.front().code;
            responses_.pop_front();
        }
    }

private:
    Timing timing_;
    uint8_t* bytes_ = nullptr;
    std::deque<Burst> reads_, writes_;
    std::deque<Response> responses_;
    uint64_t next_read_ = 0, next_write_ = 0;  // first cycle in which a beat may come
    bool write_error_ = false;

    bool inside(uint64_t address) const { return address + kBusBytes <= timing_.bytes; }

    template <typename Top>
    void drive_read(Top& top, uint64_t now) {
        top.m_axi_rvalid = !reads_.empty() && now >= reads_.front().accepted + timing_.read_latency && now >= next_read_;
        if (!top.m_axi_rvalid) return;
        auto& burst = reads_.front();
        uint64_t beat[kBusWords] = {};
        if (inside(burst.address)) std::memcpy(beat, bytes_ + burst.address, kBusBytes);
        bankside::put_words(top.m_axi_rdata, BUS_BITS, beat);
        top.m_axi_rresp = inside(burst.address) ? kOkay : kDecodeError;
        top.m_axi_rlast = burst.beats == 1;
        burst.address += kBusBytes;
        next_read_ = now + timing_.beat_cycles;
        if (!--burst.beats) reads_.pop_front();
    }

    template <typename Top>
    void drive_write(Top& top, uint64_t now) {
        top.m_axi_wready = now >= next_write_;
        if (!top.m_axi_wvalid || !top.m_axi_wready) return;
        auto& burst = writes_.front();
        uint64_t beat[kBusWords];
        bankside::get_words(top.m_axi_wdata, BUS_BITS, beat);
        if (inside(burst.address))
            std::memcpy(bytes_ + burst.address, beat, kBusBytes);
        else
            write_error_ = true;
        burst.address += kBusBytes;
        next_write_ = now + timing_.beat_cycles;
        if (!top.m_axi_wlast) return;
        responses_.push_back({now + timing_.write_latency, write_error_ ? kDecodeError : kOkay});
        write_error_ = false;
        writes_.pop_front();
    }
};

struct Event {
    uint64_t cycle, engine, kind;
};

struct Pass {
    uint64_t cycle, iteration, tile;
};

struct Machine {
    bankside::Model<Vbankside_array_top> model;
    MainMemory memory;
    std::vector<Pass> passes;
    std::vector<Event> events;
    std::string wave_file;
    uint64_t wave_first = 0, wave_last = 0;
    bool wave_armed = false;

    explicit Machine(const Timing& timing) : memory(timing) {}

    // One clock cycle. With `look` all outputs of the cycle are seen, also those that follow inputs at once.
    template <typename Look>
    void cycle(Look&& look) {
        memory.drive(*model.top, model.cycle);
        look();
        model.step();
    }

    void cycle() {
        cycle([] {});
    }
};

// Everything that a run reports, filled for Python (same order as sim/rtl/array.py).
struct Report {
    uint64_t cycles, counted, status, pc, refused;
    uint64_t counts[REASONS];
};

bool traced(const Machine& machine, unsigned bit) { return bankside::get_bits(machine.model.top->events, bit, 1); }

// `count` register writes, as many per cycle as the machine takes; how many were not answered with OKAY.
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

void record(Machine& machine, uint64_t cycle) {
    machine.model.settle();
    const auto& trace = machine.model.top->events;
    if (traced(machine, TRACE_SLOT_0))
        machine.passes.push_back({cycle, traced(machine, TRACE_ITERATION),
                                  bankside::get_bits(trace, TRACE_TILE, TRACE_TILE_BITS)});
    // Engines in the order of the specification; begin, last action, completion.
    constexpr unsigned bits[3][3] = {{TRACE_LOAD, TRACE_LOAD + 1, TRACE_LOAD + 2},
                                     {TRACE_DECISION, TRACE_DONE, TRACE_COMPLETE},
                                     {TRACE_STORE, TRACE_STORE + 1, TRACE_STORE + 2}};
    for (unsigned engine = 0; engine < 3; ++engine)
        for (unsigned kind = 0; kind < 3; ++kind)
            if (traced(machine, bits[engine][kind])) machine.events.push_back({cycle, engine, kind});
}

void stop_waves(Machine& machine) {
    machine.model.stop_trace();
    machine.wave_armed = false;
}

// Cycles from the first in which the program runs to the last, at most `limit`.
uint64_t execute(Machine& machine, uint64_t limit, bool trace) {
    uint64_t cycle = 0;
    for (; cycle < limit && traced(machine, TRACE_RUNNING); ++cycle) {
        if (machine.wave_armed && cycle == machine.wave_first) machine.model.start_trace(machine.wave_file.c_str());
        machine.cycle([&] {
            if (trace) record(machine, cycle);
        });
        if (machine.wave_armed && cycle == machine.wave_last) stop_waves(machine);
    }
    if (machine.wave_armed) stop_waves(machine);
    return cycle;
}

}  // namespace

extern "C" {

void* array_new(const Timing* timing) {
    auto* machine = new Machine(*timing);
    machine->memory.load(nullptr, 0);
    machine->model.reset(3);
    return machine;
}

void array_delete(void* handle) { delete static_cast<Machine*>(handle); }

void array_waves(void* handle, const char* file, uint64_t first, uint64_t last) {
    auto& machine = *static_cast<Machine*>(handle);
    machine.wave_file = file;
    machine.wave_first = first;
    machine.wave_last = last;
    machine.wave_armed = true;
}

// Load `words` and run them on the memory `image` (bytes), which becomes the memory afterwards. Stops at HALT, on an error, or
// after `limit` cycles, and leaves a machine that takes the next program.
void array_run(void* handle, const uint64_t* words, uint64_t count, uint8_t* image, uint64_t size, uint64_t limit, int trace,
               Report* report) {
    auto& machine = *static_cast<Machine*>(handle);
    machine.passes.clear();
    machine.events.clear();
    *report = Report{};
    machine.memory.load(image, size);
    report->refused = write_registers(machine, PROGRAM, words, count);
    auto& top = *machine.model.top;
    top.s_axil_awaddr = CONTROL;
    top.s_axil_wdata = START;
    top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 1;
    top.s_axil_wstrb = 0xFF;
    machine.cycle();
    top.s_axil_awvalid = top.s_axil_wvalid = 0;
    for (unsigned wait = 0; wait < 16 && !traced(machine, TRACE_RUNNING); ++wait) machine.cycle();
    report->cycles = execute(machine, limit, trace);
    top.s_axil_bready = 0;
    report->status = read_register(machine, STATUS);
    report->counted = read_register(machine, CYCLES);
    report->pc = read_register(machine, POSITION);
    for (unsigned i = 0; i < REASONS; ++i) report->counts[i] = read_register(machine, COUNTERS + 8 * i);
    if (report->status != DONE) {
        const uint64_t clear = CLEAR;
        write_registers(machine, CONTROL, &clear, 1);
        while (read_register(machine, STATUS)) {
        }
    }
    machine.memory.save(image, size);
}

uint64_t array_pass_count(void* handle) { return static_cast<Machine*>(handle)->passes.size(); }
uint64_t array_event_count(void* handle) { return static_cast<Machine*>(handle)->events.size(); }

void array_passes(void* handle, uint64_t* out) {
    const auto& passes = static_cast<Machine*>(handle)->passes;
    std::memcpy(out, passes.data(), passes.size() * sizeof(Pass));
}

void array_events(void* handle, uint64_t* out) {
    const auto& events = static_cast<Machine*>(handle)->events;
    std::memcpy(out, events.data(), events.size() * sizeof(Event));
}

}  // extern "C"
