/* Block-diagonal matrices times a few rows, and the gradients of their weights.
 *
 * Narrow groups leave vector registers half empty, so that the output is cut into pieces of
 * LANES channels instead, each with the range of input channels that its groups see. Weights are
 * packed in this form, zero where a group ends inside a piece: weight[piece][part][input][LANES].
 * Inputs may lie in several parts: the features and their derivatives. */

#ifndef MGIC_PIECES_H
#define MGIC_PIECES_H

#include "entry.h"
#include "kernels.h"
#include "shares.h"

#define ROWS_TOGETHER 8              /* rows whose sums are in registers together */
#define MANY 3                       /* gradients at most of which the same holds, with four inputs */
#define WIDE (LANES < 8 ? 8 : LANES) /* inputs of which the same holds for `outer` */

/* A packed weight: begins, (pieces), is the first input channel of each piece. Of the pieces only
 * those in [from, to) are used, on inputs that start with channel `origin`. ReLU follows where that
 * is asked for, or, where there is one, the norm (y - mean) * scale + shift, each (pieces * LANES);
 * and `sign` times what is in `addend`, (rows, out) or null, is added in the end. */
typedef struct {
    const int64_t *begins;
    int64_t pieces, inputs, out, from, to, origin, relu;
    const float *mean, *scale, *shift, *addend;
    float sign;
} packing;

/* The parts of the inputs: how far apart their rows are, and where the first ones start. */
typedef struct {
    const float *first;
    int64_t first_stride;
    const float *const *other;
    int64_t others, other_stride;
} parts;

INLINE packing all_pieces(const int64_t *begins, int64_t pieces, int64_t inputs, int64_t out)
{
    return (packing){
        .begins = begins, .pieces = pieces, .inputs = inputs, .out = out, .to = pieces};
}

/* What a packing must be, so that nothing beyond rows of `channels` numbers is read. */
__attribute__((unused)) static report check_plan(const char *name, const int64_t *begins,
                                                 int64_t pieces, int64_t inputs, int64_t out,
                                                 int64_t channels)
{
    WITHIN(out, 0, MAX_SIZE);
    CHECK(pieces == (out + LANES - 1) / LANES, "%s must have %lld pieces, got %lld",
          name, (long long)(out + LANES - 1) / LANES, (long long)pieces);
    CHECK(inputs >= 0 && inputs <= channels && channels < MAX_SIZE,
          "inputs of %s must be from 0 to %lld, got %lld", name, (long long)channels,
          (long long)inputs);
    const int64_t bad = first_outside(begins, pieces, 0, channels - inputs + 1);
    CHECK(bad == pieces, "%s[%lld] must be from 0 to %lld, got %lld", name, (long long)bad,
          (long long)(channels - inputs), (long long)begins[bad]);
    return NULL;
}

/* A weight comes with an index: where each number of the packed form is in it, its length for 0. Or it
 * is packed already, and the index is null. */
