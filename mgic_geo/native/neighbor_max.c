/* Channel-wise maximum over neighbors and the row it came from, and the way back. */

#include <math.h>

#include "kernels.h"

/* Some channels of a target, at most 64; `vectors` is a constant where this is inlined. A NaN
 * stays once it is there; of equal values the first one's row is kept. */
INLINE void best_of(const float *x, int64_t channels, const int64_t *index, int64_t first,
                    int64_t last, float *best, int64_t *row_of, const int vectors, int64_t lanes)
{
    vec top[4];
    ints from[4];
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

/* x: (sources, channels); ptr: (targets + 1); best: (targets, channels); row_of: as best, with
 * `sources`, a row behind the last, where a target has no neighbors (and best is 0) */
void mgic_neighbor_max(const float *x, int64_t sources, int64_t channels, const int64_t *ptr,
                       const int64_t *index, int64_t targets, float *best, int64_t *row_of,
                       int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < targets; t++) {
        const int64_t first = ptr[t], last = ptr[t + 1];
        float *out = best + t * channels;
        int64_t *rows = row_of + t * channels;
        if (first == last) {
            for (int64_t c = 0; c < channels; c++) {
                out[c] = 0;
                rows[c] = sources;
            }
            continue;
        }
        int64_t c = 0;
        for (; c + 4 * LANES <= channels; c += 4 * LANES)
            best_of(x + c, channels, index, first, last, out + c, rows + c, 4, LANES);
        for (; c + LANES <= channels; c += LANES)
            best_of(x + c, channels, index, first, last, out + c, rows + c, 1, LANES);
        if (c < channels)
            best_of(x + c, channels, index, first, last, out + c, rows + c, 1, channels - c);
    }
}

/* grad: (targets, channels); grad_x: (sources, channels), zero. Every thread takes some channels of
 * all targets, so that the sums are the same however many threads there are. */
void mgic_neighbor_max_backward(const float *grad, const int64_t *row_of, int64_t targets,
                                int64_t sources, int64_t channels, float *grad_x, int threads)
{
    const int64_t shares = threads < channels / LANES ? threads : channels / LANES;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int64_t share = 0; share < (shares ? shares : 1); share++) {
        const int64_t all = channels / LANES;
        const int64_t first = shares ? all * share / shares * LANES : 0;
        const int64_t last = share + 1 < shares ? all * (share + 1) / shares * LANES : channels;
        for (int64_t t = 0; t < targets; t++)
            for (int64_t c = first; c < last; c++) {
                const int64_t row = row_of[t * channels + c];
                if (row < sources)
                    grad_x[row * channels + c] += grad[t * channels + c];
            }
    }
}
