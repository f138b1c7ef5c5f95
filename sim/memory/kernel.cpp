// Cycle-exact controllers of one DRAM channel that skip the clocks in which nothing can happen.
//
// `Shared`: one queue for reads, one for writes, over all banks; or a single one served strictly in
// order. `PerBank`: transaction queues in front of one command queue per bank, served round robin.
// The rules are those of docs/memory_controller.md; tests compare every command and clock with a
// plain model that visits every clock.
#include "kernel.h"

namespace memory {
namespace {

struct Choice {
    Command command = kRef;
    i64 where = -1;
};

class Shared final : public Controller {
  public:
    Shared(const Params& p, const Request* requests, i64 count, i64* accepted, i64* finished,
           std::vector<Issued>* trace, Stats& stats)
        : Controller(p, requests, count, accepted, finished, trace, stats),
          active_in_bank_(p.ranks * rules_.banks()), hit_seen_(p.ranks * rules_.banks()),
          next_refresh_(p.refresh ? p.refresh_interval : kNever) {}

  private:
    using Queue = std::vector<Entry>;

    void step(i64 clock) override {
        if (clock >= next_refresh_) {
            for (i64 rank = 0; rank < p_.ranks; ++rank) due_.push_back(rank);
            next_refresh_ += p_.refresh_interval;
        }
        at(next_refresh_);
        if (!serve(active_, clock, true) && !refresh(clock) && due_.empty()) serve_queue(clock);
        accept(clock);
    }

    bool waiting() const override {
        return !active_.empty() || !reads_.empty() || (p_.drain_rest && !writes_.empty());
    }

    bool admit(const Entry& entry) override {
        if (p_.in_order) return push(reads_, p_.read_queue, entry);
        for (const Entry& w : writes_) {
            if (!same_burst(w, entry)) continue;
            // Answers to reads leave in order.
            answer(entry, entry.write ? entry.stamp : std::max(entry.stamp + 1, last_read_));
            return true;
        }
        return entry.write ? push(writes_, p_.write_queue, entry)
                           : push(reads_, p_.read_queue, entry);
    }

    static bool push(Queue& queue, i64 size, const Entry& entry) {
        if (i64(queue.size()) >= size) return false;
        queue.push_back(entry);
        return true;
    }

    void serve_queue(i64 clock) {
        if (p_.in_order) {
            serve_head(clock);
            return;
        }
        // With no read at all the writes may go, and go on until the low mark.
        i64 writes = writes_.size();
        if (!writing_ && (writes >= p_.write_high || reads_.empty())) writing_ = true;
        else if (writing_ && writes <= p_.write_low && !reads_.empty()) writing_ = false;
        serve(writing_ ? writes_ : reads_, clock, false);
    }

    Command needed(const Entry& entry) const {
        int32_t open = rules_.open_row(entry.bank);
        if (open == entry.row) return entry.write ? kWr : kRd;
        return open < 0 ? kAct : kPre;
    }

    // The oldest request whose next command is legal now; false when there is none.
    bool serve(Queue& queue, i64 clock, bool active) {
        if (queue.empty()) return false;
        Choice best;
        i64 next = kNever;
        mark_hits(queue);
        for (size_t i = 0, size = queue.size(); i < size; ++i) {
            const Entry& entry = queue[i];
            Command command = needed(entry);
            if (command == kPre && !may_close(entry)) continue;
            if (p_.close_row == kCloseNoOlderHit && (command == kRd || command == kWr))
                hit_seen_[entry.bank] = serial_;
            i64 ready = rules_.ready(command, entry.bank);
            if (ready > clock) {
                next = std::min(next, ready);
            } else if (best.where < 0 || entry.stamp < queue[best.where].stamp) {
                best = {command, i64(i)};
                if (!active) break;  // in order of arrival
            }
        }
        at(next);
        if (best.where >= 0) advance(queue, best, clock, active);
        return best.where >= 0;
    }

    void mark_hits(const Queue& queue) {
        ++serial_;
        if (p_.close_row != kCloseCapped) return;
        for (const Entry& entry : queue)
            if (rules_.open_row(entry.bank) == entry.row) hit_seen_[entry.bank] = serial_;
    }

    bool may_close(const Entry& entry) const {
        if (active_in_bank_[entry.bank]) return false;
        if (p_.close_row == kCloseReady || hit_seen_[entry.bank] != serial_) return true;
        return p_.close_row == kCloseCapped && rules_.uses(entry.bank) >= p_.row_cap;
    }

    void advance(Queue& queue, Choice choice, i64 clock, bool active) {
        Entry entry = queue[choice.where];
        issue(choice.command, entry, clock);
        if (choice.command == kPre) return;
        queue.erase(queue.begin() + choice.where);
        if (choice.command == kAct) {
            active_.push_back(entry);
            ++active_in_bank_[entry.bank];
            return;
        }
        active_in_bank_[entry.bank] -= active;
        if (entry.write) returns(clock);
    }

