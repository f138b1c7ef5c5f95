// A group that computes only what differs from the run without faults.
//
// One group, the pilot, runs all functions with the fault-free machine in every lane. Another group of the same cycle runs a function
// only where a lane differs from lane 0, which is fault-free too, in something that the function reads. What nobody has computed in a
// group is not there: whoever reads it takes it from the pilot. Memories have own words only where a lane's differ.
//
// Ref: E. G. Ulrich, T. Baker, "The concurrent simulation of nearly identical digital networks", DAC 1973.
#ifndef BANKSIDE_FOLLOWERS_H
#define BANKSIDE_FOLLOWERS_H

#include <algorithm>
#include <map>
#include <vector>

#include "runtime.h"

namespace bankside {

// Sets of items: vectors of 512 bits, one for most designs.
class Items {
public:
    Items() : vectors_(bankside_item_words / 8, V64{}) {}

    bool has(uint64_t item) const { return word(item / 64) >> item % 64 & 1; }
    void add(uint64_t item) { words()[item / 64] |= uint64_t{1} << item % 64; }
    void clear() { std::fill(vectors_.begin(), vectors_.end(), V64{}); }
    void add_set(uint64_t set) {
        const V64* from = reinterpret_cast<const V64*>(bankside_item_sets) + set * vectors_.size();
        for (size_t i = 0; i < vectors_.size(); ++i) vectors_[i] |= from[i];
    }
    bool meets(const Items& other) const {
        for (uint64_t i = 0; i < bankside_item_words; ++i)
            if (word(i) & other.word(i)) return true;
        return false;
    }
    void swap(Items& other) { vectors_.swap(other.vectors_); }
    V64* data() { return vectors_.data(); }
    const V64* data() const { return vectors_.data(); }

    // The first one from `item` on; ~0: none.
    uint64_t next(uint64_t item) const {
        uint64_t i = item / 64;
        if (i >= bankside_item_words) return ~uint64_t{0};
        uint64_t bits = word(i) & ~uint64_t{0} << item % 64;
        while (!bits)
            if (++i == bankside_item_words) return ~uint64_t{0};
            else bits = word(i);
        return 64 * i + static_cast<uint64_t>(__builtin_ctzll(bits));
    }

private:
    std::vector<V64> vectors_;

    uint64_t word(uint64_t i) const { return reinterpret_cast<const uint64_t*>(vectors_.data())[i]; }
    uint64_t* words() { return reinterpret_cast<uint64_t*>(vectors_.data()); }
};

// One limb or bit that an item of a batch reads (from: its byte in q or t; to: that of the batch's own q or t) or writes (both in q).
struct Move {
    uint32_t from, to;
    bool t, to_t;
    uint32_t partner;  // of what is read its owner; of what is written the set of its readers
};

struct BatchPlan {
    std::vector<Move> limbs, bits, written_limbs, written_bits;
};

// What is known of the design's items, once for all groups.
struct ItemTable {
    std::vector<item> items;
    uint64_t before, edge, bench;         // the first item after the inputs, at the edge; the bench's number
    std::vector<std::pair<uint64_t, span>> registers;  // (item, span of its own), by offset
    Items showing;                        // who computes outputs
    classes memories = 0;                 // classes of those who use memories
    std::vector<int> batch;               // of an item: functions that may run for many instances at once, numbered; -1: may not
    int batches = 0;
    std::vector<BatchPlan> plans;         // of items in batches

    ItemTable() {
        items.assign(bankside_before, bankside_before + bankside_before_count);
        before = items.size();
        items.insert(items.end(), bankside_after, bankside_after + bankside_after_count);
        edge = items.size();
        items.insert(items.end(), bankside_edge, bankside_edge + bankside_edge_count);
        bench = items.size();
        for (uint64_t i = 0; i < items.size(); ++i)
            for (uint32_t s = bankside_effects[i].writes; s < bankside_effects[i].writes_end; ++s)
                if (!bankside_spans[s].t) registers.emplace_back(i, bankside_spans[s]);
        for (uint64_t i = 0; i < edge; ++i)
            if (bankside_effects[i].memories) memories |= items[i].bit;
        std::sort(registers.begin(), registers.end(), [](auto& a, auto& b) { return a.second.offset < b.second.offset; });
        for (uint32_t s = bankside_ports.early; s < bankside_ports.outputs_end; ++s)
            if (bankside_spans[s].partner < bench) showing.add(bankside_spans[s].partner);
        find_batches();
    }

