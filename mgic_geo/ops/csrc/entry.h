/* Entry points: what Python calls. See call.py, which reads their prototypes.
 *
 * Nothing that comes from Python is trusted. An array comes with its length, call.py has seen to
 * its type, its device and its order in memory, and the entry point checks sizes against lengths
 * and every index that it follows. What does not fit is reported in words. */

#ifndef MGIC_ENTRY_H
#define MGIC_ENTRY_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

/* Null where all is well, or what is wrong; NO_MEMORY is told from wrong arguments by its address. */
typedef const char *report;

#define ENTRY __attribute__((visibility("default"))) report

/* Arrays among the arguments; null and 0 where Python passes None. ROWS: two axes, numbers of a row
 * side by side, rows any distance apart. IMAGES: (batch, height, width, channels) in memory. */
#define FLOATS(x) const float *x, int64_t x##_length
#define OUT_FLOATS(x) float *x, int64_t x##_length
#define DOUBLES(x) const double *x, int64_t x##_length
#define OUT_DOUBLES(x) double *x, int64_t x##_length
#define INTS(x) const int64_t *x, int64_t x##_length
#define OUT_INTS(x) int64_t *x, int64_t x##_length
#define ROWS(x) const float *x, int64_t x##_length, int64_t x##_stride
#define IMAGES(x) const float *x, int64_t x##_length
#define OUT_IMAGES(x) float *x, int64_t x##_length

static const char NO_MEMORY[] __attribute__((unused)) = "no memory";

/* The text lives until the thread's next report. */
__attribute__((unused, format(printf, 1, 2))) static report problem(const char *format, ...)
{
    static _Thread_local char text[256];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof(text), format, values);
    va_end(values);
    return text;
}

#define CHECK(holds, ...)                                                                          \
    do {                                                                                           \
        if (!(holds))                                                                              \
            return problem(__VA_ARGS__);                                                           \
    } while (0)

/* Passes on what another function reports. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        const report wrong = call;                                                                 \
        if (wrong)                                                                                 \
            return wrong;                                                                          \
    } while (0)

/* An array of exactly so many numbers, or of that many or none. */
#define HOLDS(x, count)                                                                            \
    CHECK(x##_length == (count) && (x || !(count)), #x " must have %lld numbers, got %lld",        \
          (long long)(count), (long long)x##_length)
#define HOLDS_OR_NULL(x, count)                                                                    \
    do {                                                                                           \
        if (x || x##_length)                                                                       \
            HOLDS(x, count);                                                                       \
    } while (0)

/* A number in [low, high]. */
#define WITHIN(n, low, high)                                                                       \
    CHECK((n) >= (low) && (n) <= (high), #n " must be from %lld to %lld, got %lld",                \
          (long long)(low), (long long)(high), (long long)(n))

#define MAX_SIZE ((int64_t)1 << 40) /* of an axis; no array is that long */

/* a * b, or -1 where one is negative or the product too large, which is no array's length. */
static inline int64_t times(int64_t a, int64_t b)
{
    int64_t product;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product))
        return -1;
    return product;
}

/* Whether index[from..to) are all in [low, high). */
static inline int all_within(const int64_t *index, int64_t from, int64_t to, int64_t low,
                             int64_t high)
{
    uint64_t outside = 0;
    for (int64_t i = from; i < to; i++)
        outside |= ((uint64_t)index[i] - (uint64_t)low) | ((uint64_t)(high - 1) - (uint64_t)index[i]);
    return (int64_t)outside >= 0;
}

/* The first of index[0..count) that is not in [low, high), to be named; `count` if all are. */
static inline int64_t first_outside(const int64_t *index, int64_t count, int64_t low, int64_t high)
{
    int64_t i = 0;
    while (i < count && index[i] >= low && index[i] < high)
        i++;
    return i;
}

#define NODES_WITHIN(index, count, low, high)                                                      \
    do {                                                                                           \
        if (!all_within(index, 0, count, low, high)) {                                             \
            const int64_t at = first_outside(index, count, low, high);                             \
            return problem(#index "[%lld] must be from %lld to %lld, got %lld", (long long)at,     \
                           (long long)(low), (long long)(high) - 1, (long long)index[at]);         \
        }                                                                                          \
    } while (0)

/* Where rows of a compressed graph start: from 0 on, never falling, to `most` at most. */
__attribute__((unused)) static report check_starts(const char *name, const int64_t *ptr,
                                                   int64_t count, int64_t most)
{
    CHECK(count > 0 && ptr && ptr[0] == 0, "%s must start with 0, got %lld", name,
          count > 0 && ptr ? (long long)ptr[0] : -1LL);
    int64_t falls = 0;
    for (int64_t i = 1; i < count; i++)
        falls |= ptr[i] < ptr[i - 1];
    for (int64_t i = 1; i < count && falls; i++)
        CHECK(ptr[i] >= ptr[i - 1], "%s must not fall, got %lld and then %lld at %lld", name,
              (long long)ptr[i - 1], (long long)ptr[i], (long long)i);
    CHECK(ptr[count - 1] <= most, "%s must end with %lld edges at most, got %lld", name,
          (long long)most, (long long)ptr[count - 1]);
    return NULL;
}

#endif
