// Groups of lanes with faults: lane 0 is the machine without one, as is the pilot that all of them follow (followers.h).
#ifndef BANKSIDE_LANE_GROUP_H
#define BANKSIDE_LANE_GROUP_H

#include "followers.h"
#include "lane_ports.h"
#include "lane_store.h"

namespace bankside {

enum Op : uint32_t { kFlip, kHold, kForce };
enum Space : uint32_t { kFlop, kMemory, kStore, kNet, kInput, kOutput };

// One limb of an action. offset: of the limb in its space (a bit: of its slot; store: the byte's address).
struct Deed {
    uint32_t op, space;
    uint64_t offset;
    uint32_t mask, value, bit, limb, limbs, set;  // bit: the slot is that of a word of one bit; set: to `value`, else inverted
    uint64_t first, last;

    uint32_t changed(uint32_t old) const { return set ? (old & ~mask) | (value & mask) : old ^ mask; }

    // In one lane of the place where it acts.
    void change(char* at, unsigned lane) const {
        if (bit) {
            const B old = LDB(at), mine = old >> lane & 1, now = changed(mine) & 1;
            STB(at, (old & ~(B(1) << lane)) | now << lane);
        } else {
            uint32_t& limb = reinterpret_cast<uint32_t*>(at)[lane];
            limb = changed(limb);
        }
    }
};

struct Outcome {
    uint8_t end;
    uint64_t cycles, status;
    int64_t first;
    uint8_t output, state, counters, corrected, detected;
} __attribute__((packed));

template <typename Engine>
struct Lane {
    typename Engine::State state{};  // plain data of the bench
    LaneStore store;
    Ports ports{};
    int64_t fault = -1;    // number of its fault; -1: equal to lane 0
    uint64_t pending = 0;  // last cycle of its deeds
    Outcome outcome{};
    bool over = false;     // the run is; its registers are being read
    bool alike = true;     // its bench is in the state of the pilot's, so that equal outputs mean equal inputs
    uint64_t key = 0;      // of the only bit that its fault inverted
    std::vector<std::pair<uint64_t, Outcome>> same;  // further faults that it stands for

    template <typename Do>
    void each_outcome(Do&& with) {
        with(outcome);
        for (auto& [fault_, other] : same) with(other);
    }
};

// State of one machine apart from any group.
template <typename Engine>
struct Saved {
    uint64_t cycle = 0;
    std::vector<uint32_t> q;                             // limbs, then bits, region by region
    std::vector<std::pair<uint64_t, uint32_t>> memory;   // limbs that are not zero, or that differ
    std::vector<uint32_t> between;                       // of a checkpoint: values that the recording goes on from
    typename Engine::State state{};
    Ports ports{};
    Pages pages;
    int64_t fault = -1;
    uint64_t pending = 0;
    Outcome outcome{};
    bool over = false;
    std::vector<std::pair<uint64_t, Outcome>> same;
};

template <typename Engine>
class Group {
public:
    lane_group* g = nullptr;
    Lane<Engine> lanes[LANES];
    uint64_t cycle = 0;
    B busy = 0;          // lanes with a fault
    B done = 0;          // lanes whose registers have been read in this cycle
    uint64_t compare_at = 0;  // cycle of the next comparison of memories
    bool other_inputs = false;  // some lane may have other inputs than the pilot
    bool full = false;   // so much differs that it is cheaper to compute everything
    bool aside = false;  // lanes that go on after the pilot is done; all of them have faults
    bool forced = false;  // an output is, in this cycle
    uint64_t last_deed = 0;  // cycle after which no fault acts any more
    std::vector<force> forces;
    Follower follower;

    explicit Group(const ItemTable& table) : follower(table) {}

    // --- registers of one lane ---------------------------------------------------------------------------------------------------
    template <typename Limb, typename Bits>
    static void each(Limb&& limb, Bits&& bits) {
        for (uint64_t r = 0; r < bankside_region_count; ++r) {
            const region& one = bankside_regions[r];
            for (uint32_t i = 0; i < one.limbs; ++i) limb(one.offset + i * sizeof(V));
            for (uint32_t i = 0; i < one.bits; ++i) bits(one.offset + one.limbs * sizeof(V) + 2 * i);
        }
    }

    void save(unsigned lane, std::vector<uint32_t>& q) const {
        q.clear();
        each([&](uint64_t at) { q.push_back(reinterpret_cast<uint32_t*>(g->q + at)[lane]); },
             [&](uint64_t at) { q.push_back(LDB(g->q + at) >> lane & 1); });
    }

    void load(B which, const std::vector<uint32_t>& q) {
        lanes_disturb(g);
        size_t i = 0;
        each(
            [&](uint64_t at) {
                const V value = SEL(which, K(q[i++]), LDV(g->q + at));
                STV(g->q + at, value), STV(g->d + at, value);
            },
            [&](uint64_t at) {
                const B value = (LDB(g->q + at) & ~which) | (q[i++] ? which : 0);
                STB(g->q + at, value), STB(g->d + at, value);
            });
    }

    // Everything is computed here, whatever the pilot does.
    bool alone() const { return full || aside; }

    // Lanes whose registers differ from those of lane 0.
    B registers_differ() const {
        if (!alone()) return follower.registers_differ();
        V odd = K(0);
        B lanes_of_bits = 0;
        each(
            [&](uint64_t at) {
                const V v = LDV(g->q + at);
                odd |= v ^ K(v[0]);
            },
            [&](uint64_t at) {
                const B b = LDB(g->q + at);
                lanes_of_bits |= b ^ (b & 1 ? ALL : 0);
            });
        return TST(odd, odd) | lanes_of_bits;
    }