    // Calls of one kept module after the inputs that compute registers only, from registers and ports of their instance: in any order
    // and apart from the group. Not where nets may be forced within them.
    void find_batches() {
        batch.assign(bench, -1);
        plans.resize(bench);
        std::map<void*, std::vector<uint64_t>> by_function;
        for (uint64_t i = before; i < edge && !bankside_nets_count; ++i) {
            const effects& of = bankside_effects[i];
            bool fits = items[i].registers && !of.memories;
            for (uint32_t s = of.writes; s < of.writes_end; ++s) fits &= !bankside_spans[s].t;
            if (fits) by_function[reinterpret_cast<void*>(items[i].run)].push_back(i);
        }
        for (const auto& [function, of] : by_function) {
            if (of.size() < 2) continue;
            for (const uint64_t i : of) batch[i] = batches, plans[i] = plan(i);
            ++batches;
        }
    }

    BatchPlan plan(uint64_t i) const {
        const effects& of = bankside_effects[i];
        BatchPlan out;
        for (const auto& [first, end] : {std::pair{of.reads, of.reads_end}, {of.own, of.own_end}})
            for (uint32_t s = first; s < end; ++s) {
                const span& one = bankside_spans[s];
                const bool given = one.target != ~0u;
                const auto to = static_cast<uint32_t>(given ? one.target - items[i].t : one.offset - (one.t ? items[i].t : items[i].q));
                add_moves(one.bit ? out.bits : out.limbs, one, {one.offset, to, one.t != 0, given || one.t, one.partner});
            }
        for (uint32_t s = of.writes; s < of.writes_end; ++s) {
            const span& one = bankside_spans[s];
            const auto from = static_cast<uint32_t>(one.offset - items[i].q);
            add_moves(one.bit ? out.written_bits : out.written_limbs, one, {from, one.offset, false, false, one.partner});
        }
        return out;
    }

    static void add_moves(std::vector<Move>& to, const span& one, Move move) {
        for (uint32_t k = 0; k < one.count; ++k) {
            to.push_back(move);
            const uint32_t step = one.bit ? 2 : sizeof(V);
            move.from += step, move.to += step;
        }
    }

    // (item, span with the set of its readers) of the register at a byte of q.
    const std::pair<uint64_t, span>& register_at(uint64_t offset) const {
        auto found = std::upper_bound(registers.begin(), registers.end(), offset,
                                      [](uint64_t at, auto& one) { return at < one.second.offset; });
        return *--found;
    }

    static uint64_t computes(uint64_t flag) {
        for (uint64_t i = 0; i < bankside_nets_count; ++i)
            if (bankside_nets[i].offset == flag) return bankside_nets[i].item;
        return ~uint64_t{0};
    }
};

// The group that others follow. Limbs of its registers in this cycle (q) and the next (d): a vector of equal values each, or, from a
// recording, one value each.
struct Pilot {
    lane_group* g;
    const char *q, *d;
    unsigned shift;  // from the offset of a vector to that of what is there

    void computed() { q = g->q, d = g->d, shift = 0; }
    void recorded(const std::vector<uint32_t>& now, const std::vector<uint32_t>& next) {
        q = reinterpret_cast<const char*>(now.data()), d = reinterpret_cast<const char*>(next.data());
        shift = kShift;
    }
    uint32_t value(const char* bank, uint64_t offset) const { return *reinterpret_cast<const uint32_t*>(bank + (offset >> shift)); }

