// Runs programs on the Verilated `bankside_pim_top`: feeds the host stream, collects outputs, counters and traces.
//
// Verilator writes a double underscore of a port name as ___05F.
// Built with -DBURST_BITS (bits of a host burst), -DREASONS (stall counters), -DCOUNTER_BITS, -DENGINES.
#include <vector>

#include "Vbankside_pim_top.h"
#include "bankside_shim.h"

namespace {

constexpr unsigned kBurstWords = (BURST_BITS + 63) / 64;
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
    std::string wave_file;
    uint64_t wave_first = 0, wave_last = 0;
    bool wave_armed = false;
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
    auto& machine = *static_cast<Machine*>(handle);
    machine.wave_file = file;
    machine.wave_first = first;
    machine.wave_last = last;
    machine.wave_armed = true;
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
    const auto offer = [&] {
        top.host_in___05Fvalid = report->taken < in_count;
        if (top.host_in___05Fvalid)
            bankside::put_words(top.host_in___05Fpayload, BURST_BITS, host_in + report->taken * kBurstWords);
    };
    offer();
    top.start = 1;
    model.step();
    top.start = 0;
    model.settle();
    for (uint64_t cycle = 0; cycle < limit; ++cycle) {
        if (machine.wave_armed && cycle == machine.wave_first) model.start_trace(machine.wave_file.c_str());
        if (trace) record(machine, cycle);
        if (top.host_out___05Fvalid && report->sent < out_capacity)
            bankside::get_words(top.host_out___05Fpayload, BURST_BITS, host_out + report->sent * kBurstWords);
        report->sent += top.host_out___05Fvalid;
        const bool taken = top.host_in___05Fvalid && top.host_in___05Fready, done = top.done;
        model.step();
        if (machine.wave_armed && cycle == machine.wave_last) {
            model.stop_trace();
            machine.wave_armed = false;
        }
        if (taken) {
            ++report->taken;
            offer();
            model.settle();
        }
        report->cycles = cycle + 1;
        if (done || top.error) {
            report->finished = done;
            break;
        }
    }
    if (machine.wave_armed) {
        model.stop_trace();
        machine.wave_armed = false;
    }
    top.host_in___05Fvalid = 0;
    report->error = top.error;
    report->pc = top.pc;
    report->violation = top.violation;
    report->unrefreshable = top.unrefreshable;
    for (unsigned i = 0; i < REASONS; ++i)
        report->counts[i] = bankside::get_bits(top.counts, i * COUNTER_BITS, COUNTER_BITS);
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