    void serve_head(i64 clock) {
        if (reads_.empty()) return;
        Entry entry = reads_.front();
        Command command = needed(entry);
        i64 ready = rules_.ready(command, entry.bank);
        if (ready > clock) return at(ready);
        issue(command, entry, clock);
        if (command != kRd && command != kWr) return;
        reads_.erase(reads_.begin());
        if (entry.write) returns(clock);
    }

    bool refresh(i64 clock) {
        if (due_.empty()) return false;
        i64 rank = due_.front(), first = rank * rules_.banks();
        Command command = rules_.any_open(rank) ? kPrea : kRef;
        for (i64 b = first; command == kPrea && b < first + rules_.banks(); ++b)
            if (active_in_bank_[b]) return false;
        i64 ready = rules_.ready(command, first);
        if (ready > clock) {
            at(ready);
            return false;
        }
        issue(command, rank_entry(rank), clock);
        if (command == kRef) due_.pop_front();
        return true;
    }

    Queue reads_, writes_, active_;  // active: the row was opened for this request
    std::vector<i64> active_in_bank_, hit_seen_;
    std::deque<i64> due_;
    i64 next_refresh_, serial_ = 0;
    bool writing_ = false;
};

class PerBank final : public Controller {
  public:
    PerBank(const Params& p, const Request* requests, i64 count, i64* accepted, i64* finished,
            std::vector<Issued>* trace, Stats& stats)
        : Controller(p, requests, count, accepted, finished, trace, stats),
          queues_(p.ranks * rules_.banks()),
          interval_(p.refresh ? p.refresh_interval / p.ranks : kNever), next_refresh_(interval_) {
        offer_delay_ = 1;
    }

  private:
    // The requests of one bank and, while `fresh`, which of them may have the next command.
    struct Bank {
        std::vector<Entry> entries;
        bool fresh = false, head_closes = false;
        int read = -1, write = -1;
    };

    void step(i64 clock) override {
        accept(clock);
        if (clock >= next_refresh_) {
            due_.push_back(next_rank_);
            next_rank_ = (next_rank_ + 1) % p_.ranks;
            next_refresh_ += interval_;
        }
        at(next_refresh_);
        if (!refresh(clock)) serve(clock);
        transfer();
    }

    bool waiting() const override {
        if (!reads_.empty() || queued_reads_) return true;
        return p_.drain_rest && (!writes_.empty() || queued_);
    }

    bool admit(const Entry& entry) override {
        auto& queue = entry.write ? writes_ : reads_;
        if (i64(queue.size()) >= (entry.write ? p_.write_queue : p_.read_queue)) return false;
        auto same = [&](const Entry& e) { return same_burst(e, entry); };
        const auto& bank = queues_[entry.bank].entries;
        auto writes = [&](const Entry& e) { return e.write && same(e); };
        bool pending = std::any_of(writes_.begin(), writes_.end(), same) ||
                       std::any_of(bank.begin(), bank.end(), writes);
        if (pending) {
            answer(entry, entry.stamp + 1);
        } else if (entry.write || !p_.merge_reads || !merge(entry)) {
            queue.push_back(entry);
        }
        if (entry.write && !pending) returns(entry.stamp + 1);
        return true;
    }

    bool merge(const Entry& entry) {
        const std::vector<Entry>* lists[] = {&queues_[entry.bank].entries, &reads_};
        for (auto* list : lists)
            for (const Entry& e : *list) {
                if (e.write || !same_burst(e, entry)) continue;
                twin_[entry.id] = twin_[e.id];
                twin_[e.id] = entry.id;
                ++stats_.merged;
                return true;
            }
        return false;
    }

    bool refresh(i64 clock) {
        if (due_.empty()) return false;
        i64 rank = due_.front(), first = rank * rules_.banks();
        if (!rules_.any_open(rank)) {
            i64 ready = rules_.ready(kRef, first);
            if (ready > clock) return at(ready), false;
            issue(kRef, rank_entry(rank), clock);
            due_.pop_front();
            return true;
        }
        for (i64 b = first; b < first + rules_.banks(); ++b) {
            if (rules_.open_row(b) < 0) continue;
            i64 ready = rules_.ready(kPre, b);
            at(std::max(ready, clock + 1));
            if (ready > clock) continue;
            Entry entry = rank_entry(rank);
            entry.bank = int32_t(b);
            issue(kPre, entry, clock);
            queues_[b].fresh = false;
            return true;
        }
        return false;
    }

    bool serve(i64 clock) {
        i64 banks = queues_.size();
        for (i64 n = 0; n < banks; ++n) {
            turn_ = turn_ + 1 == banks ? 0 : turn_ + 1;
            if (queues_[turn_].entries.empty()) continue;
            // A rank that is about to be refreshed opens nothing more.
            if (!due_.empty() && turn_ / rules_.banks() == due_.front()) continue;
            Choice choice = choose(turn_, clock);
            if (choice.where < 0) continue;
            advance(queues_[turn_], choice, clock);
            return true;
        }
        return false;
    }

