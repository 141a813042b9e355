// Causal attention of the fast path over rows without padding, and its gradients. The score matrix of a row is never
// written to memory: a block of queries of one head is processed at a time, with its scores for all keys in a core's cache.
//
// As in ops/attention.py: softmax in float32; probabilities (chances) and score gradients (slopes) are rounded to the type
// of the products, which sum in float32. The backward pass recomputes the probabilities from their log-sum-exp, as in
// FlashAttention (Dao 2023, algorithm 2). Gradients of one key from several queries and rows are summed in float32, always
// in the same order.

#include <omp.h>

#include <cstdlib>

#include "tiles.h"

namespace {

// Work memory of a thread: one allocation, with each array starting on a new cache line.
struct Space {
    uintptr_t at;
    template <typename T>
    T *take(long n) {
        T *taken = (T *)at;
        at += up(n * long(sizeof(T)), 64);
        return taken;
    }
};

// Strides of heads and tokens, in elements; the elements of one head are contiguous.
template <typename T>
struct Heads {
    T *at;
    long token, head;
    T *of(long where, long which) const { return at + where * token + which * head; }
};

// places: index of each token of each row, [starts[rows]]. The first `shared` tokens of a row belong to an earlier row, and
// only the tokens after them are queries. parts: number of threads that can split the query heads of a key head.
struct Batch {
    long heads, kv_heads, d, rows, window, longest, parts;
    float scaling;
    const int64_t *places, *starts, *shared;
    long tokens() const { return starts[rows]; }
};

// A block of queries of one head, and the keys that any of them sees.
struct Asked {
    long first, count, begin, keys, columns;
    Asked(const Batch &batch, long at, long length) : first(at) {
        count = length - first < QUERIES ? length - first : QUERIES;
        begin = batch.window > 0 && first >= batch.window ? (first - batch.window + 1) / HEIGHT * HEIGHT : 0;
        keys = up(first + count, HEIGHT) - begin;
        columns = up(count, LANES);
    }
    // Set -inf for keys after a query, and for those `window` or more before it. scores: [keys][QUERIES]
    void hide(float *scores, long window) const {
        for (long k = window > 0 ? begin : first; k < begin + keys; k++) {
            float *row = scores + (k - begin) * QUERIES;
            for (long i = 0; i < k - first && i < QUERIES; i++) row[i] = -INFINITY;
            if (window > 0)
                for (long i = k + window > first ? k + window - first : 0; i < QUERIES; i++) row[i] = -INFINITY;
        }
    }
};

// A row's keys and values of one head, with 0 beyond the last.
template <typename T>
struct Kept {
    T *key, *value;
    unit *pairs;  // units of the values; in the backward pass, of the keys
    Kept(Space &space, const Batch &batch) {
        long numbers = up(batch.longest, HEIGHT) * batch.d;
        key = space.take<T>(numbers);
        value = space.take<T>(numbers);
        pairs = space.take<unit>(numbers / PER_UNIT<T>);
    }
    void load(const Heads<const T> &k, const Heads<const T> &v, long head, const int64_t *places, long n, long d,
              bool backwards) {
        for (long j = 0; j < n; j++) {
            memcpy(key + j * d, k.of(places[j], head), sizeof(T) * d);
            memcpy(value + j * d, v.of(places[j], head), sizeof(T) * d);
        }
        long all = up(n, HEIGHT);
        memset((void *)(key + n * d), 0, sizeof(T) * (all - n) * d);
        memset((void *)(value + n * d), 0, sizeof(T) * (all - n) * d);
        pair_rows(backwards ? key : value, d, all, d, pairs);
    }
};

template <typename T>
struct Forward {
    Kept<T> kept;
    unit *asks, *chances;
    float *scores, *answer;
    Forward(Space space, const Batch &batch) : kept(space, batch) {
        long keys = up(batch.longest, HEIGHT);
        asks = space.take<unit>(batch.d / PER_UNIT<T> * QUERIES);
        scores = space.take<float>(keys * QUERIES);
        chances = PER_UNIT<T> == 1 ? (unit *)scores : space.take<unit>(keys / PER_UNIT<T> * QUERIES);
        answer = space.take<float>(QUERIES * batch.d);
        end = space.at;
    }
    uintptr_t end;

