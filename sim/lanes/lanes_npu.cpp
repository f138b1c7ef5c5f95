// The `npu` machine in lanes.
#include "axi_lanes.h"
#include "npu_bench.h"

namespace {

using bankside::AxiTiming;
using bankside::LaneStore;
using bankside::NpuBench;
using bankside::Ports;

class Npu : public bankside::AxiEngine<Npu, NpuBench> {
public:
    struct Job {
        AxiTiming timing;
        std::vector<uint64_t> words, regions;
    };

    explicit Npu(Job job) : job_(std::move(job)) {
        words_.bytes.assign(8 * std::max<size_t>(job_.words.size(), 1), 0);
        std::memcpy(words_.bytes.data(), job_.words.data(), 8 * job_.words.size());
    }

    void bench_drive(NpuBench& bench, Ports& ports, LaneStore& store, uint64_t now) const {
        bench.drive(ports, store, words_, now);
    }

    template <typename Group, typename Sweep>
    void set_up(Group& group, Sweep& sweep) {
        AxiEngine::set_up(group, sweep, job_.timing);
    }

    // QBASE stays 0: the words have a memory of their own.
    template <typename Group, typename Sweep>
    void registers(Group& group, Sweep& sweep) {
        write(group, sweep, QBASE, {0, job_.words.size()});
        std::vector<uint64_t> bounds = job_.regions;
        bounds.resize(2 * REGIONS);
        write(group, sweep, REGION, bounds);
    }

private:
    Job job_;
    bankside::Words words_;
};

}  // namespace

BANKSIDE_SWEEP_FUNCTIONS(Npu)

extern "C" void* sweep_new(const AxiTiming* timing, const uint64_t* words, uint64_t count, const uint64_t* regions,
                           uint64_t region_count, const uint8_t* image, uint64_t used, uint64_t size, uint64_t groups) {
    std::vector<uint8_t> bytes(image, image + used);
    Npu::Job job{*timing, {words, words + count}, {regions, regions + 2 * region_count}};
    return new bankside::Sweep<Npu>(std::move(job), std::move(bytes), size, groups);
}
