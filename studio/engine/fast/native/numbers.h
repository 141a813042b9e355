// Number types and shared helpers of kernels.cpp and attention.cpp.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 {
    uint16_t bits;
};

inline float bits_to_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline uint32_t float_to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float wide(float x) { return x; }
inline float wide(bfloat16 x) { return bits_to_float(uint32_t(x.bits) << 16); }

inline void put(float &to, float x) { to = x; }
inline void put(bfloat16 &to, float x) {
    uint32_t bits = float_to_bits(x);
    uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // ties to even
    to.bits = uint16_t(x != x ? 0x7fc0 : nearest);
}

template <typename T>
inline float rounded(float x) {
    T there;
    put(there, x);
    return wide(there);
}

// e^x to about one unit in the last place (Cephes' polynomial); 0 below the smallest float, inf above the largest.
inline float exponential(float x) {
    float y = x < -87.3f ? -87.3f : (x > 88.7f ? 88.7f : x);
    float n = (y * 1.44269504f + 12582912.f) - 12582912.f;  // round to the nearest integer
    float r = y - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    p *= bits_to_float(uint32_t(int32_t(n) + 127) << 23);
    p = x < -87.3f ? 0.0f : (x > 88.7f ? INFINITY : p);
    return x != x ? x : p;
}

}  // namespace
