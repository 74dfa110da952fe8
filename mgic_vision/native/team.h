/* Threads that work on one image together, or one thread that has an image for itself. */

#ifndef MGIC_TEAM_H
#define MGIC_TEAM_H

#include <stdint.h>
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernels.h"

typedef struct {
    int rank, size;
} team;

/* The threads of a parallel region, where there is one. */
INLINE team all_threads(void)
{
#ifdef _OPENMP
    return (team){omp_get_thread_num(), omp_get_num_threads()};
#else
    return (team){0, 1};
#endif
}

/* Wait for the others. All threads of a region are in a team of that size, or each is alone. */
INLINE void meet(team t)
{
    if (t.size > 1) {
#pragma omp barrier
    }
}

INLINE int64_t share_begin(team t, int64_t work) { return work * t.rank / t.size; }
INLINE int64_t share_end(team t, int64_t work) { return work * (t.rank + 1) / t.size; }

/* Room that a thread keeps from call to call: fresh pages would cost more than what is computed in
 * them. Null where there is no memory. */
typedef struct {
    float *numbers;
    int64_t size;
} arena;

static float *room(arena *a, int64_t size)
{
    if (a->size < size) {
        free(a->numbers);
        a->size = 0;
        a->numbers = aligned_alloc(64, (size_t)((size * 4 + 63) / 64 * 64));
        if (a->numbers)
            a->size = size;
    }
    return a->numbers;
}

#endif
