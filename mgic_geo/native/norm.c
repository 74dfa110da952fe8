/* Batch norm over rows and the activation behind it, forward and backward, in two passes each.
 *
 * Sums are in float over BLOCK rows and in double from there on, share by share: their order is that
 * of the shares, not of the threads. */

#include <math.h>
#include <stdlib.h>

#include "activations.h"
#include "kernels.h"

#define BLOCK 128   /* rows whose sums are in float, at most */
#define BYTES 32768 /* of those rows: a piece of each row at a time, they stay in cache */
#define VECTORS 4   /* of channels at a time */

typedef struct {
    int64_t rows, channels;
    const float *mean, *scale, *bias; /* of all channels: the norm is (x - mean) * scale + bias */
    int64_t activation; /* behind it */
} norm;

/* Rows of a block: fewer of many channels, whose pieces are too far apart to be fetched ahead. */
static int64_t block_rows(const norm *norm)
{
    const int64_t fit = BYTES / (norm->channels * (int64_t)sizeof(float));
    return fit < 8 ? 8 : fit < BLOCK ? fit : BLOCK;
}

/* Two sums over `rows` rows of some channels, each added to a double: of x and its square, both less
 * the mean; or, where there are gradients, of these and their products with x less the mean. */
INLINE void sum_rows(const norm *norm, const float *x, const float *grad, int64_t rows, int64_t c,
                     double *first, double *second, const int64_t activation, const int vectors,
                     int64_t lanes)
{
    vec mean[VECTORS], scale[VECTORS], bias[VECTORS], one[VECTORS] = {}, two[VECTORS] = {};
    for (int v = 0; v < vectors; v++) {
        mean[v] = load_lanes(norm->mean + c + LANES * v, lanes);
        if (grad && activation != NONE) {
            scale[v] = load_lanes(norm->scale + c + LANES * v, lanes);
            bias[v] = load_lanes(norm->bias + c + LANES * v, lanes);
        }
    }
    for (int64_t r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * norm->channels + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - mean[v];
            vec g = far;
            if (grad) {
                g = load_lanes(grad + place, lanes);
                if (activation != NONE)
                    g = activated_backward(g, far * scale[v] + bias[v], activation);
            }
            one[v] += g;
            two[v] += g * far;
        }
    for (int v = 0; v < vectors; v++)
        for (int lane = 0; lane < lanes; lane++) {
            first[c + LANES * v + lane] += one[v][lane];
            second[c + LANES * v + lane] += two[v][lane];
        }
}

/* The norm at `rows` rows of some channels, activated; with gradients instead, grad * scale +
 * ((x - mean) * slope + offset), grad with the derivative of the activation. */
INLINE void scale_rows(const norm *norm, const float *x, const float *grad, const float *slope,
                       const float *offset, int64_t rows, int64_t c, float *y,
                       const int64_t activation, const int vectors, int64_t lanes)
{
    vec mean[VECTORS], scale[VECTORS], bias[VECTORS], slopes[VECTORS], offsets[VECTORS];
    for (int v = 0; v < vectors; v++) {
        mean[v] = load_lanes(norm->mean + c + LANES * v, lanes);
        scale[v] = load_lanes(norm->scale + c + LANES * v, lanes);
        bias[v] = load_lanes(norm->bias + c + LANES * v, lanes);
        if (grad) {
            slopes[v] = load_lanes(slope + c + LANES * v, lanes);
            offsets[v] = load_lanes(offset + c + LANES * v, lanes);
        }
    }
    for (int64_t r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * norm->channels + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - mean[v], z = far * scale[v] + bias[v];
            if (grad) {
                const vec g =
                    activated_backward(load_lanes(grad + place, lanes), z, activation);
                store_lanes(y + place, g * scale[v] + (far * slopes[v] + offsets[v]), lanes);
            } else
                store_lanes(y + place, activated(z, activation), lanes);
        }
}

/* The same for all channels */
INLINE void scale_block(const norm *norm, const float *x, const float *grad, const float *slope,
                        const float *offset, int64_t rows, float *y, const int64_t activation)
{
    int64_t c = 0;
#define SCALE(vectors, lanes)                                                                      \
    scale_rows(norm, x, grad, slope, offset, rows, c, y, activation, vectors, lanes)
    FOR_CHANNELS(c, norm->channels, VECTORS, SCALE)
#undef SCALE
}

/* The same at all rows. A thread starts with the last of its rows, which it has just summed up and
 * still has in cache. */
