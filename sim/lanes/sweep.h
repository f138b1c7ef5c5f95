// Faults in lanes: every group runs the fault-free machine in lane 0 and a faulty one in each other lane, all in the same cycle.
//
// A lane that has become equal to lane 0 again is free for the next fault; so is one whose difference nobody looks at any more.
// Groups begin at the checkpoint before the first fault that is left and take what comes after it. Who is still running when lane 0
// is done is set aside, and such lanes go on together.
//
// `Engine` (lanes_npu.cpp, ...) is the bench: what drives the inputs, when a run is over, how it is judged.
#ifndef BANKSIDE_SWEEP_H
#define BANKSIDE_SWEEP_H

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "lane_ports.h"
#include "runtime.h"

namespace bankside {

constexpr uint64_t kPage = 64;
constexpr uint64_t kCompare = 16;  // cycles between comparisons
constexpr uint64_t kCheckpoints = 48;
constexpr uint64_t kReading = 1 << 16;  // cycles that reading the registers after a run takes at most

enum Op : uint32_t { kFlip, kHold, kForce };
enum Space : uint32_t { kFlop, kMemory, kStore, kNet, kInput, kOutput };

// One limb of an action. offset: of the limb in its space (a bit: of its slot; store: the byte's address).
struct Deed {
    uint32_t op, space;
    uint64_t offset;
    uint32_t mask, value, bit, limb, limbs, set;  // bit: the slot is that of a word of one bit; set: to `value`, else inverted
    uint64_t first, last;
};

struct Outcome {
    uint8_t end;
    uint64_t cycles, status;
    int64_t first;
    uint8_t output, state, counters, corrected, detected;
} __attribute__((packed));

// --- main memory -----------------------------------------------------------------------------------------------------------------
// Bytes that one cycle writes; a bus takes one beat per cycle.
struct Log {
#ifdef BUS_BITS
    static constexpr unsigned kMost = BUS_BITS / 8;
#else
    static constexpr unsigned kMost = 1;  // no main memory
#endif
    uint64_t count;
    uint64_t address[kMost];
    uint8_t value[kMost];

    bool operator==(const Log& other) const {
        return count == other.count && !std::memcmp(address, other.address, count * sizeof *address) &&
               !std::memcmp(value, other.value, count);
    }
};

using Page = std::array<uint8_t, kPage>;
using Pages = std::unordered_map<uint64_t, Page>;

// Whether a page is that of `bytes`, behind which all are zero.
inline bool same_page(const Page& page, uint64_t number, const std::vector<uint8_t>& bytes) {
    for (uint64_t i = 0; i < kPage; ++i) {
        const uint64_t at = number * kPage + i;
        if (page[i] != (at < bytes.size() ? bytes[at] : 0)) return false;
    }
    return true;
}

// The main memory of one lane: that of lane 0, but for some pages. Writes are done at the end of the cycle.
struct LaneStore {
    uint64_t size = 0, span = 0;  // bytes in all; of `base`, behind which all are zero
    const uint8_t* base = nullptr;
    Pages pages;
    Log log{};
    uint64_t* last = nullptr;  // of every page, when it was accessed last; only while lane 0 runs alone
    uint64_t now = 0;

    bool holds(uint64_t address, uint64_t count) const { return address < size && count <= size - address; }

    void read(uint64_t address, uint64_t count, uint8_t* into) const {
        if (address + count <= span) {
            std::memcpy(into, base + address, count);
        } else {
            for (uint64_t i = 0; i < count; ++i) into[i] = address + i < span ? base[address + i] : 0;
        }
        if (last)
            for (uint64_t page = address / kPage; page <= (address + count - 1) / kPage; ++page) last[page] = now;
        if (pages.empty()) return;
        for (uint64_t i = 0; i < count; ++i) {
            const auto found = pages.find((address + i) / kPage);
            if (found != pages.end()) into[i] = found->second[(address + i) % kPage];
        }
    }

    void write(uint64_t address, uint8_t value) {
        log.address[log.count] = address;
        log.value[log.count++] = value;
        if (last) last[address / kPage] = now;
    }

    Page& own(uint64_t page) {
        auto found = pages.find(page);
        if (found == pages.end()) {
            Page copy{};
            if (page * kPage < span) std::memcpy(copy.data(), base + page * kPage, std::min(kPage, span - page * kPage));
            found = pages.emplace(page, copy).first;
        }
        return found->second;
    }

