// Norms, gates, rotations, softmaxes and 4-bit quantisation for the fast path, each in one pass over its data.
//
// Same definitions and same roundings to bfloat16 as the torch code in ops/torch_ops.py, which is used if nothing could
// be compiled. Plain loops for the compiler to vectorise; no torch header, so that compiling takes a second or two.
// Arrays are contiguous unless strides are given; strides count elements.

#include <cstdlib>

#include "numbers.h"

namespace {

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

const float BETA = 0.7978845608f, KAPPA = 0.044715f;  // GELU's tanh form: sqrt(2 / pi), and the factor of the cube

template <bool GELU>
inline float act(float x) {
    if (!GELU) return x * sigmoid(x);
    return x * sigmoid(2.0f * BETA * (x + KAPPA * x * x * x));  // (1 + tanh(u)) / 2 = sigmoid(2 u)
}

template <bool GELU>
inline float act_slope(float x) {
    if (!GELU) {
        float s = sigmoid(x);
        return s * (1.0f + x * (1.0f - s));
    }
    float s = sigmoid(2.0f * BETA * (x + KAPPA * x * x * x));
    return s + x * s * (1.0f - s) * 2.0f * BETA * (1.0f + 3.0f * KAPPA * x * x);
}

// rounds: round to bfloat16 before and after multiplying with the weight, as with a bfloat16 weight.
// known: scales are an input.
template <typename X, typename Y>
void norm(const X *x, const float *weight, int rounds, float eps, float *scales, int known, Y *answer, long n, long width,
          int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < n; i++) {
        const X *row = x + i * width;
        Y *to = answer + i * width;
        if (!known) {
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (long j = 0; j < width; j++) sum += wide(row[j]) * wide(row[j]);
            scales[i] = 1.0f / sqrtf(sum / width + eps);
        }
        float scale = scales[i];
        if (rounds) {
#pragma omp simd
            for (long j = 0; j < width; j++)
                put(to[j], rounded<bfloat16>(rounded<bfloat16>(wide(row[j]) * scale) * weight[j]));
        } else {
#pragma omp simd
            for (long j = 0; j < width; j++) put(to[j], wide(row[j]) * scale * weight[j]);
        }
    }
}

template <typename X, typename Y>
void norm_backward(const Y *grad, const X *x, const float *weight, const float *scales, X *d_x, long n, long width,
                   int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < n; i++) {
        const X *row = x + i * width;
        const Y *g = grad + i * width;
        X *to = d_x + i * width;
        float scale = scales[i], along = 0;
#pragma omp simd reduction(+ : along)
        for (long j = 0; j < width; j++) along += wide(g[j]) * weight[j] * wide(row[j]);
        along *= scale * scale / width;
#pragma omp simd
        for (long j = 0; j < width; j++) put(to[j], (wide(g[j]) * weight[j] - wide(row[j]) * along) * scale);
    }
}

// Rows of gate and up may be parts of longer rows: `stride` elements from one row to the next.
template <typename T, bool GELU>
void gate(const T *gates, const T *up, T *answer, long n, long width, long stride, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < n; i++) {
        const T *a = gates + i * stride, *b = up + i * stride;
        T *to = answer + i * width;
#pragma omp simd
        for (long j = 0; j < width; j++) put(to[j], rounded<T>(act<GELU>(wide(a[j]))) * wide(b[j]));
    }
}

template <typename T, bool GELU>
void gate_backward(const T *grad, const T *gates, const T *up, T *d_gate, T *d_up, long n, long width, long stride,
                   int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < n; i++) {
        const T *a = gates + i * stride, *b = up + i * stride, *g = grad + i * width;
        T *to_gate = d_gate + i * width, *to_up = d_up + i * width;
#pragma omp simd
        for (long j = 0; j < width; j++) {
            float x = wide(a[j]), pull = wide(g[j]);
            put(to_up[j], rounded<T>(act<GELU>(x)) * pull);
            put(to_gate[j], rounded<T>(pull * wide(b[j])) * act_slope<GELU>(x));
        }
    }
}

template <typename T>
void rotate(const T *x, long x_token, long x_head, const T *cos, const T *sin, T *answer, long to_token, long to_head,
            long tokens, long heads, long width, float sign, int threads) {
    long half = width / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < tokens; i++) {
        const T *c = cos + i * width, *s = sin + i * width;
        for (long h = 0; h < heads; h++) {
            const T *first = x + i * x_token + h * x_head, *second = first + half;
            T *to = answer + i * to_token + h * to_head;
#pragma omp simd
            for (long j = 0; j < half; j++) {
                float a = wide(first[j]), b = wide(second[j]), k = wide(c[j]), l = wide(s[j]) * sign;
                put(to[j], rounded<T>(a * k) - b * l);
                put(to[half + j], rounded<T>(b * k) + a * l);
            }
        }
    }
}

