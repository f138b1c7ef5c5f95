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
enum Place : uint64_t { kState = 0, kStore = 1, kInput = 2, kOutput = 3 };

// An action on 64 bits of a word, as sim/rtl/referee.py writes it. `site`: number of the variable or port.
struct Action {
    uint64_t op, place, site, word, chunk, mask, value, first, last;

    bool acts(uint64_t cycle) const { return first <= cycle && cycle <= (op == kFlip ? first : last); }

    uint64_t apply(uint64_t old) const {
        return op == kFlip || op == kInvert ? old ^ mask : (old & ~mask) | (value & mask);
    }
};

using Bytes = std::vector<uint8_t>;

// All registers and memories of a model.
class State {
public:
    std::vector<Variable> variables;

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

    bool equals(const Bytes& bytes) const {
        const uint8_t* at = bytes.data();
        for (const auto& v : variables) {
            if (std::memcmp(v.data, at, v.size())) return false;
            at += v.size();
        }
        return true;
    }
};

}  // namespace bankside

#endif