    Choice choose(i64 index, i64 clock) {
        Bank& bank = queues_[index];
        if (!bank.fresh) look(bank, index);
        if (rules_.open_row(index) < 0) return test(kAct, 0, index, clock);
        Choice best;
        if (bank.head_closes) best = test(kPre, 0, index, clock);
        for (int where : {bank.read, bank.write}) {
            if (where < 0 || (best.where >= 0 && where > best.where)) continue;
            Choice found = test(bank.entries[where].write ? kWr : kRd, where, index, clock);
            if (found.where >= 0) best = found;
        }
        return best;
    }

    Choice test(Command command, i64 where, i64 index, i64 clock) {
        i64 ready = rules_.ready(command, index);
        if (ready <= clock) return {command, where};
        at(ready);
        return {};
    }

    void look(Bank& bank, i64 index) {
        int32_t open = rules_.open_row(index);
        bank.fresh = true;
        bank.read = bank.write = -1;
        bool hit = false;
        for (size_t i = 0; i < bank.entries.size(); ++i) {
            const Entry& entry = bank.entries[i];
            if (entry.row != open) continue;
            hit = true;
            if (!entry.write && bank.read < 0) bank.read = int(i);
            if (entry.write && bank.write < 0 && !read_before(bank, i)) bank.write = int(i);
        }
        bool may = !hit || p_.close_row == kCloseReady ||
                   (p_.close_row == kCloseCapped && rules_.uses(index) >= p_.row_cap);
        bank.head_closes = open >= 0 && bank.entries[0].row != open && may;
    }

    static bool read_before(const Bank& bank, size_t where) {
        for (size_t i = 0; i < where; ++i)
            if (!bank.entries[i].write && same_burst(bank.entries[i], bank.entries[where]))
                return true;
        return false;
    }

    void advance(Bank& bank, Choice choice, i64 clock) {
        Entry entry = bank.entries[choice.where];
        issue(choice.command, entry, clock);
        bank.fresh = false;
        if (choice.command != kRd && choice.command != kWr) return;
        bank.entries.erase(bank.entries.begin() + choice.where);
        --queued_;
        queued_reads_ -= !entry.write;
    }

    // Moves one request from the transaction queue to the queue of its bank.
    void transfer() {
        i64 writes = writes_.size();
        bool rest = p_.drain_rest && all_taken() && reads_.empty();
        fresh_batch_ = !draining_;
        if (!draining_ && (writes >= p_.write_queue || (writes > p_.write_low && !queued_) || rest))
            draining_ = writes;
        if (draining_ > 0 && transfer_from(writes_)) return;
        if (draining_ == 0) transfer_from(reads_);
    }

    // True when the queue has the say in this clock, whether or not something moved.
    bool transfer_from(std::vector<Entry>& queue) {
        for (size_t i = 0; i < queue.size(); ++i) {
            Entry entry = queue[i];
            Bank& bank = queues_[entry.bank];
            if (i64(bank.entries.size()) >= p_.bank_queue) continue;
            bool queued = entry.write && holds_read(bank.entries, entry);
            if (queued || (entry.write && holds_read(reads_, entry))) {
                draining_ = 0;
                moved_ |= !fresh_batch_;
                // The next clock may go on with reads; a batch that ends as it begins would come
                // back for ever, so reads go at once.
                return queued || !fresh_batch_;
            }
            draining_ -= entry.write;
            bank.entries.push_back(entry);
            bank.fresh = false;
            ++queued_;
            queued_reads_ += !entry.write;
            queue.erase(queue.begin() + i);
            moved_ = true;
            return true;
        }
        return true;
    }

    static bool holds_read(const std::vector<Entry>& queue, const Entry& entry) {
        return std::any_of(queue.begin(), queue.end(), [&](const Entry& e) {
            return !e.write && same_burst(e, entry);
        });
    }

    std::vector<Entry> reads_, writes_;
    std::vector<Bank> queues_;
    std::deque<i64> due_;
    i64 interval_, next_refresh_, next_rank_ = 0, turn_ = 0;
    i64 draining_ = 0, queued_ = 0, queued_reads_ = 0;
    bool fresh_batch_ = false;
};

struct Run {
    std::vector<Issued> trace;
};

}  // namespace
}  // namespace memory

extern "C" {

// Serves `count` requests; returns null when the controller can make no progress.
void* memory_run(const memory::Params* params, const memory::Request* requests, int64_t count,
                 int64_t per_bank, int64_t traced, int64_t* accepted, int64_t* finished,
                 memory::Stats* stats) {
    auto* run = new memory::Run;
    auto* trace = traced ? &run->trace : nullptr;
    bool fine;
    if (per_bank)
        fine = memory::PerBank(*params, requests, count, accepted, finished, trace, *stats).run();
    else
        fine = memory::Shared(*params, requests, count, accepted, finished, trace, *stats).run();
    if (fine) return run;
    delete run;
    return nullptr;
}

int64_t memory_trace(void* handle, const memory::Issued** first) {
    auto& trace = static_cast<memory::Run*>(handle)->trace;
    *first = trace.data();
    return int64_t(trace.size());
}

void memory_free(void* handle) { delete static_cast<memory::Run*>(handle); }

}  // extern "C"