#define PACKS(weight, index, size)                                                                 \
    HOLDS_OR_NULL(index, size);                                                                    \
    if (index)                                                                                     \
        NODES_WITHIN(index, index##_length, 0, weight##_length + 1);                               \
    else                                                                                           \
        HOLDS(weight, size)

/* The packed form, in `room` for as many numbers as the index has. */
INLINE const float *pack(const float *weight, int64_t weight_length, const int64_t *index,
                         int64_t index_length, float *room)
{
    for (int64_t i = 0; i < index_length; i++)
        room[i] = index[i] < weight_length ? weight[index[i]] : 0;
    return index ? room : weight;
}

/* The way back has the inverse: where each number of a weight is in the packed form. */
#define UNPACKS(weight, inverse, size)                                                             \
    WITHIN(size, 0, MAX_SIZE);                                                                     \
    HOLDS(weight, inverse##_length);                                                               \
    NODES_WITHIN(inverse, inverse##_length, 0, size)

/* The weight that the packed sums of all shares come to: sums, (shares, size). */
__attribute__((unused)) static void unpack(const float *sums, int64_t shares, int64_t size,
                                           const int64_t *inverse, int64_t inverse_length,
                                           float *weight)
{
    for (int64_t i = 0; i < inverse_length; i++) {
        float sum = 0;
        for (int64_t share = 0; share < shares; share++)
            sum += sums[share * size + inverse[i]];
        weight[i] = sum;
    }
}

INLINE int64_t lanes_of(const packing *plan, int64_t piece)
{
    const int64_t left = plan->out - piece * LANES;
    return left < LANES ? left : LANES;
}

#if LANES == 8 && defined(__AVX2__)
/* Eight inputs of some rows. A product takes one number in all lanes; where each is a load, these
 * are what the products wait for, so that four of eight come from one load and are spread. */
INLINE void add_eight(const float *x, int64_t stride, const float *weight, vec *sums,
                      const int rows)
{
    for (int i = 0; i < 4; i++) {
        const vec w = LOAD(weight + i * LANES);
        for (int r = 0; r < rows; r++)
            sums[r] = add_product(sums[r], x[r * stride + i] - (vec){}, w);
    }
    vec w[4];
    for (int i = 0; i < 4; i++) {
        w[i] = LOAD(weight + (4 + i) * LANES);
        HOLD(w[i]);
    }
    for (int r = 0; r < rows; r++) {
        const __m256 four = _mm256_broadcast_ps((const __m128 *)(x + r * stride + 4));
        sums[r] = add_product(sums[r], (vec)_mm256_permute_ps(four, 0x00), w[0]);
        sums[r] = add_product(sums[r], (vec)_mm256_permute_ps(four, 0x55), w[1]);
        sums[r] = add_product(sums[r], (vec)_mm256_permute_ps(four, 0xaa), w[2]);
        sums[r] = add_product(sums[r], (vec)_mm256_permute_ps(four, 0xff), w[3]);
    }
}
#endif

/* Inputs in one part: x times the next `inputs` rows of the weight, at some rows. */
INLINE const float *add_inputs(const float *x, int64_t stride, int64_t inputs, const float *weight,
                               vec *sums, const int rows)
{
    /* of the next rows: too many streams for the processor to foresee */
    for (int64_t i = 0; i < inputs; i += LANES)
        for (int r = 0; r < rows; r++)
            __builtin_prefetch(x + (rows + r) * stride + i);
    int64_t i = 0;
#if LANES == 8 && defined(__AVX2__)
    for (; i + 8 <= inputs; i += 8, weight += 8 * LANES)
        add_eight(x + i, stride, weight, sums, rows);
#endif
#pragma GCC unroll 8
    for (; i < inputs; i++, weight += LANES) {
        const vec w = LOAD(weight);
        for (int r = 0; r < rows; r++)
            sums[r] = add_product(sums[r], x[r * stride + i] - (vec){}, w);
    }
    return weight;
}

/* One piece of some rows, a constant where this is inlined, of `inputs` inputs, the same:
 * sums = bias + the sum over parts. */
INLINE void product_piece(const parts *x, int64_t row, const packing *plan, int64_t piece,
                          const float *weight, const float *bias, const int64_t inputs,
                          const int rows, vec *sums)
{
    const int64_t begin = plan->begins[piece] - plan->origin;
    for (int r = 0; r < rows; r++)
        sums[r] = bias ? LOAD(bias + piece * LANES) : (vec){};
    weight += piece * (1 + x->others) * inputs * LANES;
    weight = add_inputs(x->first + row * x->first_stride + begin, x->first_stride, inputs, weight,
                        sums, rows);
    for (int64_t p = 0; p < x->others; p++)
        weight = add_inputs(x->other[p] + row * x->other_stride + begin, x->other_stride, inputs,
                            weight, sums, rows);
}

/* The same with what the plan has after it, into y. */
INLINE void multiply_piece(const parts *x, int64_t row, const packing *plan, int64_t piece,
                           const float *weight, const float *bias, float *y, int64_t stride,
                           const int64_t inputs, const int rows)
{
    const int64_t lanes = lanes_of(plan, piece), channel = piece * LANES;
    vec sums[ROWS_TOGETHER];
    product_piece(x, row, plan, piece, weight, bias, inputs, rows, sums);
    for (int r = 0; r < rows; r++) {
        const int64_t place = (row + r) * stride + channel;
        vec result = sums[r];
        if (plan->relu)
            result = choose(result < 0, (vec){}, result);
        if (plan->scale)
            result = (result - LOAD(plan->mean + channel)) * LOAD(plan->scale + channel) +
                     LOAD(plan->shift + channel);
        if (plan->addend)
            result += plan->sign * load_lanes(plan->addend + place, lanes);
        store_lanes(y + place, result, lanes);
    }
}

/* Up to ROWS_TOGETHER rows, from number `first`; y, its rows `stride` apart, begins with row 0, and
 * so does the addend. */
INLINE void multiply_rows(const parts *x, int64_t first, int64_t rows, const packing *plan,
                          const float *weight, const float *bias, float *y, int64_t stride)
{
    for (int64_t piece = plan->from; piece < plan->to; piece++) {
        if (rows == ROWS_TOGETHER && plan->inputs == 8) /* a constant: no loop over inputs is left */
            multiply_piece(x, first, plan, piece, weight, bias, y, stride, 8, ROWS_TOGETHER);
        else if (rows == ROWS_TOGETHER)
            multiply_piece(x, first, plan, piece, weight, bias, y, stride, plan->inputs,
                           ROWS_TOGETHER);
        else
            for (int64_t r = 0; r < rows; r++)
                multiply_piece(x, first + r, plan, piece, weight, bias, y, stride, plan->inputs,
                               1);
    }
}

/* All rows, by all threads: in grouped_linear.c. */
void multiply_all(const float *x, int64_t x_stride, int64_t rows, const packing *plan,
                  const float *weight, const float *bias, float *y, int threads);

/* Any number of rows. */
INLINE void multiply_block(const parts *x, int64_t rows, const packing *plan, const float *weight,
                           const float *bias, float *y, int64_t stride)
{
    for (int64_t r = 0; r < rows; r += ROWS_TOGETHER)
        multiply_rows(x, r, rows - r < ROWS_TOGETHER ? rows - r : ROWS_TOGETHER, plan, weight, bias,
                      y, stride);
}

/* Adds the sum over rows of x[row][i] * grad[row], for `count` inputs i and `many` gradients,
 * `across` apart in a row, to their sums, `apart` from each other. */
INLINE void outer(const float *x, int64_t stride, const float *grad, int64_t across, int64_t out,
                  int64_t rows, int64_t lanes, float *sums, int64_t apart, const int count,
                  const int many)
{
    vec total[MANY][WIDE], g[MANY];
    for (int p = 0; p < many; p++)
        for (int i = 0; i < count; i++)
            total[p][i] = (vec){};
    for (int64_t r = 0; r < rows; r++) {
        for (int p = 0; p < many; p++) {
            g[p] = load_lanes(grad + r * out + p * across, lanes);
            HOLD(g[p]);
        }
        for (int i = 0; i < count; i++) {
            vec near = x[r * stride + i] - (vec){};
            HOLD(near);
            for (int p = 0; p < many; p++) {
                total[p][i] += near * g[p];
                HOLD(total[p][i]);
            }
        }
    }
    for (int p = 0; p < many; p++)
        for (int i = 0; i < count; i++)
            STORE(sums + p * apart + i * LANES, LOAD(sums + p * apart + i * LANES) + total[p][i]);
}

/* Adds to the packed gradient of one piece and `many` parts, one or three: `rows` rows of x and of
 * the output's. */
INLINE void outer_piece(const float *x, int64_t stride, int64_t inputs, const float *grad,
                        int64_t across, const int many, int64_t out, int64_t rows, int64_t lanes,
                        float *sums)
{
    const int64_t apart = inputs * LANES;
    int64_t i = 0;
#define OUTER(count)                                                                               \
    for (; i + count <= inputs; i += count, sums += count * LANES)                                 \
        if (lanes == LANES)                                                                        \
            outer(x + i, stride, grad, across, out, rows, LANES, sums, apart, count, many);        \
        else                                                                                       \
            outer(x + i, stride, grad, across, out, rows, lanes, sums, apart, count, many)
    if (many == 1) {
        OUTER(WIDE);
        OUTER(8);
    }
    OUTER(4);
    OUTER(1);
#undef OUTER
}

#endif
