/* The k nearest points of a cloud to every point of another one, by (squared distance, index),
 * exactly. Included with DOUBLES_ARE_SEARCHED or without, for float64 or float32.
 *
 * The rule is a sum in float64, (x_i1 - x_j1)^2 + (x_i2 - x_j2)^2 + ..., in this order and every
 * operation rounded once. Here the distances are taken in the type of the points first and with
 * fused multiply-adds, by differences as well: nothing cancels, so that their error is relative to
 * the distance itself. Where the intervals of two candidates overlap, those that could be among the
 * first k are decided by the rule. */

#ifndef MGIC_KNN_PANELS_H
#define MGIC_KNN_PANELS_H

#include "knn_rule.h"

/* UNIT: of rounding, doubled for what is of higher order. LOST: what a square may lose below the
 * range of the type. */
#ifdef DOUBLES_ARE_SEARCHED
typedef wide vector;
#define NUM_LANES WIDE_LANES
#define lanes_at_most wide_at_most
#define UNIT 0x1p-52
#define LOST 0x1p-1000
#else
typedef vec vector;
#define NUM_LANES LANES
#define lanes_at_most at_most
#define UNIT 0x1p-23f
#define LOST 0x1p-120f
#endif

#define LOAD_REALS(p) (*(const vector *)(p))
#define STORE_REALS(p, v) (*(vector *)(p) = (v))
#define AT_ONCE (LANES < 16 ? 4 : 8) /* points whose distances are found together, in registers */
#define PANEL (2 * NUM_LANES)        /* points in a panel, stored coordinate by coordinate */

INLINE vector least(vector a, vector b)
{
    const __typeof__(a < b) first = a < b;
    return (vector)(((__typeof__(a < b))a & first) | ((__typeof__(a < b))b & ~first));
}

typedef struct {
    double distance;
    int32_t place;
} candidate;

static int by_distance(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->distance != b->distance)
        return a->distance < b->distance ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static double distance_by_rule(const real *a, const real *b, int64_t dim, double scale)
{
    double sum = 0;
    for (int64_t c = 0; c < dim; c++) {
        double left = a[c] * scale, right = b[c] * scale;
        ROUND(left);
        const double gap = left - right;
        double square = gap * gap;
        ROUND(square);
        sum += square;
    }
    return sum;
}

/* x: (size, dim); panels: (ceil(size / PANEL), dim, PANEL), filled up with infinities */
static void pack(const real *x, int64_t size, int64_t dim, double scale, real *panels)
{
    for (int64_t first = 0; first < size; first += PANEL, panels += dim * PANEL) {
        const int64_t here = size - first < PANEL ? size - first : PANEL;
        for (int64_t j = 0; j < here; j++)
            for (int64_t c = 0; c < dim; c++)
                panels[c * PANEL + j] = (real)(x[(first + j) * dim + c] * scale);
        for (int64_t j = here; j < PANEL; j++)
            for (int64_t c = 0; c < dim; c++)
                panels[c * PANEL + j] = INFINITY;
    }
}

/* rows: (dim, AT_ONCE); distances: (AT_ONCE, stride) of these points to those of all panels */
INLINE void all_distances(const real *rows, const real *panels, int64_t num_panels, int64_t dim,
                          real *distances, int64_t stride)
{
    for (int64_t p = 0; p < num_panels; p++) {
        const real *panel = panels + p * dim * PANEL;
        vector low[AT_ONCE] = {}, high[AT_ONCE] = {};
        for (int64_t c = 0; c < dim; c++) {
            const vector a = LOAD_REALS(panel + c * PANEL), b = LOAD_REALS(panel + c * PANEL + NUM_LANES);
            for (int r = 0; r < AT_ONCE; r++) {
                const vector left = a - rows[c * AT_ONCE + r], right = b - rows[c * AT_ONCE + r];
                low[r] += left * left;
                high[r] += right * right;
            }
        }
        for (int r = 0; r < AT_ONCE; r++) {
            STORE_REALS(distances + r * stride + p * PANEL, low[r]);
            STORE_REALS(distances + r * stride + p * PANEL + NUM_LANES, high[r]);
        }
    }
}

/* A bound that at least `count` of the distances do not exceed, and few more: the distances are
 * dealt out to groups, one lane of a vector each, and of the groups' minima the count-th smallest
 * is taken. minima: room for 2 * (count + PANEL) numbers. */
