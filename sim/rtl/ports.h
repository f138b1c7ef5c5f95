// Ports of any width, read and written in words; for compiled models and for everything else that has
// ports of these types.
#ifndef BANKSIDE_PORTS_H
#define BANKSIDE_PORTS_H

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace bankside {

constexpr uint64_t mask(unsigned bits) {
    return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
}

// --- Ports -----------------------------------------------------------------------------------
// A Verilated model trusts its inputs: a value wider than the declared port corrupts memory, and
// the C++ type (8, 16, 32, 64 bit or words of 32) does not tell the declared width. So every write
// names the width and is masked to it.

template <typename Port>
inline void put(Port& port, unsigned bits, uint64_t value) {
    static_assert(std::is_integral<Port>::value, "wide ports take put_words");
    port = static_cast<Port>(value & mask(bits));
}

template <typename Port>
inline uint64_t get(const Port& port) {
    static_assert(std::is_integral<Port>::value, "wide ports take get_words");
    return port;
}

// Write a port of any width from little-endian 64-bit words, ceil(bits / 64) of them.
template <typename Port>
inline void put_words(Port& port, unsigned bits, const uint64_t* words) {
    if constexpr (std::is_integral<Port>::value) {
        put(port, bits, words[0]);
    } else {
        const unsigned count = (bits + 31) / 32;
        for (unsigned i = 0; i < count; ++i) {
            const uint32_t half = static_cast<uint32_t>(words[i / 2] >> (32 * (i % 2)));
            const unsigned left = bits - 32 * i;
            port[i] = left >= 32 ? half : half & static_cast<uint32_t>(mask(left));
        }
    }
}

// Read a port of any width into little-endian 64-bit words; bits above `bits` come out as zero.
template <typename Port>
inline void get_words(const Port& port, unsigned bits, uint64_t* words) {
    if constexpr (std::is_integral<Port>::value) {
        words[0] = port & mask(bits);
    } else {
        for (unsigned i = 0; i < (bits + 63) / 64; ++i) words[i] = 0;
        for (unsigned i = 0; i < (bits + 31) / 32; ++i)
            words[i / 2] |= uint64_t{port[i]} << (32 * (i % 2));
        if (bits % 64) words[bits / 64] &= mask(bits % 64);
    }
}

// Bits [low, low + count) of a wide port, count <= 64.
template <typename Port>
inline uint64_t get_bits(const Port& port, unsigned low, unsigned count) {
    if constexpr (std::is_integral<Port>::value) {
        return (uint64_t{port} >> low) & mask(count);
    } else {
        uint64_t value = 0;
        for (unsigned i = 0; i < count;) {
            const unsigned at = low + i;
            value |= (uint64_t{port[at / 32]} >> (at % 32)) << i;
            i += 32 - at % 32;
        }
        return value & mask(count);
    }
}

// Replace bits [low, low + count) of a wide port, count <= 64; `low + count` must not pass its width.
template <typename Port>
inline void put_bits(Port& port, unsigned low, unsigned count, uint64_t value) {
    if constexpr (std::is_integral<Port>::value) {
        const uint64_t where = mask(count) << low;
        port = static_cast<Port>((uint64_t{port} & ~where) | ((value << low) & where));
    } else {
        value &= mask(count);
        for (unsigned i = 0; i < count;) {
            const unsigned at = low + i, shift = at % 32;
            const unsigned step = count - i < 32 - shift ? count - i : 32 - shift;
            const uint32_t where = static_cast<uint32_t>(mask(step)) << shift;
            port[at / 32] =
                (port[at / 32] & ~where) | ((static_cast<uint32_t>(value >> i) << shift) & where);
            i += step;
        }
    }
}

}  // namespace bankside

#endif
