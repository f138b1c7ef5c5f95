// Runs programs on the Verilated `bankside_pim_top` with its host (pim_bench.h): collects outputs, counters and traces.
//
// Built with the macros of pim_bench.h, -DENGINES and -DCOMMAND_BITS (of the traced command).
#include <vector>

#include "Vbankside_pim_top.h"
#include "bankside_shim.h"
#include "pim_bench.h"

namespace {

constexpr unsigned kBurstWords = bankside::PimBench::kBurstWords;
constexpr unsigned kOpcodeBits = 6;

struct MacroEvent {
    uint64_t cycle;
    uint8_t engine, opcode, last;
};

struct CommandEvent {
    uint64_t cycle, payload;
};

struct Machine {
    bankside::Model<Vbankside_pim_top> model;
    std::vector<CommandEvent> commands;
    std::vector<MacroEvent> macros;
    bankside::Waves waves;
};

// Everything that a run reports, filled for Python (same order as sim/rtl/pim.py).
struct Report {
    uint64_t cycles, error, pc, violation, unrefreshable, taken, sent, finished;
    uint64_t counts[REASONS];
};

void record(Machine& machine, uint64_t cycle) {
    auto& top = *machine.model.top;
    if (top.trace_valid)
        machine.commands.push_back({cycle, bankside::get_bits(top.trace_command, 0, COMMAND_BITS)});
    if (!(top.load | top.last)) return;
    for (unsigned e = 0; e < ENGINES; ++e) {
        const uint8_t opcode = bankside::get_bits(top.loaded, e * kOpcodeBits, kOpcodeBits);
        if (top.last >> e & 1) machine.macros.push_back({cycle, uint8_t(e), 0, 1});
        if (top.load >> e & 1) machine.macros.push_back({cycle, uint8_t(e), opcode, 0});
    }
}

// Cycles until the program has ended, with an error or without (`report.finished`), or `limit` is reached.
void execute(Machine& machine, bankside::PimBench& host, const uint64_t* host_in, uint64_t in_count, uint64_t* host_out,
             uint64_t out_capacity, uint64_t limit, bool trace, Report& report) {
    auto& model = machine.model;
    auto& top = *model.top;
    const auto keep = [&](uint64_t number, const uint64_t* words) {
        if (number < out_capacity) std::memcpy(host_out + number * kBurstWords, words, 8 * kBurstWords);
    };
    for (uint64_t cycle = 0; cycle < limit; ++cycle) {
        machine.waves.before(model, cycle);
        if (trace) record(machine, cycle);
        const bool done = host.see(top, keep);
        model.step();
        machine.waves.after(model, cycle);
        if (host.proceed(top, host_in, in_count)) model.settle();
        report.cycles = cycle + 1;
        report.finished = done;
        if (done || top.error) break;
    }
    machine.waves.stop(model);
}

}  // namespace

extern "C" {

void* pim_new(int refresh) {
    auto* machine = new Machine;
    machine->model.top->refresh = refresh;
    machine->model.top->host_out___05Fready = 1;
    machine->model.reset(2);
    return machine;
}

void pim_delete(void* handle) { delete static_cast<Machine*>(handle); }

void pim_waves(void* handle, const char* file, uint64_t first, uint64_t last) {
    static_cast<Machine*>(handle)->waves.arm(file, first, last);
}

// Cycles until the leftovers of the previous program are gone; returns 0 when that does not happen within `limit`.
int pim_wait_ready(void* handle, uint64_t limit) {
    auto& model = static_cast<Machine*>(handle)->model;
    model.settle();
    while (!model.top->ready && limit--) model.step();
    return model.top->ready;
}

void pim_program(void* handle, const uint64_t* words, uint64_t count) {
    auto& model = static_cast<Machine*>(handle)->model;
    auto& top = *model.top;
    top.program_en = 1;
    for (uint64_t i = 0; i < count; ++i) {
        top.program_addr = i;
        top.program_data = words[i];
        model.step();
    }
    top.program_en = 0;
}

// Run the loaded program. host_in, host_out: kBurstWords 64-bit words per burst. Stops at HALT, on an error, or after `limit`
// cycles (finished = 0).
void pim_run(void* handle, const uint64_t* host_in, uint64_t in_count, uint64_t* host_out, uint64_t out_capacity,
             uint64_t limit, int trace, Report* report) {
    auto& machine = *static_cast<Machine*>(handle);
    auto& model = machine.model;
    auto& top = *model.top;
    machine.commands.clear();
    machine.macros.clear();
    *report = Report{};
    bankside::PimBench host{};
    host.offer(top, host_in, in_count);
    top.start = 1;
    model.step();
    top.start = 0;
    model.settle();
    execute(machine, host, host_in, in_count, host_out, out_capacity, limit, trace, *report);
    report->taken = host.taken;
    report->sent = host.sent;
    top.host_in___05Fvalid = 0;
    report->error = top.error;
    report->pc = top.pc;
    report->violation = top.violation;
    report->unrefreshable = top.unrefreshable;
    for (unsigned i = 0; i < REASONS; ++i)
        report->counts[i] = bankside::PimBench::counter(top, i);
}

uint64_t pim_command_count(void* handle) { return static_cast<Machine*>(handle)->commands.size(); }
uint64_t pim_macro_count(void* handle) { return static_cast<Machine*>(handle)->macros.size(); }

void pim_commands(void* handle, uint64_t* out) {
    for (const auto& event : static_cast<Machine*>(handle)->commands) {
        *out++ = event.cycle;
        *out++ = event.payload;
    }
}

void pim_macros(void* handle, uint64_t* out) {
    for (const auto& event : static_cast<Machine*>(handle)->macros) {
        *out++ = event.cycle;
        *out++ = event.engine | uint64_t(event.opcode) << 8 | uint64_t(event.last) << 16;
    }
}

}  // extern "C"
