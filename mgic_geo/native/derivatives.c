/* Differential convolution: features and their derivatives along three axes, mixed group by group.
 *
 * A graph is ptr, (nodes + 1), index, (edges), and value, (edges, 3): the weight of every edge in
 * the derivative along each axis, the node's own weight among the edges. Second derivatives are
 * needed for a few rows at a time and never leave the cache. */

#include <stdlib.h>

#include "pieces.h"

#define BLOCK 32 /* rows whose second derivatives are held together */
#define VECTORS (LANES < 16 ? 2 : 4) /* whose sums along three axes are in registers */
#define PARTS 7  /* the features, three first and three second derivatives */

typedef struct {
    const int64_t *ptr, *index;
    const float *value;
} graph;

/* Derivatives along all axes at one node, some channels: y is (3, y_stride). x has rows of `step`
 * numbers, and the axes `across` numbers apart in a row, 0 where they derive the same features. */
INLINE void derive(const float *x, int64_t step, int64_t across, const graph *edges, int64_t node,
                   float *y, int64_t y_stride, const int vectors, int64_t lanes)
{
    vec sums[3][VECTORS] = {};
    for (int64_t e = edges->ptr[node]; e < edges->ptr[node + 1]; e++) {
        const float *row = x + edges->index[e] * step;
        for (int a = 0; a < 3; a++)
            for (int v = 0; v < vectors; v++) {
                const vec near = load_lanes(row + a * across + LANES * v, lanes);
                sums[a][v] += edges->value[3 * e + a] * near;
            }
    }
    for (int a = 0; a < 3; a++)
        for (int v = 0; v < vectors; v++)
            store_lanes(y + a * y_stride + LANES * v, sums[a][v], lanes);
}

/* The same at `rows` nodes and for all channels: y is (rows, 3, channels). A few channels of all
 * rows before the next ones: nodes that are near in space and in number then find each other's
 * neighbors in the first cache. */
INLINE void derive_rows(const float *x, int64_t channels, int64_t step, int64_t across,
                        const graph *edges, int64_t first, int64_t rows, float *y)
{
    const int64_t stride = 3 * channels;
    int64_t c = 0;
    for (; c + VECTORS * LANES <= channels; c += VECTORS * LANES)
        for (int64_t r = 0; r < rows; r++)
            derive(x + c, step, across, edges, first + r, y + r * stride + c, channels, VECTORS,
                   LANES);
    for (; c + LANES <= channels; c += LANES)
        for (int64_t r = 0; r < rows; r++)
            derive(x + c, step, across, edges, first + r, y + r * stride + c, channels, 1, LANES);
    if (c < channels)
        for (int64_t r = 0; r < rows; r++)
            derive(x + c, step, across, edges, first + r, y + r * stride + c, channels, 1,
                   channels - c);
}

/* x: (nodes, channels); first: (nodes, 3, channels) */
void mgic_derive(const float *x, int64_t channels, int64_t nodes, const int64_t *ptr,
                 const int64_t *index, const float *value, float *first, int threads)
{
    const graph edges = {ptr, index, value};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t node = 0; node < nodes; node += BLOCK)
        derive_rows(x, channels, channels, 0, &edges, node,
                    nodes - node < BLOCK ? nodes - node : BLOCK, first + node * 3 * channels);
}

/* x: (nodes, channels); first: (nodes, 3, channels), its derivatives; weight: packed for PARTS
 * parts; bias: (pieces * LANES) or null; y: (nodes, out).
 *
 * Where `other` is given, (nodes, other_channels), its products with all parts are added up as
 * well, share by share, in the packed form of a weight from `other` to x's channels: that is the
 * weight's gradient if x is the output's and the graph is transposed. */
int64_t mgic_mix_derivatives(const float *x, const float *first, int64_t channels, int64_t nodes,
                             const int64_t *ptr, const int64_t *index, const float *value,
                             const int64_t *begins, int64_t pieces, int64_t inputs, int64_t out,
                             const float *weight, const float *bias, float *y, const float *other,
                             int64_t other_channels, const int64_t *other_begins,
                             int64_t other_pieces, int64_t other_inputs, float *sums,
                             int64_t shares, int threads)
{
    const graph edges = {ptr, index, value};
    const packing plan = {begins, pieces, inputs, out};
    const packing products = {other_begins, other_pieces, other_inputs, channels};
    int64_t failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t from = nodes * share / shares, to = nodes * (share + 1) / shares;
        float *second = malloc(BLOCK * 3 * channels * sizeof(float));
        if (!second) {
#pragma omp atomic write
            failed = 1;
        }
        for (int64_t start = from; second && start < to; start += BLOCK) {
            const int64_t rows = to - start < BLOCK ? to - start : BLOCK;
            derive_rows(first, channels, 3 * channels, channels, &edges, start, rows, second);
            const float *parts[PARTS] = {x + start * channels};
            int64_t strides[PARTS] = {channels};
            for (int a = 0; a < 3; a++) {
                parts[1 + a] = first + (start * 3 + a) * channels;
                parts[4 + a] = second + a * channels;
                strides[1 + a] = strides[4 + a] = 3 * channels;
            }
            for (int64_t r = 0; r < rows; r += ROWS)
                multiply_rows(parts, strides, PARTS, r, rows - r < ROWS ? rows - r : ROWS, &plan,
                              weight, bias, y + start * out, out);
            if (!other)
                continue;
            float *total = sums + share * other_pieces * PARTS * other_inputs * LANES;
            for (int64_t piece = 0; piece < other_pieces; piece++)
                for (int p = 0; p < PARTS; p++, total += other_inputs * LANES)
                    outer_piece(other + start * other_channels + other_begins[piece],
                                other_channels, other_inputs, parts[p] + piece * LANES, strides[p],
                                rows, lanes_of(&products, piece), total);
        }
        free(second);
    }
    return failed;
}