    void put(const Log& writes) {
        for (uint64_t i = 0; i < writes.count; ++i) own(writes.address[i] / kPage)[writes.address[i] % kPage] = writes.value[i];
    }
};

// --- lanes -----------------------------------------------------------------------------------------------------------------------
template <typename Engine>
struct Lane {
    typename Engine::State state{};  // plain data of the bench
    LaneStore store;
    Ports ports{};
    int64_t fault = -1;    // number of its fault; -1: equal to lane 0
    uint64_t pending = 0;  // last cycle of its deeds
    Outcome outcome{};
    bool over = false;     // the run is; its registers are being read
    bool alike = true;     // its bench is in the state of lane 0's, so that equal outputs mean equal inputs
    uint64_t key = 0;      // of the only bit that its fault inverted
    std::vector<std::pair<uint64_t, Outcome>> same;  // further faults that it stands for
};

// State of one machine apart from any group.
template <typename Engine>
struct Saved {
    uint64_t cycle = 0;
    std::vector<uint32_t> q;                             // limbs, then bits, region by region
    std::vector<std::pair<uint64_t, uint32_t>> memory;   // limbs that are not zero, or that differ
    typename Engine::State state{};
    Ports ports{};
    Pages pages;
    int64_t fault = -1;
    uint64_t pending = 0;
    Outcome outcome{};
    std::vector<std::pair<uint64_t, Outcome>> same;
};

template <typename Engine>
class Group {
public:
    lane_group* g = nullptr;
    Lane<Engine> lanes[LANES];
    std::vector<uint8_t> base;
    uint64_t cycle = 0;
    B busy = 0;       // lanes with a fault
    size_t scan = 0;  // faults before this one are no longer looked at
    std::vector<force> forces;
    B done = 0;          // lanes whose registers have been read in this cycle
    bool aside = false;  // lanes that go on after lane 0 is done; all of them have faults

    // --- registers of one lane ---------------------------------------------------------------------------------------------------
    template <typename Limb, typename Bits>
    void each(Limb&& limb, Bits&& bits) const {
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

    // Lanes whose registers differ from those of lane 0.
    B registers_differ() const {
        V odd = K(0);
        B lanes_of_bits = 0;
        for (uint64_t r = 0; r < bankside_region_count; ++r) {
            const region& one = bankside_regions[r];
            const char* at = g->q + one.offset;
            for (uint32_t i = 0; i < one.limbs; ++i, at += sizeof(V)) {
                const V v = LDV(at);
                odd |= v ^ K(v[0]);
            }
            for (uint32_t i = 0; i < one.bits; ++i, at += 2) {
                const B b = LDB(at);
                lanes_of_bits |= b ^ (b & 1 ? ALL : 0);
            }
        }
        return TST(odd, odd) | lanes_of_bits;
    }

    // Lanes whose memories differ from lane 0's; `live`: only in words that lane 0 still looks at.
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
        lanes_disturb(g);
        each([&](uint64_t at) {
                const V q = LDV(g->q + at);
                STV(g->q + at, SEL(which, K(q[0]), q));
                const V d = LDV(g->d + at);
                STV(g->d + at, SEL(which, K(d[0]), d));
            },
             [&](uint64_t at) {
                 for (char* bank : {g->q, g->d}) {
                     const B b = LDB(bank + at);
                     STB(bank + at, (b & ~which) | (b & 1 ? which : 0));
                 }
             });
        for (uint64_t i = 0; i < g->g.dirty_count; ++i)
            for (uint32_t k = 0; k < g->g.dirty[i].limbs; ++k) {
                char* at = g->g.memory + g->g.dirty[i].offset + k * sizeof(V);
                const V v = LDV(at);
                STV(at, SEL(which, K(v[0]), v));
            }
        for (unsigned lane = 1; lane < LANES; ++lane)
            if (which >> lane & 1) {
                lanes[lane].state = lanes[0].state;
                lanes[lane].ports = lanes[0].ports;
                lanes[lane].store.pages.clear();
                lanes[lane].fault = -1;
                lanes[lane].over = lanes[0].over;
                scatter_inputs(lanes[0].ports, *g, lane);
            }
    }

    // --- main memory -------------------------------------------------------------------------------------------------------------
    // Writes of the cycle: lane 0 to the common bytes, the others to their own pages where they differ.
    void commit() {
        const Log& golden = lanes[0].store.log;
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
        for (uint64_t i = 0; i < golden.count; ++i) base[golden.address[i]] = golden.value[i];
        lanes[0].store.log.count = 0;
    }

    // Of lane 0, which runs alone; the common bytes grow as far as it writes.
    void commit_alone() {
        Log& log = lanes[0].store.log;
        for (uint64_t i = 0; i < log.count; ++i)
            if (log.address[i] >= base.size()) base.resize((log.address[i] / kPage + 1) * kPage);
        for (auto& lane : lanes) lane.store.base = base.data(), lane.store.span = base.size();
        for (uint64_t i = 0; i < log.count; ++i) base[log.address[i]] = log.value[i];
        log.count = 0;
    }

