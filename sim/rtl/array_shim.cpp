// Runs programs on the Verilated `bankside_array_top` in its bench (array_bench.h); traces.
//
// Built with the macros of array_bench.h.
#include "Vbankside_array_top.h"
#include "array_bench.h"
#include "axi_run.h"

namespace {

struct Timing {
    uint64_t bytes, read_latency, write_latency, beat_cycles;
};

struct World {
    using Bench = bankside::ArrayBench;

    bankside::Storage main;
    Bench bench;

    explicit World(const Timing& t)
        : main(t.bytes), bench(Bench::of({t.read_latency, t.write_latency, t.beat_cycles, 0, 0})) {}

    template <typename Ports>
    void drive(Ports& top, uint64_t now) {
        bench.drive(top, main, now);
    }
};

struct Event {
    uint64_t cycle, engine, kind;
};

struct Pass {
    uint64_t cycle, iteration, tile;
};

struct Machine : bankside::AxiMachine<Vbankside_array_top, World> {
    Timing timing;
    std::vector<Pass> passes;
    std::vector<Event> events;

    explicit Machine(const Timing& times) : timing(times) {}
};

// Everything that a run reports, filled for Python (same order as sim/rtl/array.py).
struct Report {
    uint64_t cycles, refused, stuck;
    uint64_t registers[World::Bench::kReport];
};

void record(Machine& machine, uint64_t cycle) {
    machine.model.settle();
    if (machine.traced(TRACE_SLOT_0))
        machine.passes.push_back({cycle, machine.traced(TRACE_ITERATION),
                                  bankside::get_bits(machine.model.top->events, TRACE_TILE, TRACE_TILE_BITS)});
    // Engines in the order of the specification; begin, last action, completion.
    constexpr unsigned bits[3][3] = {{TRACE_LOAD, TRACE_LOAD + 1, TRACE_LOAD + 2},
                                     {TRACE_DECISION, TRACE_DONE, TRACE_COMPLETE},
                                     {TRACE_STORE, TRACE_STORE + 1, TRACE_STORE + 2}};
    for (unsigned engine = 0; engine < 3; ++engine)
        for (unsigned kind = 0; kind < 3; ++kind)
            if (machine.traced(bits[engine][kind])) machine.events.push_back({cycle, engine, kind});
}

// Load `words` and run them on what is in memory; a machine that takes the next program afterwards, unless it is stuck.
void run(Machine& machine, const uint64_t* words, uint64_t count, uint64_t limit, bool trace, Report& report) {
    report.refused = machine.write(PROGRAM, words, count);
    machine.start(CONTROL, START);
    report.cycles = machine.execute(limit, [&](uint64_t cycle) {
        if (trace) record(machine, cycle);
    });
    machine.read_report(report.registers);
    if (report.registers[0] == STATUS_DONE) return;
    machine.write(CONTROL, CLEAR);
    report.stuck = !machine.await_clear(STATUS, ~uint64_t{0});
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
    static_cast<Machine*>(handle)->waves.arm(file, first, last);
}

// Load `words` and run them on the memory `image` (bytes), which becomes the memory afterwards. Stops at HALT, on an error, or
// after `limit` cycles.
void array_run(void* handle, const uint64_t* words, uint64_t count, uint8_t* image, uint64_t size, uint64_t limit, int trace,
               Report* report) {
    auto& machine = *static_cast<Machine*>(handle);
    machine.passes.clear();
    machine.events.clear();
    *report = Report{};
    machine.world.reset(new World(machine.timing));
    if (size) std::memcpy(machine.world->main.at(0), image, size);
    run(machine, words, count, limit, trace, *report);
    if (size) std::memcpy(image, machine.world->main.at(0), size);
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