    static constexpr unsigned kShift = 4;  // sizeof(V) / sizeof(uint32_t), as a power of two
};
static_assert(sizeof(V) == sizeof(uint32_t) << Pilot::kShift);

class Follower;

// Lanes of many groups and instances of one module that are computed side by side.
class Batches {
public:
    Batches(const ItemTable& table, const Pilot& pilot)
        : table_(table), pilot_(pilot), queues_(static_cast<size_t>(table.batches)) {}

    inline void add(Follower& follower, uint64_t item, unsigned lane);
    inline void finish();

private:
    struct Entry {
        Follower* follower;
        uint64_t item;
        unsigned lane;
    };
    struct Queue {
        unsigned count = 0;
        Entry entries[LANES];
        std::vector<V> q, d, t;  // of one instance
    };

    const ItemTable& table_;
    const Pilot& pilot_;
    std::vector<Queue> queues_;
    group none_{};

    inline void run(Queue& queue);
    inline void gather(const Queue& queue, unsigned b, char* q, char* t) const;
    inline void scatter(const Queue& queue, unsigned b, const char* d) const;
    inline void reserve(Queue& queue, uint64_t item);
};

// Of one group. A cycle: begin, deposits, before, inputs, after, edge (before the pilot's), end.
class Follower {
public:
    uint64_t computed = 0;  // items, in all
    uint64_t work = 0;      // since somebody has looked: an item of a batch counts 1, another one kOne
    static constexpr uint64_t kOne = 4;

    explicit Follower(const ItemTable& table) : table_(table) {}

    void attach(lane_group* group, const Pilot* pilot, Batches* batches) {
        g_ = group, pilot_ = pilot, batches_ = batches;
        kept_.assign(2 * table_.bench * vectors_, V64{});
        kept_odd_.assign(table_.bench, 0);
        reset();
    }

    void detach() { g_->g.pilot = nullptr; }

    // All lanes are as the pilot.
    void reset() {
        reset_sets();
        for (uint64_t i = 0; i < g_->g.dirty_count; ++i) g_->g.marked[g_->g.dirty[i].offset / sizeof(V)] = 0;
        g_->g.dirty_count = 0;
    }

    // moved: items that read something of the pilot which is not what it was in the cycle before; NULL: not known.
    void begin(const V64* moved) {
        pilot_moved_ = moved;
        now_.clear();
        wake_.swap(next_);
        next_.clear();
        moved_now_.clear();
        moved_next_.clear();
        odd_ = 0;
        shown_ = false;
    }

    void before() { run(0, table_.before); }
    void after() { run(table_.before, table_.edge); }
    void at_edge() { run(table_.edge, table_.bench); }

    // The pilot has touched words; where they are own ones, those who touch them have to be computed.
    void touched(const touch* first, const touch* end) {
        if (!g_->g.dirty_count) return;
        for (; first != end; ++first)
            if (g_->g.marked[first->offset / sizeof(V)]) wake_.add(first->item);
    }

    void end() {
        for (size_t i = 0; i < vectors_; ++i) before_.data()[i] = moved_next_.data()[i] | (now_.data()[i] ^ valid_.data()[i]);
        before_.add(table_.bench + 1);  // nobody: what the pilot has of it may be anything
        valid_ = now_;
        last_.swap(now_);
        if (whole_) --whole_;
        std::swap(g_->q, g_->d);
    }

    // --- changes from outside ----------------------------------------------------------------------------------------------------
    // The register at a byte of q is about to change.
    void change_register(uint64_t offset) {
        const auto& [item, where] = table_.register_at(offset);
        adopt(item);
        before_.add(item);
        wake_.add_set(where.partner);
    }

    void change_word(uint64_t offset, uint32_t limbs) {
        OWN(&g_->g, g_->g.memory + offset, static_cast<int>(limbs));
        bankside_mark(&g_->g, offset, limbs);
        whole_ = std::max(whole_, 1u);
    }

