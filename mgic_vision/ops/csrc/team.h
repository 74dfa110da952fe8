/* Threads that work on one image together, or one thread that has an image for itself.
 *
 * How many threads there are is known inside a parallel region only: a limit of the environment or a
 * region around this one may grant fewer than were asked for. */

#ifndef MGIC_TEAM_H
#define MGIC_TEAM_H

#include <stdint.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "scratch.h"

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

/* Room for a region's threads in *room, which they share: `common` numbers, then `each` for every
 * one of them. Null where there is no memory. The first thread of a region is the one that called. */
INLINE void find_room(team t, int64_t common, int64_t each, float **room)
{
    if (t.rank == 0)
        *room = mgic_room(plus(common, times(t.size, each)));
    meet(t);
}

INLINE int64_t share_begin(team t, int64_t work) { return work * t.rank / t.size; }
INLINE int64_t share_end(team t, int64_t work) { return work * (t.rank + 1) / t.size; }

#endif
