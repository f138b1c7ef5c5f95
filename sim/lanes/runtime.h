// What is around the generated code (emit.py): groups of 16 lanes and their cycle.
#ifndef BANKSIDE_LANES_RUNTIME_H
#define BANKSIDE_LANES_RUNTIME_H

#include "lanes.h"

#ifdef __cplusplus
extern "C" {
#endif

// `bit`: its class; `outputs`, `registers`: classes of those who read what it returns as changed (1, 2).
struct item {
    uint32_t (*run)(char* q, char* d, char* t, char* m, struct group* g);
    uint64_t q, t, m, bit, outputs, registers;
};

// Registers of a module in q: limbs from `offset` on, then single bits.
struct region {
    uint64_t offset;
    uint32_t limbs, bits;
};

// A limb (or bit) of a register or memory that is not zero at power-on.
struct first_value {
    uint32_t memory, bit;
    uint64_t offset;
    uint32_t value;
};

// Generated: what to compute before the inputs of a cycle are known, and after; writes of memories; bytes of a group.
extern const struct item bankside_before[], bankside_after[], bankside_edge[];
extern const uint64_t bankside_before_count, bankside_after_count, bankside_edge_count;
extern const struct region bankside_regions[];
extern const uint64_t bankside_region_count;
extern const struct first_value bankside_first_values[];
extern const uint64_t bankside_first_value_count;
extern const uint64_t bankside_q_bytes, bankside_t_bytes, bankside_m_bytes;

// `q` is the state, `d` that of the cycle before, which the next edge replaces where registers change.
struct lane_group {
    char *q, *d, *t;
    struct group g;
    int idle;
};

// All functions of a group run in the next cycle: somebody changed a value from outside.
static inline void lanes_disturb(struct lane_group* one) { one->g.next = one->g.now = ~0ull; }


struct lanes {
    uint64_t groups;
    struct lane_group* group;
    int all;  // run all functions in every cycle
};

struct lanes* lanes_new(uint64_t groups);
void lanes_delete(struct lanes* all);
// A cycle: outputs that depend on registers only; (inputs may be written;) all else and the next state; the edge.
void lanes_before(struct lanes* all);
void lanes_after(struct lanes* all);
void lanes_edge(struct lanes* all);
void lanes_steps(struct lanes* all, uint64_t count);
// Run every function in every cycle, whatever has changed: for those who write values themselves.
void lanes_run_all(struct lanes* all);
void lanes_clear_memory(struct lane_group* one);
// 0: q, 1: d, 2: t, 3: memories.
void* lanes_part(struct lanes* all, uint64_t group, unsigned part);

#ifdef __cplusplus
}
#endif

#endif