    // Process the queries of head g; sums: the log-sum-exp of each query's scores.
    void ask(const Batch &batch, const Asked &asked, long g, const int64_t *places, const Heads<const T> &q,
             const Heads<T> &to, float *sums) {
        const long d = batch.d, units = d / PER_UNIT<T>, columns = asked.columns;
        turn(q.of(places[asked.first], g), q.token, asked.count, units, asks);
        product<T>((const unit *)(kept.key + asked.begin * d), units, 1, asks, QUERIES, units, scores, QUERIES, asked.keys,
                   columns, false);
        asked.hide(scores, batch.window);
        float highest[QUERIES], sum[QUERIES];
        for (long i = 0; i < QUERIES; i++) highest[i] = -INFINITY, sum[i] = 0;
        for (long j = 0; j < asked.keys; j++) {
            const float *row = scores + j * QUERIES;
#pragma omp simd
            for (long i = 0; i < columns; i++) highest[i] = row[i] > highest[i] ? row[i] : highest[i];
        }
        for (long j = 0; j < asked.keys; j++) {
            float *row = scores + j * QUERIES;
#pragma omp simd
            for (long i = 0; i < columns; i++) {
                row[i] = exponential((row[i] - highest[i]) * batch.scaling);
                sum[i] += row[i];
            }
        }
        for (long j = 0; j < asked.keys; j += PER_UNIT<T>)
            pair(scores + j * QUERIES, scores + (j + PER_UNIT<T> - 1) * QUERIES, T(), chances + j / PER_UNIT<T> * QUERIES,
                 columns);
        product<T>(chances, 1, QUERIES, kept.pairs + asked.begin / PER_UNIT<T> * d, d, asked.keys / PER_UNIT<T>, answer, d,
                   up(asked.count, HEIGHT), d, false);
        for (long i = 0; i < asked.count; i++) {
            float *row = answer + i * d, share = 1.0f / sum[i];
            for (long j = 0; j < d; j++) row[j] *= share;
            narrow(row, to.of(places[asked.first + i], g), d);
            sums[places[asked.first + i] * batch.heads + g] = highest[i] * batch.scaling + logf(sum[i]);
        }
    }
};

template <typename T>
struct Backward {
    Kept<T> kept;
    unit *asks, *pulls, *ask_pairs, *pull_pairs, *slope_pairs;
    T *chances, *slopes;
    float *scores, *pulled, *d_query, *d_key, *d_value;
    Backward(Space space, const Batch &batch) : kept(space, batch) {
        long keys = up(batch.longest, HEIGHT), few = batch.d / PER_UNIT<T> * QUERIES;
        asks = space.take<unit>(few);
        pulls = space.take<unit>(few);
        ask_pairs = space.take<unit>(few);
        pull_pairs = space.take<unit>(few);
        scores = space.take<float>(keys * QUERIES);
        pulled = space.take<float>(keys * QUERIES);
        // float32 needs no copy in another type.
        const bool narrower = PER_UNIT<T> > 1;
        chances = narrower ? space.take<T>(keys * QUERIES) : (T *)scores;
        slopes = narrower ? space.take<T>(keys * QUERIES) : (T *)pulled;
        slope_pairs = narrower ? space.take<unit>(keys / PER_UNIT<T> * QUERIES) : (unit *)pulled;
        d_query = space.take<float>(QUERIES * batch.d);
        d_key = space.take<float>(keys * batch.d);
        d_value = space.take<float>(keys * batch.d);
        end = space.at;
    }
    uintptr_t end;