    // In this cycle only.
    void change_net(uint64_t flag) {
        wake_.add(ItemTable::computes(flag));
        whole_ = 2;
    }

    // Inputs of its own, as yet the pilot's.
    void take_inputs() {
        for (uint32_t s = bankside_ports.inputs; s < bankside_ports.inputs_end; ++s) copy(bankside_spans[s]);
        now_.add(table_.bench);
    }

    // They have been changed.
    void inputs_given() {
        moved_now_.add(table_.bench);
        for (uint32_t s = bankside_ports.inputs; s < bankside_ports.inputs_end; ++s)
            if (differs(bankside_spans[s])) wake_.add_set(bankside_spans[s].partner);
    }

    // --- what the bench looks at -------------------------------------------------------------------------------------------------
    bool shows() const { return now_.meets(table_.showing); }
    bool has_inputs() const { return last_.has(table_.bench); }  // between cycles

    // All outputs are there; before the inputs are known only what does not depend on them counts.
    void show(bool early) {
        const uint32_t first = early ? bankside_ports.early : bankside_ports.outputs;
        const uint32_t end = early ? bankside_ports.early_end : bankside_ports.outputs_end;
        for (uint32_t s = first; s < end; ++s) {
            const span& one = bankside_spans[s];
            if (!now_.has(one.partner) && !(shown_ && one.partner < table_.before)) copy(one);
        }
        shown_ = true;
    }

    // Lanes with a register that will differ from lane 0's, as computed in this cycle.
    B odd() const { return odd_; }

    // Lanes whose registers differ from those of lane 0.
    B registers_differ() const {
        B found = 0;
        each_register([&](const span& one) { found |= difference(g_->q, one); });
        return found;
    }

    // Lanes become as lane 0.
    void join(B which) {
        each_register([&](const span& one) {
            for (char* bank : {g_->q, g_->d})
                for (uint32_t i = 0; i < one.count; ++i) join_one(bank + one.offset + i * step(one), one.bit, which);
        });
        odd_ &= ~which;
        whole_ = std::max(whole_, 1u);
    }

    // Registers that nobody has computed are the pilot's from now on. Items of batches have no flags of their own.
    void complete() {
        for (uint64_t item = 0; item < table_.bench; ++item) {
            adopt(item);
            raise_flags(item);
        }
    }

    // All words, where they are few enough: to compute everything is faster so.
    void own_words() {
        if (bankside_m_bytes > kOwnBytes) return;
        char* memory = g_->g.memory;
        std::vector<V> kept;
        const auto each = [&](auto&& with) {
            for (uint64_t i = 0; i < g_->g.dirty_count; ++i)
                for (uint32_t k = 0; k < g_->g.dirty[i].limbs; ++k) with(memory + g_->g.dirty[i].offset + k * sizeof(V));
        };
        each([&](char* at) { kept.push_back(LDV(at)); });
        std::memcpy(memory, pilot_->g->g.memory, bankside_m_bytes);
        auto next = kept.begin();
        each([&](char* at) { STV(at, *next++); });
        g_->g.pilot = nullptr;
    }

    // Items whose registers differ, where the group has computed everything.
    uint64_t differing() const {
        uint64_t found = 0;
        for (uint64_t item = 0; item < table_.edge; ++item) {
            B odd = 0;
            each_written(item, [&](const span& one) { odd |= difference(g_->q, one); });
            found += odd != 0;
        }
        return found;
    }

    // After a time in which the group has computed everything: all is there.
    void resume() {
        reset_sets();
        for (uint64_t item = 0; item <= table_.bench; ++item) last_.add(item);
        for (uint64_t item = 0; item < table_.edge; ++item)
            each_written(item, [&](const span& one) {
                const B odd = difference(g_->q, one);
                if (odd) next_.add_set(one.partner);
                odd_ |= odd;
            });
    }

    bool computes(uint64_t item) const { return last_.has(item); }

