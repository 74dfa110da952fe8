/* A whole cycle over the channels of images, one call.
 *
 * Where there are as many images as threads, every thread runs the cycles of its own images, and
 * what passes between the levels stays in its cache; the rest they do together, image by image. */

#include "level.h"

/* How many numbers a vector has: what weights are packed for. */
const int64_t mgic_lanes = LANES;

/* Where the buffers of a team lie: x[n] and e[n] of the coarser levels, then those of
 * squeeze-excite; -1 as the size of what no memory holds. */
typedef struct {
    int64_t x[MAX_LEVELS], e[MAX_LEVELS], hidden, pooled, gates, size;
} layout;

static int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t place(layout *at, int64_t numbers)
{
    const int64_t begin = at->size;
    at->size = plus(begin, filled(numbers));
    return begin;
}

static layout lay_out(const level *levels, int64_t num, int64_t height, int64_t width)
{
    layout at = {};
    const int64_t pixels = height * width;
    int64_t hidden = 0, pooled = 0, gates = 0;
    for (int64_t n = 0; n < num; n++) {
        const level *l = levels + n;
        const int64_t all = l->groups * padded(width_inside(l));
        if (n > 0) {
            at.x[n] = place(&at, times(pixels, l->channels));
            at.e[n] = place(&at, times(pixels, l->channels));
        }
        if (!l->squeezed)
            continue;
        if (times(pixels, all) < 0)
            at.size = -1;
        hidden = greatest(hidden, times(pixels, all));
        pooled = greatest(pooled, times(height, all));
        gates = greatest(gates, plus(all, padded(l->squeezed)));
    }
    at.hidden = place(&at, hidden);
    at.pooled = place(&at, pooled);
    at.gates = place(&at, gates);
    at.size = plus(at.size, LANES);
    return at;
}

/* What a thread needs for itself, in a team of any size; -1 as above. */
static int64_t scratch_of(const level *levels, int64_t num, int64_t height, int64_t width)
{
    int64_t most = 0;
    for (int64_t n = 0; n < num; n++) {
        const int64_t strip = strip_room(levels + n, height, width);
        if (strip < 0)
            return -1;
        most = greatest(most, greatest(strip, times(PIXELS, padded(levels[n].coarse))));
    }
    return filled(plus(most, LANES));
}

/* The next level's x of some chunks of pixels */
static void restrict_pixels(const level *l, const float *weights, const float *x, float *y,
                            int64_t pixels, int64_t begin, int64_t end, float *room)
{
    const int64_t inputs = l->channels / l->restrict_groups;
    const int64_t count = l->coarse / l->restrict_groups;
    for (int64_t group = 0; group < l->restrict_groups; group++) {
        const map restriction = map_of(weights, l->restrict_weight, l->restrict_bias, group, count,
                                       inputs, 1, at_once, l->restrict_activation);
        for (int64_t chunk = begin; chunk < end; chunk++) {
            const int64_t pixel = chunk_begin(pixels, chunk);
            const int64_t rows = chunk_begin(pixels, chunk + 1) - pixel;
            const float *from = x + pixel * l->channels + group * inputs;
            float *to = y + pixel * l->coarse + group * count;
            foresee(from, l->channels, inputs, rows);
            if (count % LANES == 0) {
                multiply(&restriction, from, l->channels, to, l->coarse, rows);
                continue;
            }
            multiply(&restriction, from, l->channels, room, padded(count), rows);
            for (int64_t r = 0; r < rows; r++)
                memcpy(to + r * l->coarse, room + r * padded(count), count * sizeof(float));
        }
    }
}

/* What every image of a batch is taken through. */
typedef struct {
    const level *levels;
    int64_t num;
    const float *weights;
    int64_t height, width;
    layout at;
    int64_t scratch; /* numbers of a thread */
} cycle;

static void run_cycle(const cycle *c, const float *x, float *y, float *shared, float *scratch,
                      team t)
{
    const layout *at = &c->at;
    const int64_t pixels = c->height * c->width, chunks = chunks_of(pixels);
    for (int64_t n = 0; n + 1 < c->num; n++) /* pixel by pixel: no need to meet in between */
        restrict_pixels(c->levels + n, c->weights, n ? shared + at->x[n] : x,
                        shared + at->x[n + 1], pixels, share_begin(t, chunks),
                        share_end(t, chunks), scratch);
    for (int64_t n = c->num - 1; n >= 0; n--) {
        meet(t);
        const job j = {
            .l = c->levels + n, .weights = c->weights, .height = c->height, .width = c->width,
            .x = n ? shared + at->x[n] : x,
            .coarse = n + 1 < c->num ? shared + at->e[n + 1] : NULL,
            .finest = n == 0, .out = n ? shared + at->e[n] : y,
            .hidden = shared + at->hidden, .pooled = shared + at->pooled,
            .gates = shared + at->gates, .scratch = scratch};
        run_level(&j, t);
    }
    meet(t);
}

/* Each image by one thread or, what is left of them, by all threads together. */
static void run_batch(const cycle *c, int64_t batch, const float *x, float *y, float *room, team all)
{
    const team self = {0, 1};
    const int64_t image = c->height * c->width * c->levels->channels, size = c->at.size;
    const int64_t own = batch / all.size * all.size; /* images that one thread has for itself */
    float *shared = room + (own ? all.rank * size : 0);
    float *scratch = room + (own ? all.size : 1) * size + all.rank * c->scratch;
    for (int64_t n = share_begin(all, own); n < share_end(all, own); n++)
        run_cycle(c, x + n * image, y + n * image, shared, scratch, self);
    meet(all);
    for (int64_t n = own; n < batch; n++)
        run_cycle(c, x + n * image, y + n * image, room, scratch, all);
}

static report check_plan(const int64_t *plan, int64_t length, const float *weights,
                         int64_t num_weights)
{
    CHECK(plan && length >= FIELDS && length <= MAX_LEVELS * FIELDS && length % FIELDS == 0,
          "plan must have 1 to %d levels of %lld fields, got %lld numbers", MAX_LEVELS,
          (long long)FIELDS, (long long)length);
    return check_levels((const level *)plan, length / FIELDS, weights ? num_weights : 0);
}

/* x, y: (batch, height, width, channels); plan: (levels, fields of a level); weights: as packed by
 * Python. */
ENTRY mgic_cycle(IMAGES(x), INTS(plan), FLOATS(weights), OUT_IMAGES(y), int64_t batch,
                 int64_t height, int64_t width, int threads)
{
    TRY(check_plan(plan, plan_length, weights, weights_length));
    cycle c = {.levels = (const level *)plan, .num = plan_length / FIELDS, .weights = weights,
               .height = height, .width = width};
    WITHIN(batch, 0, MAX_SIZE);
    WITHIN(height, 1, MAX_SIZE);
    WITHIN(width, 1, MAX_SIZE);
    HOLDS(x, times(batch, times(times(height, width), c.levels->channels)));
    HOLDS(y, x_length);
    if (!batch)
        return NULL;
    c.at = lay_out(c.levels, c.num, height, width);
    c.scratch = scratch_of(c.levels, c.num, height, width);
    float *room = NULL;
    (void)threads; /* without OpenMP */
#pragma omp parallel num_threads(threads)
    {
        const team all = all_threads();
        const int64_t teams = batch >= all.size ? all.size : 1;
        find_room(all, times(teams, c.at.size), c.scratch, &room);
        if (room)
            run_batch(&c, batch, x, y, room, all);
    }
    return room ? NULL : NO_MEMORY;
}
