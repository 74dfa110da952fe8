/* The rule by which neighbors are ordered, for coordinates in float32 or, where DOUBLES_ARE_SEARCHED
 * is defined, in float64. */

#ifndef MGIC_KNN_RULE_H
#define MGIC_KNN_RULE_H

#include <math.h>
#include <stdlib.h>

#include "entry.h"
#include "kernels.h"

#ifdef DOUBLES_ARE_SEARCHED
typedef double real;
#define REALS DOUBLES
#else
typedef float real;
#define REALS FLOATS
#endif

/* The largest magnitude, at least `largest`; infinite where a coordinate is not finite. */
static real largest_of(const real *x, int64_t count, real largest)
{
    int finite = 1;
    for (int64_t i = 0; i < count; i++) {
        const real size = x[i] < 0 ? -x[i] : x[i];
        finite &= size < (real)INFINITY;
        largest = size > largest ? size : largest;
    }
    return finite ? largest : (real)INFINITY;
}

/* What is searched: clouds one after another, the points that have neighbors in them, and where
 * the points of every cloud start. Without `starts_y` these are the points themselves, none of which
 * is its own neighbor. Only what is nearer than `radius` counts. */
typedef struct {
    const real *x, *y;
    const int64_t *starts, *starts_y;
    int64_t clouds, points, rows, dim, k, largest;
    double radius;
    int itself; /* whether y is x */
    int64_t *neighbors; /* (rows, k), -1 so far */
    double *scales;     /* of clouds, for the search to fill */
} request;

#define GIVEN                                                                                      \
    x, x_length, dim, starts, starts_length, y, y_length, starts_y, starts_y_length, k, radius,    \
        neighbors, neighbors_length

#define MAX_DIM 65536 /* of the error bounds */

/* Checks arguments of an entry point, GIVEN, and sorts them into a request. */
static report read_request(REALS(x), int64_t dim, INTS(starts), REALS(y), INTS(starts_y), int64_t k,
                           double radius, OUT_INTS(neighbors), request *all)
{
    WITHIN(dim, 1, MAX_DIM);
    WITHIN(k, 1, INT32_MAX);
    CHECK(radius >= 0, "radius must be 0 or more, got %g", radius);
    const int itself = !starts_y_length;
    const int64_t clouds = starts_length - 1, points = x_length / dim;
    const int64_t rows = itself ? points : y_length / dim;
    WITHIN(points, 0, INT32_MAX - 1);
    WITHIN(rows, 0, INT32_MAX - 1);
    HOLDS(x, times(points, dim));
    HOLDS(y, itself ? 0 : times(rows, dim));
    HOLDS(neighbors, times(rows, k));
    TRY(check_starts("starts", starts, clouds + 1, points));
    if (!itself) {
        HOLDS(starts_y, clouds + 1);
        TRY(check_starts("starts_y", starts_y, clouds + 1, rows));
    }
    const int64_t *other = itself ? starts : starts_y;
    CHECK(starts[clouds] == points, "starts must end with the number of points, %lld, got %lld",
          (long long)points, (long long)starts[clouds]);
    CHECK(other[clouds] == rows, "starts_y must end with the rows of y, %lld, got %lld",
          (long long)rows, (long long)other[clouds]);
    int64_t largest = 0;
    for (int64_t b = 0; b < clouds; b++)
        largest = starts[b + 1] - starts[b] > largest ? starts[b + 1] - starts[b] : largest;
    *all = (request){x,   itself ? x : y, starts,  other,  clouds, points,    rows,
                     dim, k,              largest, radius, itself, neighbors, NULL};
    all->scales = malloc((clouds + 1) * sizeof(double));
    return all->scales ? NULL : NO_MEMORY;
}

/* What a search reports in the end: without scale is the cloud that is not finite. */
static report finish(request *all, int failed)
{
    int64_t finite = 0;
    while (!failed && finite < all->clouds && all->scales[finite] > 0)
        finite++;
    free(all->scales);
    if (failed)
        return NO_MEMORY;
    CHECK(finite == all->clouds, "x must be finite, is not in cloud %lld", (long long)finite);
    return NULL;
}

/* The power of two that brings the largest coordinate of a cloud into [1/2, 1), as far as there is
 * one, so that no square over- or underflows; multiplying by it changes no order. A coordinate that
 * is not finite gives 0. */
static double scale_of(const request *all, int64_t b)
{
    const int64_t dim = all->dim, start = all->starts[b], start_y = all->starts_y[b];
    double largest = largest_of(all->x + start * dim, (all->starts[b + 1] - start) * dim, 0);
    if (!all->itself)
        largest = largest_of(all->y + start_y * dim, (all->starts_y[b + 1] - start_y) * dim,
                             (real)largest);
    int exponent = 0;
    frexp(largest > 0x1p-1000 ? largest : 0x1p-1000, &exponent);
    return largest < INFINITY ? ldexp(1, -exponent) : 0;
}

#endif