    // --- lanes that go from one group to another, between cycles ------------------------------------------------------------------
    // with(item, lanes whose registers of it differ). full: the group has computed everything.
    template <typename Do>
    void each_odd(bool full, Do&& with) const {
        for (uint64_t item = full ? 0 : last_.next(0); item < table_.bench; item = full ? item + 1 : last_.next(item + 1)) {
            B odd = 0;
            each_own(item, [&](const span& one) { odd |= difference(g_->q, one); });
            if (odd) with(item, odd);
        }
    }

    // Registers of an item in one lane, to the end of `values`.
    void take_out(uint64_t item, unsigned lane, std::vector<uint32_t>& values) const {
        each_own(item, [&](const span& one) {
            for (uint32_t i = 0; i < one.count; ++i) {
                const char* at = g_->q + one.offset + i * step(one);
                values.push_back(one.bit ? LDB(at) >> lane & 1 : reinterpret_cast<const uint32_t*>(at)[lane]);
            }
        });
    }

    // The same into a lane that is as lane 0; gives where the next item's begin.
    const uint32_t* put_in(uint64_t item, unsigned lane, const uint32_t* values, bool full) {
        if (!full) adopt(item);
        each_own(item, [&](const span& one) {
            for (uint32_t i = 0; i < one.count; ++i, ++values)
                for (char* bank : {g_->q, g_->d}) set_one(bank + one.offset + i * step(one), one.bit, lane, *values);
        });
        if (full) return values;
        before_.add(item);
        whole_ = std::max(whole_, 1u);
        each_written(item, [&](const span& one) { next_.add_set(one.partner); });
        return values;
    }

private:
    const ItemTable& table_;
    lane_group* g_ = nullptr;
    const Pilot* pilot_ = nullptr;
    Batches* batches_ = nullptr;
    friend class Batches;
    Items last_, now_;      // computed in the cycle before, so that its registers are there; in this one
    Items wake_, next_;     // to be computed in this cycle, in the next
    // For those who need not be computed again:
    Items valid_;                   // what `now_` was in the cycle before
    Items moved_now_, moved_next_;  // who has changed something that is read in this cycle, in the next
    Items before_;                  // whose registers, as this group sees them, are not what they were in the cycle before
    const V64* pilot_moved_ = nullptr;
    unsigned whole_ = 0;            // cycles in which everybody is computed
    std::vector<V64> kept_;         // of an item: whom its values wake in this cycle, in the next
    std::vector<B> kept_odd_;
    const size_t vectors_ = bankside_item_words / 8;
    B odd_ = 0;
    bool shown_ = false;

    static constexpr uint64_t kOwnBytes = 1 << 24;

    void reset_sets() {
        g_->g.pilot = &pilot_->g->g;
        for (Items* of : {&last_, &now_, &wake_, &next_, &valid_, &before_, &moved_now_, &moved_next_}) of->clear();
        whole_ = 0;
        odd_ = 0;
        shown_ = false;
    }

    static uint64_t step(const span& one) { return one.bit ? 2 : sizeof(V); }

    static void join_one(char* at, bool bit, B which) {
        if (bit) {
            const B b = LDB(at);
            STB(at, (b & ~which) | (b & 1 ? which : 0));
        } else {
            const V v = LDV(at);
            STV(at, SEL(which, K(v[0]), v));
        }
    }

    void copy(const span& one) {
        if (one.t) transfer(g_->t, pilot_->g->t, one);
        else from_pilot(g_->q, pilot_->q, pilot_->g->q, one);
    }

    // A port that is a copy of something else.
    void give(const span& one) {
        char* to = g_->t + one.target - one.offset;
        if (there(one)) transfer(to, one.t ? g_->t : g_->q, one);
        else if (one.t) transfer(to, pilot_->g->t, one);
        else from_pilot(to, pilot_->q, pilot_->g->q, one);
    }

    // Registers of the pilot: limbs from `bank`, bits from `bits`.
    void from_pilot(char* to, const char* bank, const char* bits, const span& one) const {
        if (one.bit) {
            transfer(to, bits, one);
            return;
        }
        for (uint32_t i = 0; i < one.count; ++i) {
            const uint32_t at = one.offset + i * static_cast<uint32_t>(sizeof(V));
            STV(to + at, K(pilot_->value(bank, at)));
        }
    }

