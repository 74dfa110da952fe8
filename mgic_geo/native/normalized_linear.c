/* A grouped map and the batch norm behind it, added to features: see normalized_linear.py.
 *
 * The result of the map, z, is wider than x and is never kept: a block of its rows is found again in
 * cache wherever it is needed. Forward for its moments and for the result, backward for the sums that
 * decide on its gradient and for that gradient. So the values are those of map and norm one after
 * the other, also where the map's inputs nearly agree and z is small beside them. */

#include <stdlib.h>

#include "entry.h"
#include "norm_rows.h"
#include "pieces.h"

/* A map, (groups, outputs, inputs), packed for the product with rows of `columns` numbers. */
typedef struct {
    packing plan;
    const float *weight;
    int64_t columns;
} packed_map;

static report check_map(const char *name, const int64_t *begins, int64_t pieces, int64_t inputs,
                        int64_t out, int64_t columns, int64_t weight_length, const float *weight,
                        packed_map *map)
{
    TRY(check_plan(name, begins, pieces, inputs, out, columns));
    CHECK(weight_length == times(pieces, inputs * LANES) && (weight || !weight_length),
          "the weight packed for %s must have %lld numbers, got %lld", name,
          (long long)times(pieces, inputs * LANES), (long long)weight_length);
    *map = (packed_map){all_pieces(begins, pieces, inputs, out), weight, columns};
    return NULL;
}

/* The map of `rows` rows of x, into z. */
static void map_block(const packed_map *map, const float *x, int64_t rows, float *z)
{
    const parts parts = {.first = x, .first_stride = map->columns};
    multiply_block(&parts, rows, &map->plan, map->weight, z, map->plan.out);
}

/* Sums over all rows, share by share: the moments of z, or those of the norm's backward pass. first,
 * second: (shares, out), zero; in the end, of the first share, what all come to. Returns whether
 * there was no memory. */
static int sum_shares(const norm *all, const packed_map *map, const float *x, double *first,
                      double *second, int64_t shares, int threads)
{
    const int64_t out = all->channels, size = block_rows(out);
    int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t from = all->rows * share / shares, to = all->rows * (share + 1) / shares;
        float *z = malloc(size * out * sizeof(float));
        if (!z) {
#pragma omp atomic write
            failed = 1;
        }
        for (int64_t row = from; z && row < to; row += size) {
            const int64_t here = to - row < size ? to - row : size;
            norm block = *all;
            block.x = z;
            block.grad = all->grad ? all->grad + row * out : NULL;
            map_block(map, x + row * map->columns, here, z);
            sum_block(&block, 0, here, row - from, 0, out, first + share * out,
                      second + share * out);
        }
        free(z);
    }
    join_shares(all, first, second, shares);
    return failed;
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
    packed_map map;
    const int64_t pieces = begins_length, padded = pieces * LANES;
    WITHIN(rows, 2, MAX_SIZE);
    WITHIN(shares, 1, rows);
    TRY(check_map("begins", begins, pieces, inputs, out, columns, weight_length, weight, &map));
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
    double *first = sums, *second = sums + shares * out;
    if (sum_shares(&n, &map, x, first, second, shares, threads))
        return NO_MEMORY;
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

/* What mgic_add_normalized_linear_backward adds up beside the gradient of x. */
typedef struct {
    const norm *all;
    const packed_map *forth, *back;
    const float *x;
    float *grad_x, *sums;
} task;

/* Gradients at the rows of one share; room: (2, block_rows, out). */
static void finish_share(const task *t, int64_t from, int64_t to, float *sums, float *room)
{
    const norm *all = t->all;
    const packing *plan = &t->forth->plan;
    const int64_t out = all->channels, columns = t->forth->columns, size = block_rows(out);
    float *z = room, *grad_z = room + size * out;
    for (int64_t row = from; row < to; row += size) {
        const int64_t here = to - row < size ? to - row : size;
        const float *x = t->x + row * columns;
        norm block = *all;
        block.x = z;
        block.grad = all->grad + row * out;
        block.y = grad_z;
        map_block(t->forth, x, here, z);
        scale_block(&block, 0, here, 0, out);
        map_block(t->back, grad_z, here, t->grad_x + row * columns);
        for (int64_t piece = 0; piece < plan->pieces; piece++)
            outer_piece(x + plan->begins[piece], columns, plan->inputs, grad_z + piece * LANES, 0,
                        1, out, here, lanes_of(plan, piece),
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
    packed_map forth, back;
    WITHIN(rows, 2, MAX_SIZE);
    WITHIN(shares, 1, rows);
    TRY(check_map("begins", begins, begins_length, inputs, out, columns, weight_length, weight,
                  &forth));
    TRY(check_map("back_begins", back_begins, back_begins_length, back_inputs, columns, out,
                  back_weight_length, back_weight, &back));
    HOLDS(grad, times(rows, out));
    HOLDS(x, times(rows, columns));
    HOLDS(statistics, times(STATISTICS, out));
    HOLDS(grad_x, times(rows, columns));
    HOLDS(grad_map, times(shares, weight_length));
    HOLDS(grad_scale, out);
    HOLDS(grad_shift, out);
    HOLDS(room, times(2, out));
    HOLDS(sums, times(2, times(shares, out)));
    norm n = {.rows = rows, .channels = out, .activation = NONE, .eps = eps, .grad = grad,
              .slope = room, .offset = room + out, .grad_weight = grad_scale,
              .grad_bias = grad_shift};
    place_statistics(&n, (float *)statistics); /* only read on the way back */
    double *first = sums, *second = sums + shares * out;
    int failed = sum_shares(&n, &forth, x, first, second, shares, threads);
    if (failed)
        return NO_MEMORY;
    settle(&n, 0, out, first, second);
    const task t = {&n, &forth, &back, x, grad_x, grad_map};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        float *blocks = malloc(2 * block_rows(out) * out * sizeof(float));
        if (blocks)
            finish_share(&t, rows * share / shares, rows * (share + 1) / shares,
                         grad_map + share * weight_length, blocks);
        else {
#pragma omp atomic write
            failed = 1;
        }
        free(blocks);
    }
    return failed ? NO_MEMORY : NULL;
}
