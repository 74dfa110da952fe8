/* One level of a cycle, group by group in strips of rows.
 *
 *     z = x + P e,    e' = P e + F(z)  (on the finest level x + P e + F(z), the result)
 *
 * with F a bottleneck (1x1, 3x3, 1x1), an inverted residual (1x1, depthwise, 1x1) or a basic block
 * (3x3, 3x3). Groups do not see each other, so that one strip of one group runs through all of F
 * while it is in cache. Only squeeze-excite, which averages over the whole map, takes F apart. */

#ifndef MGIC_LEVEL_H
#define MGIC_LEVEL_H

#include "plan.h"
#include "team.h"

#define STRIP_NUMBERS (48 * 1024) /* hidden numbers of a strip: they and weights fit a 512 KB cache */

/* What a level reads and writes of one image. */
typedef struct {
    const level *l;
    const float *weights;
    int64_t height, width;
    const float *x, *coarse; /* coarse: e of the next level, null on the coarsest */
    int64_t finest;
    float *out;
    float *hidden, *pooled, *gates; /* for squeeze-excite: (groups, H * W, m), (H, m), (m) */
    float *scratch;                 /* of this thread */
} job;

/* Numbers from row to row of a hidden strip, which has a margin on both sides */
INLINE int64_t hidden_row(const level *l, int64_t width)
{
    return (width + 2 * margin_of(l)) * padded(width_inside(l));
}

/* The same of what a first map with several taps reads; 0 for one tap, which needs no strip */
INLINE int64_t entered_row(const level *l, int64_t width)
{
    return l->first_kernel > 1 ? (width + 2 * first_margin_of(l)) * padded(width_in(l)) : 0;
}

static int64_t strip_rows(const level *l, int64_t height, int64_t width, int64_t threads)
{
    const int64_t row = hidden_row(l, width) + entered_row(l, width);
    int64_t rows = STRIP_NUMBERS / row - 2 * margin_of(l);
    if (rows < 4)
        rows = 4;
    const int64_t shares = l->groups % threads ? threads : 1;
    const int64_t strips = (height + rows - 1) / rows;
    const int64_t even = (strips + shares - 1) / shares * shares; /* no thread has one more */
    return (height + even - 1) / even;
}

/* What a thread needs for its strip, in a team of any size: -1 where no memory is that large. */
static int64_t strip_room(const level *l, int64_t height, int64_t width)
{
    const int64_t row = times(plus(width, 2 * margin_of(l)), padded(width_inside(l)));
    const int64_t side = first_margin_of(l);
    const int64_t entered = times(plus(width, 2 * side), side ? padded(width_in(l)) : 0);
    if (row < 0 || entered < 0 || plus(row, entered) < 0)
        return -1;
    const int64_t rows = strip_rows(l, height, width, 1) + 2 * margin_of(l); /* most for one */
    const int64_t chunks = plus(padded(width_in(l)), padded(width_inside(l)));
    const int64_t strips = plus(times(rows, row), times(rows + 2 * side, entered));
    return plus(strips, times(PIXELS, chunks));
}

INLINE map map_of(const float *weights, int64_t weight, int64_t bias, int64_t group,
                  int64_t outputs, int64_t inputs, int64_t num_taps, const int64_t *taps,
                  int64_t activation)
{
    const int64_t size = padded(outputs);
    return (map){weights + weight + group * size * inputs * num_taps,
                 weights + bias + group * size,
                 size / LANES, inputs, num_taps, activation, taps};
}

static const int64_t at_once[1] = {0};

/* z of up to PIXELS pixels from number `pixel` on, activated where the level says so, into `into`;
 * where `keep`, what the branch will be added to goes into the result */
static void enter(const job *j, int64_t group, int64_t pixel, int64_t rows, int64_t keep,
                  float *into)
{
    const level *l = j->l;
    const int64_t count = width_in(l), pitch = padded(count), begin = group * count;
    if (j->coarse) {
        const int64_t inputs = l->coarse / l->prolong_groups;
        const map prolong = map_of(j->weights, l->prolong_weight, l->prolong_bias, group, count,
                                   inputs, 1, at_once, NONE);
        const int64_t begin_coarse = group * l->prolong_groups / l->groups * inputs;
        const float *from = j->coarse + pixel * l->coarse + begin_coarse;
        foresee(from, l->coarse, inputs, rows);
        multiply(&prolong, from, l->coarse, into, pitch, rows);
    }
    foresee(j->x + pixel * l->channels + begin, l->channels, count, rows);
    foresee(j->out + pixel * l->channels + begin, l->channels, count, rows);
    for (int64_t c = 0; c < count; c += LANES) {
        const int64_t lanes = least(LANES, count - c);
        const vec scale = l->pre ? load_lanes(j->weights + l->scale + begin + c, lanes) : (vec){};
        const vec shift = l->pre ? load_lanes(j->weights + l->shift + begin + c, lanes) : (vec){};
        for (int64_t r = 0; r < rows; r++) {
            const int64_t at = (pixel + r) * l->channels + begin + c;
            const vec correction = j->coarse ? LOAD(into + r * pitch + c) : (vec){};
            const vec z = load_lanes(j->x + at, lanes) + correction;
            if (keep)
                store_lanes(j->out + at, j->finest ? z : correction, lanes);
            STORE(into + r * pitch + c,
                  l->pre ? activated(scale * z + shift, l->activation) : z);
        }
    }
}

