// Products of small matrices in a core's cache, with plain vectors; in bfloat16 if the processor has AVX512-BF16.
//
// A unit is the 32 bits that a vector lane multiplies at once: one float32, or two bfloat16 whose products are added.

#pragma once

#include "numbers.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
const long LANES = 16, WIDE = 4;
#elif defined(__AVX__)
const long LANES = 8, WIDE = 2;
#else
const long LANES = 4, WIDE = 4;
#endif
const long HEIGHT = 4;    // rows of a tile of HEIGHT times WIDE vectors, whose sums stay in registers
const long QUERIES = 64;  // queries processed at a time

typedef uint32_t __attribute__((may_alias)) unit;
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t vec_bits __attribute__((vector_size(4 * LANES)));
typedef float vec_at __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits_at __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

template <typename T>
const long PER_UNIT = long(sizeof(unit) / sizeof(T));

inline vec add_product(float, vec sum, vec_bits a, vec_bits b) { return sum + (vec)a * (vec)b; }
#if defined(__AVX512BF16__)
inline vec add_product(bfloat16, vec sum, vec_bits a, vec_bits b) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif

template <typename T, int N>
inline void tile(const unit *a, long a_row, long a_unit, const unit *b, long b_unit, long units, float *c, long c_row,
                 bool add) {
    vec sum[HEIGHT][N];
    for (int m = 0; m < HEIGHT; m++)
        for (int n = 0; n < N; n++) sum[m][n] = add ? *(const vec_at *)(c + m * c_row + n * LANES) : vec{};
    for (long k = 0; k < units; k++) {
        vec_bits right[N];
        for (int n = 0; n < N; n++) right[n] = *(const bits_at *)(b + k * b_unit + n * LANES);
        for (int m = 0; m < HEIGHT; m++) {
            vec_bits left = a[m * a_row + k * a_unit] - vec_bits{};
            for (int n = 0; n < N; n++) sum[m][n] = add_product(T(), sum[m][n], left, right[n]);
        }
    }
    for (int m = 0; m < HEIGHT; m++)
        for (int n = 0; n < N; n++) *(vec_at *)(c + m * c_row + n * LANES) = sum[m][n];
}

// c [rows, columns] = (add: +=) a [rows, units] times b [units, columns]. rows is a multiple of HEIGHT, columns of LANES.
// a may have any strides; the rows of b and c are contiguous.
template <typename T>
void product(const unit *a, long a_row, long a_unit, const unit *b, long b_unit, long units, float *c, long c_row,
             long rows, long columns, bool add) {
    long n = 0;
    for (; n + WIDE * LANES <= columns; n += WIDE * LANES)
        for (long m = 0; m < rows; m += HEIGHT)
            tile<T, WIDE>(a + m * a_row, a_row, a_unit, b + n, b_unit, units, c + m * c_row + n, c_row, add);
    for (; n < columns; n += LANES)
        for (long m = 0; m < rows; m += HEIGHT)
            tile<T, 1>(a + m * a_row, a_row, a_unit, b + n, b_unit, units, c + m * c_row + n, c_row, add);
}

inline long up(long n, long to) { return (n + to - 1) / to * to; }

inline void narrow(const float *x, float *to, long n) {
    if (to != x) memcpy(to, x, sizeof(float) * n);
}
inline void narrow(const float *x, bfloat16 *to, long n) {
#pragma omp simd
    for (long i = 0; i < n; i++) put(to[i], x[i]);
}

// Combine two rows into one row of units, and n rows of `width` numbers with stride `row`.
inline void pair(const float *one, const float *, float, unit *to, long n) {
    if ((const float *)to != one) memcpy(to, one, sizeof(unit) * n);
}
inline void pair(const float *one, const float *two, bfloat16, unit *to, long n) {
#pragma omp simd
    for (long i = 0; i < n; i++) {
        bfloat16 a, b;
        put(a, one[i]);
        put(b, two[i]);
        to[i] = a.bits | uint32_t(b.bits) << 16;
    }
}
inline void pair_rows(const float *x, long row, long n, long width, unit *to) {
    for (long i = 0; i < n; i++) memcpy(to + i * width, x + i * row, sizeof(unit) * width);
}
inline void pair_rows(const bfloat16 *x, long row, long n, long width, unit *to) {
    for (long i = 0; i < n; i += 2) {
        const bfloat16 *one = x + i * row, *two = i + 1 < n ? one + row : one;
        uint32_t mask = i + 1 < n ? 0xffff0000 : 0;  // 0 beyond the last row
        unit *units = to + i / 2 * width;
#pragma omp simd
        for (long j = 0; j < width; j++) units[j] = one[j].bits | (uint32_t(two[j].bits) << 16 & mask);
    }
}

// Transpose n rows of units to [units][QUERIES], with 0 beyond the last row.
template <typename T>
inline void turn(const T *x, long row, long n, long units, unit *to) {
    for (long i = 0; i < n; i++) {
        const unit *from = (const unit *)(x + i * row);
        for (long u = 0; u < units; u++) to[u * QUERIES + i] = from[u];
    }
    for (long u = 0; u < units; u++)
        for (long i = n; i < QUERIES; i++) to[u * QUERIES + i] = 0;
}

}  // namespace
