/* Memory that a thread keeps from call to call; see scratch.h. */

#include <pthread.h>
#include <stdlib.h>

#include "scratch.h"

#define ALIGNED 64 /* bytes of a line of the cache */

typedef struct {
    float *numbers;
    int64_t size;
} arena;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int has_key;

static void forget(void *of_thread)
{
    arena *a = of_thread;
    free(a->numbers);
    free(a);
}

static void make_key(void) { has_key = !pthread_key_create(&key, forget); }

/* The calling thread's; null where there is no memory. */
static arena *own(void)
{
    pthread_once(&once, make_key);
    if (!has_key)
        return NULL;
    arena *a = pthread_getspecific(key);
    if (a)
        return a;
    a = calloc(1, sizeof(arena));
    if (a && pthread_setspecific(key, a)) {
        free(a);
        return NULL;
    }
    return a;
}

float *mgic_room(int64_t numbers)
{
    arena *a = own();
    if (!a || numbers < 0 || numbers > (PTRDIFF_MAX - ALIGNED) / (int64_t)sizeof(float))
        return NULL;
    if (a->size < numbers || !a->numbers) {
        const size_t bytes = numbers * sizeof(float);
        free(a->numbers);
        a->size = 0;
        a->numbers = aligned_alloc(ALIGNED, (bytes / ALIGNED + 1) * ALIGNED);
        if (a->numbers)
            a->size = numbers;
    }
    return a->numbers;
}

/* bytes[0]: what the calling thread keeps. */
ENTRY mgic_scratch_bytes(OUT_INTS(bytes), int threads)
{
    (void)threads;
    HOLDS(bytes, 1);
    const arena *a = own();
    bytes[0] = a ? a->size * (int64_t)sizeof(float) : 0;
    return NULL;
}