    // Whether a lane's main memory differs from lane 0's; pages that have become equal are dropped. live: in a page that lane 0
    // still accesses.
    bool store_differs(unsigned lane, const std::vector<uint64_t>& last, bool& live) {
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
};

// --- the run without faults ----------------------------------------------------------------------------------------------------------
struct Golden {
    uint64_t cycles = 0, all_cycles = 0;  // of the run; with reading its registers
    Outcome outcome{};
    std::vector<uint8_t> final;
    std::vector<uint64_t> memory_last, store_last;
    std::vector<uint8_t> image;                         // at the beginning
    std::vector<std::pair<uint64_t, Log>> writes;       // (cycle, bytes)
};

struct Statistics {
    uint64_t group_cycles, lane_cycles, faults, sweeps, converged, decided, set_aside, shared;
};

template <typename Engine>
class Sweep {
public:
    using Saved = bankside::Saved<Engine>;
    using Group = bankside::Group<Engine>;

    // image: main memory as far as it is not zero, of `size` bytes.
    Sweep(typename Engine::Job job, std::vector<uint8_t> image, uint64_t size, uint64_t groups)
        : engine_(std::move(job)), all_(lanes_new(groups)), groups_(groups), size_(size) {
        if (!all_) throw std::bad_alloc();
        golden_.image = std::move(image);
        for (uint64_t i = 0; i < groups; ++i) {
            groups_[i].g = &all_->group[i];
            all_->group[i].idle = 1;
        }
    }
    ~Sweep() { lanes_delete(all_); }

    Golden& golden() { return golden_; }
    lanes* machines() { return all_; }
    Group& group(uint64_t i) { return groups_[i]; }
    Statistics statistics{};

    // The run without faults, at most `limit` cycles: notes what is needed of it. False where it does not end.
    bool run_golden(uint64_t limit) {
        Group& group = groups_[0];
        golden_.memory_last.assign(bankside_m_bytes / sizeof(V) + 1, 0);
        golden_.store_last.assign(size_ / kPage + 1, 0);
        power_on(group);
        engine_.set_up(group, *this);
        // Twice: the first run tells how long it is and where checkpoints go.
        Saved start;
        save(group, 0, start);
        start_ = start;
        if (!run_alone(group, limit, 0)) return false;
        const uint64_t step = std::max<uint64_t>(kCompare, golden_.cycles / kCheckpoints);
        golden_.image.resize(golden_.final.size());  // so that what is written later has its place from the beginning
        golden_.writes.clear();
        restore(group, start_);
        // A word is looked at also in cycles in which nobody computes what depends on it, because nothing has changed.
        all_->all = 1;
        const bool done = run_alone(group, limit, step);
        all_->all = 0;
        return done;
    }

    // Faults `first[i]..first[i + 1]` of `deeds`, sorted by their first cycle.
    void run(const Deed* deeds, const uint64_t* first, uint64_t count, Outcome* out, uint64_t limit) {
        deeds_ = deeds, first_ = first, count_ = count, out_ = out, limit_ = limit;
        taken_.assign(count, 0);
        next_ = 0;
        for (auto& group : groups_) begin(group);
        while (std::any_of(groups_.begin(), groups_.end(), [](Group& g) { return !g.g->idle; })) {
            cycle_begins();
            lanes_before(all_);
            for (auto& group : groups_)
                if (!group.g->idle) drive(group);
            lanes_after(all_);
            for (auto& group : groups_)
                if (!group.g->idle) observe(group);
            lanes_edge(all_);
            for (auto& group : groups_)
                if (!group.g->idle) cycle_ends(group);
        }
        finish_aside();
    }

    // --- one group -----------------------------------------------------------------------------------------------------------------
    // All lanes as after construction, with the image as main memory.
    void power_on(Group& group) {
        group.base = golden_.image;
        group.g->idle = 0;
        for (auto& lane : group.lanes) {
            lane.store.size = size_;
            attach(lane, group);
        }
    }

    // One cycle of a group in which all lanes are equal. set_inputs(lane) drives lane 0.
    template <typename Drive>
    void together(Group& group, Drive&& drive) {
        auto& lane = group.lanes[0];
        group.g->g.cycle = lane.store.now = group.cycle;
        if (!Engine::kEarly) broadcast_inputs(lane.ports, *group.g);
        lanes_before(all_);
        if (Engine::kEarly) {
            gather_outputs(lane.ports, group.g->t, 0);
            drive(lane);
            broadcast_inputs(lane.ports, *group.g);
        }
        lanes_after(all_);
        if (!Engine::kEarly) {
            gather_outputs(lane.ports, group.g->t, 0);
            drive(lane);
        }
        if (lane.store.log.count && noting_) golden_.writes.emplace_back(group.cycle, lane.store.log);
        group.commit_alone();
        lanes_edge(all_);
    }

