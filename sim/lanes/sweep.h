// Faults in lanes: a group of lanes that all run the fault-free machine, and groups with a faulty one in each lane but the first that
// follow it cycle by cycle and compute what differs (followers.h).
//
// A sweep begins at the checkpoint before the first fault that is left; free lanes take the faults of the cycle. A lane that has become
// equal to lane 0 again is free; so is one whose difference nobody looks at any more. Who is still running when the fault-free machine
// is done is set aside, and such lanes go on together.
//
// `Engine` (lanes_npu.cpp, ...) is the bench: what drives the inputs, when a run is over, how it is judged.
#ifndef BANKSIDE_SWEEP_H
#define BANKSIDE_SWEEP_H

#include "fault_free.h"
#include "regroup.h"

namespace bankside {

constexpr uint64_t kWeigh = 16;  // cycles between decisions how a group is computed
constexpr uint64_t kRegroup = 256;  // cycles between arrangements of the lanes (regroup.h)
constexpr double kItem = 2e-7;   // seconds of an item where only some are computed, about

// lane_cycles: of all lanes of groups that compute everything, of those with a fault in groups that follow; computed: items of the latter.
struct Statistics {
    uint64_t pilot_cycles, group_cycles, lane_cycles, faults, sweeps, converged, decided, set_aside, shared, computed;
};

template <typename Engine>
class Sweep : public FaultFree<Engine> {
public:
    using typename FaultFree<Engine>::Group;
    using typename FaultFree<Engine>::Lane;
    using typename FaultFree<Engine>::Saved;
    using FaultFree<Engine>::FaultFree;

    Statistics statistics{};

    // Faults `first[i]..first[i + 1]` of `deeds`, sorted by their first cycle.
    void run(const Deed* deeds, const uint64_t* first, uint64_t count, Outcome* out, uint64_t limit) {
        deeds_ = deeds, first_ = first, count_ = count, out_ = out, limit_ = limit;
        taken_.assign(count, 0);
        sharing_.clear();
        find_earlier();
        for (size_t i = 1; i < groups_.size(); ++i) {
            lanes_clear_memory(groups_[i].g);
            groups_[i].full = false;
            groups_[i].g->idle = 1;
            groups_[i].follower.attach(groups_[i].g, &shown_, &batches_);
        }
        if (!recording_.whole()) pilot_.g->g.touched = touched_.data();
        while (begin())
            while (skip() && cycle()) {}
        pilot_.g->idle = 1;
        pilot_.g->g.touched = nullptr;
        statistics.computed = 0;
        for (const Group& group : groups_) statistics.computed += group.follower.computed;
        finish_aside();
    }

private:
    using Base = FaultFree<Engine>;
    using Base::all_, Base::attach, Base::base_, Base::batches_, Base::checkpoints_, Base::end_, Base::engine_, Base::full_cost_;
    using Base::golden_, Base::groups_, Base::pilot_, Base::recording_, Base::restore, Base::restore_base, Base::shown_, Base::table_;
    using Base::touched_;

    std::vector<Saved> aside_;
    bool watched_ = false;       // somebody looks at registers or words of the pilot
    bool inputs_moved_ = false;  // the pilot's are not those of the cycle before
    bool entered_ = false;  // the pilot has just come to a checkpoint
    Regroup<Engine> regroup_{groups_};
    std::unordered_map<uint64_t, std::pair<Group*, unsigned>> places_;  // of `sharing_`, while lanes move

    const Deed* deeds_ = nullptr;
    const uint64_t* first_ = nullptr;
    uint64_t count_ = 0, limit_ = 0, next_ = 0, scan_ = 0;
    Outcome* out_ = nullptr;
    std::vector<uint8_t> taken_;
    static constexpr uint64_t kNone = ~uint64_t{0};
    std::vector<uint64_t> earlier_;  // fault -> another one
    std::unordered_map<uint64_t, std::pair<Group*, unsigned>> sharing_;  // key -> lane

    // --- a sweep -----------------------------------------------------------------------------------------------------------------
    template <typename Do>
    void each_busy(Do&& with) {
        for (size_t i = 1; i < groups_.size(); ++i)
            if (groups_[i].busy) with(groups_[i]);
    }

    // Groups that compute what differs only.
    template <typename Do>
    void each_follower(Do&& with) {
        each_busy([&](Group& group) {
            if (!group.full) with(group.follower);
        });
    }

