/* A grouped map and the batch norm after it, added to features: see add_normalized_linear.py.
 *
 * The result of the map, z, is wider than x and is never kept: its rows are found again, in
 * registers, wherever they are needed. Forward for their moments and for the result, backward for the
 * sums that decide on the gradient and for that gradient. So the values are those of map and norm
 * one after the other, also where the map's inputs nearly agree and z is small beside them. */

#include <stdlib.h>

#include "entry.h"
#include "norm.h"
#include "pieces.h"

/* A map, (groups, outputs, inputs), packed for the product with rows of `columns` numbers. */
typedef struct {
    packing plan;
    const float *weight;
    int64_t columns;
} packed_map;

#define BLOCK_ROWS 64 /* whose sums are in float, and which stay in the first cache */
#define SAMPLE 8      /* blocks that say about where the means are */

/* What all passes over the rows share; room: (3, pieces * LANES), means, scales and shifts of z. */
typedef struct {
    const norm *all;
    const packed_map *forth, *back;
    const float *x;
    float *grad_x, *room;
} task;

/* work(rows, inputs) with constants, for some rows and one piece */
#define FOR_PIECE(rows, plan, work)                                                                \
    if (rows == ROWS_TOGETHER && (plan)->inputs == 4)                                              \
        work(ROWS_TOGETHER, 4);                                                                    \
    else if (rows == ROWS_TOGETHER && (plan)->inputs == 8)                                         \
        work(ROWS_TOGETHER, 8);                                                                    \
    else if (rows == ROWS_TOGETHER)                                                                \
        work(ROWS_TOGETHER, (plan)->inputs);                                                       \
    else                                                                                           \
        work(1, (plan)->inputs);

/* Adds to one and two what some rows of a piece come to: z less the mean and its square, or, where
 * there are gradients, these and their products with z less the mean. */
INLINE void sum_piece(const task *t, int64_t row, int64_t piece, const int64_t inputs,
                      const int rows, const int backward, vec *one, vec *two)
{
    const parts parts = {.first = t->x, .first_stride = t->forth->columns};
    const packing *plan = &t->forth->plan;
    const int64_t lanes = lanes_of(plan, piece);
    const float *grad = t->all->grad;
    const vec mean = LOAD(t->room + piece * LANES);
    vec z[ROWS_TOGETHER];
    product_piece(&parts, row, plan, piece, t->forth->weight, 0, inputs, rows, z);
    for (int r = 0; r < rows; r++) {
        const vec far = z[r] - mean;
        vec g = far;
        if (backward)
            g = load_lanes(grad + (row + r) * plan->out + piece * LANES, lanes);
        *one += g;
        *two += g * far;
    }
}

/* The sums of the rows [from, to), added to first and second, (out). */
INLINE void sum_some(const task *t, int64_t from, int64_t to, double *first, double *second,
                     const int backward)
{
    const packing *plan = &t->forth->plan;
    for (int64_t start = from; start < to; start += BLOCK_ROWS) {
        const int64_t end = start + BLOCK_ROWS < to ? start + BLOCK_ROWS : to;
        for (int64_t piece = 0; piece < plan->pieces; piece++) {
            vec one = {}, two = {};
            for (int64_t row = start, here; row < end; row += here) {
                here = end - row < ROWS_TOGETHER ? 1 : ROWS_TOGETHER;
#define SUM(rows, inputs) sum_piece(t, row, piece, inputs, rows, backward, &one, &two)
                FOR_PIECE(here, plan, SUM)
#undef SUM
            }
            for (int64_t lane = 0; lane < lanes_of(plan, piece); lane++) {
                first[piece * LANES + lane] += one[lane];
                second[piece * LANES + lane] += two[lane];
            }
        }
    }
}

static void sum_rows(const task *t, int64_t from, int64_t to, double *first, double *second)
{
    if (t->all->grad)
        sum_some(t, from, to, first, second, 1);
    else
        sum_some(t, from, to, first, second, 0);
}

/* Sums over all rows, share by share; first, second: (shares, out), zero; in the end, of the first
 * share, what all come to. */
static void sum_shares(const task *t, double *first, double *second, int64_t shares, int threads)
{
    const int64_t out = t->all->channels, rows = t->all->rows;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++)
        sum_rows(t, rows * share / shares, rows * (share + 1) / shares, first + share * out,
                 second + share * out);
    for (int64_t i = out; i < shares * out; i++) {
        first[i % out] += first[i];
        second[i % out] += second[i];
    }
}

/* About where the means of z are: those of some blocks of rows. Squares of what is off by them do not
 * cancel, wherever an outlier is: in the sample, it moves the means by less than it adds to the
 * spread. totals: (out), zero. */
