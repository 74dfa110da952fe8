/* The k nearest points of a cloud to every point of another one, in up to three dimensions, by the
 * rule of knn_panels.h and exactly, without looking at all pairs.
 *
 * A box of the tree is left out where no point in it can come before those that were found. Its
 * distance is computed as those of points are, with the same roundings in the same order; rounding
 * keeps order, so it never exceeds that of a point in the box. Where it equals the last one's the
 * smallest index in the box decides, so that duplicates without number are left out as well. */

#include "knn_tree.h"

#define DEPTH 64 /* more than the logarithm of any number of leaves */
#define BLOCK 64 /* queries that a thread takes at a time */

/* The nearest points so far, in order, and what comes before the last one of `wanted`. */
typedef struct {
    double *distances;
    int32_t *places;
    int64_t found, wanted;
    double limit;  /* no point further than this one is wanted, */
    int32_t until; /* and of those as far only with a smaller place */
} nearest;

INLINE void take(nearest *list, double distance, int32_t place)
{
    if (distance == list->limit && place >= list->until)
        return;
    int64_t i = list->found < list->wanted ? list->found++ : list->wanted - 1;
    for (; i > 0 && (list->distances[i - 1] > distance ||
                     (list->distances[i - 1] == distance && list->places[i - 1] > place));
         i--) {
        list->distances[i] = list->distances[i - 1];
        list->places[i] = list->places[i - 1];
    }
    list->distances[i] = distance;
    list->places[i] = place;
    if (list->found == list->wanted) {
        list->limit = list->distances[list->wanted - 1];
        list->until = list->places[list->wanted - 1];
    }
}

static void visit(const leaf *points, const point *query, int32_t itself, nearest *list)
{
    double distances[LEAF];
    for (int j = 0; j < LEAF; j += WIDE_LANES) {
        wide sum = {};
        for (int c = 0; c < AXES; c++) {
            const wide gap = LOAD_WIDE(points->at[c] + j) - query->at[c];
            wide square = gap * gap;
            ROUND(square);
            sum += square;
        }
        STORE_WIDE(distances + j, sum);
    }
    for (int j = 0; j < LEAF; j += WIDE_LANES)
        for (uint32_t bits = wide_at_most(distances + j, list->limit); bits; bits &= bits - 1) {
            const int at = j + __builtin_ctz(bits);
            if (points->places[at] != itself && distances[at] <= list->limit)
                take(list, distances[at], points->places[at]);
        }
}

INLINE double distance_to(const box *of, const point *query)
{
    double sum = 0;
    for (int c = 0; c < AXES; c++) {
        const double below = of->low[c] - query->at[c], above = query->at[c] - of->high[c];
        double gap = below > above ? below : above;
        gap = gap > 0 ? gap : 0;
        double square = gap * gap;
        ROUND(square);
        sum += square;
    }
    return sum;
}

typedef struct {
    double distance;
    int64_t box, leaf, leaves;
} part;

static int comes_first(const part *a, const part *b, const box *boxes)
{
    return a->distance < b->distance ||
           (a->distance == b->distance && boxes[a->box].first < boxes[b->box].first);
}

static void search(const tree *points, const point *query, int32_t itself, nearest *list)
{
    part waiting[DEPTH];
    int count = 0;
    if (points->num_leaves)
        waiting[count++] = (part){distance_to(points->boxes, query), 0, 0, points->num_leaves};
    while (count) {
        part here = waiting[--count];
        while (here.distance < list->limit ||
               (here.distance == list->limit && points->boxes[here.box].first < list->until)) {
            if (here.leaves == 1) {
                visit(points->leaves + here.leaf, query, itself, list);
                break;
            }
            const int64_t left = left_half(here.leaves);
            part a = {0, here.box + 1, here.leaf, left};
            part b = {0, here.box + 2 * left, here.leaf + left, here.leaves - left};
            a.distance = distance_to(points->boxes + a.box, query);
            b.distance = distance_to(points->boxes + b.box, query);
            const int ordered = comes_first(&a, &b, points->boxes);
            waiting[count++] = ordered ? b : a;
            here = ordered ? a : b;
        }
    }
}

static void place(const double *x, int64_t size, double scale, point *points)
{
    for (int64_t i = 0; i < size; i++) {
        for (int c = 0; c < AXES; c++)
            points[i].at[c] = x[i * AXES + c] * scale;
        points[i].place = (int32_t)i;
    }
}

