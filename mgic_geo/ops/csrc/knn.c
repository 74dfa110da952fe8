/* The search of knn_panels.h in float32. */

#include "knn_panels.h"

ENTRY mgic_knn(FLOATS(x), int64_t dim, INTS(starts), FLOATS(y), INTS(starts_y), int64_t k,
               double radius, OUT_INTS(neighbors), int threads)
{
    request all;
    TRY(read_request(GIVEN, &all));
    return search_in_panels(&all, threads);
}
