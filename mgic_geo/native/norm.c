/* Batch norm over rows and the activation behind it, forward and backward, in two passes each.
 *
 * Sums are in float over BLOCK rows and in double from there on, share by share: their order is
 * that of the shares, not of the threads. Backward, where there are few rows and many channels,
 * both passes go over some channels after another, and the second one finds them in cache. */

#include <math.h>
#include <stdlib.h>

#include "activations.h"
#include "kernels.h"

#define BLOCK 128       /* rows whose sums are in float, at most */
#define BYTES 32768     /* of those rows: a piece of each row at a time, they stay in cache */
#define CACHE (5 << 17) /* bytes of the second cache that are kept between two passes */
#define AHEAD 8         /* rows ahead that are fetched: they are too far apart for the processor */
#define VECTORS 4       /* of channels at a time */

typedef struct {
    int64_t rows, channels, activation;
    int64_t apart; /* whether what is read of a row is far from what is read of the next one */
    double eps;
    const float *x, *grad, *weight, *bias; /* grad: null forward; weight: null for ones */
    float *mean, *variance, *scale;        /* the norm is (x - mean) * scale + bias */
    float *slope, *offset;                 /* grad_x: grad * scale + (x - mean) * slope + offset */
    float *grad_weight, *grad_bias, *y;    /* y: or grad_x */
} norm;

/* Rows of a block: fewer of many channels, whose pieces are too far apart to be fetched ahead. */
static int64_t block_rows(int64_t channels)
{
    const int64_t fit = BYTES / (channels * (int64_t)sizeof(float));
    return fit < 8 ? 8 : fit < BLOCK ? fit : BLOCK;
}

/* Two sums over `rows` rows, from number `row` on, of some channels, each added to a double: of x
 * and its square, both less the mean; or, where there are gradients, of these and their products
 * with x less the mean. */
INLINE void sum_rows(const norm *n, int64_t row, int64_t rows, int64_t c, double *first,
                     double *second, const int backward, const int64_t activation,
                     const int vectors, int64_t lanes)
{
    const float *x = n->x, *grad = n->grad;
    const int64_t channels = n->channels, apart = n->apart;
    vec mean[VECTORS], scale[VECTORS], bias[VECTORS], one[VECTORS] = {}, two[VECTORS] = {};
    for (int v = 0; v < vectors; v++) {
        mean[v] = load_lanes(n->mean + c + LANES * v, lanes);
        if (activation != NONE) {
            scale[v] = load_lanes(n->scale + c + LANES * v, lanes);
            bias[v] = load_lanes(n->bias + c + LANES * v, lanes);
        }
    }
    for (int64_t r = row; r < row + rows; r++) {
        for (int v = 0; v < vectors && apart; v += LINE / LANES) {
            const int64_t place = (r + AHEAD) * channels + c + LANES * v;
            __builtin_prefetch(x + place);
            if (backward)
                __builtin_prefetch(grad + place);
        }
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * channels + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - mean[v];
            vec g = far;
            if (backward)
                g = activated_backward(load_lanes(grad + place, lanes),
                                       far * scale[v] + bias[v], activation);
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
    vec mean[VECTORS], scale[VECTORS], bias[VECTORS], slope[VECTORS], offset[VECTORS];
    for (int v = 0; v < vectors; v++) {
        mean[v] = load_lanes(n->mean + c + LANES * v, lanes);
        scale[v] = load_lanes(n->scale + c + LANES * v, lanes);
        bias[v] = load_lanes(n->bias + c + LANES * v, lanes);
        if (backward) {
            slope[v] = load_lanes(n->slope + c + LANES * v, lanes);
            offset[v] = load_lanes(n->offset + c + LANES * v, lanes);
        }
    }
    for (int64_t r = row; r < row + rows; r++)
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * channels + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - mean[v], z = far * scale[v] + bias[v];
            if (backward) {
                const vec g =
                    activated_backward(load_lanes(grad + place, lanes), z, activation);
                store_lanes(y + place, g * scale[v] + (far * slope[v] + offset[v]), lanes);
            } else
                store_lanes(y + place, activated(z, activation), lanes);
        }
}