    static void transfer(char* to, const char* from, const span& one) {
        to += one.offset, from += one.offset;
        if (one.bit)
            std::memcpy(to, from, 2 * one.count);
        else
            for (uint32_t i = 0; i < one.count; ++i) STV(to + i * sizeof(V), LDV(from + i * sizeof(V)));
    }

    static B difference(const char* at, const span& one) {
        at += one.offset;
        B bits = 0;
        if (one.bit) {
            for (uint32_t i = 0; i < one.count; ++i) {
                const B b = LDB(at + 2 * i);
                bits |= b ^ (b & 1 ? ALL : 0);
            }
            return bits & ALL;
        }
        V odd = K(0);
        for (uint32_t i = 0; i < one.count; ++i) {
            const V v = LDV(at + i * sizeof(V));
            odd |= v ^ K(v[0]);
        }
        return TST(odd, odd);
    }

    bool differs(const span& one) const { return difference(one.t ? g_->t : g_->d, one); }

    static void set_one(char* at, bool bit, unsigned lane, uint32_t value) {
        if (bit) STB(at, (LDB(at) & ~(B(1) << lane)) | (value & 1) << lane);
        else reinterpret_cast<uint32_t*>(at)[lane] = value;
    }

    template <typename Do>
    static void each_own(uint64_t item, Do&& with) {
        for (uint32_t s = bankside_effects[item].own; s < bankside_effects[item].own_end; ++s) with(bankside_spans[s]);
    }

    template <typename Do>
    void each_register(Do&& with) const {
        for (uint64_t item = last_.next(0); item < table_.bench; item = last_.next(item + 1)) each_own(item, with);
    }

    template <typename Do>
    void each_written(uint64_t item, Do&& with) const {
        for (uint32_t s = bankside_effects[item].writes; s < bankside_effects[item].writes_end; ++s)
            if (!bankside_spans[s].t) with(bankside_spans[s]);
    }

    // The registers of an item are there; it will write all of them.
    void adopt(uint64_t item) {
        if (last_.has(item)) return;
        const effects& of = bankside_effects[item];
        for (uint32_t s = of.own; s < of.own_end; ++s) copy(bankside_spans[s]);
        raise_flags(item);
        last_.add(item);
    }

    void raise_flags(uint64_t item) {
        const effects& of = bankside_effects[item];
        for (uint32_t s = of.flags; s < of.flags_end; ++s)
            for (uint32_t i = 0; i < bankside_spans[s].count; ++i) STB(g_->t + bankside_spans[s].offset + 2 * i, ALL);
    }

    void run(uint64_t first, uint64_t end) {
        for (uint64_t item = wake_.next(first); item < end; item = wake_.next(item + 1)) {
            if (item < table_.edge && keeps(item)) keep(item);
            else if (table_.batch[item] < 0) compute(item);
            else defer(item);
        }
    }

    // Nothing that an item reads has changed since it was computed, in any lane.
    bool keeps(uint64_t number) const {
        if (whole_ || !pilot_moved_ || !valid_.has(number)) return false;
        if (reinterpret_cast<const uint64_t*>(pilot_moved_)[number / 64] >> number % 64 & 1) return false;
        const V64* sets = reinterpret_cast<const V64*>(bankside_item_sets);
        const V64 *now = sets + vectors_ * bankside_effects[number].now, *before = sets + vectors_ * bankside_effects[number].before;
        V64 moved{};
        for (size_t i = 0; i < vectors_; ++i)
            moved |= (now[i] & (moved_now_.data()[i] | (now_.data()[i] ^ valid_.data()[i]))) | (before[i] & before_.data()[i]);
        return !TST(reinterpret_cast<const V&>(moved), reinterpret_cast<const V&>(moved));
    }