static real bound_of(const real *distances, int64_t padded, int count, real *minima)
{
    int64_t groups = 2 * (count + NUM_LANES - 1) / NUM_LANES * NUM_LANES;
    groups = groups < padded ? groups : padded;
    memcpy(minima, distances, groups * sizeof(real));
    for (int64_t j = groups; j < padded; j += groups)
        for (int64_t g = 0; g < groups && j + g < padded; g += NUM_LANES)
            STORE_REALS(minima + g, least(LOAD_REALS(distances + j + g), LOAD_REALS(minima + g)));
    real bound = INFINITY;
    for (int64_t g = 0; g < groups; g++) {
        int no_larger = 0;
        for (int64_t h = 0; h < groups; h += NUM_LANES)
            no_larger += __builtin_popcount(lanes_at_most(minima + h, minima[g]));
        bound = no_larger >= count && minima[g] < bound ? minima[g] : bound;
    }
    return bound;
}

/* The `count` smallest of the distances in order, the first one's place first where they tie. */
static void smallest(const real *distances, int64_t padded, int count, real *minima, real *values,
                     int32_t *places)
{
    const real bound = bound_of(distances, padded, count, minima);
    int found = 0;
    for (int64_t j = 0; j < padded; j += NUM_LANES)
        for (uint32_t bits = lanes_at_most(distances + j, bound); bits; bits &= bits - 1) {
            const int32_t place = (int32_t)(j + __builtin_ctz(bits));
            const real distance = distances[place];
            if (found == count && !(distance < values[count - 1]))
                continue;
            int i = found < count ? found++ : count - 1;
            for (; i > 0 && values[i - 1] > distance; i--) {
                values[i] = values[i - 1];
                places[i] = places[i - 1];
            }
            values[i] = distance;
            places[i] = place;
        }
}

/* What a thread works with. */
typedef struct {
    real *rows, *distances, *minima, *values;
    int32_t *places;
    candidate *candidates;
} workspace;

static int allocate(workspace *work, int64_t stride, int64_t dim, int64_t k)
{
    stride += PANEL; /* a cloud without points has room as well */
    work->rows = malloc(dim * AT_ONCE * sizeof(real));
    work->distances = malloc(AT_ONCE * stride * sizeof(real));
    work->minima = malloc(2 * (k + 1 + PANEL) * sizeof(real));
    work->values = malloc((k + 1) * sizeof(real));
    work->places = malloc((k + 1) * sizeof(int32_t));
    work->candidates = malloc(stride * sizeof(candidate));
    return work->rows && work->distances && work->minima && work->values && work->places &&
           work->candidates;
}

static void release(workspace *work)
{
    free(work->rows);
    free(work->distances);
    free(work->minima);
    free(work->values);
    free(work->places);
    free(work->candidates);
}

/* A cloud: x is (size, dim), in rows and in panels, and y is (rows, dim). Rows of y are searched in
 * blocks, of which the first is number `first_block` of the batch. */
typedef struct {
    const real *x, *y;
    real *panels;
    int64_t *neighbors;
    int64_t size, rows, dim, start, first_block;
    int itself;
    double scale;
} cloud;

/* Decides one row by the rule, among all points that are no further than `limit` in this type. */
static void decide(const cloud *points, int64_t row, const real *distances, real limit, int64_t k,
                   candidate *candidates, int64_t *neighbors)
{
    const int64_t dim = points->dim;
    int64_t count = 0;
    for (int64_t j = 0; j < points->size; j++)
        if (distances[j] <= limit && !(points->itself && j == row)) {
            candidates[count].distance =
                distance_by_rule(points->y + row * dim, points->x + j * dim, dim, points->scale);
            candidates[count++].place = (int32_t)j;
        }
    qsort(candidates, count, sizeof(candidate), by_distance);
    for (int64_t i = 0; i < k && i < count; i++)
        neighbors[i] = points->start + candidates[i].place;
}

/* Drops neighbors that are not nearer than the radius. */
static void cut(const cloud *points, int64_t row, double radius, int64_t k, int64_t *neighbors)
{
    const int64_t dim = points->dim;
    const double scale = points->scale, limit = radius * scale * (radius * scale);
    for (int64_t i = 0; i < k; i++) {
        const real *near = points->x + (neighbors[i] - points->start) * dim;
        if (!(distance_by_rule(points->y + row * dim, near, dim, scale) < limit))
            neighbors[i] = -1;
    }
}

