/* Farthest point sampling: each chosen point is the one that is farthest from all before it. */

#include <math.h>
#include <stdlib.h>

#include "entry.h"
#include "kernels.h"

/* A cloud: coordinate c of point i is x[c * stride + i]. */
typedef struct {
    const double *x;
    int64_t stride, dim, size;
} cloud;

static double distance(const cloud *of, int64_t a, int64_t b)
{
    double sum = 0;
    for (int64_t c = 0; c < of->dim; c++) {
        const double gap = of->x[c * of->stride + a] - of->x[c * of->stride + b];
        double square = gap * gap;
        ROUND(square);
        sum += square;
    }
    return sum;
}

/* nearest: squared distance of every point to the nearest of those chosen, of which `last` is new */
static void update(const cloud *of, int64_t last, double *nearest)
{
    int64_t i = 0;
    for (; i + WIDE_LANES <= of->size; i += WIDE_LANES) {
        wide sum = {};
        for (int64_t c = 0; c < of->dim; c++) {
            const double *column = of->x + c * of->stride;
            const wide gap = LOAD_WIDE(column + i) - column[last];
            wide square = gap * gap;
            ROUND(square);
            sum += square;
        }
        for (int lane = 0; lane < WIDE_LANES; lane++)
            nearest[i + lane] = sum[lane] < nearest[i + lane] ? sum[lane] : nearest[i + lane];
    }
    for (; i < of->size; i++) {
        const double here = distance(of, i, last);
        nearest[i] = here < nearest[i] ? here : nearest[i];
    }
}

/* The first of the largest numbers. */
static int64_t farthest(const double *nearest, int64_t size)
{
    int64_t best = 0;
    for (int64_t i = 1; i < size; i++)
        best = nearest[i] > nearest[best] ? i : best;
    return best;
}

/* x: (dim, points), the clouds one after another; starts, ends: (clouds + 1), of their points and of
 * those chosen; first: (clouds), the place of the first one in its cloud; chosen: row numbers. */
ENTRY mgic_farthest(DOUBLES(x), int64_t dim, INTS(starts), INTS(ends), INTS(first),
                    OUT_INTS(chosen), int threads)
{
    WITHIN(dim, 1, INT32_MAX);
    const int64_t clouds = starts_length - 1, points = x_length / dim;
    HOLDS(x, times(points, dim));
    HOLDS(ends, clouds + 1);
    HOLDS(first, clouds);
    TRY(check_starts("starts", starts, clouds + 1, points));
    TRY(check_starts("ends", ends, clouds + 1, points));
    HOLDS(chosen, ends[clouds]);
    for (int64_t b = 0; b < clouds; b++) {
        const int64_t size = starts[b + 1] - starts[b], wanted = ends[b + 1] - ends[b];
        CHECK(wanted <= size, "ends must ask for %lld points of cloud %lld at most, got %lld",
              (long long)size, (long long)b, (long long)wanted);
        CHECK(!wanted || (first[b] >= 0 && first[b] < size),
              "first[%lld] must be from 0 to %lld, got %lld", (long long)b, (long long)size - 1,
              (long long)first[b]);
    }
    double *nearest = malloc((points + 1) * sizeof(double));
    if (!nearest)
        return NO_MEMORY;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t b = 0; b < clouds; b++) {
        const cloud of = {x + starts[b], points, dim, starts[b + 1] - starts[b]};
        double *own = nearest + starts[b];
        for (int64_t i = 0; i < of.size; i++)
            own[i] = INFINITY;
        for (int64_t i = ends[b], last = first[b]; i < ends[b + 1]; i++) {
            chosen[i] = starts[b] + last;
            update(&of, last, own);
            last = farthest(own, of.size);
        }
    }
    free(nearest);
    return NULL;
}