static void scale_all(const norm *norm, const float *x, const float *grad, const float *slope,
                      const float *offset, float *y, int threads)
{
    const int64_t channels = norm->channels;
    const int64_t size = block_rows(norm), blocks = (norm->rows + size - 1) / size;
    const int64_t each = (blocks + threads - 1) / threads;
#pragma omp parallel for schedule(static, each) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t begin = block / each * each;
        const int64_t end = begin + each < blocks ? begin + each : blocks;
        const int64_t start = (begin + end - 1 - block) * size, place = start * channels;
        const int64_t rows = norm->rows - start < size ? norm->rows - start : size;
#define FORWARD(kind) scale_block(norm, x + place, 0, 0, 0, rows, y + place, kind)
#define BACKWARD(kind)                                                                             \
    scale_block(norm, x + place, grad + place, slope, offset, rows, y + place, kind)
        if (grad)
            FOR_ACTIVATIONS(norm->activation, BACKWARD)
        else
            FOR_ACTIVATIONS(norm->activation, FORWARD)
#undef FORWARD
#undef BACKWARD
    }
}

/* Both sums of all channels over `rows` rows */
INLINE void sum_block(const norm *norm, const float *x, const float *grad, int64_t rows,
                      double *first, double *second, const int64_t activation)
{
    int64_t c = 0;
#define SUM(vectors, lanes)                                                                        \
    sum_rows(norm, x, grad, rows, c, first, second, activation, vectors, lanes)
    FOR_CHANNELS(c, norm->channels, VECTORS, SUM)
#undef SUM
}

/* The same over all rows; first, second: (shares, channels), the result in front. */
static void sum_all(const norm *norm, const float *x, const float *grad, double *first,
                    double *second, int64_t shares, int threads)
{
    const int64_t channels = norm->channels, size = block_rows(norm);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t from = norm->rows * share / shares, to = norm->rows * (share + 1) / shares;
        double *one = first + share * channels, *two = second + share * channels;
        for (int64_t start = from; start < to; start += size) {
            const int64_t rows = to - start < size ? to - start : size, place = start * channels;
#define SUM(kind) sum_block(norm, x + place, grad + place, rows, one, two, kind)
            if (grad)
                FOR_ACTIVATIONS(norm->activation, SUM)
            else
                sum_block(norm, x + place, 0, rows, one, two, NONE);
#undef SUM
        }
    }
    for (int64_t i = channels; i < shares * channels; i++) {
        first[i % channels] += first[i];
        second[i % channels] += second[i];
    }
}

/* x, y: (rows, channels); weight: (channels) or null; bias: (channels); statistics: (3, channels),
 * mean, variance and scale, what the batch comes to; sums: (2, shares, channels), zero. */
void mgic_norm(const float *x, int64_t rows, int64_t channels, const float *weight,
               const float *bias, double eps, int64_t activation, float *y, float *statistics,
               double *sums, int64_t shares, int threads)
{
    float *mean = statistics, *variance = mean + channels, *scale = variance + channels;
    double *first = sums, *second = sums + shares * channels;
    const norm norm = {rows, channels, mean, scale, bias, activation};
    memcpy(mean, x, channels * sizeof(float)); /* near enough, so that squares do not cancel */
    sum_all(&norm, x, 0, first, second, shares, threads);
    for (int64_t c = 0; c < channels; c++) {
        const double off = first[c] / rows, spread = second[c] / rows - off * off;
        mean[c] += off;
        variance[c] = spread > 0 ? spread : 0;
        scale[c] = (weight ? weight[c] : 1) / sqrt(variance[c] + eps);
    }
    scale_all(&norm, x, 0, 0, 0, y, threads);
}

/* grad, x, grad_x: (rows, channels); bias, statistics, sums: as above; grad_weight, grad_bias:
 * (channels); room: (2, channels), to work with. */
void mgic_norm_backward(const float *grad, const float *x, int64_t rows, int64_t channels,
                        const float *bias, const float *statistics, double eps, int64_t activation,
                        float *grad_x, float *grad_weight, float *grad_bias, float *room,
                        double *sums, int64_t shares, int threads)
{
    const float *mean = statistics, *variance = mean + channels, *scale = variance + channels;
    float *slope = room, *offset = room + channels;
    double *first = sums, *second = sums + shares * channels;
    const norm norm = {rows, channels, mean, scale, bias, activation};
    sum_all(&norm, x, grad, first, second, shares, threads);
    for (int64_t c = 0; c < channels; c++) {
        const double inverse = 1 / (variance[c] + eps);
        grad_bias[c] = first[c];
        grad_weight[c] = second[c] * sqrt(inverse);
        slope[c] = -scale[c] * inverse * second[c] / rows;
        offset[c] = -scale[c] * first[c] / rows;
    }
    scale_all(&norm, x, grad, slope, offset, grad_x, threads);
}
