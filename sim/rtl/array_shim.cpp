// Runs programs on the Verilated `bankside_array_top`: the host on AXI4-Lite, the main memory on AXI4 (docs/array.md
// section 4), traces.
//
// Built with -DBUS_BITS, -DREASONS (stall counters), -DCONTROL, -DSTATUS, ... (byte addresses and bits of the register map),
// -DTRACE_... (bits of the port `events`).
#include <memory>
#include <vector>

#include "Vbankside_array_top.h"
#include "axi_shim.h"

namespace {

struct Timing {
    uint64_t bytes, read_latency, write_latency, beat_cycles;
};

struct Memory {
    bankside::Storage main;
    bankside::ReadChannel<BUS_BITS> reads;
    bankside::WriteChannel<BUS_BITS> writes;

    explicit Memory(const Timing& timing)
        : main(timing.bytes), reads(main, without_jitter(timing)), writes(main, without_jitter(timing)) {}

    static bankside::AxiTiming without_jitter(const Timing& timing) {
        return {timing.read_latency, timing.write_latency, timing.beat_cycles, 0, 0};
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
    Timing timing;
    std::unique_ptr<Memory> memory;
    std::vector<Pass> passes;
    std::vector<Event> events;
    std::string wave_file;
    uint64_t wave_first = 0, wave_last = 0;
    bool wave_armed = false;

    explicit Machine(const Timing& times) : timing(times) {}

    // One clock cycle. With `look` all outputs of the cycle are seen, also those that follow inputs at once.
    template <typename Look>
    void cycle(Look&& look) {
        if (memory) {
            BANKSIDE_DRIVE_READ(memory->reads, *model.top, m_axi_, BUS_BITS, model.cycle);
            BANKSIDE_DRIVE_WRITE(memory->writes, *model.top, m_axi_, BUS_BITS, model.cycle);
        }
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
    machine.memory.reset(new Memory(machine.timing));
    if (size) std::memcpy(machine.memory->main.at(0), image, size);
    report->refused = bankside::write_registers(machine, PROGRAM, words, count);
    bankside::send_register(machine, CONTROL, START);
    for (unsigned wait = 0; wait < 16 && !traced(machine, TRACE_RUNNING); ++wait) machine.cycle();
    report->cycles = execute(machine, limit, trace);
    machine.model.top->s_axil_bready = 0;
    report->status = bankside::read_register(machine, STATUS);
    report->counted = bankside::read_register(machine, CYCLES);
    report->pc = bankside::read_register(machine, POSITION);
    for (unsigned i = 0; i < REASONS; ++i) report->counts[i] = bankside::read_register(machine, COUNTERS + 8 * i);
    if (report->status != DONE) {
        const uint64_t clear = CLEAR;
        bankside::write_registers(machine, CONTROL, &clear, 1);
        while (bankside::read_register(machine, STATUS)) {
        }
    }
    if (size) std::memcpy(image, machine.memory->main.at(0), size);
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