/* Offsets of the taps of a kernel in rows of `row_size` numbers, `step` from pixel to pixel */
static int64_t place_taps(int64_t kernel, int64_t row_size, int64_t step, int64_t *taps)
{
    for (int64_t n = 0; n < kernel * kernel; n++)
        taps[n] = n / kernel * row_size + n % kernel * step;
    return kernel * kernel;
}

/* Makes `side` numbers on both sides of a row zero, or, outside the image, all of it: then 0. */
static int64_t begin_row(const job *j, int64_t row, float *numbers, int64_t row_size, int64_t side)
{
    const int64_t inside = row >= 0 && row < j->height;
    memset(numbers, 0, (inside ? side : row_size) * sizeof(float));
    if (inside)
        memset(numbers + row_size - side, 0, side * sizeof(float));
    return inside;
}

/* A strip of z for a first map with several taps, with the rows around it that both maps reach */
static void fill_entered(const job *j, int64_t group, int64_t top, int64_t bottom, float *entered)
{
    const level *l = j->l;
    const int64_t side = first_margin_of(l), margin = margin_of(l) + side;
    const int64_t pitch = padded(width_in(l)), row_size = entered_row(l, j->width);
    for (int64_t row = top - margin; row < bottom + margin; row++, entered += row_size) {
        if (!begin_row(j, row, entered, row_size, side * pitch))
            continue;
        for (int64_t column = 0, rows; column < j->width; column += rows) {
            rows = next_rows(j->width - column);
            enter(j, group, row * j->width + column, rows, row >= top && row < bottom,
                  entered + (side + column) * pitch);
        }
    }
}

/* A strip of the first map, with `margin` pixels around it that are zero outside the image */
static void fill_hidden(const job *j, int64_t group, int64_t top, int64_t bottom,
                        const float *entered, float *hidden, float *chunk)
{
    const level *l = j->l;
    const int64_t margin = margin_of(l), row_size = hidden_row(l, j->width);
    const int64_t pitch = padded(width_in(l)), inside = padded(width_inside(l));
    const int64_t entered_size = entered_row(l, j->width);
    int64_t taps[MAX_TAPS];
    const int64_t num_taps =
        place_taps(l->first_kernel, l->dilation * entered_size, l->dilation * pitch, taps);
    const map first = map_of(j->weights, l->first_weight, l->first_bias, group, width_inside(l),
                             width_in(l), num_taps, taps, l->activation);
    for (int64_t row = top - margin; row < bottom + margin;
         row++, hidden += row_size, entered += entered_size) {
        if (!begin_row(j, row, hidden, row_size, margin * inside))
            continue;
        const int64_t own = row >= top && row < bottom;
        for (int64_t column = 0, rows; column < j->width; column += rows) {
            rows = next_rows(j->width - column);
            float *to = hidden + (margin + column) * inside;
            if (entered_size) {
                multiply(&first, entered + column * pitch, pitch, to, inside, rows);
                continue;
            }
            if (l->first_weight == ABSENT) {
                enter(j, group, row * j->width + column, rows, own, to);
                continue;
            }
            enter(j, group, row * j->width + column, rows, own, chunk);
            multiply(&first, chunk, pitch, to, inside, rows);
        }
    }
}

/* Adds the last map of a few hidden pixels, or themselves where there is none, to the result. */
static void leave(const job *j, int64_t group, int64_t pixel, int64_t rows, const float *hidden,
                  float *chunk)
{
    const level *l = j->l;
    const int64_t count = width_in(l), pitch = padded(count);
    const map last = map_of(j->weights, l->last_weight, l->last_bias, group, count,
                            width_inside(l), 1, at_once, NONE);
    if (l->last_weight != ABSENT)
        multiply(&last, hidden, padded(width_inside(l)), chunk, pitch, rows);
    const float *from = l->last_weight != ABSENT ? chunk : hidden;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < count; c += LANES) {
            const int64_t lanes = least(LANES, count - c);
            float *to = j->out + (pixel + r) * l->channels + group * count + c;
            store_lanes(to, load_lanes(to, lanes) + LOAD(from + r * pitch + c), lanes);
        }
}

/* Adds a few pixels to those of their row. Sums of rows do not depend on the strips, and so not on
 * the threads. */
INLINE void pool(const float *hidden, int64_t inside, int64_t rows, float *sums)
{
    for (int64_t c = 0; c < inside; c += LANES) {
        vec sum = LOAD(sums + c);
        for (int64_t r = 0; r < rows; r++)
            sum += LOAD(hidden + r * inside + c);
        STORE(sums + c, sum);
    }
}

