// What is around the generated code (emit.py): groups of 16 lanes and their cycle.
#ifndef BANKSIDE_LANES_RUNTIME_H
#define BANKSIDE_LANES_RUNTIME_H

#include "lanes.h"

#ifdef __cplusplus
extern "C" {
#endif

// `bit`: its class; `outputs`, `registers`: classes of those who read what it returns as changed (1, 2; 4: what later phases of the same
// instance read, which are of the same class).
struct item {
    uint32_t (*run)(char* q, char* d, char* t, char* m, struct group* g);
    uint64_t q, t, m;
    classes bit, outputs, registers;
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

// `count` limbs or bits from a byte of q or t on. partner: who writes them, or the set of those who read them. target: of what is read,
// the byte of t where the item looks for it; ~0: where it lies.
struct span {
    uint32_t offset, count, t, bit, partner, target;
};

// Of an item, as ranges of `bankside_spans`: what it reads of others, what it writes, its registers, flags of those that have changed;
// whether it uses memories; sets of the items that give what it reads, in this cycle and (registers, memories) in the one before. At
// the edge `now` is who reads the memories that it writes.
struct effects {
    uint32_t reads, reads_end, writes, writes_end, own, own_end, flags, flags_end, memories, now, before;
};

// Item that computes the net with a flag in t.
struct net_item {
    uint64_t offset, item;
};

// Ranges of `bankside_spans`. early: of outputs, by the item that computes what no input matters for; outputs: by the last one.
struct port_spans {
    uint32_t inputs, inputs_end, early, early_end, outputs, outputs_end;
};

// Generated: items are numbered from those before the inputs to those at the edge, then the bench, then nobody.
extern const struct span bankside_spans[];
extern const struct effects bankside_effects[];
extern const uint64_t bankside_effects_count;
extern const struct net_item bankside_nets[];
extern const uint64_t bankside_nets_count;
extern const struct port_spans bankside_ports;
extern const uint64_t bankside_item_words;  // of a set
extern const uint64_t bankside_item_sets[];

// Generated: what to compute before the inputs of a cycle are known, and after; writes of memories; bytes of a group.
extern const struct item bankside_before[], bankside_after[], bankside_edge[];
extern const uint64_t bankside_before_count, bankside_after_count, bankside_edge_count;
extern const struct region bankside_regions[];
extern const uint64_t bankside_region_count;
extern const struct first_value bankside_first_values[];
extern const uint64_t bankside_first_value_count;
extern const uint64_t bankside_memory_ports;  // words that a part of a cycle touches at most
extern const uint64_t bankside_q_bytes, bankside_t_bytes, bankside_m_bytes;

// `q` is the state, `d` that of the cycle before, which the next edge replaces where registers change.
struct lane_group {
    char *q, *d, *t;
    struct group g;
    int idle;
};

// All functions of a group run in the next cycle: somebody changed a value from outside.
static inline void lanes_disturb(struct lane_group* one) { one->g.next = one->g.now = ~(classes)0; }


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
// Between `lanes_after` and `lanes_edge`: which words the edge will write.
void lanes_peek(struct lane_group* one);
// Run every function in every cycle, whatever has changed: for those who write values themselves.
void lanes_run_all(struct lanes* all);
void lanes_clear_memory(struct lane_group* one);
// 0: q, 1: d, 2: t, 3: memories.
void* lanes_part(struct lanes* all, uint64_t group, unsigned part);

#ifdef __cplusplus
}
#endif

#endif
