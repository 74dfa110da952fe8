/* The search of knn_panels.h in float64. */

#define DOUBLES_ARE_SEARCHED
#include "knn_panels.h"

ENTRY mgic_knn_double(DOUBLES(x), int64_t dim, INTS(starts), DOUBLES(y), INTS(starts_y), int64_t k,
                      double radius, OUT_INTS(neighbors), int threads)
{
    request all;
    TRY(read_request(GIVEN, &all));
    return search_in_panels(&all, threads);
}