/* Finds the neighbors of rows `first` to `first + AT_ONCE - 1` of a cloud; neighbors: (rows, k). */
static void search(const cloud *points, int64_t first, const request *all, int64_t stride,
                   workspace *work)
{
    const int64_t dim = points->dim, k = all->k, padded = (points->size + PANEL - 1) / PANEL * PANEL;
    /* relative error of a distance: dim + 3 roundings */
    const real beta = (real)(dim + 4) * UNIT, slack = (real)dim * LOST;
    const int64_t others = points->size - points->itself;
    const int wanted = (int)(k < others ? k : others), count = (int)(k < others ? k + 1 : others);
    if (count <= 0)
        return; /* a lone point */
    for (int64_t c = 0; c < dim; c++)
        for (int64_t r = 0; r < AT_ONCE; r++) {
            const int64_t row = first + r < points->rows ? first + r : points->rows - 1;
            work->rows[c * AT_ONCE + r] = (real)(points->y[row * dim + c] * points->scale);
        }
    all_distances(work->rows, points->panels, padded / PANEL, dim, work->distances, stride);
    for (int64_t r = 0; r < AT_ONCE && first + r < points->rows; r++) {
        real *distances = work->distances + r * stride;
        int64_t *out = points->neighbors + (first + r) * k;
        if (points->itself)
            distances[first + r] = INFINITY;
        smallest(distances, padded, count, work->minima, work->values, work->places);
        int clear = 1;
        for (int i = 0; i + 1 < count; i++)
            clear &= work->values[i] * (1 + beta) + slack < work->values[i + 1] * (1 - beta) - slack;
        if (clear)
            for (int i = 0; i < wanted; i++)
                out[i] = points->start + work->places[i];
        else
            decide(points, first + r, distances,
                   work->values[wanted - 1] * (1 + 3 * beta) + 3 * slack, k, work->candidates, out);
        if (all->radius < INFINITY)
            cut(points, first + r, all->radius, wanted, out);
    }
}

/* Lays out the clouds, of which the last one is where the blocks end, in panels made for them. */
static real *lay_out(const request *all, cloud *clouds, int64_t *stride)
{
    int64_t blocks = 0, numbers = 0;
    for (int64_t b = 0; b <= all->clouds; b++) {
        const int64_t next = b < all->clouds ? b + 1 : b;
        const int64_t start = all->starts[b], size = all->starts[next] - start;
        const int64_t start_y = all->starts_y[b], rows = all->starts_y[next] - start_y;
        const int64_t padded = (size + PANEL - 1) / PANEL * PANEL;
        clouds[b] = (cloud){.x = all->x + start * all->dim, .y = all->y + start_y * all->dim};
        clouds[b].size = size, clouds[b].rows = rows, clouds[b].dim = all->dim;
        clouds[b].start = start, clouds[b].first_block = blocks, clouds[b].itself = all->itself;
        clouds[b].neighbors = all->neighbors + start_y * all->k;
        blocks += (rows + AT_ONCE - 1) / AT_ONCE;
        numbers += padded * all->dim;
        *stride = padded > *stride ? padded : *stride;
    }
    real *panels = malloc((numbers + 1) * sizeof(real)), *next = panels;
    for (int64_t b = 0; panels && b < all->clouds; b++) {
        clouds[b].panels = next;
        next += (clouds[b].size + PANEL - 1) / PANEL * PANEL * all->dim;
    }
    return panels;
}

static void prepare(request *all, cloud *points, int64_t b)
{
    points->scale = all->scales[b] = scale_of(all, b);
    pack(points->x, points->size, points->dim, points->scale, points->panels);
}

static report search_in_panels(request *all, int threads)
{
    int64_t stride = 0;
    cloud *clouds = malloc((all->clouds + 1) * sizeof(cloud));
    real *panels = clouds ? lay_out(all, clouds, &stride) : NULL;
    int failed = !panels;
#pragma omp parallel num_threads(threads)
    {
        workspace work = {0};
        if (!allocate(&work, stride, all->dim, all->k < stride ? all->k : stride)) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
#pragma omp for schedule(dynamic)
            for (int64_t b = 0; b < all->clouds; b++)
                prepare(all, clouds + b, b);
            int64_t b = 0;
#pragma omp for schedule(dynamic, 8)
            for (int64_t block = 0; block < clouds[all->clouds].first_block; block++) {
                while (block < clouds[b].first_block)
                    b--;
                while (block >= clouds[b + 1].first_block)
                    b++;
                if (clouds[b].scale > 0)
                    search(clouds + b, (block - clouds[b].first_block) * AT_ONCE, all, stride,
                           &work);
            }
        }
        release(&work);
    }
    free(panels);
    free(clouds);
    return finish(all, failed);
}

#endif