    bool any_busy() const {
        return std::any_of(groups_.begin() + 1, groups_.end(), [](const Group& g) { return g.busy != 0; });
    }

    uint64_t start_of(uint64_t fault) const { return deeds_[first_[fault]].first; }

    // Put the pilot before the first fault that is left; false: none is.
    bool begin() {
        while (next_ < count_ && taken_[next_]) ++next_;
        if (next_ >= count_) {
            next_ = 0;
            return false;
        }
        scan_ = next_;
        to_checkpoint(before(start_of(next_)));
        ++statistics.sweeps;
        return true;
    }

    const Saved& before(uint64_t at) const {
        size_t best = 0;
        for (size_t i = 0; i < checkpoints_.size(); ++i)
            if (checkpoints_[i].cycle <= at) best = i;
        return checkpoints_[best];
    }

    void to_checkpoint(const Saved& from) {
        restore_base(from.cycle);
        pilot_.g->idle = 0;
        restore(pilot_, from);
        pilot_.g->idle = recorded();
        if (recording_.whole()) recording_.enter(*pilot_.g, from.cycle, from.between);
        entered_ = true;
        for (size_t i = 1; i < groups_.size(); ++i) attach(groups_[i]), groups_[i].compare_at = 0;
    }

    // Where nobody has a fault, to the checkpoint before the next one; false: none is left for this sweep.
    bool skip() {
        if (any_busy()) return true;
        if (pilot_.lanes[0].over) return false;
        while (scan_ < count_ && (taken_[scan_] || start_of(scan_) < pilot_.cycle)) ++scan_;
        if (scan_ >= count_) return false;
        const Saved& from = before(start_of(scan_));
        if (from.cycle > pilot_.cycle) to_checkpoint(from);
        return true;
    }

    // False: the pilot is done.
    bool cycle() {
        pilot_.g->g.cycle = pilot_.cycle;
        const V64* moved = recorded() && !entered_ ? recording_.moved(pilot_.cycle) : nullptr;
        entered_ = false;
        each_follower([&](Follower& follower) { follower.begin(moved); });
        fill();
        watched_ = false;
        each_busy([&](const Group& group) { watched_ |= !group.full || group.g->g.pilot; });
        if (recorded() && watched_) recording_.catch_up(*pilot_.g, pilot_.cycle);
        show_pilot();
        for (size_t i = 1; i < groups_.size(); ++i) {
            Group& group = groups_[i];
            group.cycle = pilot_.cycle;
            if (group.busy || !group.forces.empty()) act(group);
        }
        pilot_before();
        each_follower([](Follower& follower) { follower.before(); });
        if (Engine::kEarly) host();
        pilot_inputs();
        each_busy([&](Group& group) { give_inputs(group); });
        pilot_after();
        each_follower([](Follower& follower) { follower.after(); });
        batches_.finish();
        if (!Engine::kEarly) host();
        each_busy([&](Group& group) { observe(group); });
        pilot_writes();
        each_follower([](Follower& follower) { follower.at_edge(); });
        pilot_edge();
        each_follower([](Follower& follower) { follower.end(); });
        return cycle_ends();
    }

    // --- the pilot's part of a cycle, from the recording where there is one, and that of groups that compute everything ------------------------------------------------------
    bool recorded() const { return recording_.whole() && pilot_.cycle < recording_.cycles(); }

    void pilot_before() {
        // Words are looked at also where nothing has changed.
        pilot_.g->g.next |= table_.memories;
        lanes_before(all_);
        if (recorded()) recording_.before(*pilot_.g, pilot_.cycle);
        tell(0);
    }

    // Whoever reads inputs that have changed is told; so are we.
    void pilot_inputs() {
        const classes now = std::exchange(pilot_.g->g.now, 0);
        spread_inputs(pilot_.lanes[0].ports, *pilot_.g, ALL);
        inputs_moved_ = pilot_.g->g.now != 0;
        pilot_.g->g.now |= now;
    }

    void pilot_after() {
        lanes_after(all_);
        if (recorded()) recording_.after(*pilot_.g, pilot_.cycle);
        if (recorded() && watched_) recording_.next(*pilot_.g, pilot_.cycle);
        tell(1);
    }

    void pilot_writes() {
        if (!recorded()) lanes_peek(pilot_.g);
        tell(2);
    }

