/* A grouped map and the batch norm after it, added to features: see add_normalized_linear.py.
 *
 * The result of the map, z, is wider than x and is never kept: its rows are found again, in
 * registers, wherever they are needed. Forward for their moments and for the result, backward for the
 * sums that decide on the gradient and for that gradient. So the values are those of map and norm
 * one after the other, also where the map's inputs nearly agree and z is small beside them. */

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
        if (backward) {
            const float *here = grad + (row + r) * plan->out + piece * LANES;
            __builtin_prefetch(here + BLOCK_ROWS * plan->out);
            g = load_lanes(here, lanes);
        }
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

/* addend, y: (rows, out); x: (rows, columns); begins, weight, index: how the map is packed; scale, shift:
 * (out) or null; statistics: (STATISTICS, out), those of z. */
ENTRY mgic_add_normalized_linear(FLOATS(addend), FLOATS(x), int64_t rows, int64_t columns,
                                 INTS(begins), int64_t inputs, int64_t out, FLOATS(weight),
                                 INTS(index), FLOATS(scale), FLOATS(shift), double eps,
                                 OUT_FLOATS(y), OUT_FLOATS(statistics), int threads)
{
    const int64_t pieces = begins_length, padded = pieces * LANES, shares = shares_of(rows);
    WITHIN(rows, 2, MAX_SIZE);
    TRY(check_plan("begins", begins, pieces, inputs, out, columns));
    PACKS(weight, index, times(pieces, inputs * LANES));
    HOLDS(addend, times(rows, out));
    HOLDS(x, times(rows, columns));
    HOLDS_OR_NULL(scale, out);
    HOLDS_OR_NULL(shift, out);
    HOLDS(y, times(rows, out));
    HOLDS(statistics, times(STATISTICS, out));
    const int64_t numbers = index_length + 3 * padded;
    float *all = zeros(numbers * sizeof(float) + 2 * shares * out * sizeof(double));
    if (!all)
        return NO_MEMORY;
    const float *packed = pack(weight, weight_length, index, index_length, all);
    float *room = all + index_length;
    double *first = (double *)(all + numbers), *second = first + shares * out;
    norm n = {.rows = rows, .channels = out, .activation = NONE, .eps = eps, .weight = scale,
              .bias = shift};
    place_statistics(&n, statistics);
    const packed_map map = {all_pieces(begins, pieces, inputs, out), packed, columns};
    const task t = {.all = &n, .forth = &map, .x = x, .room = room};
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
    multiply_all(x, columns, rows, &plan, packed, 0, y, threads);
    free(all);
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
        const float *here = n->grad + (row + r) * plan->out + c;
        __builtin_prefetch(here + BLOCK_ROWS * plan->out);
        const vec g = load_lanes(here, lanes);
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

/* grad: (rows, out); x, grad_x: (rows, columns); begins, weight, index, inverse: how the map is packed;
 * back_begins, back_weight, back_index: its transpose; statistics: of the way forward; grad_weight:
 * as the map before it is packed; grad_scale, grad_shift: (out). */
ENTRY mgic_add_normalized_linear_backward(
    FLOATS(grad), FLOATS(x), int64_t rows, int64_t columns, INTS(begins), int64_t inputs,
    int64_t out, FLOATS(weight), INTS(index), INTS(back_begins), int64_t back_inputs,
    FLOATS(back_weight), INTS(back_index), FLOATS(statistics), double eps, OUT_FLOATS(grad_x),
    INTS(inverse), OUT_FLOATS(grad_weight), OUT_FLOATS(grad_scale), OUT_FLOATS(grad_shift),
    int threads)
{
    const int64_t pieces = begins_length, back_pieces = back_begins_length, padded = pieces * LANES;
    WITHIN(rows, 2, MAX_SIZE);
    TRY(check_plan("begins", begins, pieces, inputs, out, columns));
    const int64_t shares = shares_of(rows), size = times(pieces, inputs * LANES);
    TRY(check_plan("back_begins", back_begins, back_pieces, back_inputs, columns, out));
    PACKS(weight, index, size);
    PACKS(back_weight, back_index, times(back_pieces, back_inputs * LANES));
    HOLDS(grad, times(rows, out));
    HOLDS(x, times(rows, columns));
    HOLDS(statistics, times(STATISTICS, out));
    HOLDS(grad_x, times(rows, columns));
    UNPACKS(grad_weight, inverse, size);
    HOLDS(grad_scale, out);
    HOLDS(grad_shift, out);
    const int64_t numbers = index_length + back_index_length + 3 * padded + shares * size;
    float *all = zeros(numbers * sizeof(float) + 2 * shares * out * sizeof(double));
    if (!all)
        return NO_MEMORY;
    float *back_room = all + index_length, *sums = back_room + back_index_length;
    float *room = sums + shares * size;
    double *first = (double *)(all + numbers), *second = first + shares * out;
    norm n = {.rows = rows, .channels = out, .activation = NONE, .eps = eps, .grad = grad,
              .slope = room + padded, .offset = room + 2 * padded, .grad_weight = grad_scale,
              .grad_bias = grad_shift};
    place_statistics(&n, (float *)statistics); /* only read on the way back */
    memcpy(room, n.mean, out * sizeof(float));
    const packed_map forth = {all_pieces(begins, pieces, inputs, out),
                              pack(weight, weight_length, index, index_length, all), columns};
    const packed_map back = {
        all_pieces(back_begins, back_pieces, back_inputs, columns),
        pack(back_weight, back_weight_length, back_index, back_index_length, back_room), out};
    const task t = {&n, &forth, &back, x, grad_x, room};
    sum_shares(&t, first, second, shares, threads);
    settle(&n, 0, out, first, second);
    int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        float *grad_z = malloc(BLOCK_ROWS * out * sizeof(float));
        if (grad_z)
            finish_share(&t, rows * share / shares, rows * (share + 1) / shares,
                         sums + share * size, grad_z);
        else {
#pragma omp atomic write
            failed = 1;
        }
        free(grad_z);
    }
    unpack(sums, shares, size, inverse, inverse_length, grad_weight);
    free(all);
    return failed ? NO_MEMORY : NULL;
}
