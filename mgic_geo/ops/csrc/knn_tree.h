/* A tree of points in up to three dimensions.
 *
 * The points of a cloud are halved along the longest side of the box around them, and the halves
 * again, until LEAF are left. Halves are split by index where coordinates tie, so that boxes of
 * duplicates are ranges of the index. */

#ifndef MGIC_KNN_TREE_H
#define MGIC_KNN_TREE_H

#define DOUBLES_ARE_SEARCHED
#include "knn_rule.h"

#define AXES 3
#define LEAF 16  /* points of a leaf, side by side */

typedef struct {
    double at[AXES];
    int32_t place;
} point;

typedef struct {
    double low[AXES], high[AXES];
    int32_t first; /* smallest place of a point in it */
} box;

typedef struct {
    double at[AXES][LEAF];
    int32_t places[LEAF];
} leaf;

/* Boxes in the order of a walk that goes left first: the left half of box b is box b + 1, and the
 * right half of it comes after the 2 * l - 1 boxes of the l leaves on the left. */
typedef struct {
    box *boxes;
    leaf *leaves;
    int64_t num_leaves;
} tree;

static int64_t leaves_of(int64_t points) { return (points + LEAF - 1) / LEAF; }

static int64_t left_half(int64_t leaves) { return (leaves + 1) / 2; }

static int before(const point *a, const point *b, int axis)
{
    return a->at[axis] < b->at[axis] || (a->at[axis] == b->at[axis] && a->place < b->place);
}

/* Moves the `count` first points along an axis to the front (Hoare's selection). Pivots are drawn,
 * so that no order of points is a bad one. */
static void select_first(point *points, int64_t size, int64_t count, int axis)
{
    int64_t low = 0, high = size - 1;
    uint64_t state = 0x9E3779B97F4A7C15;
    while (low < high) {
        state = state * 6364136223846793005 + 1442695040888963407;
        const point pivot = points[low + (int64_t)((state >> 33) % (uint64_t)(high - low + 1))];
        int64_t i = low, j = high;
        while (i <= j) {
            while (before(points + i, &pivot, axis))
                i++;
            while (before(&pivot, points + j, axis))
                j--;
            if (i <= j) {
                const point moved = points[i];
                points[i++] = points[j];
                points[j--] = moved;
            }
        }
        if (count <= j)
            high = j;
        else if (count > i)
            low = i;
        else
            return;
    }
}

static box box_around(const point *points, int64_t size)
{
    box around = {{INFINITY, INFINITY, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}, INT32_MAX};
    for (int64_t i = 0; i < size; i++) {
        for (int c = 0; c < AXES; c++) {
            const double at = points[i].at[c];
            around.low[c] = at < around.low[c] ? at : around.low[c];
            around.high[c] = at > around.high[c] ? at : around.high[c];
        }
        around.first = points[i].place < around.first ? points[i].place : around.first;
    }
    return around;
}

static int longest_side(const box *of)
{
    int longest = 0;
    for (int c = 1; c < AXES; c++)
        if (of->high[c] - of->low[c] > of->high[longest] - of->low[longest])
            longest = c;
    return longest;
}

/* Fills a leaf up with what is nowhere. */
static void pack(const point *points, int64_t size, leaf *into)
{
    for (int64_t j = 0; j < LEAF; j++) {
        for (int c = 0; c < AXES; c++)
            into->at[c][j] = j < size ? points[j].at[c] : INFINITY;
        into->places[j] = j < size ? points[j].place : INT32_MAX;
    }
}

static void grow(point *points, int64_t size, box *boxes, leaf *leaves)
{
    boxes[0] = box_around(points, size);
    if (size <= LEAF) {
        pack(points, size, leaves);
        return;
    }
    const int64_t left = left_half(leaves_of(size)), count = left * LEAF;
    select_first(points, size, count, longest_side(boxes));
    grow(points, count, boxes + 1, leaves);
    grow(points + count, size - count, boxes + 2 * left, leaves + left);
}

#endif
