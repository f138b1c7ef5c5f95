// The worlds of the three machines for the referee: set-up from power-on to cycle 0, the inputs of a cycle, the end of a run.
//
// A world is copied for a checkpoint. Its members: `set_up`, `running` (after the faults of a cycle have acted), `drive` (before the
// outputs of a cycle are final), `see` (when they are), `proceed` (after the edge), `finish` (status and counters; what is
// forced in the cycle that shows that the run is over is so in the first cycle of `finish` too, which is the same one), `delivers`
// (what the run delivers is that of another), `differences` (byte by byte, against another's), `delivered` (bytes), `store`.
#ifndef BANKSIDE_REFEREE_WORLD_H
#define BANKSIDE_REFEREE_WORLD_H

#include <vector>

#include "bankside_shim.h"
#include "paged_storage.h"

namespace bankside {

struct Result {
    uint64_t status = 0, end = 0;
    std::vector<uint64_t> counters;
};

}  // namespace bankside

#if REFEREE_PIM
#include "pim_bench.h"

namespace bankside {

struct Job {
    std::vector<uint64_t> words, bursts;
    uint64_t burst_count, refresh;
};

struct World {
    PimBench host{};
    std::vector<uint64_t> received;  // bursts that the machine sent
    bool done = false, stopped = false;
    Result result;

    explicit World(const Job&) {}

    template <typename Model>
    bool set_up(Model& model, const Job& job) {
        auto& top = *model.top;
        top.refresh = job.refresh;
        top.host_out___05Fready = 1;
        model.reset(2);
        model.settle();
        for (unsigned wait = 0; !top.ready; ++wait) {
            if (wait == 100'000) return false;
            model.step();
        }
        top.program_en = 1;
        for (uint64_t i = 0; i < job.words.size(); ++i) {
            top.program_addr = i;
            top.program_data = job.words[i];
            model.step();
        }
        top.program_en = 0;
        host.offer(top, job.bursts.data(), job.burst_count);
        top.start = 1;
        model.rise();
        top.start = 0;
        model.settle();
        return true;
    }

    // The host stops when it saw the end in the cycle before, or sees an error; it reads status and counters then.
    template <typename Model>
    bool running(Model& model) {
        if (!done && !model.top->error) return true;
        result = read(*model.top, done ? 0 : 1);
        stopped = true;
        return false;
    }

    template <typename Model>
    bool drive(Model&) {
        return false;
    }

    template <typename Model>
    void see(Model& model) {
        done = host.see(*model.top, [this](uint64_t, const uint64_t* burst) {
            received.insert(received.end(), burst, burst + PimBench::kBurstWords);
        });
    }

    template <typename Model>
    bool proceed(Model& model, const Job& job) {
        return host.proceed(*model.top, job.bursts.data(), job.burst_count);
    }

    template <typename Model, typename Release>
    Result finish(Model& model, const Job&, Release&&) const {
        return stopped ? result : read(*model.top, 2);
    }

    bool delivers(const World& other) const { return host.sent == other.host.sent && host.digest == other.host.digest; }

    uint64_t delivered() const { return host.sent * kBurstBytes; }

    // Bytes of all bursts, one after the other; where one run sent more, the other has zeros.
    template <typename Visit>
    void differences(const World& other, Visit&& visit) const {
        const uint64_t end = std::max(delivered(), other.delivered()), both = std::min(delivered(), other.delivered());
        for (uint64_t at = 0; at < end; ++at) {
            const uint8_t mine = byte(at), theirs = other.byte(at);
            if (at >= both || mine != theirs) visit(at, mine, theirs);
        }
    }

    void store(uint64_t, const Action&) {}

private:
    static constexpr uint64_t kBurstBytes = (BURST_BITS + 7) / 8;

    uint8_t byte(uint64_t at) const {
        if (at >= delivered()) return 0;
        const uint64_t in = at % kBurstBytes;
        return static_cast<uint8_t>(received[at / kBurstBytes * PimBench::kBurstWords + in / 8] >> 8 * (in % 8));
    }

    template <typename Top>
    static Result read(const Top& top, uint64_t end) {
        Result found{PimBench::status(top), end, {}};
        for (unsigned i = 0; i < REASONS; ++i) found.counters.push_back(PimBench::counter(top, i));
        return found;
    }
};

}  // namespace bankside

#else
#if REFEREE_NPU
#include "npu_bench.h"
#else
#include "array_bench.h"
#endif

namespace bankside {

// Writes that precede a run: registers from `address` on.
struct Setup {
    uint64_t address;
    std::vector<uint64_t> values;
};

struct Job {
    std::vector<Setup> setups;
    uint64_t bytes;
    PagedStorage::Image image, words;
    AxiTiming timing;
};

struct World {
#if REFEREE_NPU
    using Bench = NpuBench;
#else
    using Bench = ArrayBench;
#endif
    PagedStorage main, words;
    Bench bench;

    explicit World(const Job& job)
        : main(job.bytes, job.image), words(job.words->size(), job.words), bench(Bench::of(job.timing)) {}

    template <typename Model>
    bool set_up(Model& model, const Job& job) {
        model.reset(3);
        for (const auto& setup : job.setups) {
            auto writes = RegisterWrites::of(setup.address, setup.values.size());
            for (; !writes.over(); cycle(model)) writes.drive(*model.top, setup.values.data());
            if (writes.finish(*model.top)) return false;
        }
        auto& top = *model.top;
        top.s_axil_awaddr = CONTROL;
        top.s_axil_wdata = START;
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 1;
        top.s_axil_wstrb = 0xFF;
        cycle(model);
        top.s_axil_awvalid = top.s_axil_wvalid = 0;
        for (unsigned wait = 0; wait < 16 && !running(model); ++wait) cycle(model);
        return running(model);
    }

    template <typename Model>
    bool running(Model& model) const {
        return Bench::running(*model.top);
    }

    template <typename Model>
    bool drive(Model& model) {
#if REFEREE_NPU
        bench.drive(*model.top, main, words, model.cycle);
#else
        bench.drive(*model.top, main, model.cycle);
#endif
        return true;
    }

    template <typename Model>
    void see(Model&) {}

    template <typename Model>
    bool proceed(Model&, const Job&) {
        return false;
    }

    template <typename Model, typename Release>
    Result finish(Model& model, const Job&, Release&& release) {
        const bool stopped = !running(model);
        uint64_t addresses[Bench::kReport], values[Bench::kReport];
        for (unsigned i = 0; i < Bench::kReport; ++i) addresses[i] = Bench::report_address(i);
        model.top->s_axil_bready = 0;
        auto reads = RegisterReads::of(Bench::kReport);
        while (!reads.over()) {
            reads.drive(*model.top, addresses, values);
            drive(model);
            release.outputs();
            model.step();
            release.nets();
        }
        reads.finish(*model.top);
        return {values[0], stopped ? Bench::end(values[0]) : 2, {values + Bench::kFirstCounter, values + Bench::kReport}};
    }

    bool delivers(const World& other) const { return main == other.main; }

    uint64_t delivered() const { return main.size(); }

    template <typename Visit>
    void differences(const World& other, Visit&& visit) const {
        main.differences(other.main, visit);
    }

    void store(uint64_t address, const Action& action) {
        main.write(address, static_cast<uint8_t>(action.apply(main.at(address))));
    }

private:
    template <typename Model>
    void cycle(Model& model) {
        drive(model);
        model.step();
    }
};

}  // namespace bankside

#endif
#endif
