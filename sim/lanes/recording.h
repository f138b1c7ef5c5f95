// The run without faults, cycle by cycle, so that sweeps need not compute it again.
#ifndef BANKSIDE_RECORDING_H
#define BANKSIDE_RECORDING_H

#include <map>
#include <vector>

#include "followers.h"

namespace bankside {

// Places whose values are noted: limbs and bits of q or t, as byte offset -> set of the items that read them.
struct Places {
    std::map<uint32_t, uint32_t> limbs, bits;
};

// Changes of such places, one after the other; `Mark` is how far one has come.
class Changes {
public:
    struct Mark {
        uint64_t limbs, bits;
    };

    void watch(const Places& places) {
        for (const auto& [offset, readers] : places.limbs) limbs_.push_back({offset, readers, 0});
        for (const auto& [offset, readers] : places.bits) bits_.push_back({offset, readers, 0});
    }

    // What differs from the last time; who reads it is added to `moved`.
    void note(const char* at, Items& moved) {
        for (Place& one : limbs_)
            note(one, *reinterpret_cast<const uint32_t*>(at + one.offset), limb_changes_, moved);
        for (Place& one : bits_) note(one, LDB(at + one.offset) & 1, bit_changes_, moved);
    }

    Mark here() const { return {limb_changes_.size(), bit_changes_.size()}; }

    // In all lanes.
    void apply(char* at, Mark from, Mark to) const {
        for (uint64_t i = from.limbs; i < to.limbs; ++i) STV(at + limb_changes_[i].offset, K(limb_changes_[i].value));
        apply_bits(at, from, to);
    }
    // Limbs as values of their own (`Pilot`).
    void apply(std::vector<uint32_t>& limbs, Mark from, Mark to) const {
        for (uint64_t i = from.limbs; i < to.limbs; ++i) limbs[limb_changes_[i].offset / sizeof(V)] = limb_changes_[i].value;
    }
    void apply_bits(char* at, Mark from, Mark to) const {
        for (uint64_t i = from.bits; i < to.bits; ++i) STB(at + bit_changes_[i].offset, bit_changes_[i].value ? ALL : 0);
    }

    // All values as last noted, and all lanes as they say.
    std::vector<uint32_t> values() const {
        std::vector<uint32_t> out;
        for (const auto* places : {&limbs_, &bits_})
            for (const Place& one : *places) out.push_back(one.value);
        return out;
    }
    void set(char* at, const std::vector<uint32_t>& values) const {
        auto value = values.begin();
        for (const Place& one : limbs_) STV(at + one.offset, K(*value++));
        for (const Place& one : bits_) STB(at + one.offset, *value++ ? ALL : 0);
    }

    uint64_t bytes() const { return sizeof(Change) * (limb_changes_.size() + bit_changes_.size()); }

    // Limbs of a group whose lanes are equal.
    void get(const char* at, std::vector<uint32_t>& limbs) const {
        for (const Place& one : limbs_) limbs[one.offset / sizeof(V)] = *reinterpret_cast<const uint32_t*>(at + one.offset);
    }

private:
    struct Change {
        uint32_t offset, value;
    };
    struct Place {
        uint32_t offset, readers, value;
    };
    std::vector<Place> limbs_, bits_;
    std::vector<Change> limb_changes_, bit_changes_;

    static void note(Place& one, uint32_t value, std::vector<Change>& changes, Items& moved) {
        if (value == one.value) return;
        changes.push_back({one.offset, one.value = value});
        moved.add_set(one.readers);
    }
};

// Bytes of a recording at most; longer runs are computed in every sweep. Python sets it before the run without faults.
extern "C" { uint64_t bankside_recording_bytes = uint64_t{1} << 30; }

// Of a group in which all lanes are equal.
class Recording {
public:
    bool whole() const { return whole_; }
    uint64_t cycles() const { return cycles_.size(); }

    void begin(const lane_group& g) {
        *this = Recording{};
        t_.watch(places(true));
        q_.watch(places(false));
        t_.note(g.t, moving_), q_.note(g.q, moving_);
        t_first_ = t_.here(), q_first_ = q_.here();
        whole_ = true;
    }

    // --- while the run is computed -----------------------------------------------------------------------------------------------
    // `touches`: what the group has touched since the last time.
    void note_before(const lane_group& g) {
        if (!whole_) return;
        cycles_.emplace_back();
        t_.note(g.t, moving_);
        take(g, 0);
    }
    void note_after(const lane_group& g) {
        if (!whole_) return;
        t_.note(g.t, moving_);
        moved_.insert(moved_.end(), moving_.data(), moving_.data() + vectors_);
        moving_.clear();
        take(g, 1);
    }
    // After `lanes_peek`.
    void note_writes(const lane_group& g) {
        if (whole_) take(g, 2);
    }
    // After the edge.
    void note_edge(const lane_group& g) {
        if (!whole_) return;
        Cycle& now = cycles_.back();
        q_.note(g.q, moving_);
        now.q = q_.here();
        for (uint64_t i = now.touched[1]; i < now.touched[2]; ++i) {
            const touch& word = touched_[i];
            moving_.add_set(bankside_effects[word.item].now);
            for (uint32_t k = 0; k < word.limbs; ++k)
                values_.push_back(*reinterpret_cast<const uint32_t*>(g.g.memory + word.offset + k * sizeof(V)));
        }
        now.values = values_.size();
        const uint64_t bytes = t_.bytes() + q_.bytes() + sizeof(touch) * touched_.size() + 4 * values_.size() + (sizeof(Cycle) + sizeof(V64) * vectors_) * cycles_.size();
        if (bytes > bankside_recording_bytes) *this = Recording{};
    }
    // Values between two cycles that no change tells.
    std::vector<uint32_t> snapshot() const { return t_.values(); }