    Engine& engine() { return engine_; }

private:
    Engine engine_;
    lanes* all_;
    std::vector<Group> groups_;
    uint64_t size_;
    Golden golden_;
    Saved start_, end_;
    std::vector<Saved> checkpoints_, aside_;
    bool noting_ = false;

    const Deed* deeds_ = nullptr;
    const uint64_t* first_ = nullptr;
    uint64_t count_ = 0, limit_ = 0, next_ = 0;
    Outcome* out_ = nullptr;
    std::vector<uint8_t> taken_;

    void save(const Group& group, unsigned lane, Saved& into) const {
        into.cycle = group.cycle;
        group.save(lane, into.q);
        into.state = group.lanes[lane].state;
        into.ports = group.lanes[lane].ports;
        into.memory.clear();
        const auto* words = reinterpret_cast<const uint32_t*>(group.g->g.memory) + lane;
        for (uint64_t i = 0; i < bankside_m_bytes / sizeof(V); ++i)
            if (words[i * LANES]) into.memory.emplace_back(i * sizeof(V), words[i * LANES]);
    }

    static void attach(bankside::Lane<Engine>& lane, const Group& group) {
        lane.store.base = group.base.data();
        lane.store.span = group.base.size();
    }

    // All lanes of a group in a state of the run without faults.
    void restore(Group& group, const Saved& from) {
        clear_memory(group);
        for (const auto& [at, value] : from.memory) STV(group.g->g.memory + at, K(value));
        group.load(ALL, from.q);
        group.cycle = from.cycle;
        group.busy = 0;
        group.base = golden_.image;
        for (const auto& [cycle, log] : golden_.writes) {
            if (cycle >= from.cycle) break;
            for (uint64_t i = 0; i < log.count; ++i) group.base[log.address[i]] = log.value[i];
        }
        for (unsigned i = 0; i < LANES; ++i) {
            auto& lane = group.lanes[i];
            lane.state = from.state;
            lane.ports = from.ports;
            lane.store.size = size_;
            attach(lane, group);
            lane.store.pages.clear();
            lane.store.log.count = 0;
            lane.fault = -1;
            lane.over = false;
        }
        broadcast_inputs(from.ports, *group.g);
    }

    void clear_memory(Group& group) {
        lanes_clear_memory(group.g);
        for (uint64_t i = 0; i < group.g->g.dirty_count; ++i) group.g->g.marked[group.g->g.dirty[i].offset / sizeof(V)] = 0;
        group.g->g.dirty_count = 0;
    }

    // From the beginning of the run to its end, alone; with checkpoints every `step` cycles.
    bool run_alone(Group& group, uint64_t limit, uint64_t step) {
        auto& lane = group.lanes[0];
        noting_ = true;
        group.cycle = 0;
        group.g->g.last = golden_.memory_last.data();
        lane.store.last = golden_.store_last.data();
        lane.over = false;
        lane.outcome = Outcome{};
        bool done = false;
        while (!done && group.cycle < limit + kReading) {
            if (step && !lane.over && group.cycle % step == 0) {
                checkpoints_.emplace_back();
                save(group, 0, checkpoints_.back());
            }
            together(group, [&](bankside::Lane<Engine>& one) {
                if (!one.over && engine_.over(one.state, one.ports)) {
                    one.over = true;
                    golden_.cycles = group.cycle;
                }
                done = engine_.drive(one.state, one.ports, one.store, group.cycle, one.over);
            });
            ++group.cycle;
        }
        golden_.all_cycles = group.cycle;
        golden_.final = group.base;
        if (done) {
            golden_.outcome.cycles = golden_.cycles;
            golden_.outcome.first = -1;
            golden_.outcome.output = golden_.outcome.state = golden_.outcome.counters = 1;
            engine_.judge(lane.state, lane.ports, golden_.outcome, lane.state);
            if (step) save(group, 0, end_);
        }
        noting_ = false;
        group.g->g.last = nullptr;
        lane.store.last = nullptr;
        return done;
    }

    // --- the sweep -----------------------------------------------------------------------------------------------------------------
    // Put a group before the first fault that is left.
    void begin(Group& group) {
        while (next_ < count_ && taken_[next_]) ++next_;
        group.g->idle = next_ >= count_;
        if (group.g->idle) return;
        const uint64_t at = start_of(next_);
        size_t best = 0;
        for (size_t i = 0; i < checkpoints_.size(); ++i)
            if (checkpoints_[i].cycle <= at) best = i;
        restore(group, checkpoints_[best]);
        group.scan = next_;
        ++statistics.sweeps;
        // What this group takes first, no other one may start for.
        take(group, 1, next_);
    }

