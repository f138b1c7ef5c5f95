// Gives Python every helper of bankside_shim.h on the test design `bankside_ports`.
#include <string>

#include "Vbankside_ports.h"
#include "bankside_shim.h"

using Model = bankside::Model<Vbankside_ports>;

namespace {
std::string problem;

template <typename Function>
int guarded(Function function) {
    try {
        function();
        return 0;
    } catch (const std::exception& error) {
        problem = error.what();
        return 1;
    }
}
}  // namespace

extern "C" {

const char* last_problem() { return problem.c_str(); }
void* model_new() { return new Model; }
void model_free(void* model) { delete static_cast<Model*>(model); }
void model_step(void* model, uint64_t count) { static_cast<Model*>(model)->steps(count); }
void model_reset(void* model) { static_cast<Model*>(model)->reset(2); }
// Whether a step is one evaluation; asked between steps, where arming changes nothing.
int model_steps_fast(void* model) {
    auto& top = *static_cast<Model*>(model)->top;
    if (!bankside::detail::arm_rising_edge(top.rootp, 0)) return 0;
    static_cast<Model*>(model)->step();
    return 1;
}
void model_settle(void* model) { static_cast<Model*>(model)->settle(); }
uint64_t model_cycle(void* model) { return static_cast<Model*>(model)->cycle; }

// Ports by number: 0 narrow (5 bits), 1 full (64 bits), 2 wide (100 bits).
void put_port(void* model, int port, const uint64_t* words) {
    auto& top = *static_cast<Model*>(model)->top;
    if (port == 0) bankside::put(top.narrow, 5, words[0]);
    if (port == 1) bankside::put_words(top.full, 64, words);
    if (port == 2) bankside::put_words(top.wide, 100, words);
}

void get_port(void* model, int port, uint64_t* words) {
    auto& top = *static_cast<Model*>(model)->top;
    if (port == 0) words[0] = bankside::get(top.narrow_out);
    if (port == 1) bankside::get_words(top.full_out, 64, words);
    if (port == 2) bankside::get_words(top.wide_out, 100, words);
}

uint64_t get_wide_bits(void* model, unsigned low, unsigned count) {
    return bankside::get_bits(static_cast<Model*>(model)->top->wide_out, low, count);
}

void put_wide_bits(void* model, unsigned low, unsigned count, uint64_t value) {
    bankside::put_bits(static_cast<Model*>(model)->top->wide, low, count, value);
}

int memory_size(void* model, const char* path, unsigned* width, unsigned* depth) {
    return guarded([&] {
        bankside::Memory memory(*static_cast<Model*>(model)->context, "bankside_ports", path);
        *width = memory.width;
        *depth = memory.depth;
    });
}

int memory_read(void* model, const char* path, unsigned first, unsigned count, uint64_t* into) {
    return guarded([&] {
        bankside::Memory memory(*static_cast<Model*>(model)->context, "bankside_ports", path);
        memory.read(first, count, into);
    });
}

int memory_write(void* model, const char* path, unsigned first, unsigned count, const uint64_t* from) {
    return guarded([&] {
        bankside::Memory memory(*static_cast<Model*>(model)->context, "bankside_ports", path);
        memory.write(first, count, from);
    });
}

int trace_start(void* model, const char* file) {
    return guarded([&] { static_cast<Model*>(model)->start_trace(file); });
}

void trace_stop(void* model) { static_cast<Model*>(model)->stop_trace(); }

}  // extern "C"
