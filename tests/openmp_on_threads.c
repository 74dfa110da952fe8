/* OpenMP as gcc calls it, on threads and barriers that ThreadSanitizer knows.
 *
 * It does not see the barriers of libgomp, and so takes for a race what one thread writes before
 * such a barrier and another one reads after it. Here every parallel region starts fresh threads,
 * waits at barriers of pthread, and ends its threads: slow, and every wait is seen. */

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define OURS __attribute__((visibility("hidden"))) /* not those of torch's OpenMP */
#define SHARES 4096                                /* loops and sections of a region, at most */

typedef struct {
    long next, end, step, chunk;
    bool begun;
} share;

typedef struct {
    void (*body)(void *);
    void *data;
    int size;
    pthread_barrier_t barrier;
    pthread_mutex_t mutex;
    share shares[SHARES];
} team;

typedef struct {
    team *of;
    int number, shares;
} member;

static _Thread_local member self;

OURS int omp_get_thread_num(void)
{
    return self.number;
}

OURS int omp_get_num_threads(void)
{
    return self.of ? self.of->size : 1;
}

OURS void GOMP_barrier(void)
{
    if (self.of)
        pthread_barrier_wait(&self.of->barrier);
}

static void *work(void *argument)
{
    const member before = self;
    self = *(member *)argument;
    self.of->body(self.of->data);
    self = before;
    return NULL;
}

static void start(team *of, void (*body)(void *), void *data, unsigned size)
{
    const char *wanted = getenv("OMP_NUM_THREADS");
    of->body = body;
    of->data = data;
    of->size = size ? (int)size : wanted ? atoi(wanted) : 2;
    pthread_barrier_init(&of->barrier, NULL, of->size);
    pthread_mutex_init(&of->mutex, NULL);
    pthread_t threads[of->size];
    member members[of->size];
    for (int i = 0; i < of->size; i++)
        members[i] = (member){of, i, 0};
    for (int i = 1; i < of->size; i++)
        if (pthread_create(&threads[i], NULL, work, &members[i]))
            abort();
    work(&members[0]);
    for (int i = 1; i < of->size; i++)
        pthread_join(threads[i], NULL);
    free(of);
}

OURS void GOMP_parallel(void (*body)(void *), void *data, unsigned size, unsigned flags)
{
    (void)flags;
    start(calloc(1, sizeof(team)), body, data, size);
}

/* The next share of work; the first thread that comes to a loop says how much there is. */
static bool take(share *from, long *first, long *last)
{
    const long stride = from->chunk * from->step;
    *first = __atomic_fetch_add(&from->next, stride, __ATOMIC_RELAXED);
    *last = *first + stride;
    if (from->step > 0 ? *last > from->end : *last < from->end)
        *last = from->end;
    return from->step > 0 ? *first < from->end : *first > from->end;
}

static share *enter(share wanted)
{
    if (self.shares == SHARES)
        abort();
    share *found = &self.of->shares[self.shares++];
    pthread_mutex_lock(&self.of->mutex);
    if (!found->begun)
        *found = wanted;
    pthread_mutex_unlock(&self.of->mutex);
    return found;
}

OURS bool GOMP_loop_nonmonotonic_dynamic_start(long from, long to, long step, long chunk,
                                               long *first, long *last)
{
    if (!self.of) { /* outside of any region one thread does everything */
        *first = from;
        *last = to;
        return step > 0 ? from < to : from > to;
    }
    return take(enter((share){from, to, step, chunk, true}), first, last);
}

OURS bool GOMP_loop_nonmonotonic_dynamic_next(long *first, long *last)
{
    return self.of && take(&self.of->shares[self.shares - 1], first, last);
}

OURS void GOMP_loop_end(void)
{
    GOMP_barrier();
}

OURS void GOMP_loop_end_nowait(void)
{
}

OURS void GOMP_parallel_sections(void (*body)(void *), void *data, unsigned size, unsigned count,
                                 unsigned flags)
{
    (void)flags;
    team *of = calloc(1, sizeof(team));
    of->shares[0] = (share){1, count + 1, 1, 1, true}; /* sections count from one, 0 is the end */
    start(of, body, data, size);
}

OURS unsigned GOMP_sections_next(void)
{
    long first, last;
    self.shares = 1;
    return take(&self.of->shares[0], &first, &last) ? (unsigned)first : 0;
}

OURS void GOMP_sections_end_nowait(void)
{
}
