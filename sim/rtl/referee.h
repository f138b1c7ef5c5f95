// State of a Verilated model from outside: every register and memory by its address, faults, snapshots.
#ifndef BANKSIDE_REFEREE_H
#define BANKSIDE_REFEREE_H

#include <string>
#include <vector>

#include "bankside_shim.h"

namespace bankside {

// One register or memory of the model, or the witness of one.
struct Variable {
    uint8_t* data = nullptr;
    unsigned width = 0, depth = 0, bytes = 0;  // bytes per word

    // `scope`: instance path below the top, "" for the top.
    static Variable find(const VerilatedContext& context, const std::string& top, const std::string& scope,
                         const std::string& name) {
        const std::string path = "TOP." + top + (scope.empty() ? "" : "." + scope);
        const VerilatedScope* found = context.scopeFind(path.c_str());
        VerilatedVar* var = found ? found->varFind(name.c_str()) : nullptr;
        if (found && !var) var = found->varFind(("\\" + name + " ").c_str());  // names that Verilog escapes
        if (!var || var->udims() > 1) return {};
        Variable v;
        v.data = static_cast<uint8_t*>(var->datap());
        v.width = static_cast<unsigned>(var->entBits());
        v.depth = var->udims() ? static_cast<unsigned>(var->elements(1)) : 1;
        v.bytes = v.width <= 8 ? 1 : v.width <= 16 ? 2 : v.width <= 32 ? 4 : v.width <= 64 ? 8 : (v.width + 31) / 32 * 4;
        return v;
    }

    size_t size() const { return size_t{bytes} * depth; }

    // Bits [64 chunk, 64 chunk + 64) of a word.
    uint64_t get(uint64_t word, unsigned chunk) const {
        uint64_t value = 0;
        std::memcpy(&value, data + word * bytes + 8 * chunk, step(chunk));
        return value;
    }

    void set(uint64_t word, unsigned chunk, uint64_t value) {
        std::memcpy(data + word * bytes + 8 * chunk, &value, step(chunk));
    }

private:
    size_t step(unsigned chunk) const { return std::min<size_t>(8, bytes - 8 * chunk); }
};

enum Op : uint64_t { kFlip = 0, kHold = 1, kInvert = 2, kForce = 3 };
// kGate: a register of the falling edge. Its value of the cycle comes before anybody looks at it, so a deposit is there only at the
// end of a run; one while the clock is high would be an edge of what it gates.
enum Place : uint64_t { kState = 0, kStore = 1, kInput = 2, kOutput = 3, kNet = 4, kGate = 5 };

// An action on 64 bits of a word, as sim/rtl/referee.py writes it. `site`: number of the variable or port.
struct Action {
    uint64_t op, place, site, word, chunk, mask, value, first, last;

    bool acts(uint64_t cycle) const { return first <= cycle && cycle <= (op == kFlip ? first : last); }

    uint64_t apply(uint64_t old) const {
        return op == kFlip || op == kInvert ? old ^ mask : (old & ~mask) | (value & mask);
    }
};

using Bytes = std::vector<uint8_t>;

// A net with the registers of sim/rtl/netlist_verilog.py in front: ((value ^ flip) & ~clear) | set.
struct Saboteur {
    Variable flip, clear, set;

    bool found() const { return flip.data && clear.data && set.data; }

    void rest() {
        for (auto* v : {&flip, &clear, &set}) std::memset(v->data, 0, v->size());
    }

    // After what is there already.
    void add(const Action& action) {
        const unsigned chunk = action.chunk;
        const uint64_t cleared = clear.get(0, chunk), high = set.get(0, chunk);
        if (action.op == kInvert) {
            flip.set(0, chunk, flip.get(0, chunk) ^ (action.mask & ~cleared));
            set.set(0, chunk, high ^ (action.mask & cleared));
        } else {
            clear.set(0, chunk, cleared | action.mask);
            set.set(0, chunk, action.apply(high));
        }
    }
};

// All registers and memories of a model; what reads each (StateMap.witnessed): its bits inverted, of a memory those of the word that
// its select names.
class State {
public:
    std::vector<Variable> variables, witnesses, selects;

    // One more; whether the model has it. No `select`: a register.
    bool add(const VerilatedContext& context, const std::string& top, const std::string& scope, const std::string& variable,
             const std::string& witness, const std::string& select) {
        variables.push_back(Variable::find(context, top, scope, variable));
        witnesses.push_back(Variable::find(context, top, scope, witness));
        selects.push_back(select.empty() ? Variable{} : Variable::find(context, top, scope, select));
        return variables.back().data && witnesses.back().data && (select.empty() || selects.back().data);
    }

    // Whether bits of a word can be written from outside: all of `mask` are inverted, have to stay so without a clock edge, and what
    // reads the word has to see it. 0 yes, 1 not kept, 2 not seen. The model is as before afterwards.
    template <typename Top>
    int prove(Model<Top>& model, uint64_t site, uint64_t word, unsigned chunk, uint64_t mask) {
        Variable& v = variables[site];
        if (selects[site].data) selects[site].set(0, 0, word);
        model.settle();
        const uint64_t before = v.get(word, chunk), seen = witnesses[site].get(0, chunk);
        v.set(word, chunk, before ^ mask);
        model.settle();
        const bool kept = v.get(word, chunk) == (before ^ mask), follows = witnesses[site].get(0, chunk) == (seen ^ mask);
        v.set(word, chunk, before);
        model.settle();
        return !kept ? 1 : !follows ? 2 : 0;
    }

    Bytes save() const {
        size_t size = 0;
        for (const auto& v : variables) size += v.size();
        Bytes bytes(size);
        uint8_t* at = bytes.data();
        for (const auto& v : variables) std::memcpy(at, v.data, v.size()), at += v.size();
        return bytes;
    }

    void restore(const Bytes& bytes) {
        const uint8_t* at = bytes.data();
        for (auto& v : variables) std::memcpy(v.data, at, v.size()), at += v.size();
    }

    // Variables that are not as they were saved, by number.
    std::vector<uint64_t> different(const Bytes& bytes) const {
        std::vector<uint64_t> found;
        const uint8_t* at = bytes.data();
        for (size_t i = 0; i < variables.size(); at += variables[i++].size())
            if (std::memcmp(variables[i].data, at, variables[i].size())) found.push_back(i);
        return found;
    }
};

}  // namespace bankside

#endif