    uint64_t start_of(uint64_t fault) const { return deeds_[first_[fault]].first; }

    void take(Group& group, unsigned lane, uint64_t fault) {
        taken_[fault] = 1;
        auto& one = group.lanes[lane];
        one.fault = static_cast<int64_t>(fault);
        one.state = group.lanes[0].state;
        one.ports = group.lanes[0].ports;
        one.store.pages.clear();
        one.over = false;
        one.alike = true;
        one.same.clear();
        one.key = key_of(fault);
        one.pending = 0;
        for (uint64_t i = first_[fault]; i < first_[fault + 1]; ++i) one.pending = std::max(one.pending, deeds_[i].last);
        one.outcome = Outcome{};
        one.outcome.first = -1;
        group.busy |= B(1) << lane;
        ++statistics.faults;
    }

    // Bit that a fault inverts once, 0 for others.
    uint64_t key_of(uint64_t fault) const {
        const Deed& d = deeds_[first_[fault]];
        const bool single = first_[fault + 1] - first_[fault] == 1 && d.op == kFlip && d.space == kFlop && !d.set;
        return single ? (d.offset << 32 | d.mask) + 1 : 0;
    }

    void cycle_begins() {
        for (auto& group : groups_) {
            if (group.g->idle) continue;
            group.g->g.cycle = group.cycle;
            if (!group.aside) fill(group);
            act(group);
        }
    }

    // Free lanes take faults that begin in this cycle.
    void fill(Group& group) {
        if (group.lanes[0].over) return;
        while (group.scan < count_ && (taken_[group.scan] || start_of(group.scan) < group.cycle)) ++group.scan;
        unsigned lane = 1;
        for (size_t i = group.scan; i < count_ && start_of(i) == group.cycle; ++i) {
            if (taken_[i] || shared(group, i)) continue;
            while (lane < LANES && (group.busy >> lane & 1)) ++lane;
            if (lane < LANES) take(group, lane, i);
        }
    }

    // A lane that differs from lane 0 in one bit only is the machine of the fault that inverts this bit now.
    bool shared(Group& group, uint64_t fault) {
        const uint64_t key = key_of(fault);
        if (!key) return false;
        for (unsigned lane = 1; lane < LANES; ++lane) {
            auto& one = group.lanes[lane];
            if (one.key != key || !(group.busy >> lane & 1) || one.over || group.cycle <= one.pending) continue;
            const Deed& d = deeds_[first_[fault]];
            change(group.g->q + d.offset, lane, d);
            const bool equal = !((group.registers_differ() | inputs_differ(group.g->t)) >> lane & 1) && same_surroundings(group, lane);
            change(group.g->q + d.offset, lane, d);
            if (!equal) continue;
            taken_[fault] = 1;
            one.same.emplace_back(fault, Outcome{});
            one.same.back().second.first = -1;
            ++statistics.faults, ++statistics.shared;
            return true;
        }
        return false;
    }

    // Memories, main memory and bench.
    bool same_surroundings(Group& group, unsigned lane) {
        B live = 0;
        bool live_pages = false;
        const auto& one = group.lanes[lane];
        return !(group.memories_differ(golden_.memory_last.data(), live) >> lane & 1) &&
               !group.store_differs(lane, golden_.store_last, live_pages) &&
               (one.alike || !std::memcmp(&one.state, &group.lanes[0].state, sizeof one.state));
    }

    template <typename Do>
    void each_deed(Group& group, Do&& deed) {
        if (group.cycle >= limit_) return;
        for (unsigned lane = 0; lane < LANES; ++lane) {
            const auto& one = group.lanes[lane];
            if (!(group.busy >> lane & 1) || one.over || group.cycle > one.pending) continue;
            for (uint64_t i = first_[one.fault]; i < first_[one.fault + 1]; ++i) {
                const Deed& d = deeds_[i];
                if (d.op == kFlip ? d.first == group.cycle : d.first <= group.cycle && group.cycle <= d.last) deed(lane, d);
            }
        }
    }

    static uint32_t changed(uint32_t old, const Deed& d) {
        return d.set ? (old & ~d.mask) | (d.value & d.mask) : old ^ d.mask;
    }

    static void change(char* at, unsigned lane, const Deed& d) {
        if (d.bit) {
            const B old = LDB(at), mine = old >> lane & 1, now = changed(mine, d) & 1;
            STB(at, (old & ~(B(1) << lane)) | now << lane);
        } else {
            uint32_t& limb = reinterpret_cast<uint32_t*>(at)[lane];
            limb = changed(limb, d);
        }
    }

