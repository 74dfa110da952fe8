/* A grouped map and the batch norm behind it, added to features: see normalized_linear.py.
 *
 * Maps are (groups, out, in) here, and packed for the product with all rows. */

#include <math.h>
#include <stdlib.h>

#include "pieces.h"

#define CHUNK 256 /* rows that stay in cache while all pieces read them */
#define VECTORS 4 /* of channels at a time */

/* How a map is packed: see Packing in grouped_linear.py. */
typedef struct {
    const int64_t *begins;
    int64_t pieces, inputs;
    const int64_t *index, *inverse;
} layout;

typedef struct {
    int64_t rows, groups, outputs, inputs; /* of all groups together; of one group each */
} sizes;

void mgic_pack(const float *, int64_t, const int64_t *, int64_t, float *, int);
void mgic_unpack(const float *, int64_t, int64_t, const int64_t *, int64_t, float *, int);
void mgic_grouped_linear(const float *, int64_t, int64_t, const int64_t *, int64_t, int64_t,
                         int64_t, const float *, const float *, const float *, float *, int);

/* y = constant + the map of x + addend, the last one possibly y itself. */
static int64_t apply(const float *x, const float *map, const layout *layout, const float *constant,
                     const float *addend, const sizes *sizes, int64_t inputs, int64_t outputs,
                     float *y, int threads)
{
    const int64_t count = layout->pieces * layout->inputs * LANES, groups = sizes->groups;
    float *packed = malloc((count + layout->pieces * LANES) * sizeof(float));
    if (!packed)
        return 1;
    float *start = packed + count;
    mgic_pack(map, groups * outputs * inputs, layout->index, count, packed, 1);
    memset(start, 0, layout->pieces * LANES * sizeof(float));
    if (constant)
        memcpy(start, constant, groups * outputs * sizeof(float));
    mgic_grouped_linear(x, groups * inputs, sizes->rows, layout->begins, layout->pieces,
                        layout->inputs, groups * outputs, packed, start, addend, y, threads);
    free(packed);
    return 0;
}

/* Some channels of `rows` rows, less center where there is one, to `moved`, and their sum added to
 * total, where there are such. */
INLINE void move_rows(const float *x, const float *center, int64_t columns, int64_t rows, int64_t c,
                      float *moved, float *total, const int vectors, int64_t lanes)
{
    vec middle[VECTORS] = {}, sum[VECTORS] = {};
    for (int v = 0; v < vectors && center; v++)
        middle[v] = load_lanes(center + c + LANES * v, lanes);
    for (int64_t r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * columns + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - middle[v];
            sum[v] += far;
            if (moved)
                store_lanes(moved + place, far, lanes);
        }
    for (int v = 0; v < vectors && total; v++) {
        float *place = total + c + LANES * v;
        store_lanes(place, load_lanes(place, lanes) + sum[v], lanes);
    }
}

/* The same for all channels. */
static void move_all(const float *x, const float *center, int64_t columns, int64_t rows,
                     float *moved, float *total)
{
    int64_t c = 0;
#define MOVE(vectors, lanes)                                                                       \
    move_rows(x, center, columns, rows, c, moved, total, vectors, lanes)
    FOR_CHANNELS(c, columns, VECTORS, MOVE)
#undef MOVE
}

/* Sums over rows of the products, within groups, of x less center with `other`, (rows, width), or
 * with itself where that is null: products, as a map from x; and of the latter alone: totals. */
static int64_t add_products(const float *x, const float *center, const float *other,
                            const sizes *sizes, int64_t width, const layout *layout,
                            int64_t shares, float *products, double *totals, int threads)
{
    const packing plan = all_pieces(layout->begins, layout->pieces, layout->inputs, width);
    const int64_t columns = sizes->groups * sizes->inputs, rows = sizes->rows;
    const int64_t piece_size = layout->inputs * LANES, share_size = layout->pieces * piece_size;
    float *sums = calloc(shares * (share_size + width), sizeof(float));
    int64_t failed = !sums;
    if (failed)
        return failed;
    float *all_totals = sums + shares * share_size;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t from = rows * share / shares, to = rows * (share + 1) / shares;
        float *moved = malloc(CHUNK * columns * sizeof(float)), *total = all_totals + share * width;
        if (!moved) {
#pragma omp atomic write
            failed = 1;
        }
        for (int64_t first = from; moved && first < to; first += CHUNK) {
            const int64_t here = to - first < CHUNK ? to - first : CHUNK;
            const float *with = other ? other + first * width : moved;
            move_all(x + first * columns, center, columns, here, moved, other ? 0 : total);
            if (other)
                move_all(with, 0, width, here, 0, total);
            for (int64_t piece = 0; piece < layout->pieces; piece++)
                outer_piece(moved + layout->begins[piece], columns, layout->inputs,
                            with + piece * LANES, 0, 1, width, here, lanes_of(&plan, piece),
                            sums + share * share_size + piece * piece_size);
        }
        free(moved);
    }
    mgic_unpack(sums, shares, share_size, layout->inverse, width * sizes->inputs, products, 1);
    for (int64_t c = 0; c < width; c++) {
        totals[c] = 0;
        for (int64_t share = 0; share < shares; share++)
            totals[c] += all_totals[share * width + c];
    }
    free(sums);
    return failed;
}