    // Add the contributions of the queries of head g to d_key and d_value [keys][d].
    void ask(const Batch &batch, const Asked &asked, long g, const int64_t *places, const Heads<const T> &q,
             const Heads<const T> &grad, const float *sums, const Heads<T> &to) {
        const long d = batch.d, units = d / PER_UNIT<T>, columns = asked.columns, begin = asked.begin;
        const T *queries = q.of(places[asked.first], g), *gradients = grad.of(places[asked.first], g);
        turn(queries, q.token, asked.count, units, asks);
        turn(gradients, grad.token, asked.count, units, pulls);
        pair_rows(queries, q.token, asked.count, d, ask_pairs);
        pair_rows(gradients, grad.token, asked.count, d, pull_pairs);
        product<T>((const unit *)(kept.key + begin * d), units, 1, asks, QUERIES, units, scores, QUERIES, asked.keys,
                   columns, false);
        product<T>((const unit *)(kept.value + begin * d), units, 1, pulls, QUERIES, units, pulled, QUERIES, asked.keys,
                   columns, false);
        asked.hide(scores, batch.window);
        float sum[QUERIES], along[QUERIES];
        for (long i = 0; i < QUERIES; i++) {
            along[i] = 0;
            sum[i] = i < asked.count ? sums[places[asked.first + i] * batch.heads + g] : INFINITY;
        }
        for (long j = 0; j < asked.keys; j++) {
            float *row = scores + j * QUERIES;
            const float *pull = pulled + j * QUERIES;
#pragma omp simd
            for (long i = 0; i < columns; i++) {
                row[i] = exponential(row[i] * batch.scaling - sum[i]);
                along[i] += row[i] * pull[i];
            }
            narrow(row, chances + j * QUERIES, columns);
        }
        for (long j = 0; j < asked.keys; j++) {
            const float *row = scores + j * QUERIES;
            float *pull = pulled + j * QUERIES;
#pragma omp simd
            for (long i = 0; i < columns; i++) pull[i] = row[i] * (pull[i] - along[i]) * batch.scaling;
            narrow(pull, slopes + j * QUERIES, columns);
        }
        for (long j = 0; j < asked.keys; j += PER_UNIT<T>)
            pair(pulled + j * QUERIES, pulled + (j + PER_UNIT<T> - 1) * QUERIES, T(),
                 slope_pairs + j / PER_UNIT<T> * QUERIES, columns);
        const long by_two = up(asked.count, PER_UNIT<T>) / PER_UNIT<T>;
        product<T>((const unit *)chances, QUERIES / PER_UNIT<T>, 1, pull_pairs, d, by_two, d_value + begin * d, d, asked.keys,
                   d, true);
        product<T>((const unit *)slopes, QUERIES / PER_UNIT<T>, 1, ask_pairs, d, by_two, d_key + begin * d, d, asked.keys, d,
                   true);
        product<T>(slope_pairs, 1, QUERIES, kept.pairs + begin / PER_UNIT<T> * d, d, asked.keys / PER_UNIT<T>, d_query, d,
                   up(asked.count, HEIGHT), d, false);
        for (long i = 0; i < asked.count; i++) narrow(d_query + i * d, to.of(places[asked.first + i], g), d);
    }
};

// Bytes of work memory per thread.
template <typename T>
long space(const Batch &batch) {
    Forward<T> forth(Space{0}, batch);
    Backward<T> back(Space{0}, batch);
    return long(forth.end > back.end ? forth.end : back.end);
}

template <typename T>
void forward(const Batch &batch, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<T> answer, float *sums,
             char *spaces, int threads) {
    const long each = space<T>(batch), some = batch.heads / batch.kv_heads / batch.parts;
#pragma omp parallel num_threads(threads)
    {
        Forward<T> work(Space{uintptr_t(spaces) + omp_get_thread_num() * each}, batch);
#pragma omp for schedule(dynamic) collapse(2)
        for (long r = 0; r < batch.rows; r++)
            for (long part = 0; part < batch.kv_heads * batch.parts; part++) {
                const int64_t *places = batch.places + batch.starts[r];
                const long n = batch.starts[r + 1] - batch.starts[r];
                work.kept.load(k, v, part / batch.parts, places, n, batch.d, false);
                for (long g = part * some; g < (part + 1) * some; g++)
                    for (long first = batch.shared[r]; first < n; first += QUERIES)
                        work.ask(batch, Asked(batch, first, n), g, places, q, answer, sums);
            }
    }
}

// partial: gradients per row and part, first of the keys, then of the values, [kv_heads * parts][tokens][d] each.
template <typename T>
void backward(const Batch &batch, Heads<const T> grad, Heads<const T> q, Heads<const T> k, Heads<const T> v,
              const float *sums, Heads<T> d_q, float *partial, char *spaces, int threads) {
    const long d = batch.d, each = space<T>(batch), some = batch.heads / batch.kv_heads / batch.parts;
    float *values = partial + batch.kv_heads * batch.parts * batch.tokens() * d;
#pragma omp parallel num_threads(threads)
    {
        Backward<T> work(Space{uintptr_t(spaces) + omp_get_thread_num() * each}, batch);
#pragma omp for schedule(dynamic) collapse(2)
        for (long r = 0; r < batch.rows; r++)
            for (long part = 0; part < batch.kv_heads * batch.parts; part++) {
                const int64_t *places = batch.places + batch.starts[r];
                const long n = batch.starts[r + 1] - batch.starts[r], to = (part * batch.tokens() + batch.starts[r]) * d;
                work.kept.load(k, v, part / batch.parts, places, n, d, true);
                memset(work.d_key, 0, sizeof(float) * up(n, HEIGHT) * d);
                memset(work.d_value, 0, sizeof(float) * up(n, HEIGHT) * d);
                for (long g = part * some; g < (part + 1) * some; g++)
                    for (long first = batch.shared[r]; first < n; first += QUERIES)
                        work.ask(batch, Asked(batch, first, n), g, places, q, grad, sums, d_q);
                memcpy(partial + to, work.d_key, sizeof(float) * n * d);
                memcpy(values + to, work.d_value, sizeof(float) * n * d);
            }
    }
}

// Sum the gradients of a token over rows and parts, always in the same order.
template <typename T>
void gather(const Batch &batch, float *partial, Heads<T> to, int threads) {
    const long d = batch.d, tokens = batch.tokens();
    int64_t *own = static_cast<int64_t *>(malloc(sizeof(int64_t) * (tokens + 1)));  // own[place]: index of its token
    for (long r = 0; r < batch.rows; r++)
        for (long j = batch.starts[r] + batch.shared[r]; j < batch.starts[r + 1]; j++) own[batch.places[j]] = j;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (long part = 0; part < batch.kv_heads * batch.parts; part++)
            for (long r = 0; r < batch.rows; r++)
                for (long j = batch.starts[r]; j < batch.starts[r] + batch.shared[r]; j++) {
                    float *sum = partial + (part * tokens + own[batch.places[j]]) * d;
                    const float *more = partial + (part * tokens + j) * d;
#pragma omp simd
                    for (long i = 0; i < d; i++) sum[i] += more[i];
                }
#pragma omp for schedule(dynamic) collapse(2)
        for (long h = 0; h < batch.kv_heads; h++)
            for (long r = 0; r < batch.rows; r++)
                for (long j = batch.starts[r] + batch.shared[r]; j < batch.starts[r + 1]; j++) {
                    float *sum = partial + (h * batch.parts * tokens + j) * d;
                    for (long part = 1; part < batch.parts; part++) {
                        const float *more = sum + part * tokens * d;
#pragma omp simd
                        for (long i = 0; i < d; i++) sum[i] += more[i];
                    }
                    narrow(sum, to.of(batch.places[j], h), d);
                }
    }
    free(own);
}