    // Deposits, and which nets are forced.
    void act(Group& group) {
        if (!group.forces.empty()) lanes_disturb(group.g);
        for (const force& f : group.forces) *const_cast<uint8_t*>(f.flag) = 0;
        group.forces.clear();
        each_deed(group, [&](unsigned lane, const Deed& d) {
            lanes_disturb(group.g);
            if (d.space == kFlop) {
                change(group.g->q + d.offset, lane, d), change(group.g->d + d.offset, lane, d);
            } else if (d.space == kMemory) {
                change(group.g->g.memory + d.offset, lane, d);
                bankside_mark(&group.g->g, d.offset - d.limb * sizeof(V), d.limbs);
            } else if (d.space == kStore) {
                uint8_t& byte = group.lanes[lane].store.own(d.offset / kPage)[d.offset % kPage];
                byte = static_cast<uint8_t>(changed(byte, d));
            } else if (d.space == kNet) {
                group.forces.push_back(forced(group, lane, d));
            }
        });
        for (const force& f : group.forces) *const_cast<uint8_t*>(f.flag) = 1;
        group.g->g.forces = group.forces.data();
        group.g->g.force_count = group.forces.size();
    }

    static force forced(const Group& group, unsigned lane, const Deed& d) {
        const B only = B(1) << lane;
        force f{};
        f.flag = reinterpret_cast<const uint8_t*>(group.g->t + d.offset);
        f.limb = d.limb;
        f.flip = d.set ? K(0) : MZ(only, K(d.mask));
        f.keep = d.set ? ~MZ(only, K(d.mask)) : K(~0u);
        f.value = d.set ? MZ(only, K(d.value & d.mask)) : K(0);
        return f;
    }

    void force_ports(Group& group, Space space) {
        each_deed(group, [&](unsigned lane, const Deed& d) {
            if (d.space == space) change(group.g->t + d.offset, lane, d), lanes_disturb(group.g);
        });
    }

    // Lanes whose bench does what that of lane 0 does are not driven on their own.
    void drive_lanes(Group& group) {
        if (!group.aside) {
            const B odd = any_output_differs(group.g->t);
            for (unsigned lane = 1; lane < LANES; ++lane) {
                auto& one = group.lanes[lane];
                if (!(group.busy >> lane & 1)) continue;
                if (one.alike && ((odd >> lane & 1) || !one.store.pages.empty())) {
                    one.alike = false;
                    one.state = group.lanes[0].state;
                    one.ports = group.lanes[0].ports;
                }
            }
            drive_lane(group, 0);
        }
        const B mine = own(group);
        for (unsigned lane = 1; lane < LANES; ++lane)
            if ((group.busy & ~mine) >> lane & 1) {
                if (group.lanes[0].over && !group.lanes[lane].over) ends(group, lane);
                group.done |= (group.done & 1) << lane;
            }
        for (unsigned lane = 0; lane < LANES; ++lane)
            if (mine >> lane & 1) drive_lane(group, lane);
    }

    // Lanes that are driven on their own.
    static B own(const Group& group) {
        B found = 0;
        for (unsigned lane = 0; lane < LANES; ++lane)
            if ((group.busy >> lane & 1) && (group.aside || !group.lanes[lane].alike)) found |= B(1) << lane;
        return found;
    }

    static void give_inputs(Group& group) {
        const B mine = own(group);
        spread_inputs(group.lanes[0].ports, *group.g, ~mine & ALL);
        for (unsigned lane = 0; lane < LANES; ++lane)
            if (mine >> lane & 1) scatter_inputs(group.lanes[lane].ports, *group.g, lane);
    }

    void drive_lane(Group& group, unsigned lane) {
        auto& one = group.lanes[lane];
        gather_outputs(one.ports, group.g->t, lane);
        if (!one.over && (group.cycle >= limit_ || engine_.over(one.state, one.ports))) ends(group, lane);
        if (engine_.drive(one.state, one.ports, one.store, group.cycle, one.over)) group.done |= B(1) << lane;
    }

    // Where outputs depend on inputs (not kEarly), `drive_lanes` comes later in a cycle and is about the inputs of the next one.
    void drive(Group& group) {
        if (Engine::kEarly) {
            force_ports(group, kOutput);
            drive_lanes(group);
        }
        give_inputs(group);
        force_ports(group, kInput);
    }

    // The run of a lane is over in this cycle.
    void ends(Group& group, unsigned lane) {
        auto& one = group.lanes[lane];
        one.over = true;
        one.outcome.cycles = std::min(group.cycle, limit_);
        if (group.cycle >= limit_) one.outcome.end = 2;
        if (!lane && !group.aside) return;
        const bool together = group.cycle == golden_.cycles && !group.aside;
        B live = 0;
        const B odd = together ? group.registers_differ() | group.memories_differ(golden_.memory_last.data(), live) : ALL;
        one.outcome.state = !(odd >> lane & 1);
    }