    void keep(uint64_t number) {
        now_.add(number);
        const V64* kept = kept_.data() + 2 * number * vectors_;
        for (size_t i = 0; i < vectors_; ++i) wake_.data()[i] |= kept[i], next_.data()[i] |= kept[vectors_ + i];
        odd_ |= kept_odd_[number];
    }

    // Values of an item differ in lanes `odd`, registers if `next`.
    void wake(uint64_t number, uint64_t set, bool next, B odd) {
        V64* kept = kept_.data() + (2 * number + next) * vectors_;
        const V64* readers = reinterpret_cast<const V64*>(bankside_item_sets) + set * vectors_;
        Items& to = next ? next_ : wake_;
        for (size_t i = 0; i < vectors_; ++i) kept[i] |= readers[i], to.data()[i] |= readers[i];
        if (next) odd_ |= odd, kept_odd_[number] |= odd;
    }

    // An item is computed: what it gives, and whether this is something new.
    void renew(uint64_t number, bool now, bool next) {
        now_.add(number);
        std::fill_n(kept_.begin() + static_cast<long>(2 * number * vectors_), 2 * vectors_, V64{});
        kept_odd_[number] = 0;
        const bool first = !valid_.has(number);
        if (now || first) moved_now_.add(number);
        if (next || first) moved_next_.add(number);
    }

    bool there(const span& one) const { return (one.t ? now_ : last_).has(one.partner); }

    // Only lanes that read something else than lane 0 need be computed; the others get what the pilot has.
    void defer(uint64_t number) {
        const effects& of = bankside_effects[number];
        B odd = 0;
        for (uint32_t s = of.reads; s < of.reads_end; ++s)
            if (there(bankside_spans[s])) odd |= difference(bankside_spans[s].t ? g_->t : g_->q, bankside_spans[s]);
        for (uint32_t s = of.own; s < of.own_end; ++s)
            if (last_.has(number)) odd |= difference(g_->q, bankside_spans[s]);
        if (!odd) return;
        for (uint32_t s = of.own; s < of.own_end; ++s) from_pilot(g_->d, pilot_->d, pilot_->g->d, bankside_spans[s]);
        renew(number, false, false);
        for (; odd; odd &= odd - 1) batches_->add(*this, number, static_cast<unsigned>(__builtin_ctz(odd)));
    }

