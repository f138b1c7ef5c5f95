// Groups of lanes: their registers, ports, memories, and the cycle that all of them take together.
#include <stdlib.h>
#include <sys/mman.h>

#include "runtime.h"

void bankside_mark(struct group* g, uint64_t offset, uint32_t limbs) {
    uint8_t* marked = &g->marked[offset / sizeof(V)];
    if (*marked) return;
    *marked = 1;
    if (g->dirty_count == g->dirty_size) {
        g->dirty_size = g->dirty_size ? 2 * g->dirty_size : 256;
        g->dirty = (struct dirty*)realloc(g->dirty, g->dirty_size * sizeof(struct dirty));
    }
    g->dirty[g->dirty_count].offset = offset;
    g->dirty[g->dirty_count].limbs = limbs;
    ++g->dirty_count;
}

// Zeroed memory that costs nothing until it is touched.
static char* zeros(uint64_t bytes) {
    void* p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : (char*)p;
}

static void power_on(struct lane_group* one) {
    for (uint64_t i = 0; i < bankside_first_value_count; ++i) {
        const struct first_value first = bankside_first_values[i];
        char* banks[] = {one->q, one->d};
        if (first.memory) {
            STV(one->g.memory + first.offset, K(first.value));
            continue;
        }
        for (int k = 0; k < 2; ++k)
            if (first.bit) STB(banks[k] + first.offset, ALL);
            else STV(banks[k] + first.offset, K(first.value));
    }
}

struct lanes* lanes_new(uint64_t groups) {
    struct lanes* all = (struct lanes*)calloc(1, sizeof *all);
    all->groups = groups;
    all->group = (struct lane_group*)calloc(groups, sizeof *all->group);
    for (uint64_t i = 0; i < groups; ++i) {
        struct lane_group* one = &all->group[i];
        one->q = zeros(bankside_q_bytes);
        one->d = zeros(bankside_q_bytes);
        one->t = zeros(bankside_t_bytes);
        one->g.memory = zeros(bankside_m_bytes);
        one->g.marked = (uint8_t*)zeros(bankside_m_bytes / sizeof(V));
        if (!one->q || !one->d || !one->t || !one->g.memory || !one->g.marked) {
            lanes_delete(all);
            return NULL;
        }
        power_on(one);
        lanes_disturb(one);
    }
    return all;
}

void lanes_delete(struct lanes* all) {
    if (!all) return;
    for (uint64_t i = 0; i < all->groups; ++i) {
        struct lane_group* one = &all->group[i];
        if (one->q) munmap(one->q, bankside_q_bytes);
        if (one->d) munmap(one->d, bankside_q_bytes);
        if (one->t) munmap(one->t, bankside_t_bytes);
        if (one->g.memory) munmap(one->g.memory, bankside_m_bytes ? bankside_m_bytes : 1);
        if (one->g.marked) munmap(one->g.marked, bankside_m_bytes / sizeof(V) ? bankside_m_bytes / sizeof(V) : 1);
        free(one->g.dirty);
    }
    free(all->group);
    free(all);
}

void lanes_clear_memory(struct lane_group* one) {
    if (bankside_m_bytes) madvise(one->g.memory, bankside_m_bytes, MADV_DONTNEED);
}

static void all_of(struct lanes* all, const struct item* items, uint64_t count) {
    for (uint64_t k = 0; k < count; ++k) {
        const struct item it = items[k];
        for (uint64_t i = 0; i < all->groups; ++i) {
            struct lane_group* one = &all->group[i];
            if (one->idle || !(one->g.now & it.bit)) continue;
            const uint32_t changed = it.run(one->q + it.q, one->d + it.q, one->t + it.t, one->g.memory + it.m, &one->g);
            if (changed & 1) one->g.now |= it.outputs;
            if (changed & 2) one->g.next |= it.registers;
        }
    }
}

void lanes_before(struct lanes* all) {
    for (uint64_t i = 0; i < all->groups; ++i) {
        struct group* g = &all->group[i].g;
        g->now = all->all ? ~0ull : g->next;
        g->next = 0;
    }
    all_of(all, bankside_before, bankside_before_count);
}

void lanes_after(struct lanes* all) { all_of(all, bankside_after, bankside_after_count); }

void lanes_edge(struct lanes* all) {
    for (uint64_t k = 0; k < bankside_edge_count; ++k)
        for (uint64_t i = 0; i < all->groups; ++i) {
            struct lane_group* one = &all->group[i];
            if (!one->idle) bankside_edge[k].run(one->q, one->d, one->t, one->g.memory, &one->g);
        }
    for (uint64_t i = 0; i < all->groups; ++i) {
        struct lane_group* one = &all->group[i];
        if (one->idle) continue;
        char* q = one->q;
        one->q = one->d;
        one->d = q;
    }
}

void lanes_steps(struct lanes* all, uint64_t count) {
    while (count--) {
        lanes_before(all);
        lanes_after(all);
        lanes_edge(all);
    }
}

void lanes_run_all(struct lanes* all) { all->all = 1; }

void* lanes_part(struct lanes* all, uint64_t group, unsigned part) {
    struct lane_group* one = &all->group[group];
    char* parts[] = {one->q, one->d, one->t, one->g.memory};
    return parts[part];
}
