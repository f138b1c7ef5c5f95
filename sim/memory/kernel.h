// What the controllers of kernel.cpp share: parameters, the constraint table in time, queues.
//
// One channel is simulated at a time; clocks are memory clocks. The layout of the structures is that
// of the numpy types in sim/memory/kernel.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <queue>
#include <vector>

namespace memory {

using i64 = int64_t;
constexpr i64 kNever = INT64_MAX / 4;
enum Command : int { kAct, kPre, kPrea, kRd, kWr, kRef, kCommands };
enum CloseRow : i64 { kCloseReady, kCloseNoOlderHit, kCloseCapped };
enum Refresh : i64 { kNoRefresh, kAllBank, kStaggered };
constexpr int kWindows = 4;

struct Window {
    i64 depth, latency, preceding, following;  // the last two are masks of commands
};

struct Params {
    i64 ranks, groups, banks_per_group;
    i64 read_latency, write_latency, refresh_interval;
    i64 close_row, row_cap, refresh, in_order;
    i64 read_queue, write_queue, bank_queue;
    i64 write_high, write_low;  // drain from this many writes on; stop at this many
    i64 merge_reads, max_outstanding, drain_rest;
    i64 cycles[kCommands];  // on the command bus
    // Least distance from a command (first index) to another, -1 where there is none.
    i64 rank[kCommands][kCommands], group[kCommands][kCommands], bank[kCommands][kCommands];
    i64 other_rank[kCommands][kCommands];
    Window windows[kWindows];
};

struct Request {
    i64 arrival;
    int32_t rank, bank, row, column, write, unused;  // bank: flat index in the rank
};

struct Issued {
    i64 clock;
    int32_t row, column;
    int16_t command, rank, bank, unused;
};

struct Stats {
    i64 clocks, hits, forwarded, merged, left, commands[kCommands];
};

// An entry of a queue; `id` is the index of its request.
struct Entry {
    i64 id, stamp;
    int32_t bank, row, column;  // bank: flat index in the channel
    int16_t rank, write;
};

inline bool same_burst(const Entry& a, const Entry& b) {
    return a.bank == b.bank && a.row == b.row && a.column == b.column;
}

// The constraint table: first clock at which each command is legal, per rank, group and bank.
class Rules {
  public:
    explicit Rules(const Params& p)
        : p_(p), banks_(p.groups * p.banks_per_group), rank_(p.ranks * kCommands),
          group_(p.ranks * p.groups * kCommands), bank_(p.ranks * banks_ * kCommands),
          recent_(p.ranks * kWindows), open_(p.ranks * banks_, -1), uses_(p.ranks * banks_) {
        for (i64 b = 0; b < p.ranks * banks_; ++b)
            place_.push_back({b / banks_ * kCommands, b / p.banks_per_group * kCommands});
    }

    i64 banks() const { return banks_; }
    int32_t open_row(i64 bank) const { return open_[bank]; }
    i64 uses(i64 bank) const { return uses_[bank]; }  // accesses since the row was opened

    bool any_open(i64 rank) const {
        for (i64 b = rank * banks_; b < (rank + 1) * banks_; ++b)
            if (open_[b] >= 0) return true;
        return false;
    }

    // `bank` is the flat index in the channel; for PREA and REF that of any bank of the rank.
    i64 ready(Command command, i64 bank) const {
        const Place& place = place_[bank];
        i64 when = std::max(bus_, rank_[place.rank + command]);
        if (command == kPrea || command == kRef) return when;
        when = std::max(when, group_[place.group + command]);
        return std::max(when, bank_[bank * kCommands + command]);
    }

    void issue(Command command, i64 bank, int32_t row, i64 clock) {
        i64 rank = bank / banks_;
        raise(&rank_[rank * kCommands], p_.rank[command], clock);
        if (command != kPrea && command != kRef) {
            raise(&group_[bank / p_.banks_per_group * kCommands], p_.group[command], clock);
            raise(&bank_[bank * kCommands], p_.bank[command], clock);
        }
        for (i64 r = 0; p_.ranks > 1 && r < p_.ranks; ++r)
            if (r != rank) raise(&rank_[r * kCommands], p_.other_rank[command], clock);
        slide(command, rank, clock);
        bus_ = clock + p_.cycles[command];
        change_rows(command, bank, row);
    }

  private:
    struct Place {
        i64 rank, group;  // where the clocks of a bank's rank and group start
    };

    static void raise(i64* ready, const i64* latency, i64 clock) {
        for (int c = 0; c < kCommands; ++c)
            if (latency[c] >= 0) ready[c] = std::max(ready[c], clock + latency[c]);
    }

    void slide(Command command, i64 rank, i64 clock) {
        for (int w = 0; w < kWindows; ++w) {
            const Window& window = p_.windows[w];
            if (!(window.preceding >> command & 1)) continue;
            auto& recent = recent_[rank * kWindows + w];
            recent.push_back(clock);
            if (i64(recent.size()) > window.depth) recent.pop_front();
            if (i64(recent.size()) < window.depth) continue;
            for (int c = 0; c < kCommands; ++c) {
                i64& ready = rank_[rank * kCommands + c];
                if (window.following >> c & 1)
                    ready = std::max(ready, recent.front() + window.latency);
            }
        }
    }

