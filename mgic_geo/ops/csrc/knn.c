/* The k nearest points of every point of a cloud, by (squared distance, index), exactly.
 *
 * The rule is a sum in float64, (x_i1 - x_j1)^2 + (x_i2 - x_j2)^2 + ..., in this order and every
 * operation rounded once. Here the distances are taken in float32 first, by differences as well:
 * nothing cancels, so that their error is relative to the distance itself. Where the intervals of
 * two candidates overlap, those that could be among the first k are decided by the rule. */

#include <math.h>
#include <stdlib.h>

#include "entry.h"
#include "kernels.h"

#define AT_ONCE (LANES < 16 ? 4 : 8) /* points whose distances are found together, in registers */
#define PANEL (2 * LANES)         /* points in a panel, stored coordinate by coordinate */

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

static double distance_by_rule(const float *a, const float *b, int64_t dim, double scale)
{
    double sum = 0;
    for (int64_t c = 0; c < dim; c++) {
        /* volatile: a fused multiply-add would round once where the rule rounds twice */
        const double gap = a[c] * scale - b[c] * scale;
        volatile double square = gap * gap;
        sum += square;
    }
    return sum;
}

/* The power of two that brings the largest coordinate into [1/2, 1), so that no square over- or
 * underflows; multiplying by it changes no order. A coordinate that is not finite gives 0. */
static double scale_of(const float *x, int64_t count)
{
    float largest = 0;
    int finite = 1;
    for (int64_t i = 0; i < count; i++) {
        const float size = fabsf(x[i]);
        finite &= size <= 0x1.fffffep127f;
        largest = size > largest ? size : largest;
    }
    int exponent = 0;
    frexp(largest, &exponent);
    return finite ? ldexp(1, -exponent) : 0;
}

/* x: (size, dim); panels: (ceil(size / PANEL), dim, PANEL), filled up with infinities */
static void pack(const float *x, int64_t size, int64_t dim, double scale, float *panels)
{
    for (int64_t first = 0; first < size; first += PANEL, panels += dim * PANEL) {
        const int64_t here = size - first < PANEL ? size - first : PANEL;
        for (int64_t j = 0; j < here; j++)
            for (int64_t c = 0; c < dim; c++)
                panels[c * PANEL + j] = (float)(x[(first + j) * dim + c] * scale);
        for (int64_t j = here; j < PANEL; j++)
            for (int64_t c = 0; c < dim; c++)
                panels[c * PANEL + j] = INFINITY;
    }
}

/* rows: (dim, AT_ONCE); distances: (AT_ONCE, stride) of these points to those of all panels */
INLINE void all_distances(const float *rows, const float *panels, int64_t num_panels, int64_t dim,
                          float *distances, int64_t stride)
{
    for (int64_t p = 0; p < num_panels; p++) {
        const float *panel = panels + p * dim * PANEL;
        vec low[AT_ONCE] = {}, high[AT_ONCE] = {};
        for (int64_t c = 0; c < dim; c++) {
            const vec a = LOAD(panel + c * PANEL), b = LOAD(panel + c * PANEL + LANES);
            for (int r = 0; r < AT_ONCE; r++) {
                const vec left = a - rows[c * AT_ONCE + r], right = b - rows[c * AT_ONCE + r];
                low[r] += left * left;
                high[r] += right * right;
            }
        }
        for (int r = 0; r < AT_ONCE; r++) {
            STORE(distances + r * stride + p * PANEL, low[r]);
            STORE(distances + r * stride + p * PANEL + LANES, high[r]);
        }
    }
}

/* A bound that at least `count` of the distances do not exceed, and few more: the distances are
 * dealt out to groups, one lane of a vector each, and of the groups' minima the count-th smallest
 * is taken. minima: room for 2 * (count + PANEL) numbers. */