    // --- instead of computing it -------------------------------------------------------------------------------------------------
    // A group is in the state of a cycle, with a snapshot.
    void enter(lane_group& g, uint64_t cycle, const std::vector<uint32_t>& snapshot) {
        t_.set(g.t, snapshot);
        for (auto* limbs : {&now_, &next_}) {
            limbs->resize(bankside_q_bytes / sizeof(V));
            q_.get(g.q, *limbs);
        }
        q_at_ = d_at_ = words_at_ = cycle;
    }

    // Registers and words, where somebody is going to look at them in this cycle.
    void catch_up(lane_group& g, uint64_t cycle) {
        q_.apply(now_, registers(q_at_), registers(cycle));
        q_.apply_bits(g.q, registers(q_at_), registers(cycle));
        q_at_ = cycle;
        for (; words_at_ < cycle; ++words_at_) write(g, words_at_);
    }

    void before(lane_group& g, uint64_t cycle) const { t_.apply(g.t, cycle ? cycles_[cycle - 1].t[1] : t_first_, cycles_[cycle].t[0]); }
    void after(lane_group& g, uint64_t cycle) const { t_.apply(g.t, cycles_[cycle].t[0], cycles_[cycle].t[1]); }

    // After `catch_up`: the next state into `d`, and the edge.
    void next(lane_group& g, uint64_t cycle) {
        next_ = now_;  // to copy all of them costs less than to read two cycles of changes
        q_.apply(next_, registers(cycle), registers(cycle + 1));
        q_.apply_bits(g.d, registers(d_at_), registers(cycle + 1));
        d_at_ = cycle + 1;
    }
    void edge(lane_group& g) {
        write(g, words_at_++);
        std::swap(g.q, g.d);
        now_.swap(next_);
        std::swap(q_at_, d_at_);
    }
    // Where followers find the registers.
    void show(Pilot& pilot) const { pilot.recorded(now_, next_); }

    // Items that read something which was not the same in the cycle before.
    const V64* moved(uint64_t cycle) const { return moved_.data() + cycle * vectors_; }

    // Words touched before the inputs are known, after, and those that the edge writes.
    std::pair<const touch*, const touch*> touched(uint64_t cycle, unsigned part) const {
        const uint64_t first = part ? cycles_[cycle].touched[part - 1] : cycle ? cycles_[cycle - 1].touched[2] : 0;
        return {touched_.data() + first, touched_.data() + cycles_[cycle].touched[part]};
    }

private:
    struct Cycle {
        Changes::Mark t[2], q;
        uint64_t touched[3], values;
    };
    bool whole_ = false;
    Changes t_, q_;
    Changes::Mark t_first_{}, q_first_{};
    std::vector<touch> touched_;
    std::vector<uint32_t> values_;  // of words that an edge has written
    std::vector<Cycle> cycles_;
    uint64_t vectors_ = bankside_item_words / 8;
    Items moving_;
    std::vector<V64> moved_;

    std::vector<uint32_t> now_, next_;  // limbs of registers
    uint64_t q_at_ = 0, d_at_ = 0, words_at_ = 0;  // cycle whose state is there

    // Changes up to the beginning of a cycle.
    Changes::Mark registers(uint64_t cycle) const { return cycle ? cycles_[cycle - 1].q : q_first_; }

    // What the edge of a cycle writes.
    void write(lane_group& g, uint64_t cycle) const {
        const Cycle& now = cycles_[cycle];
        uint64_t value = cycle ? cycles_[cycle - 1].values : 0;
        for (uint64_t i = now.touched[1]; i < now.touched[2]; ++i)
            for (uint32_t k = 0; k < touched_[i].limbs; ++k)
                STV(g.g.memory + touched_[i].offset + k * sizeof(V), K(values_[value++]));
    }

    void take(const lane_group& g, unsigned part) {
        Cycle& now = cycles_.back();
        touched_.insert(touched_.end(), g.g.touched, g.g.touched + g.g.touched_count);
        now.touched[part] = touched_.size();
        if (part < 2) now.t[part] = t_.here();
    }

    // What an item computes or the bench gives.
    static Places places(bool t) {
        Places out;
        const auto add = [&](uint32_t first, uint32_t end) {
            for (uint32_t s = first; s < end; ++s) {
                const span& one = bankside_spans[s];
                if ((one.t != 0) != t) continue;
                for (uint32_t i = 0; i < one.count; ++i)
                    if (one.bit) out.bits[one.offset + 2 * i] = one.partner;
                    else out.limbs[one.offset + i * static_cast<uint32_t>(sizeof(V))] = one.partner;
            }
        };
        for (uint64_t i = 0; i < bankside_effects_count; ++i) add(bankside_effects[i].writes, bankside_effects[i].writes_end);
        add(bankside_ports.inputs, bankside_ports.inputs_end);
        return out;
    }
};

}  // namespace bankside

#endif
