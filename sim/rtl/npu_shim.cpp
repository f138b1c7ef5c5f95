// Runs streams on the Verilated `bankside_npu_top`: the host on AXI4-Lite, main memory on port m0, the words on port m1 (docs/npu.md
// sections 7, 9 and 10), traces.
//
// Built with -DBUS_BITS, -DREASONS (stall counters), -DREGIONS, -DCONTROL, -DSTATUS, ... (byte addresses and bits of the register
// map), -DTRACE_... (bits of the port `events`).
#include <memory>
#include <vector>

#include "Vbankside_npu_top.h"
#include "axi_shim.h"

namespace {

constexpr unsigned kWordBits = 64;
constexpr uint32_t kFetchSeed = 0x9E3779B9;

struct Memory {
    bankside::Storage main, words;
    bankside::ReadChannel<BUS_BITS> reads;
    bankside::WriteChannel<BUS_BITS> writes;
    bankside::ReadChannel<kWordBits> fetches;

    Memory(uint64_t bytes, uint64_t word_bytes, const bankside::AxiTiming& timing)
        : main(bytes), words(word_bytes), reads(main, timing), writes(main, timing), fetches(words, of_fetch(timing)) {}

    static bankside::AxiTiming of_fetch(bankside::AxiTiming timing) {
        if (const uint64_t seed = timing.seed ^ kFetchSeed) timing.seed = seed;
        return timing;
    }
};

struct Event {
    uint64_t cycle, engine, kind, opcode;
};

struct Machine {
    bankside::Model<Vbankside_npu_top> model;
    std::unique_ptr<Memory> memory;
    std::vector<Event> events;
    std::string wave_file;
    uint64_t wave_first = 0, wave_last = 0;
    bool wave_armed = false;

    // One clock cycle. With `look` all outputs of the cycle are seen, also those that follow inputs at once.
    template <typename Look>
    void cycle(Look&& look) {
        auto& top = *model.top;
        const uint64_t now = model.cycle;
        if (memory) {
            BANKSIDE_DRIVE_READ(memory->reads, top, m0_axi_, BUS_BITS, now);
            BANKSIDE_DRIVE_WRITE(memory->writes, top, m0_axi_, BUS_BITS, now);
            BANKSIDE_DRIVE_READ(memory->fetches, top, m1_axi_, kWordBits, now);
        }
        look();
        model.step();
    }

    void cycle() {
        cycle([] {});
    }

    bool traced(unsigned bit) const { return bankside::get_bits(model.top->events, bit, 1); }
};

// Everything that a run reports, filled for Python (same order as sim/rtl/npu.py).
struct Report {
    uint64_t cycles, counted, status, refused;
    uint64_t counts[REASONS];
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

void stop_waves(Machine& machine) {
    machine.model.stop_trace();
    machine.wave_armed = false;
}

// Cycles from the first in which the stream runs to the last, at most `limit`.
uint64_t execute(Machine& machine, uint64_t limit, bool trace) {
    uint64_t cycle = 0;
    for (; cycle < limit && machine.traced(TRACE_RUNNING); ++cycle) {
        if (machine.wave_armed && cycle == machine.wave_first) machine.model.start_trace(machine.wave_file.c_str());
        machine.cycle([&] {
            if (trace) record(machine, cycle);
        });
        if (machine.wave_armed && cycle == machine.wave_last) stop_waves(machine);
    }
    if (machine.wave_armed) stop_waves(machine);
    return cycle;
}

// QBASE stays 0: the words have a memory of their own.
uint64_t set_up(Machine& machine, const Job& job, const uint64_t* regions) {
    const uint64_t queue[] = {0, job.words};
    uint64_t refused = bankside::write_registers(machine, QBASE, queue, 2);
    std::vector<uint64_t> bounds(regions, regions + 2 * job.regions);
    bounds.resize(2 * REGIONS);
    return refused + bankside::write_registers(machine, REGION, bounds.data(), bounds.size());
}

void report_state(Machine& machine, Report* report) {
    machine.model.top->s_axil_bready = 0;
    report->status = bankside::read_register(machine, STATUS);
    report->counted = bankside::read_register(machine, CYCLES);
    for (unsigned i = 0; i < REASONS; ++i) report->counts[i] = bankside::read_register(machine, COUNTERS + 8 * i);
}

// A machine that takes the next stream, from one that has stopped.
void clear(Machine& machine) {
    while (bankside::read_register(machine, STATUS) & STATUS_RUNNING) {
    }
    const uint64_t value = CLEAR;
    bankside::write_registers(machine, CONTROL, &value, 1);
    while (bankside::read_register(machine, STATUS)) {
    }
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
    auto& machine = *static_cast<Machine*>(handle);
    machine.wave_file = file;
    machine.wave_first = first;
    machine.wave_last = last;
    machine.wave_armed = true;
}

// Run `words` on the main memory `image` (job.image bytes), which becomes the memory afterwards. Stops at STOP, at a fault, or after
// job.limit cycles; but for the last the machine takes the next stream.
void npu_run(void* handle, const Job* job, const uint64_t* words, uint8_t* image, const uint64_t* regions, Report* report) {
    auto& machine = *static_cast<Machine*>(handle);
    machine.events.clear();
    *report = Report{};
    machine.memory.reset(new Memory(job->bytes, 8 * std::max<uint64_t>(job->words, 1), job->timing));
    auto& memory = *machine.memory;
    if (job->image) std::memcpy(memory.main.at(0), image, job->image);
    std::memcpy(memory.words.at(0), words, 8 * job->words);
    report->refused = set_up(machine, *job, regions);
    bankside::send_register(machine, CONTROL, START);
    for (unsigned wait = 0; wait < 16 && !machine.traced(TRACE_RUNNING); ++wait) machine.cycle();
    report->cycles = execute(machine, job->limit, job->trace);
    const bool over = !machine.traced(TRACE_RUNNING);
    report_state(machine, report);
    if (over) clear(machine);
    if (job->image) std::memcpy(image, memory.main.at(0), job->image);
}

uint64_t npu_event_count(void* handle) { return static_cast<Machine*>(handle)->events.size(); }

void npu_events(void* handle, uint64_t* out) {
    const auto& events = static_cast<Machine*>(handle)->events;
    std::memcpy(out, events.data(), events.size() * sizeof(Event));
}

}  // extern "C"