    void pilot_edge() {
        touch* const list = std::exchange(pilot_.g->g.touched, nullptr);
        lanes_edge(all_);
        pilot_.g->g.touched = list;
        if (recorded() && watched_) recording_.edge(*pilot_.g);
        show_pilot();
    }

    void show_pilot() {
        if (recording_.whole()) recording_.show(shown_);
        else shown_.computed();
    }

    // Which words the pilot has touched in this part of the cycle.
    void tell(unsigned part) {
        auto& g = pilot_.g->g;
        const std::pair<const touch*, const touch*> words =
            recorded() ? recording_.touched(pilot_.cycle, part) : std::pair<const touch*, const touch*>{g.touched, g.touched + g.touched_count};
        each_follower([&](Follower& follower) { follower.touched(words.first, words.second); });
        g.touched_count = 0;
    }

    bool cycle_ends() {
        Log& golden = pilot_.lanes[0].store.log;
        each_busy([&](Group& group) {
            if (golden.count || group.own()) group.commit(golden);
        });
        for (uint64_t i = 0; i < golden.count; ++i) base_[golden.address[i]] = golden.value[i];
        golden.count = 0;
        ++pilot_.cycle;
        ++statistics.pilot_cycles;
        const bool done = pilot_.done & 1;
        pilot_.done = 0;
        each_busy([&](Group& group) {
            ++group.cycle;
            count(group);
            complete_all(group);
            if (done) set_aside(group);
            else compare(group);
        });
        if (!done && !pilot_.lanes[0].over && pilot_.cycle % kRegroup == 0) regroup();
        if (pilot_.cycle % kWeigh == 0) each_busy([&](Group& group) { weigh(group); });
        return !done;
    }

    void regroup() {
        if (recorded()) recording_.catch_up(*pilot_.g, pilot_.cycle);
        regroup_(pilot_.cycle, [&](std::pair<Group*, unsigned> from, std::pair<Group*, unsigned> to) {
            const uint64_t key = to.first->lanes[to.second].key;
            const auto found = key ? sharing_.find(key) : sharing_.end();
            if (found != sharing_.end() && found->second == from) places_[key] = to;
        });
        for (const auto& [key, place] : places_) sharing_[key] = place;
        places_.clear();
        for (size_t i = 1; i < groups_.size(); ++i)
            if (!groups_[i].busy) groups_[i].empty();
    }

    // Whether it is cheaper to follow or to compute everything.
    void weigh(Group& group) {
        if (group.full) {
            if (pilot_.cycle % kRegroup) return;
            group.full = group.follower.differing() * kItem * 2 > full_cost_;
            group.g->idle = !group.full;
            if (!group.full) group.follower.resume();
        } else if (std::exchange(group.follower.work, 0) * kItem > kWeigh * full_cost_ * Follower::kOne) {
            group.follower.complete();
            group.follower.own_words();
            lanes_disturb(group.g);
            group.g->idle = 0;
            group.full = group.other_inputs = true;
        }
    }

    void count(const Group& group) {
        ++statistics.group_cycles;
        statistics.lane_cycles += group.alone() ? LANES : static_cast<uint64_t>(__builtin_popcount(group.busy));
    }

    // --- who takes which fault ---------------------------------------------------------------------------------------------------
    // Free lanes take faults that begin in this cycle.
    void fill() {
        if (pilot_.lanes[0].over) return;
        while (scan_ < count_ && (taken_[scan_] || start_of(scan_) < pilot_.cycle)) ++scan_;
        for (size_t i = scan_; i < count_ && start_of(i) == pilot_.cycle; ++i) {
            if (taken_[i] || shared(i)) continue;
            // It may be shared by the machine of the earlier one.
            if (earlier_[i] != kNone && !taken_[earlier_[i]]) continue;
            if (Group* group = home(i)) take(*group, group->free_lane(), i);
        }
    }

