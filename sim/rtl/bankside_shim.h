// Helpers for the C++ shims that drive a Verilated model: clock, ports, memories.
//
// A shim is one .cpp file with `extern "C"` functions over a `bankside::Model<V{top}>`;
// see bankside.sim.rtl.verilate.build_library. Everything here is header-only and needs no VPI.
#ifndef BANKSIDE_SHIM_H
#define BANKSIDE_SHIM_H

#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "ports.h"
#include "verilated.h"
#include "verilated_sym_props.h"
#if defined(VM_TRACE) && VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace bankside {

// --- Model -----------------------------------------------------------------------------------

namespace detail {

// Every eval recomputes all logic between inputs and registers, resets included. Where the clock is
// used for nothing but rising edges (BANKSIDE_RISING_ONLY, found out by build_library), the eval at
// the falling edge is saved: the model is told that the clock was low. False when the model has no
// such variable, which is private to Verilator's generated code.
#if defined(BANKSIDE_RISING_ONLY) && BANKSIDE_RISING_ONLY
template <typename Root>
auto arm_rising_edge(Root* root, int) -> decltype(root->__Vtrigprevexpr___TOP__clk__0, bool()) {
    root->__Vtrigprevexpr___TOP__clk__0 = 0;
    return true;
}
#endif
template <typename Root>
bool arm_rising_edge(Root*, long) {
    return false;
}

}  // namespace detail

template <typename Top>
class Model {
public:
    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<Top> top;
    uint64_t cycle = 0;  // rising edges since construction

    Model() : context(new VerilatedContext) {
        context->traceEverOn(VM_TRACE_ON);
        top.reset(new Top(context.get()));
        top->clk = 0;
        top->rst = 0;
        top->eval();
    }

    ~Model() {
        stop_trace();
        top->final();
        // Scopes leave the context of the thread, which may be that of a model deleted before.
        Verilated::threadContextp(context.get());
        top.reset();
    }

    // Let outputs that depend on inputs without a register follow the inputs written last.
    void settle() { top->eval(); }

    // One clock period: inputs written before are taken at the rising edge; afterwards outputs show
    // the new state, and inputs may be written for the next.
    void step() {
        rise();
        fall();
    }

    // Its two halves, for who has something to do between the edges.
    void rise() {
        falls_ = tracing() || !detail::arm_rising_edge(top->rootp, 0);
        top->clk = 1;
        top->eval();
        if (falls_) dump(0);
        risen_ = true;
    }

    // Nothing without a rising edge before.
    void fall() {
        if (!risen_) return;
        risen_ = false;
        if (falls_) {
            top->clk = 0;
            top->eval();
            dump(1);
        }
        ++cycle;
    }

    void steps(uint64_t count) {
        while (count--) step();
    }

    void reset(unsigned cycles = 1) {
        top->rst = 1;
        steps(cycles);
        top->rst = 0;
        top->eval();
    }

    // Waves: VCD with time = clock cycles x 10 (rising edge at 10 c, falling edge at 10 c + 5). Only
    // a model built with trace=True can; `scope` and `levels` restrict what is written (0 = all).
    void start_trace(const char* file, int levels = 0) {
#if defined(VM_TRACE) && VM_TRACE
        stop_trace();
        top->clk = 0;  // the next step shows a whole clock period
        top->eval();
        trace_.reset(new VerilatedVcdC);
        top->trace(trace_.get(), levels ? levels : 99);
        trace_->open(file);
        if (!trace_->isOpen()) {
            trace_.reset();
            throw std::runtime_error(std::string("cannot write ") + file);
        }
#else
        (void)file;
        (void)levels;
        throw std::runtime_error("this model was built without trace=True");
#endif
    }

    void stop_trace() {
#if defined(VM_TRACE) && VM_TRACE
        if (trace_) trace_->close();
        trace_.reset();
#endif
    }

private:
    bool falls_ = false, risen_ = false;
#if defined(VM_TRACE) && VM_TRACE
    static constexpr bool VM_TRACE_ON = true;
    std::unique_ptr<VerilatedVcdC> trace_;
    bool tracing() const { return trace_ != nullptr; }
    void dump(int half) {
        if (trace_) trace_->dump(10 * cycle + 5 * half);
    }
#else
    static constexpr bool VM_TRACE_ON = false;
    bool tracing() const { return false; }
    void dump(int) {}
#endif
};