    void observe(Group& group) {
        if (!Engine::kEarly) {
            force_ports(group, kOutput);
            drive_lanes(group);
        }
        B running = 0, without = 0;
        for (unsigned lane = 0; lane < LANES; ++lane) {
            if (!(group.busy >> lane & 1) || group.lanes[lane].over) continue;
            running |= B(1) << lane;
            const auto& one = group.lanes[lane];
            const bool open = std::any_of(one.same.begin(), one.same.end(), [](auto& s) { return s.second.first < 0; });
            if (one.outcome.first < 0 || open) without |= B(1) << lane;
        }
        if (!running) return;
        if (without && !group.aside && !group.lanes[0].over) {
            const B odd = outputs_differ(group.g->t) & without;
            for (unsigned lane = 1; odd && lane < LANES; ++lane)
                if (odd >> lane & 1) each_outcome(group.lanes[lane], [&](Outcome& outcome) {
                        if (outcome.first < 0) outcome.first = static_cast<int64_t>(group.cycle);
                    });
        }
        const B corrected = alarm_corrected(group.g->t) & running, detected = alarm_detected(group.g->t) & running;
        for (unsigned lane = 0; (corrected | detected) && lane < LANES; ++lane) {
            each_outcome(group.lanes[lane], [&](Outcome& outcome) {
                outcome.corrected |= corrected >> lane & 1;
                outcome.detected |= detected >> lane & 1;
            });
        }
    }

    template <typename Do>
    static void each_outcome(bankside::Lane<Engine>& lane, Do&& with) {
        with(lane.outcome);
        for (auto& [fault, outcome] : lane.same) with(outcome);
    }

    // The outcome of a lane, for all faults that it stands for.
    void report(const bankside::Lane<Engine>& lane, const Outcome& outcome) {
        out_[lane.fault] = outcome;
        for (const auto& [fault, own] : lane.same) {
            out_[fault] = outcome;
            out_[fault].first = own.first;
            out_[fault].corrected = own.corrected;
            out_[fault].detected = own.detected;
        }
    }

    void cycle_ends(Group& group) {
        if (group.aside)
            for (auto& lane : group.lanes) lane.store.put(lane.store.log), lane.store.log.count = 0;
        else
            group.commit();
        ++group.cycle;
        ++statistics.group_cycles;
        statistics.lane_cycles += __builtin_popcount(group.busy);
        const B done = group.done;
        group.done = 0;
        for (unsigned lane = group.aside ? 0 : 1; lane < LANES; ++lane)
            if ((done & group.busy) >> lane & 1) complete(group, lane);
        if (group.aside) {
            group.g->idle = group.busy == 0;
            return;
        }
        if (done & 1) {
            set_aside(group);
            begin(group);
        } else if (group.cycle % kCompare == 0) {
            compare(group);
        }
    }

    // A lane whose registers have been read.
    void complete(Group& group, unsigned lane) {
        auto& one = group.lanes[lane];
        if (one.alike && !group.aside) one.state = group.lanes[0].state, one.ports = group.lanes[0].ports;
        Outcome& outcome = one.outcome;
        const uint8_t limit = outcome.end == 2;
        outcome.output = outcome.counters = 1;
        engine_.judge(one.state, one.ports, outcome, end_.state);
        if (limit) outcome.end = 2;
        outcome.output &= same_image(group, lane);
        report(one, outcome);
        release(group, B(1) << lane);
    }

    bool same_image(const Group& group, unsigned lane) const {
        const auto& pages = group.lanes[lane].store.pages;
        const auto& end = golden_.final;
        for (const auto& [number, page] : pages)
            if (!same_page(page, number, end)) return false;
        for (uint64_t at = 0; at < end.size(); at += kPage)
            if (!pages.count(at / kPage) &&
                std::memcmp(group.base.data() + at, end.data() + at, std::min(kPage, end.size() - at)))
                return false;
        return true;
    }

    void release(Group& group, B which) {
        group.busy &= ~which;
        if (!group.aside) group.join(which);
        for (unsigned lane = 0; lane < LANES; ++lane)
            if (which >> lane & 1) group.lanes[lane].fault = -1;
    }

