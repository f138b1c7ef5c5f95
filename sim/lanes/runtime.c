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

// Groups that are not idle, in `on`; `needed`: classes that have to run in one of them.
static uint64_t busy_of(struct lanes* all, struct lane_group** on, classes* needed) {
    uint64_t count = 0;
    *needed = 0;
    for (uint64_t i = 0; i < all->groups; ++i) {
        if (all->group[i].idle) continue;
        on[count++] = &all->group[i];
        *needed |= all->group[i].g.now;
    }
    return count;
}

static uint32_t run_item(const struct item* it, struct lane_group* one) {
    return it->run(one->q + it->q, one->d + it->q, one->t + it->t, one->g.memory + it->m, &one->g);
}

static void all_of(struct lanes* all, const struct item* items, uint64_t count, uint64_t first) {
    struct lane_group* on[all->groups + 1];
    classes needed;
    const uint64_t groups = busy_of(all, on, &needed);
    for (uint64_t k = 0; groups && k < count; ++k) {
        const struct item* it = &items[k];
        if (!(needed & it->bit)) continue;
        for (uint64_t i = 0; i < groups; ++i) {
            struct lane_group* one = on[i];
            if (!(one->g.now & it->bit)) continue;
            one->g.item = first + k;
            const uint32_t changed = run_item(it, one);
            if (changed & 1) one->g.now |= it->outputs;
            if (changed & 2) one->g.next |= it->registers;
            needed |= one->g.now;
        }
    }
}

void lanes_before(struct lanes* all) {
    for (uint64_t i = 0; i < all->groups; ++i) {
        struct group* g = &all->group[i].g;
        g->now = all->all ? ~(classes)0 : g->next;
        g->next = 0;
    }
    all_of(all, bankside_before, bankside_before_count, 0);
}

void lanes_after(struct lanes* all) { all_of(all, bankside_after, bankside_after_count, bankside_before_count); }

// The first group last: others read what it overwrites (followers.h).
void lanes_edge(struct lanes* all) {
    struct lane_group* on[all->groups + 1];
    classes needed;
    const uint64_t groups = busy_of(all, on, &needed);
    for (uint64_t k = 0; groups && k < bankside_edge_count; ++k) {
        const struct item* it = &bankside_edge[k];
        if (!(needed & it->bit)) continue;
        for (uint64_t i = groups; i--;)
            if (on[i]->g.now & it->bit && run_item(it, on[i])) on[i]->g.next |= it->registers;
    }
    for (uint64_t i = 0; i < groups; ++i) {
        char* q = on[i]->q;
        on[i]->q = on[i]->d;
        on[i]->d = q;
    }
}

void lanes_peek(struct lane_group* one) {
    one->g.peek = 1;
    for (uint64_t k = 0; k < bankside_edge_count; ++k) {
        one->g.item = bankside_before_count + bankside_after_count + k;
        run_item(&bankside_edge[k], one);
    }
    one->g.peek = 0;
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
