// The run without faults: its outcome, what sweeps need of it, and states from which they begin.
#ifndef BANKSIDE_FAULT_FREE_H
#define BANKSIDE_FAULT_FREE_H

#include <chrono>
#include <memory>
#include <utility>

#include "lane_group.h"
#include "recording.h"

namespace bankside {

constexpr uint64_t kCompare = 16;  // cycles between comparisons of memories
constexpr uint64_t kCheckpoints = 48;
constexpr uint64_t kReading = 1 << 16;  // cycles that reading the registers after a run takes at most

// The run without faults.
struct Golden {
    uint64_t cycles = 0, all_cycles = 0;  // of the run; with reading its registers
    Outcome outcome{};
    std::vector<uint8_t> final;
    std::vector<uint64_t> memory_last, store_last;
    std::vector<uint8_t> image;                         // at the beginning
    std::vector<std::pair<uint64_t, Log>> writes;       // (cycle, bytes)
};

template <typename Engine>
class FaultFree {
public:
    using Saved = bankside::Saved<Engine>;
    using Group = bankside::Group<Engine>;
    using Lane = bankside::Lane<Engine>;

    // image: main memory as far as it is not zero, of `size` bytes. groups: beside the pilot.
    FaultFree(typename Engine::Job job, std::vector<uint8_t> image, uint64_t size, uint64_t groups)
        : engine_(std::move(job)), all_(lanes_new(groups + 1)), groups_(groups + 1, Group(table_)), size_(size) {
        if (!all_) throw std::bad_alloc();
        golden_.image = std::move(image);
        for (uint64_t i = 0; i <= groups; ++i) {
            groups_[i].g = &all_->group[i];
            all_->group[i].idle = 1;
            if (i) groups_[i].follower.attach(&all_->group[i], &shown_, &batches_);
        }
    }
    ~FaultFree() { lanes_delete(all_); }

    Golden& golden() { return golden_; }
    lanes* machines() { return all_; }

    // The run without faults, at most `limit` cycles: notes what is needed of it. False where it does not end.
    bool run_golden(uint64_t limit) {
        golden_.memory_last.assign(bankside_m_bytes / sizeof(V) + 1, 0);
        golden_.store_last.assign(size_ / kPage + 1, 0);
        power_on();
        engine_.set_up(pilot_, *this);
        // Twice: the first run tells how long it is and where checkpoints go.
        Saved start;
        save(pilot_, 0, start);
        const auto began = std::chrono::steady_clock::now();
        if (!run_alone(limit, 0)) return false;
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        full_cost_ = took.count() / static_cast<double>(std::max<uint64_t>(golden_.all_cycles, 1));
        const uint64_t step = std::max<uint64_t>(kCompare, golden_.cycles / kCheckpoints);
        golden_.image.resize(golden_.final.size());  // so that what is written later has its place from the beginning
        golden_.writes.clear();
        restore(pilot_, start);
        // A word is looked at also in cycles in which nobody computes what depends on it, because nothing has changed.
        all_->all = 1;
        touched_.resize(bankside_memory_ports + 1);
        pilot_.g->g.touched = touched_.data();
        recording_.begin(*pilot_.g);
        const bool done = run_alone(limit, step);
        pilot_.g->g.touched = nullptr;
        all_->all = 0;
        return done;
    }

    // One cycle of the pilot alone. set_inputs(lane) drives lane 0.
    template <typename Drive>
    void together(Group& group, Drive&& drive) {
        auto& lane = group.lanes[0];
        group.g->g.cycle = lane.store.now = group.cycle;
        if (!Engine::kEarly) broadcast_inputs(lane.ports, *group.g);
        lanes_before(all_);
        note(&Recording::note_before);
        if (Engine::kEarly) {
            gather_outputs(lane.ports, group.g->t, 0);
            drive(lane);
            broadcast_inputs(lane.ports, *group.g);
        }
        lanes_after(all_);
        note(&Recording::note_after);
        if (!Engine::kEarly) {
            gather_outputs(lane.ports, group.g->t, 0);
            drive(lane);
        }
        if (lane.store.log.count && noting_) golden_.writes.emplace_back(group.cycle, lane.store.log);
        commit_alone();
        if (recording_.whole()) lanes_peek(pilot_.g);
        note(&Recording::note_writes);
        lanes_edge(all_);
        note(&Recording::note_edge);
    }