    void compute(uint64_t number) {
        const item& it = table_.items[number];
        const effects& of = bankside_effects[number];
        adopt(number);
        for (uint32_t s = of.reads; s < of.reads_end; ++s) {
            const span& one = bankside_spans[s];
            if (one.target != ~0u) give(one);
            else if (!there(one)) copy(one);
        }
        g_->g.now = g_->g.next = 0;
        const uint32_t changed = it.run(g_->q + it.q, g_->d + it.q, g_->t + it.t, g_->g.memory + it.m, &g_->g);
        renew(number, changed & 5 || g_->g.now, changed & 2 || g_->g.next);
        ++computed, work += kOne;
        for (uint32_t s = of.writes; s < of.writes_end; ++s) {
            const span& one = bankside_spans[s];
            const B odd = difference(one.t ? g_->t : g_->d, one);
            if (odd) wake(number, one.partner, !one.t, odd);
        }
    }
};

// --- batches ---------------------------------------------------------------------------------------------------------------------
void Batches::reserve(Queue& queue, uint64_t number) {
    const item& it = table_.items[number];
    const effects& of = bankside_effects[number];
    uint64_t q = 0, t = 0;
    for (const auto& [first, end] : {std::pair{of.reads, of.reads_end}, {of.own, of.own_end}, {of.flags, of.flags_end}})
        for (uint32_t s = first; s < end; ++s) {
            const span& one = bankside_spans[s];
            const bool given = one.target != ~0u;
            const uint64_t size = (given ? one.target : one.offset) + one.count * (one.bit ? 2 : sizeof(V));
            if (one.t || given) t = std::max(t, size - it.t);
            else q = std::max(q, size - it.q);
        }
    queue.q.resize(q / sizeof(V) + 1);
    queue.d.resize(q / sizeof(V) + 1);
    queue.t.resize(t / sizeof(V) + 1);
}

void Batches::add(Follower& follower, uint64_t item, unsigned lane) {
    Queue& queue = queues_[static_cast<size_t>(table_.batch[item])];
    if (queue.q.empty()) reserve(queue, item);
    queue.entries[queue.count++] = {&follower, item, lane};
    if (queue.count == LANES) run(queue);
}

void Batches::finish() {
    for (Queue& queue : queues_)
        if (queue.count) run(queue);
}

void Batches::gather(const Queue& queue, unsigned b, char* q, char* t) const {
    const Entry& entry = queue.entries[b];
    const Follower& f = *entry.follower;
    const BatchPlan& plan = table_.plans[entry.item];
    const auto own = [&](const Move& move) { return (move.t ? f.now_ : f.last_).has(move.partner); };
    const auto limb = [&](const Move& move) {
        if (!move.t && !own(move)) return pilot_.value(pilot_.q, move.from);
        const lane_group* from = own(move) ? f.g_ : pilot_.g;
        return reinterpret_cast<const uint32_t*>((move.t ? from->t : from->q) + move.from)[entry.lane];
    };
    for (const Move& move : plan.limbs) reinterpret_cast<uint32_t*>((move.to_t ? t : q) + move.to)[b] = limb(move);
    for (const Move& move : plan.bits) {
        const lane_group* from = own(move) ? f.g_ : pilot_.g;
        char* target = (move.to_t ? t : q) + move.to;
        STB(target, (LDB(target) & ~(B(1) << b)) | (LDB((move.t ? from->t : from->q) + move.from) >> entry.lane & 1) << b);
    }
}

void Batches::scatter(const Queue& queue, unsigned b, const char* d) const {
    const Entry& entry = queue.entries[b];
    Follower& f = *entry.follower;
    const BatchPlan& plan = table_.plans[entry.item];
    ++f.computed, ++f.work;
    const B lane = B(1) << entry.lane;
    bool moved = false;
    for (const Move& move : plan.written_limbs) {
        uint32_t* target = reinterpret_cast<uint32_t*>(f.g_->d + move.to);
        const uint32_t value = target[entry.lane] = reinterpret_cast<const uint32_t*>(d + move.from)[b];
        moved |= value != reinterpret_cast<const uint32_t*>(f.g_->q + move.to)[entry.lane];
        if (value != target[0]) f.wake(entry.item, move.partner, true, lane);
    }
    for (const Move& move : plan.written_bits) {
        char* target = f.g_->d + move.to;
        const B old = LDB(target), bit = LDB(d + move.from) >> b & 1;
        STB(target, (old & ~lane) | bit << entry.lane);
        moved |= bit != (LDB(f.g_->q + move.to) >> entry.lane & 1);
        if (bit != (old & 1)) f.wake(entry.item, move.partner, true, lane);
    }
    if (moved) f.moved_next_.add(entry.item);
}

void Batches::run(Queue& queue) {
    char *q = reinterpret_cast<char*>(queue.q.data()), *d = reinterpret_cast<char*>(queue.d.data());
    char* t = reinterpret_cast<char*>(queue.t.data());
    const item& first = table_.items[queue.entries[0].item];
    const effects& any = bankside_effects[queue.entries[0].item];
    for (uint32_t s = any.flags; s < any.flags_end; ++s)  // all registers are written
        for (uint32_t i = 0; i < bankside_spans[s].count; ++i) STB(t + bankside_spans[s].offset - first.t + 2 * i, ALL);
    for (unsigned b = 0; b < queue.count; ++b) gather(queue, b, q, t);
    first.run(q, d, t, nullptr, &none_);
    for (unsigned b = 0; b < queue.count; ++b) scatter(queue, b, d);
    queue.count = 0;
}

}  // namespace bankside

#endif