    // Faults of a part that a group computes already cost it least; those of a kept module reach less of the machine than others,
    // so they begin from the other end.
    Group* home(uint64_t fault) {
        const Deed& d = deeds_[first_[fault]];
        const uint64_t item = d.space == kFlop ? table_.register_at(d.offset).first
                              : d.space == kNet ? ItemTable::computes(d.offset)
                                                : ~uint64_t{0};
        const bool narrow = item < table_.items.size() && table_.items[item].registers;
        if (narrow)
            for (size_t i = groups_.size(); --i;)
                if (groups_[i].busy && !groups_[i].occupied() && groups_[i].follower.computes(item)) return &groups_[i];
        for (size_t k = 1; k < groups_.size(); ++k) {
            Group& group = groups_[narrow ? groups_.size() - k : k];
            if (!group.occupied()) return &group;
        }
        return nullptr;
    }

    void take(Group& group, unsigned lane, uint64_t fault) {
        taken_[fault] = 1;
        auto& one = group.lanes[lane];
        one.fault = static_cast<int64_t>(fault);
        one.state = pilot_.lanes[0].state;
        one.ports = pilot_.lanes[0].ports;
        one.store.pages.clear();
        one.store.log.count = 0;
        one.over = false;
        group.set_alike(lane, true);
        one.same.clear();
        one.key = key_of(fault);
        if (one.key) sharing_[one.key] = {&group, lane};
        one.pending = 0;
        for (uint64_t i = first_[fault]; i < first_[fault + 1]; ++i) one.pending = std::max(one.pending, deeds_[i].last);
        group.last_deed = std::max(group.last_deed, one.pending);
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

    // The last fault before that inverts the same bit.
    void find_earlier() {
        std::unordered_map<uint64_t, uint64_t> last;
        earlier_.assign(count_, kNone);
        for (uint64_t i = 0; i < count_; ++i) {
            const uint64_t key = key_of(i);
            if (!key) continue;
            const auto [found, fresh] = last.emplace(key, i);
            if (!fresh) earlier_[i] = std::exchange(found->second, i);
        }
    }

    // A lane that differs from lane 0 in one bit only is the machine of the fault that inverts this bit now.
    bool shared(uint64_t fault) {
        const uint64_t key = key_of(fault);
        const auto found = key ? sharing_.find(key) : sharing_.end();
        if (found == sharing_.end()) return false;
        auto& [group, lane] = found->second;
        auto& one = group->lanes[lane];
        if (one.key != key || !(group->busy >> lane & 1) || one.over || pilot_.cycle <= one.pending) return false;
        const Deed& d = deeds_[first_[fault]];
        if (!group->full && !group->follower.computes(table_.register_at(d.offset).first)) return false;
        d.change(group->g->q + d.offset, lane);
        const bool equal = !((group->registers_differ() | inputs_odd(*group)) >> lane & 1) && same_surroundings(*group, lane);
        d.change(group->g->q + d.offset, lane);
        if (!equal) return false;
        taken_[fault] = 1;
        one.same.emplace_back(fault, Outcome{});
        one.same.back().second.first = -1;
        ++statistics.faults, ++statistics.shared;
        return true;
    }

    // Lanes whose inputs differ from the pilot's, between cycles.
    static B inputs_odd(const Group& group) {
        return group.full || group.follower.has_inputs() ? inputs_differ(group.g->t) : 0;
    }

    bool bench_alike(const Lane& one) const {
        return one.alike || !std::memcmp(&one.state, &pilot_.lanes[0].state, sizeof one.state);
    }

    // Memories, main memory and bench.
    bool same_surroundings(Group& group, unsigned lane) {
        B live = 0;
        bool live_pages = false;
        group.cycle = pilot_.cycle;
        return !(group.memories_differ(golden_.memory_last.data(), live) >> lane & 1) &&
               !group.store_differs(lane, base_, golden_.store_last, live_pages) && bench_alike(group.lanes[lane]);
    }

    // --- what faults do ----------------------------------------------------------------------------------------------------------
    template <typename Do>
    void each_deed(Group& group, Do&& deed) {
        if (group.cycle >= limit_ || group.cycle > group.last_deed) return;
        for (unsigned lane = 0; lane < LANES; ++lane) {
            const auto& one = group.lanes[lane];
            if (!(group.busy >> lane & 1) || one.over || group.cycle > one.pending) continue;
            for (uint64_t i = first_[one.fault]; i < first_[one.fault + 1]; ++i) {
                const Deed& d = deeds_[i];
                if (d.op == kFlip ? d.first == group.cycle : d.first <= group.cycle && group.cycle <= d.last) deed(lane, d);
            }
        }
    }

    // Deposits, and which nets are forced.
    void act(Group& group) {
        if (group.alone() && !group.forces.empty()) lanes_disturb(group.g);
        for (const force& f : group.forces) *const_cast<uint8_t*>(f.flag) = 0;
        group.forces.clear();
        each_deed(group, [&](unsigned lane, const Deed& d) {
            if (group.alone()) lanes_disturb(group.g);
            announce(group, d);
            if (d.space == kFlop) {
                d.change(group.g->q + d.offset, lane), d.change(group.g->d + d.offset, lane);
            } else if (d.space == kMemory) {
                d.change(group.g->g.memory + d.offset, lane);
            } else if (d.space == kStore) {
                uint8_t& byte = group.lanes[lane].store.own(d.offset / kPage)[d.offset % kPage];
                byte = static_cast<uint8_t>(d.changed(byte));
            } else if (d.space == kNet) {
                group.forces.push_back(forced(group, lane, d));
            }
        });
        for (const force& f : group.forces) *const_cast<uint8_t*>(f.flag) = 1;
        group.g->g.forces = group.forces.data();
        group.g->g.force_count = group.forces.size();
    }

    // Who follows has to have what is about to change.
    static void announce(Group& group, const Deed& d) {
        if (group.aside) return;
        if (d.space == kMemory) group.follower.change_word(d.offset - d.limb * sizeof(V), d.limbs);
        if (group.full) return;
        if (d.space == kFlop) group.follower.change_register(d.offset);
        else if (d.space == kNet) group.follower.change_net(d.offset);
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

    bool forces_ports(Group& group, Space space) {
        bool any = false;
        each_deed(group, [&](unsigned, const Deed& d) { any |= d.space == space; });
        return any;
    }

    void force_ports(Group& group, Space space) {
        each_deed(group, [&](unsigned lane, const Deed& d) {
            if (d.space == space) d.change(group.g->t + d.offset, lane);
        });
        if (group.alone()) lanes_disturb(group.g);
    }

    // --- the bench ---------------------------------------------------------------------------------------------------------------
    // Where outputs depend on inputs (not kEarly), it is about the inputs of the next cycle.
    void host() {
        each_busy([&](Group& group) { separate(group); });
        drive_lane(pilot_, 0);
        each_busy([&](Group& group) { drive_lanes(group); });
    }

    // Outputs of a group that follows are there where somebody may see a difference.
    bool look(Group& group, bool early) {
        if (group.full) return true;
        if (!group.forced && !group.own() && !group.follower.shows()) return false;
        group.follower.show(early);
        return true;
    }

    // Lanes whose bench does what the pilot's does are not driven on their own.
    void separate(Group& group) {
        group.forced = forces_ports(group, kOutput);
        B odd = 0;
        const bool seen = look(group, Engine::kEarly);
        if (seen) {
            if (group.forced) force_ports(group, kOutput);
            odd = any_output_differs(group.g->t);
        }
        bool more = false;
        for (unsigned lane = 1; lane < LANES; ++lane) {
            auto& one = group.lanes[lane];
            if (!(group.busy >> lane & 1) || !one.alike || (!(odd >> lane & 1) && one.store.pages.empty())) continue;
            group.set_alike(lane, false);
            one.state = pilot_.lanes[0].state;
            one.ports = pilot_.lanes[0].ports;
            more = true;
        }
        if (more && !seen) look(group, Engine::kEarly);
    }

    void drive_lanes(Group& group) {
        const B mine = group.own();
        for (unsigned lane = 0; lane < LANES; ++lane) {
            if (mine >> lane & 1) {
                drive_lane(group, lane);
            } else if (group.busy >> lane & 1) {
                if (pilot_.lanes[0].over && !group.lanes[lane].over) ends(group, lane);
                group.done |= (pilot_.done & 1) << lane;
            }
        }
    }

    void drive_lane(Group& group, unsigned lane) {
        auto& one = group.lanes[lane];
        gather_outputs(one.ports, group.g->t, lane);
        if (!one.over && (group.cycle >= limit_ || engine_.over(one.state, one.ports))) ends(group, lane);
        if (engine_.drive(one.state, one.ports, one.store, group.cycle, one.over)) group.done |= B(1) << lane;
    }

    void give_inputs(Group& group) {
        const B mine = group.own();
        const bool forced = forces_ports(group, kInput);
        if (group.full) {
            if (inputs_moved_ || mine || group.other_inputs) spread_inputs(pilot_.lanes[0].ports, *group.g, ~mine & ALL);
            group.other_inputs = mine || forced;
        } else if (!group.aside) {
            if (!mine && !forced) return;
            group.follower.take_inputs();
        }
        for (unsigned lane = 0; lane < LANES; ++lane)
            if (mine >> lane & 1) scatter_inputs(group.lanes[lane].ports, *group.g, lane);
        if (forced) force_ports(group, kInput);
        if (!group.alone()) group.follower.inputs_given();
    }

    // The run of a lane is over in this cycle.
    void ends(Group& group, unsigned lane) {
        auto& one = group.lanes[lane];
        one.over = true;
        one.outcome.cycles = std::min(group.cycle, limit_);
        if (group.cycle >= limit_) one.outcome.end = 2;
        if (&group == &pilot_) return;
        const bool together = group.cycle == golden_.cycles && !group.aside;
        B live = 0;
        const B odd = together ? group.registers_differ() | group.memories_differ(golden_.memory_last.data(), live) : ALL;
        one.outcome.state = !(odd >> lane & 1);
    }

    void observe(Group& group) {
        if (!(group.aside || look(group, false))) return;
        const B odd = group.aside || pilot_.lanes[0].over ? 0 : outputs_differ(group.g->t);
        const B corrected = alarm_corrected(group.g->t), detected = alarm_detected(group.g->t);
        const B some = (odd | corrected | detected) & group.busy;
        for (unsigned lane = 0; some && lane < LANES; ++lane) {
            if (!(some >> lane & 1) || group.lanes[lane].over) continue;
            group.lanes[lane].each_outcome([&](Outcome& outcome) {
                if (odd >> lane & 1 && outcome.first < 0) outcome.first = static_cast<int64_t>(group.cycle);
                outcome.corrected |= corrected >> lane & 1;
                outcome.detected |= detected >> lane & 1;
            });
        }
    }

    // --- outcomes ----------------------------------------------------------------------------------------------------------------
    // The outcome of a lane, for all faults that it stands for.
    void report(const Lane& lane, const Outcome& outcome) {
        out_[lane.fault] = outcome;
        for (const auto& [fault, own] : lane.same) {
            out_[fault] = outcome;
            out_[fault].first = own.first;
            out_[fault].corrected = own.corrected;
            out_[fault].detected = own.detected;
        }
    }

    void complete_all(Group& group) {
        const B done = group.done & group.busy;
        group.done = 0;
        for (unsigned lane = 0; done && lane < LANES; ++lane)
            if (done >> lane & 1) complete(group, lane);
    }

    // A lane whose registers have been read.
    void complete(Group& group, unsigned lane) {
        auto& one = group.lanes[lane];
        if (one.alike && !group.aside) one.state = pilot_.lanes[0].state, one.ports = pilot_.lanes[0].ports;
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
                std::memcmp(base_.data() + at, end.data() + at, std::min(kPage, end.size() - at)))
                return false;
        return true;
    }

    void release(Group& group, B which) {
        group.busy &= ~which;
        for (unsigned lane = 0; lane < LANES; ++lane) {
            if (!(which >> lane & 1)) continue;
            auto& one = group.lanes[lane];
            const auto found = sharing_.find(one.key);
            if (found != sharing_.end() && found->second.first == &group && found->second.second == lane) sharing_.erase(found);
            one.fault = -1;
            one.key = 0;
        }
        if (group.aside) return;
        group.join(which);
        if (!group.busy) group.empty();
    }

    // Lanes that are equal to lane 0, or differ only in what the pilot never looks at again, are decided.
    void compare(Group& group) {
        const bool due = pilot_.cycle >= group.compare_at;
        if (pilot_.lanes[0].over || (group.full && !due)) return;
        if (group.full) group.compare_at = pilot_.cycle + 2 * kCompare;
        B open = group.busy & ~(group.full ? group.registers_differ() : group.follower.odd());
        if (!open) return;
        if (!due && group.g->g.dirty_count) return;
        // Who has many words of its own is looked at less often.
        if (due) group.compare_at = pilot_.cycle + std::clamp<uint64_t>(group.g->g.dirty_count / 4, kCompare, 16 * kCompare);
        for (unsigned lane = 1; lane < LANES; ++lane) {
            auto& one = group.lanes[lane];
            if (one.over || group.cycle <= one.pending || (!due && !one.alike)) open &= ~(B(1) << lane);
        }
        if (due) become_alike(group, open);
        open &= ~inputs_odd(group);
        if (!open) return;
        B live = 0;
        const B memories = group.memories_differ(golden_.memory_last.data(), live);
        open &= ~live;
        B decided = 0;
        for (unsigned lane = 1; lane < LANES; ++lane) {
            if (!(open >> lane & 1)) continue;
            auto& one = group.lanes[lane];
            bool live_pages = false;
            const bool store = group.store_differs(lane, base_, golden_.store_last, live_pages);
            if (live_pages || !bench_alike(one)) continue;
            decide(one, memories >> lane & 1, store);
            decided |= B(1) << lane;
        }
        if (decided) release(group, decided);
    }

    void become_alike(Group& group, B open) {
        for (unsigned lane = 1; lane < LANES; ++lane) {
            auto& one = group.lanes[lane];
            if ((open >> lane & 1) && !one.alike && one.store.pages.empty() && bench_alike(one) && !(inputs_odd(group) >> lane & 1))
                group.set_alike(lane, true);
        }
    }

    void decide(Lane& lane, bool memories, bool store) {
        Outcome outcome = golden_.outcome;
        outcome.first = lane.outcome.first;
        outcome.corrected = lane.outcome.corrected;
        outcome.detected = lane.outcome.detected;
        outcome.state = !memories;
        outcome.output = !store;
        report(lane, outcome);
        ++(memories || store ? statistics.decided : statistics.converged);
    }

    // --- who is still running when the pilot is done -----------------------------------------------------------------------------
    void set_aside(Group& group) {
        if (!group.busy) return;
        if (!group.full) group.follower.complete();
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
            saved.state = one.alike ? pilot_.lanes[0].state : one.state;
            saved.ports = one.alike ? pilot_.lanes[0].ports : one.ports;
            saved.same = one.same;
            saved.pages = one.store.pages;
            saved.fault = one.fault;
            saved.pending = one.pending;
            saved.outcome = one.outcome;
            saved.over = one.over;
            aside_.push_back(std::move(saved));
            ++statistics.set_aside;
        }
        release(group, group.busy);
    }

