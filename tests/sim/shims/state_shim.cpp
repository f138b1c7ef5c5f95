// Gives Python the referee's access to the state of the test design `bankside_state`.
#include "Vbankside_state.h"
#include "referee.h"

using namespace bankside;

namespace {

struct Machine {
    Model<Vbankside_state> model;
    State state;
};

Machine& of(void* handle) { return *static_cast<Machine*>(handle); }

}  // namespace

extern "C" {

void* state_new() { return new Machine; }
void state_delete(void* handle) { delete &of(handle); }

int state_add(void* handle, const char* variable, const char* witness, const char* select) {
    auto& machine = of(handle);
    return machine.state.add(*machine.model.context, "bankside_state", "", variable, witness, select);
}

int state_prove(void* handle, uint64_t site, uint64_t word, uint64_t mask) {
    return of(handle).state.prove(of(handle).model, site, word, 0, mask);
}

void state_write(void* handle, uint64_t site, uint64_t word, uint64_t value) {
    of(handle).state.variables[site].set(word, 0, value);
    of(handle).model.settle();
}

void state_step(void* handle, int en) {
    of(handle).model.top->en = en;
    of(handle).model.step();
}

uint64_t state_shown(void* handle) { return of(handle).model.top->y; }
uint64_t state_word(void* handle) { return of(handle).model.top->z; }

}  // extern "C"