/* What is kept of all clouds; `queries` are the points themselves where there are no others. */
typedef struct {
    point *points, *queries;
    box *boxes;
    leaf *leaves;
    tree *trees;
} forest;

static int allocate(forest *woods, const request *all)
{
    int64_t leaves = 0;
    for (int64_t b = 0; b < all->clouds; b++)
        leaves += leaves_of(all->starts[b + 1] - all->starts[b]);
    woods->points = malloc((all->points + 1) * sizeof(point));
    woods->queries = all->itself ? woods->points : malloc((all->rows + 1) * sizeof(point));
    woods->boxes = malloc((2 * leaves + 1) * sizeof(box));
    woods->leaves = malloc((leaves + 1) * sizeof(leaf));
    woods->trees = malloc((all->clouds + 1) * sizeof(tree));
    if (!woods->points || !woods->queries || !woods->boxes || !woods->leaves || !woods->trees)
        return 0;
    for (int64_t b = 0, first = 0; b < all->clouds; b++) {
        const int64_t here = leaves_of(all->starts[b + 1] - all->starts[b]);
        woods->trees[b] = (tree){woods->boxes + 2 * first, woods->leaves + first, here};
        first += here;
    }
    return 1;
}

static void release(forest *woods)
{
    if (woods->queries != woods->points)
        free(woods->queries);
    free(woods->points);
    free(woods->boxes);
    free(woods->leaves);
    free(woods->trees);
}

static void plant(const request *all, int64_t b, forest *woods)
{
    const int64_t start = all->starts[b], size = all->starts[b + 1] - start;
    const double scale = all->scales[b] = scale_of(all, b);
    if (!(scale > 0))
        return;
    place(all->x + start * AXES, size, scale, woods->points + start);
    if (!all->itself) {
        const int64_t first = all->starts_y[b], count = all->starts_y[b + 1] - first;
        place(all->y + first * AXES, count, scale, woods->queries + first);
    }
    if (size)
        grow(woods->points + start, size, woods->trees[b].boxes, woods->trees[b].leaves);
}

/* The cloud of a row, in clouds that start at these rows. */
static int64_t cloud_of(const int64_t *starts, int64_t clouds, int64_t row)
{
    int64_t low = 0, high = clouds;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (starts[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Finds the neighbors of the queries from number `from` on, BLOCK at most. */
static void answer(const request *all, int64_t from, const forest *woods, nearest list)
{
    int64_t b = cloud_of(all->starts_y, all->clouds, from);
    for (int64_t i = from; i < from + BLOCK && i < all->rows; i++) {
        while (i >= all->starts_y[b + 1])
            b++;
        if (!(all->scales[b] > 0))
            continue;
        const point *query = woods->queries + i;
        list.found = 0;
        list.limit = all->radius * all->scales[b] * (all->radius * all->scales[b]);
        list.until = INT32_MIN; /* strictly nearer than the radius */
        search(woods->trees + b, query, all->itself ? query->place : -1, &list);
        int64_t *out = all->neighbors + (all->starts_y[b] + query->place) * all->k;
        for (int64_t n = 0; n < list.found; n++)
            out[n] = all->starts[b] + list.places[n];
    }
}

/* x, y: (points, 3) and (rows, 3), with zeros in axes that are not there. */
ENTRY mgic_knn_tree(DOUBLES(x), int64_t dim, INTS(starts), DOUBLES(y), INTS(starts_y), int64_t k,
                    double radius, OUT_INTS(neighbors), int threads)
{
    request all;
    forest woods = {0};
    WITHIN(dim, AXES, AXES);
    TRY(read_request(GIVEN, &all));
    const int64_t wanted = k < all.largest ? k : all.largest;
    int failed = !allocate(&woods, &all);
#pragma omp parallel num_threads(threads)
    {
        nearest list = {.wanted = wanted};
        list.distances = malloc((wanted + 1) * sizeof(double));
        list.places = malloc((wanted + 1) * sizeof(int32_t));
        if (!list.distances || !list.places) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
#pragma omp for schedule(dynamic)
            for (int64_t b = 0; b < all.clouds; b++)
                plant(&all, b, &woods);
#pragma omp for schedule(dynamic)
            for (int64_t from = 0; from < all.rows; from += BLOCK)
                answer(&all, from, &woods, list);
        }
        free(list.distances);
        free(list.places);
    }
    release(&woods);
    return finish(&all, failed);
}