Batch batch_of(const int64_t *sizes, float scaling, const int64_t *places, const int64_t *starts, const int64_t *shared) {
    return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], scaling, places, starts, shared};
}

}  // namespace

// sizes: those of a Batch, then token and head strides of queries, keys and values. Outputs and gradients are
// [tokens, heads, d].
#define OF(T, NAME)                                                                                                     \
    long attention_space_##NAME(const int64_t *sizes) { return space<T>(batch_of(sizes, 0, nullptr, nullptr, nullptr)); } \
    void attention_##NAME(const int64_t *sizes, float scaling, const int64_t *places, const int64_t *starts,             \
                          const int64_t *shared, const T *q, const T *k, const T *v, T *answer, float *sums,             \
                          char *spaces, int threads) {                                                                   \
        Batch batch = batch_of(sizes, scaling, places, starts, shared);                                                  \
        forward<T>(batch, {q, sizes[7], sizes[8]}, {k, sizes[9], sizes[10]}, {v, sizes[11], sizes[12]},                  \
                   {answer, batch.heads * batch.d, batch.d}, sums, spaces, threads);                                     \
    }                                                                                                                    \
    void attention_backward_##NAME(const int64_t *sizes, float scaling, const int64_t *places, const int64_t *starts,    \
                                   const int64_t *shared, const T *grad, const T *q, const T *k, const T *v,             \
                                   const float *sums, T *d_q, T *d_k, T *d_v, float *partial, char *spaces,              \
                                   int threads) {                                                                        \
        Batch batch = batch_of(sizes, scaling, places, starts, shared);                                                  \
        long all = batch.heads * batch.d, kv = batch.kv_heads * batch.d;                                                 \
        backward<T>(batch, {grad, all, batch.d}, {q, sizes[7], sizes[8]}, {k, sizes[9], sizes[10]},                      \
                    {v, sizes[11], sizes[12]}, sums, {d_q, all, batch.d}, partial, spaces, threads);                     \
        gather<T>(batch, partial, {d_k, kv, batch.d}, threads);                                                          \
        gather<T>(batch, partial + kv * batch.parts * batch.tokens(), {d_v, kv, batch.d}, threads);                      \
    }

extern "C" {
OF(float, float32)
#if defined(__AVX512BF16__)
OF(bfloat16, bfloat16)
#endif

// Runs every function once, as in kernels.cpp.
void trial_attention() {
    const int64_t sizes[] = {2, 1, 16, 2, 0, 9, 1, 32, 16, 16, 16, 16, 16};
    const int64_t places[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 9}, starts[] = {0, 9, 12}, shared[] = {0, 2};
    static float x[10 * 32], y[10 * 32], z[3 * 10 * 32], sums[20], partial[2 * 12 * 16];
    static char spaces[1 << 17];
    attention_float32(sizes, 0.25f, places, starts, shared, x, x, x, y, sums, spaces, 1);
    attention_backward_float32(sizes, 0.25f, places, starts, shared, y, x, x, x, sums, z, z + 320, z + 640, partial, spaces, 1);
#if defined(__AVX512BF16__)
    static bfloat16 a[10 * 32], b[10 * 32], c[3 * 10 * 32];
    attention_bfloat16(sizes, 0.25f, places, starts, shared, a, a, a, b, sums, spaces, 1);
    attention_backward_bfloat16(sizes, 0.25f, places, starts, shared, b, a, a, a, sums, c, c + 320, c + 640, partial, spaces,
                                1);
#endif
}
}