/* One strip of one group: all of F, or, with squeeze-excite, up to the hidden map and its sums */
static void run_strip(const job *j, int64_t group, int64_t strip, int64_t rows_of_strip)
{
    const level *l = j->l;
    const int64_t top = strip * rows_of_strip, bottom = least(top + rows_of_strip, j->height);
    const int64_t inside = padded(width_inside(l)), row_size = hidden_row(l, j->width);
    float *chunk = j->scratch, *filtered = chunk + PIXELS * padded(width_in(l));
    float *hidden = filtered + PIXELS * inside;
    float *entered = hidden + (bottom - top + 2 * margin_of(l)) * row_size;
    int64_t taps[MAX_TAPS];
    const int64_t num_taps =
        place_taps(l->kernel, l->dilation * row_size, l->dilation * inside, taps);
    const map spatial = map_of(j->weights, l->spatial_weight, l->spatial_bias, group,
                               width_inside(l), l->depthwise ? 1 : width_inside(l), num_taps,
                               taps, l->last_weight == ABSENT ? NONE : l->activation);

    if (entered_row(l, j->width))
        fill_entered(j, group, top, bottom, entered);
    fill_hidden(j, group, top, bottom, entered, hidden, chunk);
    for (int64_t row = top; row < bottom; row++) {
        float *sums = j->pooled + (row * l->groups + group) * inside;
        if (l->squeezed)
            memset(sums, 0, inside * sizeof(float));
        for (int64_t column = 0, rows; column < j->width; column += rows) {
            rows = next_rows(j->width - column);
            const int64_t pixel = row * j->width + column;
            const float *from = hidden + (row - top) * row_size + column * inside;
            float *to = filtered;
            if (l->squeezed)
                to = j->hidden + (group * j->height * j->width + pixel) * inside;
            if (l->depthwise)
                filter(&spatial, from, inside, to, inside, rows);
            else
                multiply(&spatial, from, inside, to, inside, rows);
            if (l->squeezed)
                pool(to, inside, rows, sums);
            else
                leave(j, group, pixel, rows, to, chunk);
        }
    }
}

/* Means of the hidden channels over all pixels, from the sums of rows */
static void average(const job *j, int64_t all, float *means)
{
    for (int64_t c = 0; c < all; c += LANES) {
        double sums[LANES] = {0};
        for (int64_t row = 0; row < j->height; row++)
            for (int64_t lane = 0; lane < LANES; lane++)
                sums[lane] += j->pooled[row * all + c + lane];
        for (int64_t lane = 0; lane < LANES; lane++)
            means[c + lane] = (float)(sums[lane] / (double)(j->height * j->width));
    }
}

/* What the hidden channels are multiplied with, from their means; by one thread. */
static void squeeze(const job *j)
{
    const level *l = j->l;
    const int64_t all = l->groups * padded(width_inside(l)), squeezed = padded(l->squeezed);
    float *means = j->gates, *inner = means + all;
    average(j, all, means);
    const map reduce = map_of(j->weights, l->reduce_weight, l->reduce_bias, 0, l->squeezed, all, 1,
                              at_once, RELU);
    multiply(&reduce, means, all, inner, squeezed, 1);
    const map gate = map_of(j->weights, l->gate_weight, l->gate_bias, 0, all, l->squeezed, 1,
                            at_once, NONE);
    multiply(&gate, inner, squeezed, means, all, 1);
    for (int64_t c = 0; c < all; c += LANES)
        STORE(means + c, hard_sigmoid(LOAD(means + c)));
}

/* Adds the last map of some chunks of the scaled hidden pixels to the result. */
static void scale_and_leave(const job *j, int64_t group, int64_t begin, int64_t end)
{
    const level *l = j->l;
    const int64_t inside = padded(width_inside(l)), pixels = j->height * j->width;
    const float *gates = j->gates + group * inside;
    float *room = j->scratch, *scaled = room + PIXELS * padded(width_in(l));
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t pixel = chunk_begin(pixels, chunk);
        const int64_t rows = chunk_begin(pixels, chunk + 1) - pixel;
        const float *from = j->hidden + (group * pixels + pixel) * inside;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < inside; c += LANES)
                STORE(scaled + r * inside + c, LOAD(from + r * inside + c) * LOAD(gates + c));
        leave(j, group, pixel, rows, scaled, room);
    }
}

/* The whole level; the result is complete when all threads of the team have met. */
static void run_level(const job *j, team t)
{
    const level *l = j->l;
    const int64_t rows = strip_rows(l, j->height, j->width, t.size);
    const int64_t strips = (j->height + rows - 1) / rows, units = strips * l->groups;
    for (int64_t unit = share_begin(t, units); unit < share_end(t, units); unit++)
        run_strip(j, unit / strips, unit % strips, rows);
    if (!l->squeezed)
        return;
    meet(t);
    if (t.rank == 0)
        squeeze(j);
    meet(t);
    const int64_t chunks = chunks_of(j->height * j->width);
    for (int64_t group = 0; group < l->groups; group++)
        scale_and_leave(j, group, share_begin(t, chunks), share_end(t, chunks));
}

#endif
