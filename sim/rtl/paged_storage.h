// Bytes as an overlay over an image that several share: copies cost what was written. For the channels of axi_bench.h.
#ifndef BANKSIDE_PAGED_STORAGE_H
#define BANKSIDE_PAGED_STORAGE_H

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

namespace bankside {

class PagedStorage {
public:
    using Image = std::shared_ptr<const std::vector<uint8_t>>;

    // `size` bytes: those of `image`, then zeros.
    PagedStorage(uint64_t size, Image image) : size_(size), image_(std::move(image)) {}

    uint64_t size() const { return size_; }

    bool holds(uint64_t address, uint64_t count) const { return address < size_ && count <= size_ - address; }

    void read(uint64_t address, uint64_t count, uint8_t* into) const {
        while (count) {
            const uint64_t at = address % kPage, step = std::min(count, kPage - at);
            const auto found = pages_.find(address / kPage);
            if (found != pages_.end())
                std::memcpy(into, found->second.data() + at, step);
            else
                original(address, step, into);
            address += step, into += step, count -= step;
        }
    }

    uint8_t at(uint64_t address) const {
        uint8_t value;
        read(address, 1, &value);
        return value;
    }

    void write(uint64_t address, uint8_t value) {
        const uint64_t number = address / kPage;
        auto found = pages_.find(number);
        if (found == pages_.end()) {
            found = pages_.emplace(number, Page{}).first;
            original(number * kPage, kPage, found->second.data());
        }
        found->second[address % kPage] = value;
    }

    // Equal contents, of two overlays over one image.
    bool operator==(const PagedStorage& other) const { return covers(other) && other.covers(*this); }

    // visit(address, mine, theirs) for every byte that differs, of two overlays over one image; ascending.
    template <typename Visit>
    void differences(const PagedStorage& other, Visit&& visit) const {
        std::map<uint64_t, Page> touched = pages_;
        touched.insert(other.pages_.begin(), other.pages_.end());
        Page mine, theirs;
        for (const auto& entry : touched) {
            const uint64_t first = entry.first * kPage;
            read(first, kPage, mine.data());
            other.read(first, kPage, theirs.data());
            for (uint64_t i = 0; i < kPage; ++i)
                if (mine[i] != theirs[i]) visit(first + i, mine[i], theirs[i]);
        }
    }

private:
    static constexpr uint64_t kPage = 4096;
    using Page = std::array<uint8_t, kPage>;

    uint64_t size_;
    Image image_;
    std::map<uint64_t, Page> pages_;

    void original(uint64_t address, uint64_t count, uint8_t* into) const {
        const uint64_t end = image_->size(), inside = address < end ? std::min(count, end - address) : 0;
        if (inside) std::memcpy(into, image_->data() + address, inside);
        std::memset(into + inside, 0, count - inside);
    }

    // Whether every page of this one is like that of `other`.
    bool covers(const PagedStorage& other) const {
        Page theirs;
        for (const auto& [number, page] : pages_) {
            other.read(number * kPage, kPage, theirs.data());
            if (page != theirs) return false;
        }
        return true;
    }
};

}  // namespace bankside

#endif
