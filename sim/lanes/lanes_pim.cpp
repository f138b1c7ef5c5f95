// The `pim` machine in lanes: its host (sim/rtl/pim_bench.h), the end of a run. There is no main memory beside the design.
#include "pim_bench.h"
#include "sweep_functions.h"

namespace {

using bankside::LaneStore;
using bankside::Outcome;
using bankside::PimBench;
using bankside::Ports;

class Pim {
public:
    static constexpr bool kEarly = false;

    struct Job {
        uint64_t refresh;
        std::vector<uint64_t> words, bursts;
        uint64_t burst_count;
    };

    // Plain data of one lane.
    struct State {
        PimBench host;
        uint64_t done;  // seen in the cycle before
        uint64_t status, end, counters[REASONS];
    };

    explicit Pim(Job job) : job_(std::move(job)) {}

    bool over(const State& state, const Ports& ports) const { return state.done || ports.error; }

    // The outputs of a cycle, and the inputs of the next one; true when the run is over: status and counters are in sight then.
    bool drive(State& state, Ports& ports, const LaneStore& store, uint64_t, bool over) {
        if (over) {
            state.status = PimBench::status(ports);
            state.end = state.done ? 0 : ports.error ? 1 : 2;
            for (unsigned i = 0; i < REASONS; ++i) state.counters[i] = PimBench::counter(ports, i);
            return true;
        }
        state.done = state.host.see(ports, [&](uint64_t number, const uint64_t* burst) {
            // Of the run without faults.
            if (store.last) sent_.resize(number * kWords), sent_.insert(sent_.end(), burst, burst + kWords);
        });
        state.host.proceed(ports, job_.bursts.data(), job_.burst_count);
        return false;
    }

    void judge(const State& state, const Ports&, Outcome& outcome, const State& golden) const {
        outcome.status = state.status;
        outcome.end = static_cast<uint8_t>(state.end);
        outcome.output &= state.host.sent == golden.host.sent && state.host.digest == golden.host.digest;
        outcome.counters &= !std::memcmp(state.counters, golden.counters, sizeof state.counters);
    }

    // From power-on to the cycle after `start`, all lanes alike.
    template <typename Group, typename Sweep>
    void set_up(Group& group, Sweep& sweep) {
        auto& lane = group.lanes[0];
        auto& ports = lane.ports;
        lane.state = State{};
        ports = Ports{};
        ports.refresh = job_.refresh;
        ports.host_out___05Fready = 1;
        ports.rst = 1;
        for (unsigned i = 0; i < 2; ++i) step(group, sweep);
        ports.rst = 0;
        wait_ready(group, sweep);
        ports.program_en = 1;
        for (size_t i = 0; i < job_.words.size(); ++i) {
            ports.program_addr = i;
            ports.program_data = job_.words[i];
            step(group, sweep);
        }
        ports.program_en = 0;
        lane.state.host.offer(ports, job_.bursts.data(), job_.burst_count);
        ports.start = 1;
        step(group, sweep);
        ports.start = 0;
        broadcast_inputs(ports, *group.g);
    }

    // Bursts that the run without faults sent, as far as there is room.
    void image(const bankside::Golden&, uint8_t* into, uint64_t size) const {
        std::memcpy(into, sent_.data(), std::min<uint64_t>(size, 8 * sent_.size()));
    }

private:
    static constexpr unsigned kWords = PimBench::kBurstWords;

    Job job_;
    std::vector<uint64_t> sent_;

    template <typename Group, typename Sweep>
    static void step(Group& group, Sweep& sweep) {
        broadcast_inputs(group.lanes[0].ports, *group.g);
        sweep.together(group, [](auto&) {});
    }

    // A machine that does not become ready is one whose run does not end.
    template <typename Group, typename Sweep>
    static void wait_ready(Group& group, Sweep& sweep) {
        auto& ports = group.lanes[0].ports;
        for (unsigned wait = 0; wait < 100'000; ++wait) {
            broadcast_inputs(ports, *group.g);
            lanes_before(sweep.machines());
            lanes_after(sweep.machines());
            gather_outputs(ports, group.g->t, 0);
            lanes_disturb(group.g);
            if (ports.ready) return;
            step(group, sweep);
        }
    }
};

}  // namespace

BANKSIDE_SWEEP_FUNCTIONS(Pim)

extern "C" void* sweep_new(uint64_t refresh, const uint64_t* words, uint64_t count, const uint64_t*, uint64_t, const uint8_t* bursts,
                           uint64_t used, uint64_t, uint64_t groups) {
    const uint64_t in_count = used / (BURST_BITS / 8);
    Pim::Job job{refresh, {words, words + count}, std::vector<uint64_t>(in_count * PimBench::kBurstWords), in_count};
    std::memcpy(job.bursts.data(), bursts, used);
    return new bankside::Sweep<Pim>(std::move(job), {}, 0, groups);
}
