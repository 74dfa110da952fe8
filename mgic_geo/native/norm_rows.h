/* Batch norm of a block of rows: the sums that decide on it, and what follows from them.
 *
 * Sums are in float over BLOCK rows and in double from there on. Forward, the rows of a block are
 * centered on their own mean, so that squares do not cancel wherever an outlier is, and the blocks'
 * moments are joined in double (Chan, Golub and LeVeque, 1983). */

#ifndef MGIC_NORM_ROWS_H
#define MGIC_NORM_ROWS_H

#include <math.h>

#include "activations.h"
#include "kernels.h"

#define BLOCK 128       /* rows whose sums are in float, at most */
#define BYTES 32768     /* of those rows: a piece of each row at a time, they stay in cache */
#define AHEAD 8         /* rows ahead that are fetched: they are too far apart for the processor */
#define VECTORS 4       /* of channels at a time */

typedef struct {
    int64_t rows, channels, activation;
    int64_t apart; /* whether what is read of a row is far from what is read of the next one */
    double eps;
    const float *x, *grad, *weight, *bias; /* grad: null forward; weight, bias: null for 1 and 0 */
    float *mean, *variance, *scale, *shift; /* the norm is (x - mean) * scale + shift */
    float *residual;                        /* what rounding took from the mean, which shift has */
    float *slope, *offset; /* grad_x: grad * scale + (x - mean) * slope + offset */
    float *grad_weight, *grad_bias, *y;    /* y: or grad_x */
} norm;

/* Rows of a block: fewer of many channels, whose pieces are too far apart to be fetched ahead. */
static int64_t block_rows(int64_t channels)
{
    const int64_t fit = BYTES / (channels * (int64_t)sizeof(float));
    return fit < 8 ? 8 : fit < BLOCK ? fit : BLOCK;
}

INLINE void fetch_ahead(const norm *n, int64_t row, int64_t c, const int backward,
                        const int vectors)
{
    for (int v = 0; v < vectors && n->apart; v += LINE / LANES) {
        const int64_t place = (row + AHEAD) * n->channels + c + LANES * v;
        __builtin_prefetch(n->x + place);
        if (backward)
            __builtin_prefetch(n->grad + place);
    }
}

/* Moments so far of a channel: how many rows, their mean, and their squared distances from it. */
INLINE void join_moments(double *mean, double *spread, double count, double block_mean,
                         double block_spread, double block_count)
{
    const double gap = block_mean - *mean, all = count + block_count;
    *mean += gap * (block_count / all);
    *spread += block_spread + gap * gap * (count * block_count / all);
}

/* Moments of `rows` rows, from number `row` on, of some channels, joined with those of `before` rows
 * in mean and spread. The rows stay in cache from the pass that finds their mean to the next. */
INLINE void add_moments(const norm *n, int64_t row, int64_t rows, int64_t c, int64_t before,
                        double *mean, double *spread, const int vectors, int64_t lanes)
{
    const float *x = n->x;
    const int64_t channels = n->channels;
    vec start[VECTORS], middle[VECTORS], one[VECTORS] = {}, two[VECTORS] = {};
    for (int v = 0; v < vectors; v++) {
        start[v] = load_lanes(x + row * channels + c + LANES * v, lanes);
        middle[v] = (vec){};
    }
    for (int64_t r = row; r < row + rows; r++) {
        fetch_ahead(n, r, c, 0, vectors);
        for (int v = 0; v < vectors; v++)
            middle[v] += load_lanes(x + r * channels + c + LANES * v, lanes) - start[v];
    }
    for (int v = 0; v < vectors; v++)
        middle[v] = start[v] + middle[v] * (1.0f / (float)rows);
    for (int64_t r = row; r < row + rows; r++)
        for (int v = 0; v < vectors; v++) {
            const vec far = load_lanes(x + r * channels + c + LANES * v, lanes) - middle[v];
            one[v] += far;
            two[v] += far * far;
        }
    for (int v = 0; v < vectors; v++)
        for (int lane = 0; lane < lanes; lane++) {
            const int64_t at = c + LANES * v + lane;
            const double off = (double)one[v][lane] / rows;
            join_moments(mean + at, spread + at, before, middle[v][lane] + off,
                         two[v][lane] - off * off * rows, rows);
        }
}

/* Sums over `rows` rows, from number `row` on, of some channels, each added to a double: of the
 * gradients, and of their products with x less the mean. */
INLINE void add_gradients(const norm *n, int64_t row, int64_t rows, int64_t c, double *first,
                          double *second, const int64_t activation, const int vectors,
                          int64_t lanes)
{
    const float *x = n->x, *grad = n->grad;
    const int64_t channels = n->channels;
    vec mean[VECTORS], scale[VECTORS], shift[VECTORS], one[VECTORS] = {}, two[VECTORS] = {};
    for (int v = 0; v < vectors; v++) {
        mean[v] = load_lanes(n->mean + c + LANES * v, lanes);
        scale[v] = load_lanes(n->scale + c + LANES * v, lanes);
        shift[v] = load_lanes(n->shift + c + LANES * v, lanes);
    }
    for (int64_t r = row; r < row + rows; r++) {
        fetch_ahead(n, r, c, 1, vectors);
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * channels + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - mean[v];
            const vec g = activated_backward(load_lanes(grad + place, lanes),
                                             far * scale[v] + shift[v], activation);
            one[v] += g;
            two[v] += g * far;
        }
    }
    for (int v = 0; v < vectors; v++)
        for (int lane = 0; lane < lanes; lane++) {
            first[c + LANES * v + lane] += one[v][lane];
            second[c + LANES * v + lane] += two[v][lane];
        }
}

