// One machine per SIMD lane: words of 32 bits in 16 lanes, single bits as masks.
//
// A `V` is one 32-bit limb of a word in every lane, bits above the word's width zero; a `B` is one bit of every lane. Everything
// has a form for AVX-512 and one that any compiler with vector extensions takes.
#ifndef BANKSIDE_LANES_H
#define BANKSIDE_LANES_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define BANKSIDE_AVX512 1
#endif

#define LANES 16
#define ALL 0xFFFFu

typedef uint32_t V __attribute__((vector_size(64), may_alias));
typedef int32_t VS __attribute__((vector_size(64), may_alias));
typedef uint64_t V64 __attribute__((vector_size(64), may_alias));
typedef uint32_t B;

#define INLINE static inline __attribute__((always_inline))

// Words of memories that may differ between lanes, by offset in the arena; `limbs` each.
struct dirty {
    uint64_t offset;
    uint32_t limbs;
};

// A set of classes of functions (activity.py).
typedef unsigned __int128 classes;

// A word that an item has read or is about to write.
struct touch {
    uint64_t offset;
    uint32_t item, limbs;
};

// What generated code knows of a group of lanes.
struct group {
    char* memory;           // arena of all memories
    struct dirty* dirty;    // list, grows
    uint64_t dirty_count, dirty_size;
    uint8_t* marked;        // one byte per 64-byte limb of the arena: in the list
    const struct force* forces;
    uint64_t force_count;
    uint64_t* last;         // NULL, or cycle of the last access of the word that begins at each limb of the arena
    uint64_t cycle;
    classes now, next;      // classes of functions that have to run in this cycle, in the next (activity.py)
    struct touch* touched;  // NULL, or a list with room for all that a cycle touches
    uint64_t touched_count, item;
    int peek;  // writes are only announced
    const struct group* pilot;  // NULL, or whose words are read where this group has none of its own (followers.h)
    int several;            // more ports than one write the memory at hand: what one writes the next one has to see
};

// In lanes where `where` is set, bits of `mask` are inverted (`flip`) or become those of `value`, in limb `limb` of the net whose flag
// is `flag`.
struct force {
    const uint8_t* flag;
    uint32_t limb;
    V flip, keep, value;
};

#ifdef __cplusplus
extern "C"
#endif
    void
    bankside_mark(struct group* g, uint64_t offset, uint32_t limbs);