// The range of keys that query i of a block sees; the last query is at the position of the last key.
struct Seen {
    long begin, end;
    Seen(long row, long queries, long keys, long window) {
        end = keys - queries + row % queries + 1;
        begin = window > 0 && end > window ? end - window : 0;
    }
};

template <typename T>
void softmax(T *scores, long rows, long queries, long keys, long window, float scaling, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *held = static_cast<float *>(malloc(sizeof(float) * keys));
#pragma omp for schedule(static, 16)
        for (long i = 0; i < rows; i++) {
            T *row = scores + i * keys;
            Seen seen(i, queries, keys, window);
            float highest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : highest)
            for (long j = seen.begin; j < seen.end; j++) {
                float x = wide(row[j]) * scaling;
                held[j] = x;
                highest = x > highest ? x : highest;
            }
#pragma omp simd reduction(+ : sum)
            for (long j = seen.begin; j < seen.end; j++) {
                float x = exponential(held[j] - highest);
                held[j] = x;
                sum += x;
            }
            float share = 1.0f / sum;
            for (long j = 0; j < seen.begin; j++) put(row[j], 0.0f);
#pragma omp simd
            for (long j = seen.begin; j < seen.end; j++) put(row[j], held[j] * share);
            for (long j = seen.end; j < keys; j++) put(row[j], 0.0f);
        }
        free(held);
    }
}

template <typename T>
void score(T *scores, const int64_t *labels, float *chances, uint8_t *best, long n, long words, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < n; i++) {
        T *row = scores + i * words;
        long label = labels[i];
        float asked = wide(row[label]), highest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : highest)
        for (long j = 0; j < words; j++) {
            float x = wide(row[j]);
            highest = x > highest ? x : highest;
        }
        bool first = asked == highest;
        for (long j = 0; first && j < label; j++) first = wide(row[j]) < highest;
#pragma omp simd reduction(+ : sum)
        for (long j = 0; j < words; j++) sum += exponential(wide(row[j]) - highest);
        float share = 1.0f / sum;
#pragma omp simd
        for (long j = 0; j < words; j++) put(row[j], exponential(wide(row[j]) - highest) * share);
        put(row[label], exponential(asked - highest) * share - 1.0f);
        chances[i] = asked - highest - logf(sum);
        best[i] = first;
    }
}

// Quantises x [n] to 4 bits, two codes per byte, the first in the upper half. Each block of `size` numbers is scaled by its
// largest magnitude, which is written to `largest`. names: codes of the 16 intervals between the 15 bounds. Bit for bit
// what bitsandbytes 0.50 computes on a CPU (backends/default/ops.py): an incomplete last block is divided by the
// magnitude, the others are multiplied with its reciprocal.
template <typename T>
void quantize_4bit(const T *x, const float *bounds, const uint8_t *names, float *largest, uint8_t *packed, long n, long size,
                   int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long block = 0; block < (n + size - 1) / size; block++) {
        const long first = block * size, count = n - first < size ? n - first : size;
        uint32_t most = 0;  // magnitudes sort like their bit patterns, with nan above all numbers
#pragma omp simd reduction(max : most)
        for (long i = 0; i < count; i++) {
            uint32_t bits = float_to_bits(wide(x[first + i])) & 0x7fffffff;
            most = bits > most ? bits : most;
        }
        const float magnitude = bits_to_float(most), least = magnitude < 1e-38f ? 1e-38f : magnitude, share = 1.0f / least;
        largest[block] = count < size ? least : magnitude;
        uint8_t found[4096];
#pragma omp simd
        for (long i = 0; i < count; i++) {
            float one = wide(x[first + i]), y = count < size ? one / least : one * share;
            y = y < -1.0f ? -1.0f : (y > 1.0f ? 1.0f : y);
            int above = 0;
            for (int b = 0; b < 15; b++) above += !(y <= bounds[b]);
            found[i] = uint8_t(above);
        }
        // An odd last number is paired with a 0.
        if (count % 2) {
            found[count] = 0;
            for (int b = 0; b < 15; b++) found[count] += 0.0f > bounds[b];
        }
        for (long i = 0; i < count; i += 2) packed[(first + i) / 2] = uint8_t(names[found[i]] << 4 | names[found[i + 1]]);
    }
}

}  // namespace

// Functions for ctypes; their names end with the element types.
#define OF_TWO(X, Y, XNAME, YNAME)                                                                                      \
    void norm_##XNAME##_##YNAME(const X *x, const float *weight, int rounds, float eps, float *scales, int known,       \
                                Y *answer, long n, long width, int threads) {                                           \
        norm<X, Y>(x, weight, rounds, eps, scales, known, answer, n, width, threads);                                   \
    }                                                                                                                   \
    void norm_backward_##XNAME##_##YNAME(const Y *grad, const X *x, const float *weight, const float *scales, X *d_x,   \
                                         long n, long width, int threads) {                                             \
        norm_backward<X, Y>(grad, x, weight, scales, d_x, n, width, threads);                                           \
    }

