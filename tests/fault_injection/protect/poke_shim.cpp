// Runs a harness (ports stimulus, response, corrected, detected) with single upsets.
#include <cstdint>
#include <string>
#include <vector>

#include "Vbankside_harness.h"
#include "bankside_shim.h"

using Model = bankside::Model<Vbankside_harness>;

namespace {

struct Place {
    std::string scope, name;
};
std::vector<Place> places;

// Invert one bit of a register (word 0) or of a word of a memory.
void flip(Model& model, const Place& place, uint64_t word, uint64_t bit) {
    const VerilatedScope* scope = model.context->scopeFind(place.scope.c_str());
    VerilatedVar* var = scope ? scope->varFind(place.name.c_str()) : nullptr;
    if (!var) throw std::out_of_range("no " + place.scope + "." + place.name);
    const unsigned width = static_cast<unsigned>(var->entBits());
    unsigned bytes = width <= 8 ? 1 : width <= 16 ? 2 : width <= 32 ? 4 : 8;
    if (width > 64) bytes = (width + 31) / 32 * 4;
    auto* data = static_cast<uint8_t*>(var->datap()) + word * bytes;
    data[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
}

}  // namespace

extern "C" {

// Index of a register or memory, -1 when the model has none of that name.
int place_of(const char* scope, const char* name) {
    Model model;
    const VerilatedScope* found = model.context->scopeFind(scope);
    if (!found || !found->varFind(name)) return -1;
    places.push_back({scope, name});
    return static_cast<int>(places.size()) - 1;
}

// Every run: reset, then one row of stimuli per cycle. `faults`: rows of (cycle, flips, place, word,
// bit, place, word, bit); the flips happen at the beginning of the cycle, before its outputs are
// read. `responses` and `alarms` (bit 0 corrected, bit 1 detected) have a row per run and cycle.
void runs(const uint64_t* stimuli, uint64_t cycles, const uint64_t* faults, uint64_t count,
          uint64_t* responses, uint8_t* alarms) {
    constexpr unsigned in = (STIMULUS_BITS + 63) / 64, out = (RESPONSE_BITS + 63) / 64;
    for (uint64_t run = 0; run < count; ++run) {
        Model model;
        model.reset(2);
        const uint64_t* fault = faults + 8 * run;
        for (uint64_t cycle = 0; cycle < cycles; ++cycle) {
            if (cycle == fault[0])
                for (uint64_t i = 0; i < fault[1]; ++i)
                    flip(model, places[fault[2 + 3 * i]], fault[3 + 3 * i], fault[4 + 3 * i]);
            bankside::put_words(model.top->stimulus, STIMULUS_BITS, stimuli + in * cycle);
            model.settle();
            const uint64_t row = run * cycles + cycle;
            bankside::get_words(model.top->response, RESPONSE_BITS, responses + out * row);
            alarms[row] = static_cast<uint8_t>(model.top->corrected | model.top->detected << 1);
            model.step();
        }
    }
}
}