#ifdef BANKSIDE_AVX512
#define I(x) ((__m512i)(x))
INLINE V K(uint32_t c) { return (V)_mm512_set1_epi32((int)c); }
INLINE B EQ(V a, V b) { return _mm512_cmpeq_epi32_mask(I(a), I(b)); }
INLINE B NE(V a, V b) { return _mm512_cmpneq_epi32_mask(I(a), I(b)); }
INLINE B LTU(V a, V b) { return _mm512_cmplt_epu32_mask(I(a), I(b)); }
INLINE B LEU(V a, V b) { return _mm512_cmple_epu32_mask(I(a), I(b)); }
INLINE B LTS(V a, V b) { return _mm512_cmplt_epi32_mask(I(a), I(b)); }
INLINE B LES(V a, V b) { return _mm512_cmple_epi32_mask(I(a), I(b)); }
INLINE B TST(V a, V b) { return _mm512_test_epi32_mask(I(a), I(b)); }
INLINE V SEL(B m, V a, V b) { return (V)_mm512_mask_blend_epi32((__mmask16)m, I(b), I(a)); }
INLINE V MZ(B m, V a) { return (V)_mm512_maskz_mov_epi32((__mmask16)m, I(a)); }
INLINE V ORM(V a, B m, V b) { return (V)_mm512_mask_or_epi32(I(a), (__mmask16)m, I(a), I(b)); }
INLINE V ADDM(V a, B m, V b) { return (V)_mm512_mask_add_epi32(I(a), (__mmask16)m, I(a), I(b)); }
INLINE V SUBM(V a, B m, V b) { return (V)_mm512_mask_sub_epi32(I(a), (__mmask16)m, I(a), I(b)); }
INLINE V SLLV(V a, V b) { return (V)_mm512_sllv_epi32(I(a), I(b)); }
INLINE V SRLV(V a, V b) { return (V)_mm512_srlv_epi32(I(a), I(b)); }
INLINE V SRAV(V a, V b) { return (V)_mm512_srav_epi32(I(a), I(b)); }
INLINE V MULHI(V a, V b) {
    const __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(I(a), I(b)), 32);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(I(a), 32), _mm512_srli_epi64(I(b), 32));
    return (V)_mm512_mask_blend_epi32(0xAAAA, even, odd);
}
// Words of 4 bytes at base + 4 * index.
INLINE V GATHER(V index, const void* base) { return (V)_mm512_i32gather_epi32(I(index), base, 4); }
INLINE V GATHERM(B m, V index, const void* base) {
    return (V)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), (__mmask16)m, I(index), base, 4);
}
INLINE void SCATTER(B m, V index, void* base, V value) {
    _mm512_mask_i32scatter_epi32(base, (__mmask16)m, I(index), I(value), 4);
}
#else
INLINE V K(uint32_t c) { return (V){} + c; }
INLINE B BITS(VS m) {
    const VS weight = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    const VS hit = m & weight;
    B bits = 0;
    for (int i = 0; i < LANES; ++i) bits |= (B)hit[i];
    return bits;
}
INLINE V WHERE(B m) {
    const V weight = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    return (V)((K(m) & weight) != 0);
}
INLINE B EQ(V a, V b) { return BITS(a == b); }
INLINE B NE(V a, V b) { return BITS(a != b); }
INLINE B LTU(V a, V b) { return BITS(a < b); }
INLINE B LEU(V a, V b) { return BITS(a <= b); }
INLINE B LTS(V a, V b) { return BITS((VS)a < (VS)b); }
INLINE B LES(V a, V b) { return BITS((VS)a <= (VS)b); }
INLINE B TST(V a, V b) { return BITS((a & b) != 0); }
INLINE V MZ(B m, V a) { return WHERE(m) & a; }
INLINE V SEL(B m, V a, V b) {
    const V where = WHERE(m);
    return (where & a) | (~where & b);
}
INLINE V ORM(V a, B m, V b) { return a | MZ(m, b); }
INLINE V ADDM(V a, B m, V b) { return a + MZ(m, b); }
INLINE V SUBM(V a, B m, V b) { return a - MZ(m, b); }
INLINE V SLLV(V a, V b) { return (a << (b & 31)) & (V)(b < 32); }
INLINE V SRLV(V a, V b) { return (a >> (b & 31)) & (V)(b < 32); }
INLINE V SRAV(V a, V b) {
    const V count = SEL(LTU(b, K(32)), b, K(31));
    return (V)((VS)a >> (VS)count);
}
INLINE V MULHI(V a, V b) {
    V high;
    for (int i = 0; i < LANES; ++i) high[i] = (uint32_t)((uint64_t)a[i] * b[i] >> 32);
    return high;
}
INLINE V GATHER(V index, const void* base) {
    V out;
    for (int i = 0; i < LANES; ++i) out[i] = ((const uint32_t*)base)[index[i]];
    return out;
}
INLINE V GATHERM(B m, V index, const void* base) {
    V out = {};
    for (int i = 0; i < LANES; ++i)
        if (m >> i & 1) out[i] = ((const uint32_t*)base)[index[i]];
    return out;
}
INLINE void SCATTER(B m, V index, void* base, V value) {
    for (int i = 0; i < LANES; ++i)
        if (m >> i & 1) ((uint32_t*)base)[index[i]] = value[i];
}
#endif

INLINE V BROADCAST(const uint32_t* p) { return K(*p); }
INLINE V SRA(V a, int n) { return (V)((VS)a >> n); }
INLINE V LDV(const char* p) { return *(const V*)p; }
INLINE void STV(char* p, V a) { *(V*)p = a; }
INLINE B LDB(const char* p) { return *(const uint16_t*)p; }
INLINE void STB(char* p, B a) { *(uint16_t*)p = (uint16_t)a; }

INLINE V PARITY(V a) {
    a ^= a >> 16, a ^= a >> 8, a ^= a >> 4, a ^= a >> 2, a ^= a >> 1;
    return a & 1;
}

