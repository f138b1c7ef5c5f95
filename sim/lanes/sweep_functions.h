// The functions that Python calls (engine.py), of an engine class.
#ifndef BANKSIDE_SWEEP_FUNCTIONS_H
#define BANKSIDE_SWEEP_FUNCTIONS_H

#include "sweep.h"

#define BANKSIDE_SWEEP_FUNCTIONS(Engine)                                                                                     \
    extern "C" {                                                                                                             \
    using TheSweep = bankside::Sweep<Engine>;                                                                                \
    void sweep_delete(void* handle) { delete static_cast<TheSweep*>(handle); }                                               \
    uint64_t sweep_golden(void* handle, uint64_t limit, bankside::Outcome* out) {                                            \
        auto& sweep = *static_cast<TheSweep*>(handle);                                                                       \
        const bool done = sweep.run_golden(limit);                                                                           \
        *out = sweep.golden().outcome;                                                                                       \
        return done;                                                                                                         \
    }                                                                                                                        \
    void sweep_image(void* handle, uint8_t* into, uint64_t size) {                                                           \
        auto& sweep = *static_cast<TheSweep*>(handle);                                                                       \
        sweep.engine().image(sweep.golden(), into, size);                                                                    \
    }                                                                                                                        \
    void sweep_run(void* handle, const bankside::Deed* deeds, const uint64_t* first, uint64_t count, bankside::Outcome* out, \
                   uint64_t limit, bankside::Statistics* statistics) {                                                       \
        auto& sweep = *static_cast<TheSweep*>(handle);                                                                       \
        sweep.run(deeds, first, count, out, limit);                                                                          \
        *statistics = sweep.statistics;                                                                                      \
    }                                                                                                                        \
    uint64_t sweep_recorded(void* handle) { return static_cast<TheSweep*>(handle)->whole(); }                                \
    void* sweep_machines(void* handle) { return static_cast<TheSweep*>(handle)->machines(); }                                \
    }

#endif
