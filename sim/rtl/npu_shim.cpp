// Runs streams on the Verilated `bankside_npu_top` in its bench (npu_bench.h); traces.
//
// Built with the macros of npu_bench.h.
#include "Vbankside_npu_top.h"
#include "axi_run.h"
#include "npu_bench.h"

namespace {

struct World {
    using Bench = bankside::NpuBench;

    bankside::Storage main, words;
    Bench bench;

    World(uint64_t bytes, uint64_t word_bytes, const bankside::AxiTiming& timing)
        : main(bytes), words(word_bytes), bench(Bench::of(timing)) {}

    template <typename Ports>
    void drive(Ports& top, uint64_t now) {
        bench.drive(top, main, words, now);
    }
};

struct Event {
    uint64_t cycle, engine, kind, opcode;
};

struct Machine : bankside::AxiMachine<Vbankside_npu_top, World> {
    std::vector<Event> events;
};

// Everything that a run reports, filled for Python (same order as sim/rtl/npu.py).
struct Report {
    uint64_t cycles, refused, stuck;
    uint64_t registers[World::Bench::kReport];
};

struct Job {
    uint64_t bytes, words, image, regions, limit, trace;
    bankside::AxiTiming timing;
};

void record(Machine& machine, uint64_t cycle) {
    machine.model.settle();
    // Engines in the order of the specification; begin, last action, completion.
    constexpr unsigned bits[2] = {TRACE_DMA, TRACE_KERNEL};
    for (unsigned engine = 0; engine < 2; ++engine)
        for (unsigned kind = 0; kind < 3; ++kind)
            if (machine.traced(bits[engine] + kind))
                machine.events.push_back(
                    {cycle, engine, kind, bankside::get_bits(machine.model.top->events, TRACE_OPCODE, 8)});
}

// QBASE stays 0: the words have a memory of their own.
uint64_t set_up(Machine& machine, const Job& job, const uint64_t* regions) {
    const uint64_t queue[] = {0, job.words};
    uint64_t refused = machine.write(QBASE, queue, 2);
    std::vector<uint64_t> bounds(regions, regions + 2 * job.regions);
    bounds.resize(2 * REGIONS);
    return refused + machine.write(REGION, bounds.data(), bounds.size());
}

// A machine that takes the next stream, from one that has stopped; false where it is stuck.
bool clear(Machine& machine) {
    if (!machine.await_clear(STATUS, STATUS_RUNNING)) return false;
    machine.write(CONTROL, CLEAR);
    return machine.await_clear(STATUS, ~uint64_t{0});
}

}  // namespace

extern "C" {

void* npu_new() {
    auto* machine = new Machine;
    machine->model.reset(3);
    return machine;
}

void npu_delete(void* handle) { delete static_cast<Machine*>(handle); }

void npu_waves(void* handle, const char* file, uint64_t first, uint64_t last) {
    static_cast<Machine*>(handle)->waves.arm(file, first, last);
}

// Run `words` on the main memory `image` (job.image bytes), which becomes the memory afterwards. Stops at STOP, at a fault, or after
// job.limit cycles; but for the last the machine takes the next stream.
void npu_run(void* handle, const Job* job, const uint64_t* words, uint8_t* image, const uint64_t* regions, Report* report) {
    auto& machine = *static_cast<Machine*>(handle);
    machine.events.clear();
    *report = Report{};
    machine.world.reset(new World(job->bytes, 8 * std::max<uint64_t>(job->words, 1), job->timing));
    auto& world = *machine.world;
    if (job->image) std::memcpy(world.main.at(0), image, job->image);
    std::memcpy(world.words.at(0), words, 8 * job->words);
    report->refused = set_up(machine, *job, regions);
    machine.start(CONTROL, START);
    report->cycles = machine.execute(job->limit, [&](uint64_t cycle) {
        if (job->trace) record(machine, cycle);
    });
    const bool over = !machine.running();
    machine.read_report(report->registers);
    report->stuck = over && !clear(machine);
    if (job->image) std::memcpy(image, world.main.at(0), job->image);
}

uint64_t npu_event_count(void* handle) { return static_cast<Machine*>(handle)->events.size(); }

void npu_events(void* handle, uint64_t* out) {
    const auto& events = static_cast<Machine*>(handle)->events;
    std::memcpy(out, events.data(), events.size() * sizeof(Event));
}

}  // extern "C"
