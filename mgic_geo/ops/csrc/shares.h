/* Sums over many rows: each share of the rows has its own, and the shares' are added up in the end. So
 * their order is that of the shares, whatever the number of threads. */

#ifndef MGIC_SHARES_H
#define MGIC_SHARES_H

#include <stdlib.h>

#include "kernels.h"

#define ROWS_PER_SHARE 1024
#define MAX_SHARES 64

INLINE int64_t shares_of(int64_t rows)
{
    const int64_t shares = rows / ROWS_PER_SHARE;
    return shares < 1 ? 1 : shares > MAX_SHARES ? MAX_SHARES : shares;
}

/* Room for so many bytes, all zero, on lines of the cache of its own; null where there is none. */
__attribute__((unused)) static void *zeros(int64_t bytes)
{
    const size_t whole = (bytes / 64 + 1) * 64;
    void *room = aligned_alloc(64, whole);
    return room ? memset(room, 0, whole) : NULL;
}

#endif
