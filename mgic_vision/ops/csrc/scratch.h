/* Memory that a thread keeps from call to call, and sizes that may be too large for any. */

#ifndef MGIC_SCRATCH_H
#define MGIC_SCRATCH_H

#include "entry.h"
#include "kernels.h"

/* Room for so many numbers, or null where there is none: the calling thread's until it asks again,
 * freed where it ends. Fresh pages would cost more than what is computed in them. */
__attribute__((visibility("hidden"))) float *mgic_room(int64_t numbers);

/* a + b, or -1 where one is negative or the sum too large: what mgic_room has no room for. */
INLINE int64_t plus(int64_t a, int64_t b)
{
    int64_t sum;
    if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &sum))
        return -1;
    return sum;
}

/* So many numbers, filled up to whole vectors. */
INLINE int64_t filled(int64_t numbers)
{
    const int64_t enough = plus(numbers, LANES - 1);
    return enough < 0 ? -1 : enough / LANES * LANES;
}

#endif
