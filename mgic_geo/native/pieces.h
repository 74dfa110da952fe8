/* Block-diagonal matrices times a few rows, and the gradients of their weights.
 *
 * Narrow groups leave vector registers half empty, so that the output is cut into pieces of
 * LANES channels instead, each with the range of input channels that its groups see. The weights come
 * packed in this form, zero where a group ends inside a piece: weight[piece][part][input][LANES].
 * Inputs may lie in several parts (the features and their derivatives), each with its own row
 * length. */

#ifndef MGIC_PIECES_H
#define MGIC_PIECES_H

#include "kernels.h"

#define ROWS 8                       /* rows whose sums are in registers together */
#define WIDE (LANES < 8 ? 8 : LANES) /* inputs of which the same holds for `outer` */

/* A packed weight: begins, (pieces), is the first input channel of each piece. Of the pieces only
 * those in [from, to) are used, on inputs that start with channel `origin`. ReLU follows where that
 * is asked for, and `sign` times what is in `addend`, (rows, out) or null, is added in the end. */
typedef struct {
    const int64_t *begins;
    int64_t pieces, inputs, out, from, to, origin, relu;
    const float *addend;
    float sign;
} packing;

INLINE packing all_pieces(const int64_t *begins, int64_t pieces, int64_t inputs, int64_t out)
{
    return (packing){
        .begins = begins, .pieces = pieces, .inputs = inputs, .out = out, .to = pieces};
}

INLINE int64_t lanes_of(const packing *plan, int64_t piece)
{
    const int64_t left = plan->out - piece * LANES;
    return left < LANES ? left : LANES;
}

/* One piece of some rows, a constant where this is inlined: y[row] = bias + the sum over parts. */
INLINE void multiply_piece(const float *const *parts, const int64_t *strides, int64_t num_parts,
                           int64_t row, int64_t begin, int64_t inputs, const float *weight,
                           vec start, int64_t count, float *y, int64_t stride, int64_t relu,
                           const float *addend, float sign, const int rows)
{
    vec sums[ROWS];
    for (int r = 0; r < rows; r++)
        sums[r] = start;
    for (int64_t p = 0; p < num_parts; p++) {
        const float *x = parts[p] + row * strides[p] + begin;
        /* of the next rows: too many streams for the processor to foresee */
        for (int64_t i = 0; i < inputs; i += LANES)
            for (int r = 0; r < rows; r++)
                __builtin_prefetch(x + (rows + r) * strides[p] + i);
#pragma GCC unroll 8
        for (int64_t i = 0; i < inputs; i++, weight += LANES) {
            const vec w = LOAD(weight);
            for (int r = 0; r < rows; r++)
                sums[r] += x[r * strides[p] + i] * w;
        }
    }
    for (int r = 0; r < rows; r++) {
        const int64_t place = (row + r) * stride;
        vec result = sums[r];
        if (relu)
            result = choose(result < 0, (vec){}, result);
        if (addend)
            result += sign * load_lanes(addend + place, count);
        store_lanes(y + place, result, count);
    }
}

/* Up to ROWS rows, from number `first`. */
INLINE void multiply_rows(const float *const *parts, const int64_t *strides, int64_t num_parts,
                          int64_t first, int64_t rows, const packing *plan, const float *weight,
                          const float *bias, float *y, int64_t stride)
{
    for (int64_t piece = plan->from; piece < plan->to; piece++) {
        const float *w = weight + piece * num_parts * plan->inputs * LANES;
        const int64_t count = lanes_of(plan, piece), begin = plan->begins[piece] - plan->origin;
        const vec start = bias ? LOAD(bias + piece * LANES) : (vec){};
        const float *addend = plan->addend ? plan->addend + piece * LANES : 0;
        float *to = y + piece * LANES;
        if (rows == ROWS && plan->inputs == 8) /* a constant: the loop over inputs is unrolled */
            multiply_piece(parts, strides, num_parts, first, begin, 8, w, start, count, to, stride,
                           plan->relu, addend, plan->sign, ROWS);
        else if (rows == ROWS)
            multiply_piece(parts, strides, num_parts, first, begin, plan->inputs, w, start, count,
                           to, stride, plan->relu, addend, plan->sign, ROWS);
        else
            for (int64_t r = 0; r < rows; r++)
                multiply_piece(parts, strides, num_parts, first + r, begin, plan->inputs, w, start,
                               count, to, stride, plan->relu, addend, plan->sign, 1);
    }
}

/* sum over rows of x[row][begin + i] * grad[row][piece], for `count` inputs i */
INLINE void outer(const float *x, int64_t stride, const float *grad, int64_t out, int64_t rows,
                  int64_t lanes, float *sums, const int count)
{
    vec total[WIDE];
    for (int i = 0; i < count; i++)
        total[i] = LOAD(sums + i * LANES);
    for (int64_t r = 0; r < rows; r++) {
        const vec g = load_lanes(grad + r * out, lanes);
        for (int i = 0; i < count; i++)
            total[i] += x[r * stride + i] * g;
    }
    for (int i = 0; i < count; i++)
        STORE(sums + i * LANES, total[i]);
}

/* Adds to the packed gradient of one piece and part: `rows` rows of x and of the output's. */
INLINE void outer_piece(const float *x, int64_t stride, int64_t inputs, const float *grad,
                        int64_t out, int64_t rows, int64_t lanes, float *sums)
{
    int64_t i = 0;
    for (; i + WIDE <= inputs; i += WIDE, sums += WIDE * LANES)
        outer(x + i, stride, grad, out, rows, lanes, sums, WIDE);
    for (; i + 8 <= inputs; i += 8, sums += 8 * LANES)
        outer(x + i, stride, grad, out, rows, lanes, sums, 8);
    for (; i + 4 <= inputs; i += 4, sums += 4 * LANES)
        outer(x + i, stride, grad, out, rows, lanes, sums, 4);
    for (; i < inputs; i++, sums += LANES)
        outer(x + i, stride, grad, out, rows, lanes, sums, 1);
}

#endif