static float bound_of(const float *distances, int64_t padded, int count, float *minima)
{
    int64_t groups = 2 * (count + LANES - 1) / LANES * LANES;
    groups = groups < padded ? groups : padded;
    memcpy(minima, distances, groups * sizeof(float));
    for (int64_t j = groups; j < padded; j += groups)
        for (int64_t g = 0; g < groups && j + g < padded; g += LANES)
            STORE(minima + g, smaller(LOAD(distances + j + g), LOAD(minima + g)));
    float bound = INFINITY;
    for (int64_t g = 0; g < groups; g++) {
        int no_larger = 0;
        for (int64_t h = 0; h < groups; h += LANES)
            no_larger += __builtin_popcount(at_most(minima + h, minima[g]));
        bound = no_larger >= count && minima[g] < bound ? minima[g] : bound;
    }
    return bound;
}

/* The `count` smallest of the distances in order, the first one's place first where they tie. */
static void smallest(const float *distances, int64_t padded, int count, float *minima,
                     float *values, int32_t *places)
{
    const float bound = bound_of(distances, padded, count, minima);
    int found = 0;
    for (int64_t j = 0; j < padded; j += LANES)
        for (uint32_t bits = at_most(distances + j, bound); bits; bits &= bits - 1) {
            const int32_t place = (int32_t)(j + __builtin_ctz(bits));
            const float distance = distances[place];
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
    float *rows, *distances, *minima, *values;
    int32_t *places;
    candidate *candidates;
} workspace;

static int allocate(workspace *work, int64_t stride, int64_t dim, int64_t k)
{
    work->rows = malloc(dim * AT_ONCE * sizeof(float));
    work->distances = malloc(AT_ONCE * stride * sizeof(float));
    work->minima = malloc(2 * (k + 1 + PANEL) * sizeof(float));
    work->values = malloc((k + 1) * sizeof(float));
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

/* A cloud: x is (size, dim), in rows and in panels; row 0 is number `start` of the batch. Its rows
 * are searched in blocks, of which the first is number `first_block` of the batch. */
typedef struct {
    const float *x;
    float *panels;
    int64_t start, size, dim, first_block;
    double scale;
} cloud;

/* Decides one row by the rule, among all points that are no further than `limit` in float32. */
static void decide(const cloud *points, int64_t row, const float *distances, float limit, int64_t k,
                   candidate *candidates, int64_t *neighbors)
{
    const float *x = points->x;
    const int64_t dim = points->dim;
    int64_t count = 0;
    for (int64_t j = 0; j < points->size; j++)
        if (j != row && distances[j] <= limit) {
            candidates[count].distance =
                distance_by_rule(x + row * dim, x + j * dim, dim, points->scale);
            candidates[count++].place = (int32_t)j;
        }
    qsort(candidates, count, sizeof(candidate), by_distance);
    for (int64_t i = 0; i < k && i < count; i++)
        neighbors[i] = points->start + candidates[i].place;
}

/* Finds the neighbors of points `first` to `first + AT_ONCE - 1` of a cloud; neighbors: (size, k). */
static void search(const cloud *points, int64_t first, int64_t k, int64_t stride, workspace *work,
                   int64_t *neighbors)
{
    const int64_t size = points->size, dim = points->dim;
    const int64_t num_panels = (size + PANEL - 1) / PANEL;
    /* relative error of a distance: dim + 3 roundings, doubled for what is of higher order; and
     * what a sum of squares may lose below float32's range */
    const float beta = (float)(dim + 4) * 0x1p-23f, slack = (float)dim * 0x1p-120f;
    const int wanted = (int)(k < size - 1 ? k : size - 1);
    const int count = (int)(k < size - 1 ? k + 1 : size - 1);
    if (count == 0)
        return; /* a lone point */
    for (int64_t c = 0; c < dim; c++)
        for (int64_t r = 0; r < AT_ONCE; r++) {
            const int64_t row = first + r < size ? first + r : size - 1;
            work->rows[c * AT_ONCE + r] = (float)(points->x[row * dim + c] * points->scale);
        }
    all_distances(work->rows, points->panels, num_panels, dim, work->distances, stride);
    for (int64_t r = 0; r < AT_ONCE && first + r < size; r++) {
        float *distances = work->distances + r * stride;
        int64_t *out = neighbors + (first + r) * k;
        distances[first + r] = INFINITY;
        smallest(distances, num_panels * PANEL, count, work->minima, work->values, work->places);
        int clear = 1;
        for (int i = 0; i + 1 < count; i++)
            clear &= work->values[i] * (1 + beta) + slack < work->values[i + 1] * (1 - beta) - slack;
        if (clear)
            for (int i = 0; i < wanted; i++)
                out[i] = points->start + work->places[i];
        else
            decide(points, first + r, distances,
                   work->values[wanted - 1] * (1 + 3 * beta) + 3 * slack, k, work->candidates, out);
    }
}

#define MAX_DIM 65536 /* of the error bound */

/* x: (points, dim), the clouds one after another; starts: (clouds + 1); panels: room for
 * (points + clouds * PANEL) * dim at least; neighbors: (points, k), -1. */
ENTRY mgic_knn(FLOATS(x), int64_t points, int64_t dim, INTS(starts), int64_t k, OUT_FLOATS(panels),
               OUT_INTS(neighbors), int threads)
{
    const int64_t clouds = starts_length - 1;
    WITHIN(points, 0, INT32_MAX);
    WITHIN(dim, 1, MAX_DIM);
    WITHIN(k, 1, INT32_MAX);
    HOLDS(x, times(points, dim));
    HOLDS(neighbors, times(points, k));
    TRY(check_starts("starts", starts, clouds + 1, points));
    CHECK(starts[clouds] == points, "starts must end with the number of points, %lld, got %lld",
          (long long)points, (long long)starts[clouds]);
    const int64_t needed = times(points + times(clouds, PANEL), dim);
    CHECK(panels_length >= needed, "panels must have %lld numbers, got %lld", (long long)needed,
          (long long)panels_length);
    int64_t stride = 0, blocks = 0;
    int failed = 0;
    cloud *all = malloc((clouds + 1) * sizeof(cloud)); /* the last one is where the blocks end */
    if (!all)
        return NO_MEMORY;
    for (int64_t b = 0; b < clouds; b++) {
        const int64_t size = starts[b + 1] - starts[b], padded = (size + PANEL - 1) / PANEL * PANEL;
        all[b] = (cloud){x + starts[b] * dim, panels, starts[b], size, dim, blocks, 0};
        panels += padded * dim;
        blocks += (size + AT_ONCE - 1) / AT_ONCE;
        stride = padded > stride ? padded : stride;
    }
    all[clouds].first_block = blocks;
#pragma omp parallel num_threads(threads)
    {
        workspace work = {0};
        if (!allocate(&work, stride, dim, k < stride ? k : stride)) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
#pragma omp for schedule(dynamic)
            for (int64_t b = 0; b < clouds; b++) {
                all[b].scale = scale_of(all[b].x, all[b].size * dim);
                pack(all[b].x, all[b].size, dim, all[b].scale, all[b].panels);
            }
            int64_t b = 0;
#pragma omp for schedule(dynamic, 8)
            for (int64_t block = 0; block < blocks; block++) {
                while (block < all[b].first_block)
                    b--;
                while (block >= all[b + 1].first_block)
                    b++;
                if (all[b].scale > 0)
                    search(all + b, (block - all[b].first_block) * AT_ONCE, k, stride, &work,
                           neighbors + all[b].start * k);
            }
        }
        release(&work);
    }
    int64_t finite = 0;
    while (!failed && finite < clouds && all[finite].scale > 0)
        finite++;
    free(all);
    if (failed)
        return NO_MEMORY;
    CHECK(finite == clouds, "x must be finite, is not in cloud %lld", (long long)finite);
    return NULL;
}
