// Lanes in which much differs belong together: what a group computes costs the same for one of them and for all.
//
// From time to time those lanes change places with others.
#ifndef BANKSIDE_REGROUP_H
#define BANKSIDE_REGROUP_H

#include "lane_group.h"

namespace bankside {

template <typename Engine>
class Regroup {
public:
    using Group = bankside::Group<Engine>;
    using Lane = bankside::Lane<Engine>;

    // The first group is the pilot.
    explicit Regroup(std::vector<Group>& groups) : groups_(groups) {}

    // Between cycles; the pilot's registers and memories are there. `cycle` is the next one. moved((group, lane), (group, lane)): from, to.
    template <typename Do>
    void operator()(uint64_t cycle, Do&& moved) {
        find(cycle);
        arrange();
        for (Place& one : places_)
            if (one.to != one.from) take_out(one);
        for (Place& one : places_)
            if (one.to != one.from) put_in(one, moved);
    }

private:
    static constexpr uint32_t kWide = 8;  // items whose registers differ

    // A lane, what differs in it, and where it goes.
    struct Place {
        uint32_t from, to;
        unsigned lane;
        bool wide;
        Lane moving;
        std::vector<uint64_t> items;
        std::vector<dirty> words;
        std::vector<uint32_t> values;  // of registers, then of words
    };

    std::vector<Group>& groups_;
    std::vector<Place> places_;
    std::vector<uint32_t> wide_;  // lanes by group

    static bool may_move(const Group& group, unsigned lane, uint64_t cycle) {
        const Lane& one = group.lanes[lane];
        return (group.busy >> lane & 1) && !one.over && cycle > one.pending;
    }

    void find(uint64_t cycle) {
        places_.clear();
        wide_.assign(groups_.size(), 0);
        for (uint32_t i = 1; i < groups_.size(); ++i) {
            Group& group = groups_[i];
            if (!group.busy) continue;
            uint32_t count[LANES] = {};
            group.follower.each_odd(group.full, [&](uint64_t, B odd) {
                for (odd &= group.busy; odd; odd &= odd - 1) ++count[__builtin_ctz(odd)];
            });
            for (unsigned lane = 1; lane < LANES; ++lane) {
                if (!may_move(group, lane, cycle)) continue;
                const bool wide = count[lane] > kWide;
                places_.push_back({i, i, lane, wide, {}, {}, {}, {}});
                wide_[i] += wide;
            }
        }
    }

    // As few groups as there can be have all the wide ones: those that have most of them.
    void arrange() {
        uint32_t count = 0;
        for (const uint32_t wide : wide_) count += wide;
        std::vector<uint32_t> order;
        for (uint32_t i = 1; i < groups_.size(); ++i) order.push_back(i);
        std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return wide_[a] > wide_[b]; });
        order.resize(std::min<size_t>(order.size(), (count + LANES - 2) / (LANES - 1)));
        std::vector<bool> chosen(groups_.size());
        for (const uint32_t i : order) chosen[i] = true;
        std::vector<Place*> leaving, coming;
        for (Place& one : places_) {
            if (one.wide && !chosen[one.from]) coming.push_back(&one);
            if (!one.wide && chosen[one.from]) leaving.push_back(&one);
        }
        for (const uint32_t i : order)
            for (unsigned room = groups_[i].room(); room && !coming.empty(); --room) coming.back()->to = i, coming.pop_back();
        for (; !coming.empty() && !leaving.empty(); coming.pop_back(), leaving.pop_back())
            std::swap(coming.back()->to, leaving.back()->to);
    }

    void take_out(Place& one) {
        Group& group = groups_[one.from];
        const unsigned lane = one.lane;
        group.follower.each_odd(group.full, [&](uint64_t item, B odd) {
            if (!(odd >> lane & 1)) return;
            one.items.push_back(item);
            group.follower.take_out(item, lane, one.values);
        });
        group.each_word([&](const dirty& word, B odd) {
            if (!(odd >> lane & 1)) return;
            one.words.push_back(word);
            for (uint32_t k = 0; k < word.limbs; ++k)
                one.values.push_back(reinterpret_cast<const uint32_t*>(group.g->g.memory + word.offset + k * sizeof(V))[lane]);
        });
        one.moving = group.give_away(lane);
    }

    template <typename Do>
    void put_in(Place& one, Do&& moved) {
        Group& group = groups_[one.to];
        const unsigned lane = group.free_lane();
        group.receive(lane, std::move(one.moving));
        const uint32_t* values = one.values.data();
        for (const uint64_t item : one.items) values = group.follower.put_in(item, lane, values, group.full);
        for (const dirty& word : one.words) {
            group.follower.change_word(word.offset, word.limbs);
            for (uint32_t k = 0; k < word.limbs; ++k)
                reinterpret_cast<uint32_t*>(group.g->g.memory + word.offset + k * sizeof(V))[lane] = *values++;
        }
        if (group.full) lanes_disturb(group.g);
        moved(std::pair{&groups_[one.from], one.lane}, std::pair{&group, lane});
    }
};

}  // namespace bankside

#endif