#define OF_ONE(T, NAME)                                                                                                 \
    void gate_##NAME(const T *gates, const T *up, T *answer, long n, long width, long stride, int gelu, int threads) {  \
        (gelu ? gate<T, true> : gate<T, false>)(gates, up, answer, n, width, stride, threads);                          \
    }                                                                                                                   \
    void gate_backward_##NAME(const T *grad, const T *gates, const T *up, T *d_gate, T *d_up, long n, long width,       \
                              long stride, int gelu, int threads) {                                                     \
        (gelu ? gate_backward<T, true> : gate_backward<T, false>)(grad, gates, up, d_gate, d_up, n, width, stride,      \
                                                                  threads);                                             \
    }                                                                                                                   \
    void rotate_##NAME(const T *x, long x_token, long x_head, const T *cos, const T *sin, T *answer, long to_token,     \
                       long to_head, long tokens, long heads, long width, float sign, int threads) {                    \
        rotate<T>(x, x_token, x_head, cos, sin, answer, to_token, to_head, tokens, heads, width, sign, threads);        \
    }                                                                                                                   \
    void softmax_##NAME(T *scores, long rows, long queries, long keys, long window, float scaling, int threads) {       \
        softmax<T>(scores, rows, queries, keys, window, scaling, threads);                                              \
    }                                                                                                                   \
    void score_##NAME(T *scores, const int64_t *labels, float *chances, uint8_t *best, long n, long words,              \
                      int threads) {                                                                                    \
        score<T>(scores, labels, chances, best, n, words, threads);                                                     \
    }                                                                                                                   \
    void quantize_4bit_##NAME(const T *x, const float *bounds, const uint8_t *names, float *largest, uint8_t *packed,   \
                              long n, long size, int threads) {                                                         \
        quantize_4bit<T>(x, bounds, names, largest, packed, n, size, threads);                                          \
    }

extern "C" {
OF_TWO(float, float, float32, float32)
OF_TWO(float, bfloat16, float32, bfloat16)
OF_TWO(bfloat16, float, bfloat16, float32)
OF_TWO(bfloat16, bfloat16, bfloat16, bfloat16)
OF_ONE(float, float32)
OF_ONE(bfloat16, bfloat16)

void trial_attention();

// Runs every function on a few numbers, so that an unsupported instruction ends the process here.
void trial() {
    const long n = 3, width = 70;
    static float x[n * width], y[n * width], z[n * width], angles[n * width], scales[n], weight[width], chances[n];
    static bfloat16 a[n * width], b[n * width], c[n * width], turns[n * width];
    int64_t labels[n] = {0, 1, 2};
    uint8_t best[n], names[16] = {}, packed[n * width];
    for (int gelu = 0; gelu < 2; gelu++) {
        norm_float32_float32(x, weight, 0, 1e-5f, scales, 0, y, n, width, 2);
        norm_float32_bfloat16(x, weight, 1, 1e-5f, scales, 0, a, n, width, 2);
        norm_bfloat16_float32(a, weight, 1, 1e-5f, scales, 0, y, n, width, 2);
        norm_bfloat16_bfloat16(a, weight, 1, 1e-5f, scales, 0, b, n, width, 2);
        norm_backward_float32_float32(x, y, weight, scales, z, n, width, 2);
        norm_backward_float32_bfloat16(a, y, weight, scales, z, n, width, 2);
        norm_backward_bfloat16_float32(x, a, weight, scales, b, n, width, 2);
        norm_backward_bfloat16_bfloat16(a, b, weight, scales, c, n, width, 2);
        gate_float32(x, y, z, n, width, width, gelu, 2);
        gate_bfloat16(a, b, c, n, width, width, gelu, 2);
        gate_backward_float32(x, x, x, y, z, n, width, width, gelu, 2);
        gate_backward_bfloat16(a, a, a, b, c, n, width, width, gelu, 2);
        rotate_float32(x, width, width, angles, angles, y, width, width, n, 1, width, 1, 2);
        rotate_bfloat16(a, width, width, turns, turns, b, width, width, n, 1, width, 1, 2);
        softmax_float32(x, n, n, width, 0, 0.5f, 2);
        softmax_bfloat16(a, n, n, width, 2, 0.5f, 2);
        score_float32(y, labels, chances, best, n, width, 2);
        score_bfloat16(b, labels, chances, best, n, width, 2);
        quantize_4bit_float32(x, weight, names, scales, packed, n * 64, 64, 2);
        quantize_4bit_bfloat16(a, weight, names, scales, packed, n * 64, 64, 2);
    }
    trial_attention();
}
}
