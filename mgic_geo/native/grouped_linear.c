/* Block-diagonal matrices times rows, and the gradients of their weights. */

#include "pieces.h"

#define AT_ONCE 4 /* pieces in front of which is fetched what the next rows have of them */

/* How many numbers a vector has: what weights are packed for. */
const int64_t mgic_lanes = LANES;

/* packed[i]: the number of `weight` that index[i] says, 0 where that is its size. */
void mgic_pack(const float *weight, int64_t size, const int64_t *index, int64_t count,
               float *packed, int threads)
{
    (void)threads;
    for (int64_t i = 0; i < count; i++)
        packed[i] = index[i] < size ? weight[index[i]] : 0;
}

/* The way back, of the sum over `shares` of a packed weight: sums, (shares, size). */
void mgic_unpack(const float *sums, int64_t shares, int64_t size, const int64_t *inverse,
                 int64_t count, float *weight, int threads)
{
    (void)threads;
    for (int64_t i = 0; i < count; i++) {
        float sum = 0;
        for (int64_t share = 0; share < shares; share++)
            sum += sums[share * size + inverse[i]];
        weight[i] = sum;
    }
}

/* Fetch what some pieces will read and write of the rows in [from, to): rows are streams of their
 * own, and these are more than the processor foresees. */
INLINE void fetch_rows(const packing *plan, int64_t from, int64_t to, float *y)
{
    for (int64_t row = from; row < to; row++)
        for (int64_t c = plan->from * LANES; c < plan->to * LANES; c += LINE) {
            __builtin_prefetch(y + row * plan->out + c, 1);
            if (plan->addend)
                __builtin_prefetch(plan->addend + row * plan->out + c);
        }
}

/* x: (rows, ...), rows x_stride apart; weight: (pieces, 1, inputs, LANES); bias:
 * (pieces * LANES) or null; addend, y: (rows, out), the first one or null. */
void mgic_grouped_linear(const float *x, int64_t x_stride, int64_t rows, const int64_t *begins,
                         int64_t pieces, int64_t inputs, int64_t out, const float *weight,
                         const float *bias, const float *addend, float *y, int threads)
{
    packing plan = all_pieces(begins, pieces, inputs, out);
    const parts parts = {.first = x, .first_stride = x_stride};
    plan.addend = addend;
    plan.sign = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < rows; first += ROWS) {
        const int64_t here = rows - first < ROWS ? rows - first : ROWS;
        packing some = plan;
        for (some.from = 0; some.from < pieces; some.from = some.to) {
            some.to = some.from + AT_ONCE < pieces ? some.from + AT_ONCE : pieces;
            fetch_rows(&some, first + ROWS, first + 2 * ROWS < rows ? first + 2 * ROWS : rows, y);
            multiply_rows(&parts, first, here, &some, weight, bias, y, out);
        }
    }
}

#define CHUNK 256 /* rows whose inputs stay in cache while all pieces read them */

/* The gradient of `weight` above, in its form; sums: (shares, ...), zero, each for a share of the
 * rows. The caller adds them up: the order of sums is that of the shares, not of the threads. */
void mgic_grouped_linear_weight(const float *x, int64_t x_stride, int64_t rows,
                                const int64_t *begins, int64_t pieces, int64_t inputs, int64_t out,
                                const float *grad, float *sums, int64_t shares, int threads)
{
    const packing plan = all_pieces(begins, pieces, inputs, out);
    const int64_t piece_size = inputs * LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t from = rows * share / shares, to = rows * (share + 1) / shares;
        for (int64_t first = from; first < to; first += CHUNK) {
            const int64_t here = to - first < CHUNK ? to - first : CHUNK;
            for (int64_t piece = 0; piece < pieces; piece++)
                outer_piece(x + first * x_stride + begins[piece], x_stride, inputs,
                            grad + first * out + piece * LANES, 0, 1, out, here,
                            lanes_of(&plan, piece),
                            sums + (share * pieces + piece) * piece_size);
        }
    }
}
