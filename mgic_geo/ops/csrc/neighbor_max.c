/* Channel-wise maximum over neighbors and the row it came from, and the way back. */

#include "entry.h"
#include "kernels.h"

#define TOGETHER 64 /* targets whose edges are looked at together */
#define VECTORS 4   /* of channels at a time */

/* Some channels of a target; `vectors` is a constant where this is inlined. NaN propagates; of
 * equal values the first one's row is kept. */
INLINE void best_of(const float *x, int64_t channels, const int64_t *index, int64_t first,
                    int64_t last, float *best, int64_t *row_of, const int vectors, int64_t lanes)
{
    vec top[VECTORS];
    ints from[VECTORS];
    for (int v = 0; v < vectors; v++) {
        top[v] = load_lanes(x + index[first] * channels + LANES * v, lanes);
        from[v] = (ints){} + (int32_t)index[first];
    }
    for (int64_t e = first + 1; e < last; e++) {
        const float *row = x + index[e] * channels;
        const ints number = (ints){} + (int32_t)index[e];
        for (int v = 0; v < vectors; v++) {
            const vec new = load_lanes(row + LANES * v, lanes);
            const ints better = (new > top[v]) | (new != new);
            top[v] = choose(better, new, top[v]);
            from[v] = (number & better) | (from[v] & ~better);
        }
    }
    for (int v = 0; v < vectors; v++) {
        store_lanes(best + LANES * v, top[v], lanes);
        for (int64_t lane = 0; lane < lanes; lane++)
            row_of[LANES * v + lane] = from[v][lane];
    }
}

/* The maximum of one target, all channels. */
static void best_of_target(const float *x, int64_t sources, int64_t channels, const int64_t *index,
                           int64_t first, int64_t last, float *best, int64_t *row_of)
{
    int64_t c = 0;
    for (; c < channels && first == last; c++) {
        best[c] = 0;
        row_of[c] = sources;
    }
#define BEST(vectors, lanes)                                                                       \
    best_of(x + c, channels, index, first, last, best + c, row_of + c, vectors, lanes)
    FOR_CHANNELS(c, channels, VECTORS, BEST)
#undef BEST
}

/* x: (sources, channels); ptr: (targets + 1); best: (targets, channels); row_of: as best, with
 * `sources`, a row after the last, where a target has no neighbors (and best is 0) */
ENTRY mgic_neighbor_max(FLOATS(x), int64_t sources, int64_t channels, INTS(ptr), INTS(index),
                        OUT_FLOATS(best), OUT_INTS(row_of), int threads)
{
    const int64_t targets = ptr_length - 1;
    int bad = 0;
    WITHIN(sources, 0, INT32_MAX); /* rows are 32 bits wide on the way */
    HOLDS(x, times(sources, channels));
    TRY(check_starts("ptr", ptr, targets + 1, index_length));
    HOLDS(best, times(targets, channels));
    HOLDS(row_of, times(targets, channels));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t from = 0; from < targets; from += TOGETHER) {
        const int64_t to = from + TOGETHER < targets ? from + TOGETHER : targets;
        if (!all_within(index, ptr[from], ptr[to], 0, sources)) {
#pragma omp atomic write
            bad = 1;
            continue;
        }
        for (int64_t t = from; t < to; t++)
            best_of_target(x, sources, channels, index, ptr[t], ptr[t + 1], best + t * channels,
                           row_of + t * channels);
    }
    if (bad)
        NODES_WITHIN(index, ptr[targets], 0, sources);
    return NULL;
}

/* grad: (targets, channels); row_of: as grad, `sources` for none; grad_x: (sources, channels),
 * zero. Every thread takes some channels of all targets, so that the sums are the same however many
 * threads there are. */
ENTRY mgic_neighbor_max_backward(FLOATS(grad), INTS(row_of), int64_t targets, int64_t sources,
                                 int64_t channels, OUT_FLOATS(grad_x), int threads)
{
    HOLDS(grad, times(targets, channels));
    HOLDS(row_of, times(targets, channels));
    HOLDS(grad_x, times(sources, channels));
    const int64_t all = channels / LANES, wanted = threads < all ? threads : all;
    const int64_t shares = wanted ? wanted : 1;
    int bad = 0;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t first = all * share / shares * LANES;
        const int64_t last = share + 1 < shares ? all * (share + 1) / shares * LANES : channels;
        int outside = 0;
        for (int64_t t = 0; t < targets; t++)
            for (int64_t c = first; c < last; c++) {
                const int64_t row = row_of[t * channels + c];
                if ((uint64_t)row < (uint64_t)sources)
                    grad_x[row * channels + c] += grad[t * channels + c];
                else
                    outside |= row != sources;
            }
        if (outside) {
#pragma omp atomic write
            bad = 1;
        }
    }
    if (bad)
        NODES_WITHIN(row_of, row_of_length, 0, sources + 1);
    return NULL;
}