    void join_registers(B which) {
        lanes_disturb(g);
        each(
            [&](uint64_t at) {
                for (char* bank : {g->q, g->d}) {
                    const V v = LDV(bank + at);
                    STV(bank + at, SEL(which, K(v[0]), v));
                }
            },
            [&](uint64_t at) {
                for (char* bank : {g->q, g->d}) {
                    const B b = LDB(bank + at);
                    STB(bank + at, (b & ~which) | (b & 1 ? which : 0));
                }
            });
    }

    // --- words of its own --------------------------------------------------------------------------------------------------------
    // Lanes whose memories differ from lane 0's; `live`: only in words that the pilot still looks at. Own words that have become
    // equal in all lanes are given up.
    B memories_differ(const uint64_t* last, B& live) {
        B any = 0;
        uint64_t kept = 0;
        live = 0;
        for (uint64_t i = 0; i < g->g.dirty_count; ++i) {
            const dirty one = g->g.dirty[i];
            B here = 0;
            for (uint32_t k = 0; k < one.limbs; ++k) {
                const V v = LDV(g->g.memory + one.offset + k * sizeof(V));
                here |= NE(v, K(v[0]));
            }
            if (!here) {
                g->g.marked[one.offset / sizeof(V)] = 0;
                continue;
            }
            any |= here;
            if (last[one.offset / sizeof(V)] >= cycle) live |= here;
            g->g.dirty[kept++] = one;
        }
        g->g.dirty_count = kept;
        return any;
    }

    // Make lanes equal to lane 0.
    void join(B which) {
        if (!which) return;
        if (full) join_registers(which);
        else follower.join(which);
        for (uint64_t i = 0; i < g->g.dirty_count; ++i)
            for (uint32_t k = 0; k < g->g.dirty[i].limbs; ++k) {
                char* at = g->g.memory + g->g.dirty[i].offset + k * sizeof(V);
                const V v = LDV(at);
                STV(at, SEL(which, K(v[0]), v));
            }
        for (unsigned lane = 1; lane < LANES; ++lane)
            if (which >> lane & 1) {
                lanes[lane].store.pages.clear();
                set_alike(lane, true);
            }
    }

    // with(word, lanes that differ) of words of its own.
    template <typename Do>
    void each_word(Do&& with) const {
        for (uint64_t i = 0; i < g->g.dirty_count; ++i) {
            const dirty& word = g->g.dirty[i];
            B odd = 0;
            for (uint32_t k = 0; k < word.limbs; ++k) {
                const V v = LDV(g->g.memory + word.offset + k * sizeof(V));
                odd |= NE(v, K(v[0]));
            }
            if (odd) with(word, odd);
        }
    }

    // A lane leaves, which becomes as lane 0.
    Lane<Engine> give_away(unsigned lane) {
        Lane<Engine> out = std::move(lanes[lane]);
        busy &= ~(B(1) << lane);
        join(B(1) << lane);
        lanes[lane].fault = -1;
        lanes[lane].key = 0;
        lanes[lane].same.clear();
        return out;
    }

    void receive(unsigned lane, Lane<Engine> one) {
        lanes[lane] = std::move(one);
        set_alike(lane, lanes[lane].alike);
        busy |= B(1) << lane;
    }

    // Nobody is left: all lanes are as the pilot.
    void empty() {
        last_deed = 0;
        full = false;
        g->idle = 1;
        follower.reset();
    }

    // --- lanes by what they do ---------------------------------------------------------------------------------------------------
    // Lanes that are driven on their own.
    B own() const { return aside ? busy : busy & apart_; }

    void set_alike(unsigned lane, bool alike) {
        lanes[lane].alike = alike;
        apart_ = (apart_ & ~(B(1) << lane)) | B(!alike) << lane;
    }

    unsigned free_lane() const { return static_cast<unsigned>(__builtin_ctz(~(busy | 1))); }
    unsigned room() const { return LANES - 1 - static_cast<unsigned>(__builtin_popcount(busy)); }
    bool occupied() const { return (busy | 1) == ALL; }

    // --- main memory -------------------------------------------------------------------------------------------------------------
    // Writes of the cycle, where they differ from the pilot's, which are not yet in the common bytes.
    void commit(const Log& golden) {
        for (unsigned lane = 1; lane < LANES; ++lane) {
            LaneStore& store = lanes[lane].store;
            if (!(busy >> lane & 1) || lanes[lane].alike) continue;  // without pages of its own
            if (golden.count == 0 && store.log.count == 0) continue;
            if (store.log == golden) {
                // Bytes of its own pages do not follow the common ones.
                for (uint64_t i = 0; i < golden.count && !store.pages.empty(); ++i)
                    if (store.pages.count(golden.address[i] / kPage))
                        store.own(golden.address[i] / kPage)[golden.address[i] % kPage] = golden.value[i];
            } else {
                for (uint64_t i = 0; i < golden.count; ++i) store.own(golden.address[i] / kPage);
                store.put(store.log);
            }
            store.log.count = 0;
        }
    }

    // Whether a lane's main memory differs from the pilot's, `base`; pages that have become equal are dropped. live: in a page that
    // the pilot still accesses.
    bool store_differs(unsigned lane, const std::vector<uint8_t>& base, const std::vector<uint64_t>& last, bool& live) {
        LaneStore& store = lanes[lane].store;
        live = false;
        for (auto page = store.pages.begin(); page != store.pages.end();) {
            if (same_page(page->second, page->first, base)) {
                page = store.pages.erase(page);
                continue;
            }
            live = live || last[page->first] >= cycle;
            ++page;
        }
        return !store.pages.empty();
    }

private:
    B apart_ = 0;  // lanes that are not alike
};

}  // namespace bankside

#endif