INLINE V NUMBERS(void) { return (V){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// --- variable shifts of several limbs ----------------------------------------------------------------------------------------------
// out[k] = bits [32 k + amount, ...) of `in` (limbs `from`, zeros above), `count` limbs. Amounts are words of one limb.
INLINE void SHIFT_RIGHT(const V* in, int from, V amount, V* out, int count) {
    V padded[from + count + 1];
    for (int k = 0; k < from; ++k) padded[k] = in[k];
    for (int k = from; k <= from + count; ++k) padded[k] = K(0);
    if (__builtin_expect(EQ(amount, K(amount[0])) == ALL, 1)) {
        const uint32_t limb = amount[0] >> 5, low = amount[0] & 31;
        const V* first = padded + (limb < (uint32_t)from ? limb : (uint32_t)from);
        for (int k = 0; k < count; ++k) {
            out[k] = first[k] >> low;
            if (low) out[k] |= first[k + 1] << (32 - low);
        }
        return;
    }
    V limb = amount >> 5;
    limb = SEL(LTU(limb, K(from)), limb, K(from));
    const V low = amount & 31, high = 32 - low, index = limb * LANES + NUMBERS();
    V here = GATHER(index, padded);
    for (int k = 0; k < count; ++k) {
        const V above = GATHER(index, padded + k + 1);
        out[k] = SRLV(here, low) | SLLV(above, high);
        here = above;
    }
}

// out = in << amount, `count` limbs, of `from` limbs.
INLINE void SHIFT_LEFT(const V* in, int from, V amount, V* out, int count) {
    V padded[2 * count + 2];
    for (int k = 0; k < 2 * count + 2; ++k) {
        const int at = k - count - 1;
        padded[k] = at >= 0 && at < from ? in[at] : K(0);
    }
    if (__builtin_expect(EQ(amount, K(amount[0])) == ALL, 1)) {
        const uint32_t limb = amount[0] >> 5, low = amount[0] & 31;
        const V* first = padded + count + 1 - (limb < (uint32_t)count ? limb : (uint32_t)count);
        for (int k = 0; k < count; ++k) {
            out[k] = first[k] << low;
            if (low) out[k] |= first[k - 1] >> (32 - low);
        }
        return;
    }
    V limb = amount >> 5;
    limb = SEL(LTU(limb, K(count)), limb, K(count));
    const V low = amount & 31, high = 32 - low;
    const V index = (K(count) - limb) * LANES + NUMBERS();
    V below = GATHER(index, padded);
    for (int k = 0; k < count; ++k) {
        const V here = GATHER(index, padded + k + 1);
        out[k] = SLLV(here, low) | SRLV(below, high);
        below = here;
    }
}

// --- memories ----------------------------------------------------------------------------------------------------------------------
// Word w, limb k of all lanes is the V at ((w * limbs) + k); a memory that is never written is one word after the other, for all.
INLINE B SAME(V a) { return EQ(a, K(a[0])) == ALL; }

INLINE void TOUCH(struct group* g, const char* word, int limbs) {
    const uint64_t offset = (uint64_t)(word - g->memory);
    if (__builtin_expect(g->last != NULL, 0)) g->last[offset / sizeof(V)] = g->cycle;
    if (g->touched) g->touched[g->touched_count++] = (struct touch){offset, (uint32_t)g->item, (uint32_t)limbs};
}

// Where `word` of a group is: its own, or the pilot's.
INLINE const char* HOME(const struct group* g, const char* word) {
    const uint64_t offset = (uint64_t)(word - g->memory);
    return g->pilot == NULL || g->marked[offset / sizeof(V)] ? word : g->pilot->memory + offset;
}

static __attribute__((noinline)) void READ_BESIDE(const struct group* g, const char* memory, int limbs, B inside, V address, V* out) {
    B own = 0;
    for (int lane = 0; lane < LANES; ++lane) {
        const char* word = memory + (uint64_t)address[lane] * limbs * sizeof(V);
        if (inside >> lane & 1) own |= (B)(HOME(g, word) == word) << lane;
    }
    const V index = address * (limbs * LANES) + NUMBERS();
    const char* others = g->pilot->memory + (memory - g->memory);
    for (int k = 0; k < limbs; ++k)
        out[k] = GATHERM(own, index, memory + k * sizeof(V)) | GATHERM(inside & ~own, index, others + k * sizeof(V));
}

INLINE void READ(struct group* g, const char* memory, uint32_t depth, int limbs, V address, V* out) {
    const B inside = LTU(address, K(depth));
    if (__builtin_expect(SAME(address), 1)) {
        const char* word = memory + (uint64_t)address[0] * limbs * sizeof(V);
        if (inside) TOUCH(g, word, limbs), word = HOME(g, word);
        for (int k = 0; k < limbs; ++k) out[k] = inside ? LDV(word + k * sizeof(V)) : K(0);
        return;
    }
    if (g->pilot) {
        READ_BESIDE(g, memory, limbs, inside, address, out);
        return;
    }
    const V index = address * (limbs * LANES) + NUMBERS();
    for (int k = 0; k < limbs; ++k) out[k] = GATHERM(inside, index, memory + k * sizeof(V));
}

INLINE void READ_TABLE(const uint32_t* table, uint32_t depth, int limbs, V address, V* out) {
    const B inside = LTU(address, K(depth));
    if (__builtin_expect(SAME(address), 1)) {
        for (int k = 0; k < limbs; ++k) out[k] = inside ? K(table[(uint64_t)address[0] * limbs + k]) : K(0);
        return;
    }
    for (int k = 0; k < limbs; ++k) out[k] = GATHERM(inside, address * limbs + k, table);
}

// A word of a group's own, with the pilot's values where it had none.
INLINE char* OWN(struct group* g, char* word, int limbs) {
    const char* from = HOME(g, word);
    if (from != word) {
        memcpy(word, from, limbs * sizeof(V));
        bankside_mark(g, (uint64_t)(word - g->memory), limbs);
    }
    return word;
}

INLINE void WRITE_LANE(char* word, int limbs, int lane, const V* enable, const V* data) {
    for (int k = 0; k < limbs; ++k) {
        uint32_t* place = (uint32_t*)(word + k * sizeof(V)) + lane;
        const uint32_t bits = enable ? enable[k][lane] : ~0u;
        *place = (data[k][lane] & bits) | (*place & ~bits);
    }
}

// The pilot, like lane 0, has not written yet: what lane 0 writes and another one does not gets a word of its own before.
static __attribute__((noinline)) void WRITE_BESIDE(struct group* g, char* memory, int limbs, B which, V address, const V* enable,
                                                   const V* data) {
    if (which == ALL && SAME(address)) {
        char* word = memory + (uint64_t)address[0] * limbs * sizeof(V);
        const char* old = HOME(g, word);
        B same = ALL;
        V value[limbs];
        for (int k = 0; k < limbs; ++k) {
            value[k] = data[k];
            if (enable) value[k] = (value[k] & enable[k]) | (LDV(old + k * sizeof(V)) & ~enable[k]);
            same &= EQ(value[k], K(value[k][0]));
        }
        if (old != word && same == ALL && !g->several) return;
        OWN(g, word, limbs);
        for (int k = 0; k < limbs; ++k) STV(word + k * sizeof(V), value[k]);
        return;
    }
    for (int lane = 0; lane < LANES; ++lane)
        if (which >> lane & 1)
            WRITE_LANE(OWN(g, memory + (uint64_t)address[lane] * limbs * sizeof(V), limbs), limbs, lane, enable, data);
}

// In lanes of `which`, bits `enable` of the word become those of `data`; `enable` NULL: all.
INLINE void WRITE(struct group* g, char* memory, uint32_t depth, int limbs, B which, V address, const V* enable, const V* data) {
    which &= LTU(address, K(depth));
    if (!which) return;
    if (g->pilot) {
        WRITE_BESIDE(g, memory, limbs, which, address, enable, data);
        return;
    }
    if (g->peek) {
        TOUCH(g, memory + (uint64_t)address[0] * limbs * sizeof(V), limbs);
        return;
    }
    if (__builtin_expect(which == ALL && SAME(address), 1)) {
        char* word = memory + (uint64_t)address[0] * limbs * sizeof(V);
        TOUCH(g, word, limbs);
        B same = ALL;
        for (int k = 0; k < limbs; ++k) {
            V value = data[k];
            if (enable) value = (value & enable[k]) | (LDV(word + k * sizeof(V)) & ~enable[k]);
            STV(word + k * sizeof(V), value);
            same &= EQ(value, K(value[0]));
        }
        if (__builtin_expect(same != ALL, 0)) bankside_mark(g, word - g->memory, limbs);
        return;
    }
    for (int lane = 0; lane < LANES; ++lane) {
        if (!(which >> lane & 1)) continue;
        char* word = memory + (uint64_t)address[lane] * limbs * sizeof(V);
        WRITE_LANE(word, limbs, lane, enable, data);
        bankside_mark(g, word - g->memory, limbs);
    }
}

// --- forced nets -------------------------------------------------------------------------------------------------------------------
INLINE V FORCED(const struct group* g, const uint8_t* flag, uint32_t limb, V value) {
    for (uint64_t i = 0; i < g->force_count; ++i) {
        const struct force* f = &g->forces[i];
        if (f->flag == flag && f->limb == limb) value = ((value ^ f->flip) & f->keep) | f->value;
    }
    return value;
}

#endif