static void guess_means(const task *t, double *totals, double *others)
{
    const int64_t out = t->all->channels, rows = t->all->rows;
    const int64_t apart = rows / SAMPLE > BLOCK_ROWS ? rows / SAMPLE : BLOCK_ROWS;
    int64_t count = 0;
    for (int64_t from = 0; from < rows; from += apart) {
        const int64_t to = from + BLOCK_ROWS < rows ? from + BLOCK_ROWS : rows;
        sum_rows(t, from, to, totals, others);
        count += to - from;
    }
    for (int64_t c = 0; c < out; c++) {
        t->room[c] = totals[c] / count;
        totals[c] = others[c] = 0;
    }
}

/* From sums of what is off by the guessed means to moments, as settle takes them. */
static void center(const task *t, double *first, double *second)
{
    for (int64_t c = 0; c < t->all->channels; c++) {
        const double off = first[c] / t->all->rows;
        const double spread = second[c] - off * first[c];
        first[c] = t->room[c] + off;
        second[c] = spread < 0 ? 0 : spread; /* NaN propagates */
    }
}

/* addend, y: (rows, out); x: (rows, columns); begins, weight: how the map is packed; scale, shift:
 * (out) or null; statistics: (STATISTICS, out), those of z; sums: (2, shares, out), zero; room:
 * (3, pieces * LANES), zero. */
ENTRY mgic_add_normalized_linear(FLOATS(addend), FLOATS(x), int64_t rows, int64_t columns,
                                 INTS(begins), int64_t inputs, int64_t out, FLOATS(weight),
                                 FLOATS(scale), FLOATS(shift), double eps, OUT_FLOATS(y),
                                 OUT_FLOATS(statistics), OUT_DOUBLES(sums), OUT_FLOATS(room),
                                 int64_t shares, int threads)
{
    const int64_t pieces = begins_length, padded = pieces * LANES;
    WITHIN(rows, 2, MAX_SIZE);
    WITHIN(shares, 1, rows);
    TRY(check_plan("begins", begins, pieces, inputs, out, columns));
    HOLDS(weight, times(pieces, inputs * LANES));
    HOLDS(addend, times(rows, out));
    HOLDS(x, times(rows, columns));
    HOLDS_OR_NULL(scale, out);
    HOLDS_OR_NULL(shift, out);
    HOLDS(y, times(rows, out));
    HOLDS(statistics, times(STATISTICS, out));
    HOLDS(sums, times(2, times(shares, out)));
    HOLDS(room, times(3, padded));
    norm n = {.rows = rows, .channels = out, .activation = NONE, .eps = eps, .weight = scale,
              .bias = shift};
    place_statistics(&n, statistics);
    const packed_map map = {all_pieces(begins, pieces, inputs, out), weight, columns};
    const task t = {.all = &n, .forth = &map, .x = x, .room = room};
    double *first = sums, *second = sums + shares * out;
    guess_means(&t, first, second);
    sum_shares(&t, first, second, shares, threads);
    center(&t, first, second);
    settle(&n, 0, out, first, second);
    memcpy(room, n.mean, out * sizeof(float));
    memcpy(room + padded, n.scale, out * sizeof(float));
    memcpy(room + 2 * padded, n.shift, out * sizeof(float));
    packing plan = map.plan;
    plan.mean = room;
    plan.scale = room + padded;
    plan.shift = room + 2 * padded;
    plan.addend = addend;
    plan.sign = 1;
    multiply_all(x, columns, rows, &plan, weight, 0, y, threads);
    return NULL;
}

/* The gradient of z at some rows of a piece: grad * scale + (z - mean) * slope + offset. */
INLINE void derive_piece(const task *t, int64_t row, int64_t piece, float *grad_z,
                         const int64_t inputs, const int rows)
{
    const parts parts = {.first = t->x, .first_stride = t->forth->columns};
    const packing *plan = &t->forth->plan;
    const norm *n = t->all;
    const int64_t lanes = lanes_of(plan, piece), c = piece * LANES;
    const vec mean = LOAD(t->room + c), scale = load_lanes(n->scale + c, lanes);
    const vec slope = load_lanes(n->slope + c, lanes), offset = load_lanes(n->offset + c, lanes);
    vec z[ROWS_TOGETHER];
    product_piece(&parts, row, plan, piece, t->forth->weight, 0, inputs, rows, z);
    for (int r = 0; r < rows; r++) {
        const vec g = load_lanes(n->grad + (row + r) * plan->out + c, lanes);
        store_lanes(grad_z + r * plan->out + c,
                    g * scale + ((z[r] - mean) * slope + offset), lanes);
    }
}

