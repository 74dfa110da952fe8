/* A whole cycle over the channels of images, one call.
 *
 * Where there are as many images as threads, every thread runs the cycles of its own images, and
 * what passes between the levels stays in its cache; the rest they do together, image by image. */

#include "level.h"

#define MAX_LEVELS 16

/* Where the buffers of a team lie: x[n] and e[n] of the coarser levels, then those of
 * squeeze-excite. */
typedef struct {
    int64_t x[MAX_LEVELS], e[MAX_LEVELS], hidden, pooled, gates, size;
} layout;

static int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }

static layout lay_out(const level *levels, int64_t num, int64_t height, int64_t width,
                      int64_t threads)
{
    layout at = {};
    const int64_t pixels = height * width;
    int64_t hidden = 0, pooled = 0, gates = 0;
    for (int64_t n = 0; n < num; n++) {
        const level *l = levels + n;
        const int64_t all = l->groups * padded(width_inside(l));
        if (n > 0) {
            at.x[n] = at.size;
            at.e[n] = at.size + padded(pixels * l->channels);
            at.size += 2 * padded(pixels * l->channels);
        }
        if (l->squeezed) {
            const int64_t rows = strip_rows(l, height, width, threads);
            hidden = greatest(hidden, pixels * all);
            pooled = greatest(pooled, (height + rows - 1) / rows * all);
            gates = greatest(gates, all + padded(l->squeezed));
        }
    }
    at.hidden = at.size;
    at.pooled = at.hidden + hidden;
    at.gates = at.pooled + pooled;
    at.size = at.gates + gates;
    return at;
}

/* The next level's x of some pixels */
static void restrict_pixels(const level *l, const float *weights, const float *x, float *y,
                            int64_t begin, int64_t end, float *chunk)
{
    const int64_t inputs = l->channels / l->restrict_groups;
    const int64_t count = l->coarse / l->restrict_groups;
    for (int64_t group = 0; group < l->restrict_groups; group++) {
        const map restriction = map_of(weights, l->restrict_weight, l->restrict_bias, group, count,
                                       inputs, 1, at_once, l->restrict_activation);
        const float *from = x + group * inputs;
        float *to = y + group * count;
        for (int64_t pixel = begin, rows; pixel < end; pixel += rows) {
            rows = next_rows(end - pixel);
            foresee(from + pixel * l->channels, l->channels, inputs, rows);
            if (count % LANES == 0) {
                multiply(&restriction, from + pixel * l->channels, l->channels,
                         to + pixel * l->coarse, l->coarse, rows);
                continue;
            }
            multiply(&restriction, from + pixel * l->channels, l->channels, chunk, padded(count),
                     rows);
            for (int64_t r = 0; r < rows; r++)
                memcpy(to + (pixel + r) * l->coarse, chunk + r * padded(count),
                       count * sizeof(float));
        }
    }
}

static void run_cycle(const level *levels, int64_t num, const float *weights, int64_t height,
                      int64_t width, const float *x, float *y, const layout *at, float *shared,
                      float *scratch, team t)
{
    const int64_t begin = share_begin(t, height * width), end = share_end(t, height * width);
    for (int64_t n = 0; n + 1 < num; n++) /* pixel by pixel: no need to meet in between */
        restrict_pixels(levels + n, weights, n ? shared + at->x[n] : x, shared + at->x[n + 1],
                        begin, end, scratch);
    for (int64_t n = num - 1; n >= 0; n--) {
        meet(t);
        const job j = {
            .l = levels + n, .weights = weights, .height = height, .width = width,
            .x = n ? shared + at->x[n] : x,
            .coarse = n + 1 < num ? shared + at->e[n + 1] : NULL,
            .finest = n == 0, .out = n ? shared + at->e[n] : y,
            .hidden = shared + at->hidden, .pooled = shared + at->pooled,
            .gates = shared + at->gates, .scratch = scratch};
        run_level(&j, t);
    }
    meet(t);
}

static _Thread_local arena memory;

/* What the calling thread's cycles keep beside their tensors */
int64_t mgic_cycle_bytes(void) { return memory.size * (int64_t)sizeof(float); }

/* x, y: (batch, height, width, channels); levels: (num, fields of a level); weights: as packed by
 * Python. Returns 0, or 1 where there is no memory. */
int64_t mgic_cycle(const float *x, float *y, int64_t batch, int64_t height, int64_t width,
                   const int64_t *plan, int64_t num, const float *weights, int threads)
{
    const level *levels = (const level *)plan;
    const layout alone = lay_out(levels, num, height, width, 1);
    const layout together = lay_out(levels, num, height, width, threads);
    int64_t scratch = 0;
    for (int64_t n = 0; n < num; n++)
        for (int64_t size = 1; size <= threads; size += threads > 1 ? threads - 1 : 1) {
            scratch = greatest(scratch, scratch_of(levels + n, height, width, size));
            scratch = greatest(scratch, ROWS * padded(levels[n].coarse));
        }
    scratch = padded(scratch + LANES);
    const int64_t own = batch / threads * threads; /* images that one thread has for itself */
    const int64_t teams = own ? threads : 1;
    const int64_t shared = padded(greatest(alone.size, together.size) + LANES);
    float *base = room(&memory, teams * shared + threads * scratch);
    if (!base)
        return 1;
    const int64_t image = height * width * levels->channels;
#pragma omp parallel num_threads(threads)
    {
        const team all = all_threads();
        const team self = {0, 1};
        float *mine = base + teams * shared + all.rank * scratch;
        for (int64_t n = share_begin(all, own); n < share_end(all, own); n++)
            run_cycle(levels, num, weights, height, width, x + n * image, y + n * image, &alone,
                      base + all.rank % teams * shared, mine, self);
        meet(all);
        for (int64_t n = own; n < batch; n++)
            run_cycle(levels, num, weights, height, width, x + n * image, y + n * image,
                      &together, base, mine, all);
    }
    return 0;
}
