/* Block-diagonal matrices times rows, and the gradients of their weights. */

#include "entry.h"
#include "pieces.h"

#define AT_ONCE 4 /* pieces in front of which is fetched what the next rows have of them */

/* How many numbers a vector has: what weights are packed for. */
const int64_t mgic_lanes = LANES;

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

/* x: (rows, channels); begins: (pieces); weight, index: of (pieces, 1, inputs, LANES); bias:
 * (pieces * LANES) or null; addend, y: (rows, out), the first one or null. */
ENTRY mgic_grouped_linear(ROWS(x), int64_t rows, int64_t channels, INTS(begins), int64_t inputs,
                          int64_t out, FLOATS(weight), INTS(index), FLOATS(bias), FLOATS(addend),
                          OUT_FLOATS(y), int threads)
{
    const int64_t pieces = begins_length;
    WITHIN(rows, 0, MAX_SIZE);
    TRY(check_plan("begins", begins, pieces, inputs, out, channels));
    HOLDS(x, rows ? (rows - 1) * x_stride + channels : 0);
    PACKS(weight, index, times(pieces, inputs * LANES));
    HOLDS_OR_NULL(bias, times(pieces, LANES));
    HOLDS_OR_NULL(addend, times(rows, out));
    HOLDS(y, times(rows, out));
    float *room = zeros(index_length * sizeof(float));
    if (!room)
        return NO_MEMORY;
    packing plan = all_pieces(begins, pieces, inputs, out);
    plan.addend = addend;
    plan.sign = 1;
    const float *packed = pack(weight, weight_length, index, index_length, room);
    multiply_all(x, x_stride, rows, &plan, packed, bias, y, threads);
    free(room);
    return NULL;
}

#define CHUNK 256 /* rows whose inputs stay in cache while all pieces read them */

/* The gradient of `weight` above; inverse: of its packing. */
ENTRY mgic_grouped_linear_weight(ROWS(x), int64_t rows, int64_t channels, INTS(begins),
                                 int64_t inputs, int64_t out, FLOATS(grad), INTS(inverse),
                                 OUT_FLOATS(grad_weight), int threads)
{
    const int64_t pieces = begins_length;
    WITHIN(rows, 0, MAX_SIZE);
    TRY(check_plan("begins", begins, pieces, inputs, out, channels));
    HOLDS(x, rows ? (rows - 1) * x_stride + channels : 0);
    HOLDS(grad, times(rows, out));
    const packing plan = all_pieces(begins, pieces, inputs, out);
    const int64_t shares = shares_of(rows), piece_size = inputs * LANES;
    const int64_t size = times(pieces, piece_size);
    UNPACKS(grad_weight, inverse, size);
    float *sums = zeros(shares * size * sizeof(float));
    if (!sums)
        return NO_MEMORY;
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
    unpack(sums, shares, size, inverse, inverse_length, grad_weight);
    free(sums);
    return NULL;
}
