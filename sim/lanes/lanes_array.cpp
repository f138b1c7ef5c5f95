// The `array` machine in lanes.
#include "axi_lanes.h"
#include "array_bench.h"

namespace {

using bankside::ArrayBench;
using bankside::AxiTiming;
using bankside::LaneStore;
using bankside::Ports;

class Array : public bankside::AxiEngine<Array, ArrayBench> {
public:
    struct Job {
        AxiTiming timing;
        std::vector<uint64_t> words;
    };

    explicit Array(Job job) : job_(std::move(job)) {}

    void bench_drive(ArrayBench& bench, Ports& ports, LaneStore& store, uint64_t now) const { bench.drive(ports, store, now); }

    template <typename Group, typename Sweep>
    void set_up(Group& group, Sweep& sweep) {
        AxiEngine::set_up(group, sweep, job_.timing);
    }

    template <typename Group, typename Sweep>
    void registers(Group& group, Sweep& sweep) {
        write(group, sweep, PROGRAM, job_.words);
    }

private:
    Job job_;
};

}  // namespace

BANKSIDE_SWEEP_FUNCTIONS(Array)

extern "C" void* sweep_new(const AxiTiming* timing, const uint64_t* words, uint64_t count, const uint64_t*, uint64_t,
                           const uint8_t* image, uint64_t used, uint64_t size, uint64_t groups) {
    std::vector<uint8_t> bytes(image, image + used);
    return new bankside::Sweep<Array>(Array::Job{*timing, {words, words + count}}, std::move(bytes), size, groups);
}
