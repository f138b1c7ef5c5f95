// The main memory beside the design: that of lane 0, and what differs from it in another lane.
#ifndef BANKSIDE_LANE_STORE_H
#define BANKSIDE_LANE_STORE_H

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

namespace bankside {

constexpr uint64_t kPage = 64;

// Bytes that one cycle writes; a bus takes one beat per cycle.
struct Log {
#ifdef BUS_BITS
    static constexpr unsigned kMost = BUS_BITS / 8;
#else
    static constexpr unsigned kMost = 1;  // no main memory
#endif
    uint64_t count;
    uint64_t address[kMost];
    uint8_t value[kMost];

    bool operator==(const Log& other) const {
        return count == other.count && !std::memcmp(address, other.address, count * sizeof *address) &&
               !std::memcmp(value, other.value, count);
    }
};

using Page = std::array<uint8_t, kPage>;
using Pages = std::unordered_map<uint64_t, Page>;

// Whether a page is that of `bytes`, behind which all are zero.
inline bool same_page(const Page& page, uint64_t number, const std::vector<uint8_t>& bytes) {
    for (uint64_t i = 0; i < kPage; ++i) {
        const uint64_t at = number * kPage + i;
        if (page[i] != (at < bytes.size() ? bytes[at] : 0)) return false;
    }
    return true;
}

// The main memory of one lane: that of lane 0, but for some pages. Writes are done at the end of the cycle.
struct LaneStore {
    uint64_t size = 0, span = 0;  // bytes in all; of `base`, behind which all are zero
    const uint8_t* base = nullptr;
    Pages pages;
    Log log{};
    uint64_t* last = nullptr;  // of every page, when it was accessed last; only while lane 0 runs alone
    uint64_t now = 0;

    bool holds(uint64_t address, uint64_t count) const { return address < size && count <= size - address; }

    void read(uint64_t address, uint64_t count, uint8_t* into) const {
        if (address + count <= span) {
            std::memcpy(into, base + address, count);
        } else {
            for (uint64_t i = 0; i < count; ++i) into[i] = address + i < span ? base[address + i] : 0;
        }
        if (last)
            for (uint64_t page = address / kPage; page <= (address + count - 1) / kPage; ++page) last[page] = now;
        if (pages.empty()) return;
        for (uint64_t i = 0; i < count; ++i) {
            const auto found = pages.find((address + i) / kPage);
            if (found != pages.end()) into[i] = found->second[(address + i) % kPage];
        }
    }

    void write(uint64_t address, uint8_t value) {
        log.address[log.count] = address;
        log.value[log.count++] = value;
        if (last) last[address / kPage] = now;
    }

    Page& own(uint64_t page) {
        auto found = pages.find(page);
        if (found == pages.end()) {
            Page copy{};
            if (page * kPage < span) std::memcpy(copy.data(), base + page * kPage, std::min(kPage, span - page * kPage));
            found = pages.emplace(page, copy).first;
        }
        return found->second;
    }

    void put(const Log& writes) {
        for (uint64_t i = 0; i < writes.count; ++i) own(writes.address[i] / kPage)[writes.address[i] % kPage] = writes.value[i];
    }
};

}  // namespace bankside

#endif
