// Drives a compiled `CommandProbe` with a list of events in one call (see sim/rtl/dram_device.py).
#include "Vbankside_dram_probe.h"
#include "bankside_shim.h"

namespace {

enum Kind : uint32_t { kPeek = 0, kCommit = 1, kReset = 2 };

// Same fields as EVENT_DTYPE and ANSWER_DTYPE.
struct Event {
    uint64_t cycle;
    uint32_t kind, command, bank, row;
};

struct Answer {
    uint32_t accept, violation, legal, stall;
    uint64_t open_mask;
};

struct Widths {
    uint32_t command, bank, row;
};

struct Probe {
    bankside::Model<Vbankside_dram_probe> model;
    Widths widths;
    uint64_t start = 0;  // model cycle of cycle 0 of the events
};

void reset(Probe& probe) {
    probe.model.top->valid = 0;
    probe.model.reset();
    probe.start = probe.model.cycle;
}

void present(Probe& probe, const Event& event, Answer& answer) {
    auto& top = *probe.model.top;
    top.valid = 1;
    bankside::put(top.command, probe.widths.command, event.command);
    bankside::put(top.bank, probe.widths.bank, event.bank);
    bankside::put(top.row, probe.widths.row, event.row);
    probe.model.settle();
    answer = {top.accept, top.violation, top.legal, top.stall, top.open_mask};
}

}  // namespace

extern "C" {

void* dram_new(const Widths* widths) {
    auto* probe = new Probe;
    probe->widths = *widths;
    reset(*probe);
    return probe;
}

void dram_delete(void* handle) { delete static_cast<Probe*>(handle); }

// Plays `count` events; returns how many were played: fewer when one lies in the past.
uint64_t dram_play(void* handle, const Event* events, uint64_t count, Answer* answers) {
    auto& probe = *static_cast<Probe*>(handle);
    auto& model = probe.model;
    for (uint64_t i = 0; i < count; ++i) {
        if (events[i].kind == kReset) {
            reset(probe);
            continue;
        }
        if (events[i].cycle < model.cycle - probe.start) return i;
        model.steps(events[i].cycle - (model.cycle - probe.start));
        present(probe, events[i], answers[i]);
        // Without a clock edge the command has never been there.
        if (events[i].kind == kCommit) model.step();
        model.top->valid = 0;
    }
    return count;
}

}  // extern "C"
