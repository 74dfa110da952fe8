/* Block-diagonal matrices times rows, and the gradients of their weights. */

#include "entry.h"
#include "pieces.h"

#define AT_ONCE 4 /* pieces in front of which is fetched what the next rows have of them */

/* How many numbers a vector has: what weights are packed for. */
const int64_t mgic_lanes = LANES;

/* packed[i]: the number of `weight` that index[i] says, 0 where that is its size. */
ENTRY mgic_pack(FLOATS(weight), INTS(index), OUT_FLOATS(packed), int threads)
{
    (void)threads;
    HOLDS(packed, index_length);
    NODES_WITHIN(index, index_length, 0, weight_length + 1);
    for (int64_t i = 0; i < index_length; i++)
        packed[i] = index[i] < weight_length ? weight[index[i]] : 0;
    return NULL;
}

/* The way back, of the sum over shares of a packed weight: sums, (shares, packed). */
ENTRY mgic_unpack(FLOATS(sums), int64_t packed, INTS(inverse), OUT_FLOATS(weight), int threads)
{
    (void)threads;
    WITHIN(packed, 1, MAX_SIZE);
    const int64_t shares = sums_length / packed;
    HOLDS(sums, times(shares, packed));
    HOLDS(weight, inverse_length);
    NODES_WITHIN(inverse, inverse_length, 0, packed);
    for (int64_t i = 0; i < weight_length; i++) {
        float sum = 0;
        for (int64_t share = 0; share < shares; share++)
            sum += sums[share * packed + inverse[i]];
        weight[i] = sum;
    }
    return NULL;
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

/* y = the map of x + addend, where there is one: see mgic_grouped_linear. */
void multiply_all(const float *x, int64_t x_stride, int64_t rows, const packing *plan,
                  const float *weight, const float *bias, float *y, int threads)
{
    const parts parts = {.first = x, .first_stride = x_stride};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < rows; first += ROWS_TOGETHER) {
        const int64_t here = rows - first < ROWS_TOGETHER ? rows - first : ROWS_TOGETHER;
        const int64_t next = first + ROWS_TOGETHER, end = next + ROWS_TOGETHER;
        packing some = *plan;
        for (some.from = 0; some.from < plan->pieces; some.from = some.to) {
            some.to = some.from + AT_ONCE < plan->pieces ? some.from + AT_ONCE : plan->pieces;
            fetch_rows(&some, next, end < rows ? end : rows, y);
            multiply_rows(&parts, first, here, &some, weight, bias, y, plan->out);
        }
    }
}

/* x: (rows, channels); begins: (pieces); weight: (pieces, 1, inputs, LANES); bias:
 * (pieces * LANES) or null; addend, y: (rows, out), the first one or null. */
ENTRY mgic_grouped_linear(ROWS(x), int64_t rows, int64_t channels, INTS(begins), int64_t inputs,
                          int64_t out, FLOATS(weight), FLOATS(bias), FLOATS(addend), OUT_FLOATS(y),
                          int threads)
{
    const int64_t pieces = begins_length;
    WITHIN(rows, 0, MAX_SIZE);
    TRY(check_plan("begins", begins, pieces, inputs, out, channels));
    HOLDS(x, rows ? (rows - 1) * x_stride + channels : 0);
    HOLDS(weight, times(pieces, inputs * LANES));
    HOLDS_OR_NULL(bias, times(pieces, LANES));
    HOLDS_OR_NULL(addend, times(rows, out));
    HOLDS(y, times(rows, out));
    packing plan = all_pieces(begins, pieces, inputs, out);
    plan.addend = addend;
    plan.sign = 1;
    multiply_all(x, x_stride, rows, &plan, weight, bias, y, threads);
    return NULL;
}

#define CHUNK 256 /* rows whose inputs stay in cache while all pieces read them */

/* The gradient of `weight` above, in its form; sums: (shares, ...), zero, each for a share of the
 * rows. The caller adds them up: the order of sums is that of the shares, not of the threads. */
ENTRY mgic_grouped_linear_weight(ROWS(x), int64_t rows, int64_t channels, INTS(begins),
                                 int64_t inputs, int64_t out, FLOATS(grad), OUT_FLOATS(sums),
                                 int64_t shares, int threads)
{
    const int64_t pieces = begins_length;
    WITHIN(rows, 0, MAX_SIZE);
    WITHIN(shares, 1, MAX_SIZE);
    TRY(check_plan("begins", begins, pieces, inputs, out, channels));
    HOLDS(x, rows ? (rows - 1) * x_stride + channels : 0);
    HOLDS(grad, times(rows, out));
    HOLDS(sums, times(shares, times(pieces, inputs * LANES)));
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
    return NULL;
}