    void change_rows(Command command, i64 bank, int32_t row) {
        if (command == kRd || command == kWr) ++uses_[bank];
        if (command == kAct) open_[bank] = row;
        if (command == kAct || command == kPre) uses_[bank] = 0;
        if (command == kPre) open_[bank] = -1;
        if (command != kPrea) return;
        i64 first = bank / banks_ * banks_;
        std::fill_n(open_.begin() + first, banks_, -1);
        std::fill_n(uses_.begin() + first, banks_, 0);
    }

    const Params& p_;
    i64 banks_, bus_ = 0;
    std::vector<i64> rank_, group_, bank_;
    std::vector<Place> place_;
    std::vector<std::deque<i64>> recent_;
    std::vector<int32_t> open_;
    std::vector<i64> uses_;
};

// What both controllers do alike: take requests in, issue commands, return data.
class Controller {
  public:
    Controller(const Params& p, const Request* requests, i64 count, i64* accepted, i64* finished,
               std::vector<Issued>* trace, Stats& stats)
        : p_(p), rules_(p), requests_(requests), count_(count), accepted_(accepted),
          finished_(finished), trace_(trace), stats_(stats), twin_(p.merge_reads ? count : 0, -1) {}
    virtual ~Controller() = default;

    // False when nothing can ever happen again although requests wait.
    bool run() {
        for (i64 clock = 1; !done();) {
            moved_ = false;
            next_ = kNever;
            step(clock);
            if (moved_) {
                ++clock;
            } else if (next_ >= kNever || (waiting() && clock - busy_ > patience())) {
                return false;
            } else {
                clock = std::max(clock + 1, next_);
            }
        }
        return true;
    }

  protected:
    virtual void step(i64 clock) = 0;
    virtual bool waiting() const = 0;  // whether a queue holds a request that has to be served
    virtual bool admit(const Entry& entry) = 0;  // false: no room

    bool done() const { return taken_ == count_ && !waiting(); }
    // Only refresh goes on this long while requests wait, if the controller makes no progress.
    i64 patience() const { return p_.refresh ? 100 * p_.refresh_interval : kNever; }
    bool all_taken() const { return taken_ == count_; }
    void at(i64 clock) { next_ = std::min(next_, clock); }  // something may happen then

    // Offers the next request at the end of `clock`; at most one is accepted per clock.
    void accept(i64 clock) {
        while (!returns_.empty() && returns_.top() <= clock - offer_delay_) returns_.pop(), --outside_;
        if (taken_ == count_) return;
        const Request& r = requests_[taken_];
        if (r.arrival > clock) return at(r.arrival);
        if (p_.max_outstanding && outside_ >= p_.max_outstanding) {
            if (!returns_.empty()) at(returns_.top() + offer_delay_);
            return;
        }
        i64 bank = r.rank * rules_.banks() + r.bank;
        Entry entry{taken_, clock, int32_t(bank), r.row, r.column, int16_t(r.rank), int16_t(r.write)};
        ++outside_;
        if (!admit(entry)) {
            --outside_;
            return;
        }
        accepted_[taken_++] = busy_ = clock;
        moved_ = true;
    }

    void returns(i64 clock) {
        if (p_.max_outstanding) returns_.push(clock);
    }

    // A request that is answered from a write that still waits, or joins such a write.
    void answer(const Entry& entry, i64 clock) {
        finished_[entry.id] = clock;
        ++stats_.forwarded;
        stats_.clocks = std::max(stats_.clocks, clock);
        returns(clock);
    }

    void issue(Command command, const Entry& entry, i64 clock) {
        bool access = command == kRd || command == kWr;
        stats_.hits += access && rules_.uses(entry.bank) > 0;
        ++stats_.commands[command];
        rules_.issue(command, entry.bank, entry.row, clock);
        moved_ = true;
        if (trace_)
            trace_->push_back({clock, entry.row, entry.column, int16_t(command), entry.rank,
                               int16_t(entry.bank % rules_.banks()), 0});
        if (!access) return;
        busy_ = clock;
        i64 end = clock + (command == kRd ? p_.read_latency : p_.write_latency);
        if (command == kRd) last_read_ = end;
        stats_.clocks = std::max(stats_.clocks, end);
        for (i64 id = entry.id; id >= 0; id = p_.merge_reads ? twin_[id] : -1) {
            finished_[id] = end;
            if (command == kRd) returns(end);
        }
    }

    Entry rank_entry(i64 rank) const {
        return {-1, 0, int32_t(rank * rules_.banks()), 0, 0, int16_t(rank), 0};
    }

    const Params& p_;
    Rules rules_;
    const Request* requests_;
    i64 count_, taken_ = 0, outside_ = 0, next_ = 0, busy_ = 0;
    i64 last_read_ = 0;    // end of the data of the last read command
    i64 offer_delay_ = 0;  // clocks from the return of data until the host can offer again
    bool moved_ = false;
    i64 *accepted_, *finished_;
    std::vector<Issued>* trace_;
    Stats& stats_;
    std::vector<i64> twin_;  // next request that is answered by the same read
    std::priority_queue<i64, std::vector<i64>, std::greater<i64>> returns_;
};

}  // namespace memory