    Engine& engine() { return engine_; }
    bool whole() const { return recording_.whole(); }

protected:
    Engine engine_;
    ItemTable table_;
    lanes* all_;
    std::vector<Group> groups_;  // the first one is the pilot
    Group& pilot_ = groups_[0];
    uint64_t size_;
    Golden golden_;
    std::vector<uint8_t> base_;  // the pilot's main memory
    Saved end_;
    std::vector<Saved> checkpoints_;
    std::vector<touch> touched_;
    double full_cost_ = 0;  // seconds of a cycle of a group in which everything is computed
    Pilot shown_{&all_->group[0], nullptr, nullptr, 0};
    Batches batches_{table_, shown_};
    Recording recording_;

    void attach(Group& group) {
        for (auto& lane : group.lanes) {
            lane.store.size = size_;
            lane.store.base = base_.data();
            lane.store.span = base_.size();
        }
    }

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

    // All lanes of a group in a state of the run without faults.
    void restore(Group& group, const Saved& from) {
        lanes_clear_memory(group.g);
        for (const auto& [at, value] : from.memory) STV(group.g->g.memory + at, K(value));
        group.load(ALL, from.q);
        group.cycle = from.cycle;
        group.busy = 0;
        attach(group);
        for (auto& lane : group.lanes) {
            lane.state = from.state;
            lane.ports = from.ports;
            lane.store.pages.clear();
            lane.store.log.count = 0;
            lane.fault = -1;
            lane.over = false;
        }
        broadcast_inputs(from.ports, *group.g);
    }

    void restore_base(uint64_t cycle) {
        base_ = golden_.image;
        for (const auto& [when, log] : golden_.writes) {
            if (when >= cycle) break;
            for (uint64_t i = 0; i < log.count; ++i) base_[log.address[i]] = log.value[i];
        }
    }

private:
    bool noting_ = false;

    // Part of a cycle into the recording.
    void note(void (Recording::*part)(const lane_group&)) {
        (recording_.*part)(*pilot_.g);
        pilot_.g->g.touched_count = 0;
    }

    // All lanes of the pilot as after construction, with the image as main memory.
    void power_on() {
        base_ = golden_.image;
        pilot_.g->idle = 0;
        attach(pilot_);
    }

    // Of the pilot, which runs alone; the bytes grow as far as it writes.
    void commit_alone() {
        Log& log = pilot_.lanes[0].store.log;
        for (uint64_t i = 0; i < log.count; ++i)
            if (log.address[i] >= base_.size()) base_.resize((log.address[i] / kPage + 1) * kPage), attach(pilot_);
        for (uint64_t i = 0; i < log.count; ++i) base_[log.address[i]] = log.value[i];
        log.count = 0;
    }

    // From the beginning of the run to its end; with checkpoints every `step` cycles.
    bool run_alone(uint64_t limit, uint64_t step) {
        auto& lane = pilot_.lanes[0];
        noting_ = true;
        pilot_.cycle = 0;
        if (step) base_ = golden_.image, attach(pilot_);
        pilot_.g->g.last = golden_.memory_last.data();
        lane.store.last = golden_.store_last.data();
        lane.over = false;
        lane.outcome = Outcome{};
        bool done = false;
        while (!done && pilot_.cycle < limit + kReading) {
            if (step && !lane.over && pilot_.cycle % step == 0) {
                checkpoints_.emplace_back();
                save(pilot_, 0, checkpoints_.back());
                checkpoints_.back().between = recording_.snapshot();
            }
            together(pilot_, [&](Lane& one) {
                if (!one.over && engine_.over(one.state, one.ports)) {
                    one.over = true;
                    golden_.cycles = pilot_.cycle;
                }
                done = engine_.drive(one.state, one.ports, one.store, pilot_.cycle, one.over);
            });
            ++pilot_.cycle;
        }
        golden_.all_cycles = pilot_.cycle;
        golden_.final = base_;
        if (done) {
            golden_.outcome.cycles = golden_.cycles;
            golden_.outcome.first = -1;
            golden_.outcome.output = golden_.outcome.state = golden_.outcome.counters = 1;
            engine_.judge(lane.state, lane.ports, golden_.outcome, lane.state);
            if (step) save(pilot_, 0, end_);
        }
        noting_ = false;
        pilot_.g->g.last = nullptr;
        lane.store.last = nullptr;
        return done;
    }
};

}  // namespace bankside

#endif