// Cycles first..last of a run, written to a VCD file.
struct Waves {
    std::string file;
    uint64_t first = 0, last = 0;
    bool armed = false;

    void arm(const char* name, uint64_t from, uint64_t to) {
        file = name;
        first = from;
        last = to;
        armed = true;
    }

    // Before cycle `cycle` of the run.
    template <typename Top>
    void before(Model<Top>& model, uint64_t cycle) {
        if (armed && cycle == first) model.start_trace(file.c_str());
    }

    // After it.
    template <typename Top>
    void after(Model<Top>& model, uint64_t cycle) {
        if (armed && cycle == last) stop(model);
    }

    template <typename Top>
    void stop(Model<Top>& model) {
        if (armed) model.stop_trace();
        armed = false;
    }
};

// --- Memories ---------------------------------------------------------------------------------
// A memory of any instance, found by its path below the top ("chip0.bank3.ram"); needs the memory in
// build_library(memories=["module.memory"]). It is plain storage: reads and writes take no clock and
// are seen by the model at its next eval (a combinational read port needs `settle`).

class Memory {
public:
    unsigned width = 0;  // bits per word
    unsigned depth = 0;  // words

    // `top` is the name of the top module.
    Memory(const VerilatedContext& context, const std::string& top, const std::string& path) {
        const size_t dot = path.rfind('.');
        const std::string above = dot == std::string::npos ? "" : "." + path.substr(0, dot);
        const std::string name = dot == std::string::npos ? path : path.substr(dot + 1);
        const VerilatedScope* scope = context.scopeFind(("TOP." + top + above).c_str());
        VerilatedVar* var = scope ? scope->varFind(name.c_str()) : nullptr;
        if (!var || var->udims() != 1) throw std::out_of_range("no memory " + path + " in the model");
        width = static_cast<unsigned>(var->entBits());
        depth = static_cast<unsigned>(var->elements(1));
        data_ = static_cast<uint8_t*>(var->datap());
        // Storage per word: 1, 2, 4, 8 bytes, or whole 32-bit words above 64 bits.
        bytes_ = width <= 8 ? 1 : width <= 16 ? 2 : width <= 32 ? 4 : 8;
        if (width > 64) bytes_ = (width + 31) / 32 * 4;
    }

    // Words in the interface: little-endian, ceil(width / 64) of 64 bits each.
    unsigned words() const { return (width + 63) / 64; }

    void read(unsigned first, unsigned count, uint64_t* into) const {
        check(first, count);
        if (bytes_ == 8) {
            std::memcpy(into, data_ + 8ull * first, 8ull * count);
            return;
        }
        std::memset(into, 0, 8ull * words() * count);
        for (unsigned i = 0; i < count; ++i)
            std::memcpy(into + size_t{words()} * i, data_ + size_t{bytes_} * (first + i), bytes_);
    }

    void write(unsigned first, unsigned count, const uint64_t* from) {
        check(first, count);
        const uint64_t top_mask = mask(width % 64 ? width % 64 : 64);
        for (unsigned i = 0; i < count; ++i) {
            const uint64_t* word = from + size_t{words()} * i;
            uint8_t* place = data_ + size_t{bytes_} * (first + i);
            // The bits above `width` must stay zero: the model does not mask what it reads.
            const uint64_t last = word[words() - 1] & top_mask;
            const size_t whole = 8ull * (words() - 1);
            std::memcpy(place, word, whole);
            std::memcpy(place + whole, &last, bytes_ - whole);
        }
    }

private:
    uint8_t* data_ = nullptr;
    unsigned bytes_ = 0;

    void check(unsigned first, unsigned count) const {
        if (first > depth || count > depth - first)
            throw std::out_of_range("memory access beyond " + std::to_string(depth) + " words");
    }
};

}  // namespace bankside

#endif