/* Gradients at the rows of one share; sums: as the weight; grad_z: (BLOCK_ROWS, out). */
static void finish_share(const task *t, int64_t from, int64_t to, float *sums, float *grad_z)
{
    const packing *plan = &t->forth->plan;
    const int64_t out = plan->out, columns = t->forth->columns;
    const parts back = {.first = grad_z, .first_stride = out};
    for (int64_t start = from; start < to; start += BLOCK_ROWS) {
        const int64_t end = start + BLOCK_ROWS < to ? start + BLOCK_ROWS : to;
        for (int64_t piece = 0; piece < plan->pieces; piece++)
            for (int64_t row = start, here; row < end; row += here) {
                here = end - row < ROWS_TOGETHER ? 1 : ROWS_TOGETHER;
#define DERIVE(rows, inputs) derive_piece(t, row, piece, grad_z + (row - start) * out, inputs, rows)
                FOR_PIECE(here, plan, DERIVE)
#undef DERIVE
            }
        multiply_block(&back, end - start, &t->back->plan, t->back->weight, 0,
                       t->grad_x + start * columns, columns);
        for (int64_t piece = 0; piece < plan->pieces; piece++)
            outer_piece(t->x + start * columns + plan->begins[piece], columns, plan->inputs,
                        grad_z + piece * LANES, 0, 1, out, end - start, lanes_of(plan, piece),
                        sums + piece * plan->inputs * LANES);
    }
}

/* grad: (rows, out); x, grad_x: (rows, columns); begins, weight: how the map is packed; back_begins,
 * back_weight: its transpose; statistics: of the way forward; grad_map: (shares, as weight), zero;
 * grad_scale, grad_shift: (out); room: (3, out), zero; sums: (2, shares, out), zero. */
ENTRY mgic_add_normalized_linear_backward(
    FLOATS(grad), FLOATS(x), int64_t rows, int64_t columns, INTS(begins), int64_t inputs,
    int64_t out, FLOATS(weight), INTS(back_begins), int64_t back_inputs, FLOATS(back_weight),
    FLOATS(statistics), double eps, OUT_FLOATS(grad_x), OUT_FLOATS(grad_map),
    OUT_FLOATS(grad_scale), OUT_FLOATS(grad_shift), OUT_FLOATS(room), OUT_DOUBLES(sums),
    int64_t shares, int threads)
{
    const int64_t pieces = begins_length, back_pieces = back_begins_length, padded = pieces * LANES;
    WITHIN(rows, 2, MAX_SIZE);
    WITHIN(shares, 1, rows);
    TRY(check_plan("begins", begins, pieces, inputs, out, columns));
    TRY(check_plan("back_begins", back_begins, back_pieces, back_inputs, columns, out));
    HOLDS(weight, times(pieces, inputs * LANES));
    HOLDS(back_weight, times(back_pieces, back_inputs * LANES));
    HOLDS(grad, times(rows, out));
    HOLDS(x, times(rows, columns));
    HOLDS(statistics, times(STATISTICS, out));
    HOLDS(grad_x, times(rows, columns));
    HOLDS(grad_map, times(shares, weight_length));
    HOLDS(grad_scale, out);
    HOLDS(grad_shift, out);
    HOLDS(room, times(3, padded));
    HOLDS(sums, times(2, times(shares, out)));
    norm n = {.rows = rows, .channels = out, .activation = NONE, .eps = eps, .grad = grad,
              .slope = room + padded, .offset = room + 2 * padded, .grad_weight = grad_scale,
              .grad_bias = grad_shift};
    place_statistics(&n, (float *)statistics); /* only read on the way back */
    memcpy(room, n.mean, out * sizeof(float));
    const packed_map forth = {all_pieces(begins, pieces, inputs, out), weight, columns};
    const packed_map back = {all_pieces(back_begins, back_pieces, back_inputs, columns),
                             back_weight, out};
    const task t = {&n, &forth, &back, x, grad_x, room};
    double *first = sums, *second = sums + shares * out;
    sum_shares(&t, first, second, shares, threads);
    settle(&n, 0, out, first, second);
    int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        float *grad_z = malloc(BLOCK_ROWS * out * sizeof(float));
        if (grad_z)
            finish_share(&t, rows * share / shares, rows * (share + 1) / shares,
                         grad_map + share * weight_length, grad_z);
        else {
#pragma omp atomic write
            failed = 1;
        }
        free(grad_z);
    }
    return failed ? NO_MEMORY : NULL;
}