    void finish_aside() {
        size_t next = 0;
        base_ = golden_.final;
        for (size_t i = 1; i < groups_.size(); ++i) {
            groups_[i].aside = true;
            groups_[i].follower.detach();
        }
        while (next < aside_.size() || any_busy()) {
            for (size_t i = 1; i < groups_.size() && next < aside_.size(); ++i)
                if (!groups_[i].busy) next = go_on(groups_[i], next);
            aside_cycle();
        }
        for (size_t i = 1; i < groups_.size(); ++i) groups_[i].aside = false;
        aside_.clear();
    }

    void aside_cycle() {
        each_busy([&](Group& group) {
            group.g->g.cycle = group.cycle;
            act(group);
        });
        lanes_before(all_);
        if (Engine::kEarly) each_busy([&](Group& group) { drive_aside(group); });
        each_busy([&](Group& group) { give_inputs(group); });
        lanes_after(all_);
        each_busy([&](Group& group) {
            if (!Engine::kEarly) drive_aside(group);
            observe(group);
        });
        lanes_edge(all_);
        each_busy([&](Group& group) {
            for (auto& lane : group.lanes) lane.store.put(lane.store.log), lane.store.log.count = 0;
            ++group.cycle;
            count(group);
            complete_all(group);
            group.g->idle = group.busy == 0;
        });
    }

    void drive_aside(Group& group) {
        if (forces_ports(group, kOutput)) force_ports(group, kOutput);
        for (unsigned lane = 0; lane < LANES; ++lane)
            if (group.busy >> lane & 1) drive_lane(group, lane);
    }

    // Up to 16 of those set aside in one group; all stopped in the same cycle.
    size_t go_on(Group& group, size_t next) {
        restore(group, end_);
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
            group.last_deed = std::max(group.last_deed, one.pending);
            one.outcome = saved.outcome;
            one.same = saved.same;
            group.set_alike(lane, false);
            one.over = saved.over;
            group.busy |= B(1) << lane;
            scatter_inputs(one.ports, *group.g, lane);
        }
        return next;
    }
};

}  // namespace bankside

#endif