/* The norm at `rows` rows of some channels, activated; or the gradient of x there. */
INLINE void scale_rows(const norm *n, int64_t row, int64_t rows, int64_t c, const int backward,
                       const int64_t activation, const int vectors, int64_t lanes)
{
    const float *x = n->x, *grad = n->grad;
    float *y = n->y;
    const int64_t channels = n->channels;
    vec mean[VECTORS], scale[VECTORS], shift[VECTORS], slope[VECTORS], offset[VECTORS];
    for (int v = 0; v < vectors; v++) {
        mean[v] = load_lanes(n->mean + c + LANES * v, lanes);
        scale[v] = load_lanes(n->scale + c + LANES * v, lanes);
        shift[v] = load_lanes(n->shift + c + LANES * v, lanes);
        if (backward) {
            slope[v] = load_lanes(n->slope + c + LANES * v, lanes);
            offset[v] = load_lanes(n->offset + c + LANES * v, lanes);
        }
    }
    for (int64_t r = row; r < row + rows; r++)
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * channels + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - mean[v], z = far * scale[v] + shift[v];
            if (backward) {
                const vec g =
                    activated_backward(load_lanes(grad + place, lanes), z, activation);
                store_lanes(y + place, g * scale[v] + (far * slope[v] + offset[v]), lanes);
            } else
                store_lanes(y + place, activated(z, activation), lanes);
        }
}

/* Both at `rows` rows of the channels in [from, to), after `before` others: constants for what is
 * known. */
static void sum_block(const norm *n, int64_t row, int64_t rows, int64_t before, int64_t from,
                      int64_t to, double *first, double *second)
{
    int64_t c = from;
#define SUM(vectors, lanes) add_moments(n, row, rows, c, before, first, second, vectors, lanes)
    if (!n->grad) {
        FOR_CHANNELS(c, to, VECTORS, SUM)
        return;
    }
#undef SUM
#define SUM(vectors, lanes) add_gradients(n, row, rows, c, first, second, kind, vectors, lanes)
#define SUMS(activation)                                                                           \
    {                                                                                              \
        const int64_t kind = activation;                                                           \
        FOR_CHANNELS(c, to, VECTORS, SUM)                                                          \
    }
    FOR_ACTIVATIONS(n->activation, SUMS)
#undef SUMS
#undef SUM
}

static void scale_block(const norm *n, int64_t row, int64_t rows, int64_t from, int64_t to)
{
    int64_t c = from;
#define SCALE(vectors, lanes) scale_rows(n, row, rows, c, backward, kind, vectors, lanes)
#define SCALES(activation)                                                                         \
    {                                                                                              \
        const int64_t kind = activation;                                                           \
        FOR_CHANNELS(c, to, VECTORS, SCALE)                                                        \
    }
    if (n->grad) {
        const int backward = 1;
        FOR_ACTIVATIONS(n->activation, SCALES)
    } else {
        const int backward = 0;
        FOR_ACTIVATIONS(n->activation, SCALES)
    }
#undef SCALES
#undef SCALE
}

/* Rows of statistics, (STATISTICS, channels): what backward has to know of the way forward. */
#define STATISTICS 5

INLINE void place_statistics(norm *n, float *statistics)
{
    n->mean = statistics;
    n->variance = statistics + n->channels;
    n->scale = statistics + 2 * n->channels;
    n->shift = statistics + 3 * n->channels;
    n->residual = statistics + 4 * n->channels;
}

/* What the sums of the channels in [from, to) come to */
static void settle(const norm *n, int64_t from, int64_t to, const double *first,
                   const double *second)
{
    for (int64_t c = from; c < to; c++) {
        if (n->grad) {
            const double inverse = 1 / ((double)n->variance[c] + n->eps);
            const double along = second[c] - n->residual[c] * first[c];
            const double slope = -n->scale[c] * inverse * along / n->rows;
            n->grad_bias[c] = first[c];
            n->grad_weight[c] = along * sqrt(inverse);
            n->slope[c] = slope;
            n->offset[c] = -n->scale[c] * first[c] / n->rows - slope * n->residual[c];
            continue;
        }
        n->mean[c] = first[c];
        n->residual[c] = first[c] - n->mean[c];
        n->variance[c] = second[c] / n->rows;
        n->scale[c] = (n->weight ? n->weight[c] : 1) / sqrt(n->variance[c] + n->eps);
        n->shift[c] = (n->bias ? n->bias[c] : 0) - (double)n->residual[c] * n->scale[c];
    }
}

/* What all shares of the rows come to, in place of the first share's. */
static void join_shares(const norm *n, double *first, double *second, int64_t shares)
{
    for (int64_t share = 1; share < shares; share++) {
        const int64_t before = n->rows * share / shares;
        const int64_t rows = n->rows * (share + 1) / shares - before;
        for (int64_t c = 0; c < n->channels; c++) {
            const int64_t i = share * n->channels + c;
            if (!n->grad) {
                join_moments(first + c, second + c, before, first[i], second[i], rows);
                continue;
            }
            first[c] += first[i];
            second[c] += second[i];
        }
    }
}

#endif