/* The sum of a row of a map times a column of covariances: of output `o` of a group, input `i`. */
INLINE double mix(const float *row, const float *covariance, int64_t inputs, int64_t i)
{
    double sum = 0;
    for (int64_t j = 0; j < inputs; j++)
        sum += (double)row[j] * covariance[j * inputs + i];
    return sum;
}

/* addend, y: (rows, out); x: (rows, in); map: (groups, outputs, inputs); scale, shift: (out) or
 * null; mean, variance: (out); center: (in); covariance: (groups, inputs, inputs). forth, own: how
 * maps from x to y and from x to x are packed. Returns whether there was no memory. */
int64_t mgic_add_normalized_linear(const float *addend, const float *x, int64_t rows,
                                   int64_t groups, int64_t outputs, int64_t inputs,
                                   const float *map, const float *scale, const float *shift,
                                   double eps, const layout *forth, const layout *own, float *y,
                                   float *mean, float *variance, float *center, float *covariance,
                                   int64_t shares, int threads)
{
    const sizes sizes = {rows, groups, outputs, inputs};
    const int64_t in = groups * inputs, out = groups * outputs;
    double *totals = malloc(in * sizeof(double));
    float *scaled = malloc((out * inputs + out) * sizeof(float)), *constant = scaled + out * inputs;
    int64_t failed = !totals || !scaled ||
                     add_products(x, x, 0, &sizes, in, own, shares, covariance, totals, threads);
    for (int64_t c = 0; c < in && !failed; c++) {
        center[c] = x[c] + totals[c] / rows;
        for (int64_t i = 0, first = c / inputs * inputs; i < inputs; i++) {
            float *entry = covariance + c * inputs + i;
            *entry = *entry / (double)rows - totals[c] / rows * (totals[first + i] / rows);
        }
    }
    for (int64_t c = 0; c < out && !failed; c++) {
        const int64_t group = c / outputs;
        const float *row = map + c * inputs;
        double far = 0, spread = 0;
        for (int64_t i = 0; i < inputs; i++) {
            far += (double)row[i] * center[group * inputs + i];
            spread += row[i] * mix(row, covariance + group * inputs * inputs, inputs, i);
        }
        mean[c] = far;
        variance[c] = spread > 0 ? spread : spread <= 0 ? 0 : spread; /* not a number stays it */
        const double factor = (scale ? scale[c] : 1) / sqrt(variance[c] + eps);
        for (int64_t i = 0; i < inputs; i++)
            scaled[c * inputs + i] = factor * row[i];
        constant[c] = (shift ? shift[c] : 0) - factor * far;
    }
    failed = failed ||
             apply(x, scaled, forth, constant, addend, &sizes, inputs, outputs, y, threads);
    free(totals);
    free(scaled);
    return failed;
}

/* grad: (rows, out); the others as above; grad_x: (rows, in); grad_map: as map; grad_scale,
 * grad_shift: (out); back: how maps from y to x are packed. */
int64_t mgic_add_normalized_linear_backward(
    const float *grad, const float *x, int64_t rows, int64_t groups, int64_t outputs,
    int64_t inputs, const float *map, const float *scale, const float *variance,
    const float *center, const float *covariance, double eps, const layout *forth,
    const layout *own, const layout *back, float *grad_x, float *grad_map, float *grad_scale,
    float *grad_shift, int64_t shares, int threads)
{
    const sizes sizes = {rows, groups, outputs, inputs};
    const int64_t in = groups * inputs, out = groups * outputs;
    double *totals = malloc(out * sizeof(double));
    float *maps = calloc(out * inputs + in * inputs + in, sizeof(float));
    float *returned = maps, *within = maps + out * inputs, *constant = within + in * inputs;
    int64_t failed = !totals || !maps ||
                     add_products(x, center, grad, &sizes, out, forth, shares, grad_map, totals,
                                  threads);
    for (int64_t c = 0; c < out && !failed; c++) {
        const int64_t group = c / outputs, o = c % outputs;
        const float *row = map + c * inputs, *own_covariance = covariance + group * inputs * inputs;
        const double inverse = 1 / sqrt(variance[c] + eps);
        const double factor = inverse * (scale ? scale[c] : 1);
        double along = 0;
        for (int64_t i = 0; i < inputs; i++)
            along += (double)grad_map[c * inputs + i] * row[i];
        const double pull = inverse * inverse * along; /* rows times that of the standardized y */
        grad_scale[c] = inverse * along;
        grad_shift[c] = totals[c];
        for (int64_t i = 0; i < inputs; i++) {
            const int64_t channel = group * inputs + i;
            float *entry = grad_map + c * inputs + i;
            *entry = factor * (*entry - pull * mix(row, own_covariance, inputs, i));
            returned[channel * outputs + o] = factor * row[i];
            constant[channel] -= factor * row[i] * totals[c] / rows;
            for (int64_t j = 0; j < inputs; j++) {
                const double each = factor * pull / rows * row[i] * row[j];
                within[channel * inputs + j] -= each;
                constant[channel] += each * center[group * inputs + j];
            }
        }
    }
    failed = failed ||
             apply(grad, returned, back, constant, 0, &sizes, outputs, inputs, grad_x, threads) ||
             apply(x, within, own, 0, grad_x, &sizes, inputs, inputs, grad_x, threads);
    free(totals);
    free(maps);
    return failed;
}
