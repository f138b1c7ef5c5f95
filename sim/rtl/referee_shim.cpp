// Runs programs with faults on a Verilated top, one machine at a time (see sim/rtl/referee.py and docs/faults.md).
//
// Built with -DREFEREE_TOP (class of the model), -DTOP_NAME, -DTOP_HEADER, -DREFEREE_PIM, -DREFEREE_NPU, the macros of the machine's bench, and
// the ports but for the clock, X(name, width) each: -DINPUTS, -DOUTPUTS (those that are compared: all but traces and alarms),
// -DTRACES, -DALARMS.
#include REFEREE_HEADER

#include <array>

#include "referee.h"
#include "referee_world.h"

using namespace bankside;

namespace {

// Ports by number.
struct Port {
    void* data;
    unsigned width;

    size_t size() const { return width <= 8 ? 1 : width <= 16 ? 2 : width <= 32 ? 4 : width <= 64 ? 8 : (width + 31) / 32 * 4; }

    void apply(const Action& action) {
        uint64_t value = 0;
        auto* at = static_cast<uint8_t*>(data) + 8 * action.chunk;
        const size_t step = std::min<size_t>(8, size() - 8 * action.chunk);
        std::memcpy(&value, at, step);
        value = action.apply(value);
        std::memcpy(at, &value, step);
    }
};

// Same order as sim/rtl/referee.py.
struct Outcome {
    uint64_t end, cycles, status, first, output, state, counters, alarms;
};

struct Checkpoint {
    uint64_t cycle, model_cycle;
    Bytes state, inputs;
    World world;
};

uint64_t mixed(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

struct Machine {
    Model<REFEREE_TOP> model;
    State state;
    std::vector<Saboteur> nets;
    std::vector<Port> inputs, outputs, alarms;
    unsigned compared = 0;  // outputs
    Bytes forced;           // outputs, as they are where nothing is forced, when a run ends with forced ones

    Machine() {
        auto& top = *model.top;
#define X(name, width) inputs.push_back({&top.name, width});
        REFEREE_INPUTS
#undef X
#define X(name, width) outputs.push_back({&top.name, width});
        REFEREE_OUTPUTS
        compared = outputs.size();
        REFEREE_TRACES
#undef X
#define X(name, width) alarms.push_back({&top.name, width});
        REFEREE_ALARMS
#undef X
        outputs.insert(outputs.end(), alarms.begin(), alarms.end());
    }

    static void keep(const std::vector<Port>& ports, Bytes& bytes) {
        size_t size = 0;
        for (const auto& port : ports) size += port.size();
        bytes.resize(size);
        uint8_t* at = bytes.data();
        for (const auto& port : ports) std::memcpy(at, port.data, port.size()), at += port.size();
    }

    // What `keep` kept; nothing where it kept nothing.
    static void give(const std::vector<Port>& ports, const Bytes& bytes) {
        if (bytes.empty()) return;
        const uint8_t* at = bytes.data();
        for (const auto& port : ports) std::memcpy(port.data, at, port.size()), at += port.size();
    }

    // Of the outputs that are compared.
    uint64_t hash() const {
        uint64_t found = 0;
        const auto add = [&](const Port& port) {
            for (size_t at = 0; at < port.size(); at += 8) {
                uint64_t value = 0;
                std::memcpy(&value, static_cast<const uint8_t*>(port.data) + at, std::min<size_t>(8, port.size() - at));
                found = mixed(found, value);
            }
        };
        for (unsigned i = 0; i < compared; ++i) add(outputs[i]);
        return found;
    }

    uint64_t alarmed() const {
        uint64_t bits = 0;
        for (size_t i = 0; i < alarms.size(); ++i) bits |= uint64_t{*static_cast<const uint8_t*>(alarms[i].data) != 0} << i;
        return bits;
    }
};

struct Golden {
    uint64_t cycles = 0;
    std::vector<uint64_t> hashes;
    Bytes state;
    Result result;
    std::unique_ptr<World> world;
};

// A byte that two runs deliver, in the main memory or in the bursts to the host. Same order as sim/rtl/referee.py.
struct Byte {
    uint64_t address, golden, faulty;
};

// Four names each: scope, variable, witness, select ("" but for memories); of nets: scope, flip, clear, set.
struct Names {
    std::vector<std::array<std::string, 4>> variables, nets;
};

// Lines of names, separated by tabs.
std::vector<std::array<std::string, 4>> table(const char* text) {
    std::vector<std::array<std::string, 4>> rows;
    unsigned column = 0;
    for (; *text; ++text) {
        if (column == 0 && (rows.empty() || text[-1] == '\n')) rows.emplace_back();
        if (*text == '\t')
            ++column;
        else if (*text == '\n')
            column = 0;
        else
            rows.back()[column] += *text;
    }
    return rows;
}

struct Referee {
    Names names;
    Job job;
    std::unique_ptr<Machine> machine;
    Golden golden;
    std::vector<Checkpoint> checkpoints;
    Waves waves;
    std::vector<uint64_t> different;  // variables at the end of the last run
    std::unique_ptr<World> last;      // of the last run with faults
    std::vector<Byte> wrong;          // what that delivered otherwise

    // A machine that has just been switched on; the name of what it does not have.
    std::string renew() {
        machine.reset();
        machine.reset(new Machine);
        const auto& context = *machine->model.context;
        for (const auto& [scope, variable, witness, select] : names.variables)
            if (!machine->state.add(context, REFEREE_TOP_NAME, scope, variable, witness, select)) return scope + "." + variable;
        for (const auto& [scope, flip, clear, set] : names.nets) {
            const auto find = [&, &scope = scope](const std::string& name) {
                return Variable::find(context, REFEREE_TOP_NAME, scope, name);
            };
            machine->nets.push_back({find(flip), find(clear), find(set)});
            if (!machine->nets.back().found()) return scope + "." + flip;
        }
        return "";
    }
};

// The faults of one run, executed on a machine.
struct Faults {
    const Action* actions;
    uint64_t count;

    // Deposits of the beginning of a cycle, in registers and memories (kState) with the store, or in kGate; whether there were any in
    // the model.
    bool deposit(Machine& machine, World& world, uint64_t cycle, Place where) const {
        bool any = false;
        for (uint64_t i = 0; i < count; ++i) {
            const Action& action = actions[i];
            if (!action.acts(cycle)) continue;
            if (action.place == kStore && where == kState) world.store(action.word, action);
            if (action.place != where) continue;
            auto& v = machine.state.variables[action.site];
            v.set(action.word, action.chunk, action.apply(v.get(action.word, action.chunk)));
            any = true;
        }
        return any;
    }

    // Nets of a cycle, or none (`cycle` kNobody); whether any of them are forced.
    static constexpr uint64_t kNobody = ~uint64_t{0} - 1;
    bool steer(Machine& machine, uint64_t cycle) const {
        bool any = false;
        for (uint64_t i = 0; i < count; ++i)
            if (actions[i].place == kNet) machine.nets[actions[i].site].rest();
        for (uint64_t i = 0; i < count; ++i)
            if (actions[i].place == kNet && cycle != kNobody && actions[i].acts(cycle))
                machine.nets[actions[i].site].add(actions[i]), any = true;
        return any;
    }

    bool steered() const {
        return std::any_of(actions, actions + count, [](const Action& a) { return a.place == kNet; });
    }

    bool forces(Place place, uint64_t cycle) const {
        return std::any_of(actions, actions + count, [&](const Action& a) { return a.place == place && a.acts(cycle); });
    }

    // Force ports; what they were, nothing where none is forced: the model does not evaluate constant outputs again.
    Bytes force(std::vector<Port>& ports, Place place, uint64_t cycle) const {
        Bytes before;
        if (!forces(place, cycle)) return before;
        Machine::keep(ports, before);
        for (uint64_t i = 0; i < count; ++i)
            if (actions[i].place == place && actions[i].acts(cycle)) ports[actions[i].site].apply(actions[i]);
        return before;
    }
};

// One cycle of a run, with what is done to it: deposits come before the falling edge, at which the gates of clocks look. visit(cycle) when all of its outputs are final; false where the run was over.
template <typename Visit>
bool one_cycle(Machine& machine, World& world, const Job& job, const Faults& faults, uint64_t cycle, Visit&& visit) {
    auto& model = machine.model;
    const bool deposited = faults.deposit(machine, world, cycle, kState), steered = faults.steer(machine, cycle);
    if (deposited || steered) model.settle();
    Bytes outputs = faults.force(machine.outputs, kOutput, cycle);
    if (!world.running(model)) {
        machine.forced = outputs;
        faults.deposit(machine, world, cycle, kGate);
        return false;
    }
    machine.give(machine.outputs, outputs);
    model.fall();
    outputs = faults.force(machine.outputs, kOutput, cycle);
    const bool changed = world.drive(model);
    const Bytes inputs = faults.force(machine.inputs, kInput, cycle);
    const bool forced = !inputs.empty();
    if (changed || forced) {
        machine.give(machine.outputs, outputs);
        model.settle();
        outputs = faults.force(machine.outputs, kOutput, cycle);
    }
    world.see(model);
    visit(cycle);
    machine.give(machine.outputs, outputs);
    model.rise();
    machine.give(machine.inputs, inputs);
    if (steered) faults.steer(machine, Faults::kNobody);
    if (forced || steered) model.settle();
    if (world.proceed(model, job)) model.settle();
    return true;
}

// From cycle `cycle` on; the cycles of the run.
template <typename Visit>
uint64_t execute(Machine& machine, World& world, const Job& job, const Faults& faults, uint64_t cycle, uint64_t limit,
                 Visit&& visit) {
    while (cycle < limit && one_cycle(machine, world, job, faults, cycle, visit)) ++cycle;
    return cycle;
}

Checkpoint checkpoint(Machine& machine, const World& world, uint64_t cycle) {
    Checkpoint made{cycle, machine.model.cycle, machine.state.save(), {}, world};
    machine.keep(machine.inputs, made.inputs);
    return made;
}

World resume(Machine& machine, const Checkpoint& from) {
    machine.model.rise();  // of a machine whose state is replaced now
    machine.state.restore(from.state);
    machine.give(machine.inputs, from.inputs);
    machine.model.cycle = from.model_cycle;
    machine.model.settle();
    return from.world;
}

// Ends what is forced, after the run.
struct Release {
    Machine& machine;
    const Faults& faults;

    void outputs() const {
        machine.give(machine.outputs, machine.forced);
        machine.forced.clear();
    }

    void nets() const {
        if (faults.steered()) faults.steer(machine, Faults::kNobody), machine.model.settle();
    }
};

Outcome judge(Referee& referee, World& world, const Faults& faults, uint64_t cycles, bool limited, uint64_t first,
              uint64_t alarms) {
    Machine& machine = *referee.machine;
    const Golden& golden = referee.golden;
    Outcome out{};
    out.cycles = cycles;
    out.first = first;
    out.alarms = alarms;
    referee.different = machine.state.different(golden.state);
    out.state = cycles == golden.cycles && referee.different.empty();
    machine.model.fall();
    const Release release{machine, faults};
    const Result result = world.finish(machine.model, referee.job, release);
    release.outputs();
    release.nets();
    out.output = world.delivers(*golden.world);
    out.status = result.status;
    out.end = limited ? 2 : result.end;
    out.counters = result.counters == golden.result.counters;
    return out;
}

}  // namespace

extern "C" {

// variables, nets: lines of `Names`.
void* referee_new(const char* variables, const char* nets, char* problem, uint64_t size) {
    std::unique_ptr<Referee> made(new Referee);
    made->names = {table(variables), table(nets)};
    const std::string missing = made->renew();
    if (missing.empty()) return made.release();
    std::strncpy(problem, missing.c_str(), size - 1);
    return nullptr;
}

void referee_delete(void* handle) { delete static_cast<Referee*>(handle); }

#if REFEREE_PIM
void referee_load(void* handle, const uint64_t* words, uint64_t word_count, const uint64_t* bursts, uint64_t burst_count,
                  uint64_t refresh) {
    auto& job = static_cast<Referee*>(handle)->job;
    job = {{words, words + word_count}, {bursts, bursts + burst_count * PimBench::kBurstWords}, burst_count, refresh};
}
#else
// setups: address, count and values of register writes, one after the other, `setup_words` words.
void referee_load(void* handle, const uint64_t* setups, uint64_t setup_words, const uint8_t* image, uint64_t size,
                  const uint8_t* words, uint64_t word_bytes, uint64_t bytes, const AxiTiming* timing) {
    auto& job = static_cast<Referee*>(handle)->job;
    job = Job{{}, bytes, std::make_shared<const Bytes>(image, image + size), std::make_shared<const Bytes>(words, words + word_bytes),
              *timing};
    for (uint64_t at = 0; at < setup_words; at += 2 + setups[at + 1])
        job.setups.push_back({setups[at], {setups + at + 2, setups + at + 2 + setups[at + 1]}});
}
#endif

// The run without faults, at most `limit` cycles; checkpoints at the beginning of each of `cycles`, ascending. False where the machine
// cannot be set up or is not done.
int referee_golden(void* handle, uint64_t limit, const uint64_t* cycles, uint64_t count, Outcome* outcome) {
    auto& referee = *static_cast<Referee*>(handle);
    referee.renew();
    referee.checkpoints.clear();
    referee.last.reset();
    Golden& golden = referee.golden = Golden{};
    World world(referee.job);
    if (!world.set_up(referee.machine->model, referee.job)) return 0;
    Machine& machine = *referee.machine;
    uint64_t cycle = 0;
    const auto visit = [&](uint64_t) { golden.hashes.push_back(machine.hash()); };
    for (uint64_t i = 0; i <= count; ++i) {
        cycle = execute(machine, world, referee.job, Faults{nullptr, 0}, cycle, i < count ? cycles[i] : limit, visit);
        if (i < count && cycle == cycles[i] && world.running(machine.model))
            referee.checkpoints.push_back(checkpoint(machine, world, cycle));
    }
    golden.cycles = cycle;
    golden.state = machine.state.save();
    machine.model.fall();
    golden.result = world.finish(machine.model, referee.job, Release{machine, Faults{nullptr, 0}});
    golden.world.reset(new World(world));
    *outcome = {golden.result.end, cycle, golden.result.status, ~uint64_t{0}, 1, 1, 1, 0};
    return golden.result.end == 0;
}

// A run with faults: from power-on, or from the last checkpoint before the first action.
int referee_run(void* handle, const Action* actions, uint64_t count, int from_checkpoint, uint64_t limit, Outcome* outcome) {
    auto& referee = *static_cast<Referee*>(handle);
    uint64_t begin = ~uint64_t{0}, first = ~uint64_t{0}, alarms = 0;
    for (uint64_t i = 0; i < count; ++i) begin = std::min(begin, actions[i].first);
    const Checkpoint* from = nullptr;
    for (const auto& made : referee.checkpoints)
        if (from_checkpoint && made.cycle <= begin) from = &made;
    if (!from) referee.renew();
    Machine& machine = *referee.machine;
    World world = from ? resume(machine, *from) : World(referee.job);
    if (!from && !world.set_up(machine.model, referee.job)) return 0;
    const auto visit = [&](uint64_t cycle) {
        // Called before the clock edge that ends the cycle.
        referee.waves.after(machine.model, cycle - 1);
        referee.waves.before(machine.model, cycle);
        alarms |= machine.alarmed();
        if (first == ~uint64_t{0} && cycle < referee.golden.cycles && machine.hash() != referee.golden.hashes[cycle]) first = cycle;
    };
    const Faults faults{actions, count};
    const uint64_t cycles = execute(machine, world, referee.job, faults, from ? from->cycle : 0, limit, visit);
    referee.waves.stop(machine.model);
    *outcome = judge(referee, world, faults, cycles, cycles >= limit, first, alarms);
    referee.last.reset(new World(std::move(world)));
    return 1;
}

// Bytes that the last run with faults delivered otherwise than the fault-free one, none before there is one; `sizes`: bytes delivered in all, golden
// first.
uint64_t referee_wrong_count(void* handle, uint64_t* sizes) {
    auto& referee = *static_cast<Referee*>(handle);
    referee.wrong.clear();
    if (!referee.last) return sizes[0] = sizes[1] = 0;
    referee.golden.world->differences(*referee.last, [&](uint64_t address, uint8_t golden, uint8_t faulty) {
        referee.wrong.push_back({address, golden, faulty});
    });
    sizes[0] = referee.golden.world->delivered();
    sizes[1] = referee.last->delivered();
    return referee.wrong.size();
}

void referee_wrong(void* handle, Byte* out) {
    const auto& found = static_cast<Referee*>(handle)->wrong;
    std::copy(found.begin(), found.end(), out);
}

uint64_t referee_difference_count(void* handle) { return static_cast<Referee*>(handle)->different.size(); }

void referee_differences(void* handle, uint64_t* out) {
    const auto& found = static_cast<Referee*>(handle)->different;
    std::copy(found.begin(), found.end(), out);
}

uint64_t referee_peek(void* handle, uint64_t site, uint64_t word, uint64_t chunk) {
    return static_cast<Referee*>(handle)->machine->state.variables[site].get(word, static_cast<unsigned>(chunk));
}

// Cycles first..last of the next run with faults, written to a VCD file (needs trace=True).
void referee_waves(void* handle, const char* file, uint64_t first, uint64_t last) {
    static_cast<Referee*>(handle)->waves.arm(file, first, last);
}

// See State::prove.
int referee_prove(void* handle, uint64_t site, uint64_t word, uint64_t chunk, uint64_t mask) {
    Machine& machine = *static_cast<Referee*>(handle)->machine;
    return machine.state.prove(machine.model, site, word, chunk, mask);
}

}  // extern "C"