/* Both at `rows` rows of the channels in [from, to): constants for what is known. */
static void sum_block(const norm *n, int64_t row, int64_t rows, int64_t from, int64_t to,
                      double *first, double *second)
{
    int64_t c = from;
#define SUM(vectors, lanes) sum_rows(n, row, rows, c, first, second, 0, NONE, vectors, lanes)
    if (!n->grad) {
        FOR_CHANNELS(c, to, VECTORS, SUM)
        return;
    }
#undef SUM
#define SUM(vectors, lanes) sum_rows(n, row, rows, c, first, second, 1, kind, vectors, lanes)
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

/* What the sums of the channels in [from, to) come to */
static void settle(const norm *n, int64_t from, int64_t to, const double *first,
                   const double *second)
{
    for (int64_t c = from; c < to; c++) {
        if (n->grad) {
            const double inverse = 1 / (n->variance[c] + n->eps);
            n->grad_bias[c] = first[c];
            n->grad_weight[c] = second[c] * sqrt(inverse);
            n->slope[c] = -n->scale[c] * inverse * second[c] / n->rows;
            n->offset[c] = -n->scale[c] * first[c] / n->rows;
            continue;
        }
        const double off = first[c] / n->rows, spread = second[c] / n->rows - off * off;
        n->mean[c] += off;
        n->variance[c] = spread > 0 ? spread : 0;
        n->scale[c] = (n->weight ? n->weight[c] : 1) / sqrt(n->variance[c] + n->eps);
    }
}

/* Channels whose rows stay in cache between the two passes, as many as leave work for all threads;
 * 0 where even a few do not, or all do. Forward that is slower: what comes in was just computed. */
static int64_t piece_width(const norm *n, int threads)
{
    const int64_t bytes = n->rows * 3 * (int64_t)sizeof(float); /* of x, grad and y */
    const int64_t most = CACHE / bytes / LINE, lines = (n->channels + LINE - 1) / LINE;
    if (!n->grad || !most || bytes * n->channels <= CACHE)
        return 0;
    int64_t pieces = (lines + most - 1) / most;
    pieces = (pieces + threads - 1) / threads * threads;
    return (lines + pieces - 1) / pieces * LINE;
}

/* Both passes over some channels after another */
static void run_pieces(const norm *n, int64_t width, double *first, double *second, int threads)
{
    const int64_t size = block_rows(width);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t from = 0; from < n->channels; from += width) {
        const int64_t to = from + width < n->channels ? from + width : n->channels;
        for (int64_t row = 0; row < n->rows; row += size)
            sum_block(n, row, n->rows - row < size ? n->rows - row : size, from, to, first, second);
        settle(n, from, to, first, second);
        for (int64_t row = 0; row < n->rows; row += size)
            scale_block(n, row, n->rows - row < size ? n->rows - row : size, from, to);
    }
}

/* Both passes over all channels. In the second one a thread starts with the last of its rows, which
 * it has just summed up and still has in cache. first, second: (shares, channels). */
static void run_all(const norm *n, double *first, double *second, int64_t shares, int threads)
{
    const int64_t channels = n->channels, size = block_rows(channels);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t from = n->rows * share / shares, to = n->rows * (share + 1) / shares;
        double *one = first + share * channels, *two = second + share * channels;
        for (int64_t row = from; row < to; row += size)
            sum_block(n, row, to - row < size ? to - row : size, 0, channels, one, two);
    }
    for (int64_t i = channels; i < shares * channels; i++) {
        first[i % channels] += first[i];
        second[i % channels] += second[i];
    }
    settle(n, 0, channels, first, second);
    const int64_t blocks = (n->rows + size - 1) / size, each = (blocks + threads - 1) / threads;
#pragma omp parallel for schedule(static, each) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t begin = block / each * each;
        const int64_t end = begin + each < blocks ? begin + each : blocks;
        const int64_t row = (begin + end - 1 - block) * size;
        scale_block(n, row, n->rows - row < size ? n->rows - row : size, 0, channels);
    }
}

static void run(norm n, double *sums, int64_t shares, int threads)
{
    double *first = sums, *second = sums + shares * n.channels;
    const int64_t width = piece_width(&n, threads);
    n.apart = width && width < n.channels;
    if (width)
        run_pieces(&n, width, first, second, threads);
    else
        run_all(&n, first, second, shares, threads);
}

/* x, y: (rows, channels); weight: (channels) or null; bias: (channels); statistics: (3, channels),
 * mean, variance and scale, what the batch comes to; sums: (2, shares, channels), zero. */
void mgic_norm(const float *x, int64_t rows, int64_t channels, const float *weight,
               const float *bias, double eps, int64_t activation, float *y, float *statistics,
               double *sums, int64_t shares, int threads)
{
    const norm n = {
        .rows = rows, .channels = channels, .activation = activation, .eps = eps,
        .x = x, .weight = weight, .bias = bias,
        .mean = statistics, .variance = statistics + channels, .scale = statistics + 2 * channels,
        .y = y};
    memcpy(n.mean, x, channels * sizeof(float)); /* near enough, so that squares do not cancel */
    run(n, sums, shares, threads);
}

/* grad, x, grad_x: (rows, channels); bias, statistics, sums: as above; grad_weight, grad_bias:
 * (channels); room: (2, channels), to work with. */
void mgic_norm_backward(const float *grad, const float *x, int64_t rows, int64_t channels,
                        const float *bias, float *statistics, double eps, int64_t activation,
                        float *grad_x, float *grad_weight, float *grad_bias, float *room,
                        double *sums, int64_t shares, int threads)
{
    const norm n = {
        .rows = rows, .channels = channels, .activation = activation, .eps = eps,
        .x = x, .grad = grad, .bias = bias,
        .mean = statistics, .variance = statistics + channels, .scale = statistics + 2 * channels,
        .slope = room, .offset = room + channels,
        .grad_weight = grad_weight, .grad_bias = grad_bias, .y = grad_x};
    run(n, sums, shares, threads);
}