    // Lanes that are equal to lane 0, or differ only in what it never looks at again, are decided.
    void compare(Group& group) {
        B open = 0;
        for (unsigned lane = 1; lane < LANES; ++lane)
            if ((group.busy >> lane & 1) && !group.lanes[lane].over && group.cycle > group.lanes[lane].pending) open |= B(1) << lane;
        if (!open || group.lanes[0].over) return;
        for (unsigned lane = 1; lane < LANES; ++lane) {
            auto& one = group.lanes[lane];
            if ((open >> lane & 1) && !one.alike && one.store.pages.empty() &&
                !std::memcmp(&one.state, &group.lanes[0].state, sizeof one.state) && !(inputs_differ(group.g->t) >> lane & 1))
                one.alike = true;
        }
        open &= ~(group.registers_differ() | inputs_differ(group.g->t));
        if (!open) return;
        B live = 0;
        const B memories = group.memories_differ(golden_.memory_last.data(), live);
        open &= ~live;
        for (unsigned lane = 1; lane < LANES; ++lane) {
            if (!(open >> lane & 1)) continue;
            auto& one = group.lanes[lane];
            bool live_pages = false;
            const bool store = group.store_differs(lane, golden_.store_last, live_pages);
            const bool bench = one.alike || !std::memcmp(&one.state, &group.lanes[0].state, sizeof one.state);
            if (live_pages || !bench) continue;
            decide(one, memories >> lane & 1, store);
            release(group, B(1) << lane);
        }
    }

    void decide(bankside::Lane<Engine>& lane, bool memories, bool store) {
        Outcome outcome = golden_.outcome;
        outcome.first = lane.outcome.first;
        outcome.corrected = lane.outcome.corrected;
        outcome.detected = lane.outcome.detected;
        outcome.state = !memories;
        outcome.output = !store;
        report(lane, outcome);
        ++(memories || store ? statistics.decided : statistics.converged);
    }

    // --- who is still running when lane 0 is done ----------------------------------------------------------------------------------
    void set_aside(Group& group) {
        for (unsigned lane = 1; lane < LANES; ++lane) {
            if (!(group.busy >> lane & 1)) continue;
            auto& one = group.lanes[lane];
            Saved saved;
            saved.cycle = group.cycle;
            group.save(lane, saved.q);
            for (uint64_t i = 0; i < group.g->g.dirty_count; ++i)
                for (uint32_t k = 0; k < group.g->g.dirty[i].limbs; ++k) {
                    const uint64_t at = group.g->g.dirty[i].offset + k * sizeof(V);
                    saved.memory.emplace_back(at, reinterpret_cast<uint32_t*>(group.g->g.memory + at)[lane]);
                }
            saved.state = one.alike ? group.lanes[0].state : one.state;
            saved.ports = one.alike ? group.lanes[0].ports : one.ports;
            saved.same = one.same;
            saved.pages = one.store.pages;
            saved.fault = one.fault;
            saved.pending = one.pending;
            saved.outcome = one.outcome;
            over_.push_back(one.over);
            aside_.push_back(std::move(saved));
            ++statistics.set_aside;
        }
        group.busy = 0;
    }

    void finish_aside() {
        size_t next = 0;
        for (auto& group : groups_) group.aside = true;
        while (next < aside_.size() || busy_any()) {
            for (auto& group : groups_)
                if (group.g->idle && next < aside_.size()) next = go_on(group, next);
            cycle_begins();
            lanes_before(all_);
            for (auto& group : groups_)
                if (!group.g->idle) drive(group);
            lanes_after(all_);
            for (auto& group : groups_)
                if (!group.g->idle) observe(group);
            lanes_edge(all_);
            for (auto& group : groups_)
                if (!group.g->idle) cycle_ends(group);
        }
        for (auto& group : groups_) group.aside = false;
        aside_.clear();
        over_.clear();
    }

    bool busy_any() const {
        return std::any_of(groups_.begin(), groups_.end(), [](const Group& g) { return !g.g->idle; });
    }

    // Up to 16 of those set aside in one group; all stopped in the same cycle.
    size_t go_on(Group& group, size_t next) {
        restore(group, end_);
        group.base = golden_.final;
        for (auto& lane : group.lanes) attach(lane, group);
        group.g->idle = 0;
        for (unsigned lane = 0; lane < LANES && next < aside_.size(); ++lane, ++next) {
            const Saved& saved = aside_[next];
            group.cycle = saved.cycle;
            group.load(B(1) << lane, saved.q);
            for (const auto& [at, value] : saved.memory) reinterpret_cast<uint32_t*>(group.g->g.memory + at)[lane] = value;
            auto& one = group.lanes[lane];
            one.state = saved.state;
            one.ports = saved.ports;
            one.store.pages = saved.pages;
            one.fault = saved.fault;
            one.pending = saved.pending;
            one.outcome = saved.outcome;
            one.same = saved.same;
            one.alike = false;
            one.over = over_[next];
            group.busy |= B(1) << lane;
            scatter_inputs(one.ports, *group.g, lane);
        }
        return next;
    }

    std::vector<bool> over_;
};

}  // namespace bankside

#endif
