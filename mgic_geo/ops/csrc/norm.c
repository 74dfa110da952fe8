/* Batch norm over rows and the activation after it, forward and backward, in two passes each.
 *
 * Sums are in float over BLOCK rows and in double from there on, share by share: their order is
 * that of the shares, not of the threads. Forward, the rows of a block are centered on their own
 * mean, so that squares do not cancel wherever an outlier is, and the blocks' moments are joined in
 * double (Chan, Golub and LeVeque, 1983). Backward, where there are few rows and many channels, both
 * passes go over some channels after another, and the second one finds them in cache. */

#include "entry.h"
#include "norm.h"
#include "shares.h"

#define BLOCK 128       /* rows whose sums are in float, at most */
#define BYTES 32768     /* of those rows: a piece of each row at a time, they stay in cache */
#define AHEAD 8         /* rows ahead that are fetched: they are too far apart for the processor */
#define VECTORS 4       /* of channels at a time */
#define CACHE (5 << 17) /* bytes of the second cache that are kept between two passes */
#define PIECES 4        /* of the channels: a multiple, so that several threads get as many */

/* Rows of a block: fewer of many channels, whose pieces are too far apart to be fetched ahead. */
static int64_t block_rows(int64_t channels)
{
    const int64_t fit = BYTES / (channels * (int64_t)sizeof(float));
    return fit < 8 ? 8 : fit < BLOCK ? fit : BLOCK;
}

INLINE void fetch_ahead(const norm *n, int64_t row, int64_t c, const int backward,
                        const int vectors)
{
    for (int v = 0; v < vectors && n->apart; v += LINE / LANES) {
        const int64_t place = (row + AHEAD) * n->channels + c + LANES * v;
        __builtin_prefetch(n->x + place);
        if (backward)
            __builtin_prefetch(n->grad + place);
    }
}

/* Moments so far of a channel: how many rows, their mean, and their squared distances from it. */
INLINE void join_moments(double *mean, double *spread, double count, double block_mean,
                         double block_spread, double block_count)
{
    const double gap = block_mean - *mean, all = count + block_count;
    *mean += gap * (block_count / all);
    *spread += block_spread + gap * gap * (count * block_count / all);
}

/* Moments of `rows` rows, from number `row` on, of some channels, joined with those of `before` rows
 * in mean and spread. The rows stay in cache from the pass that finds their mean to the next. */
INLINE void add_moments(const norm *n, int64_t row, int64_t rows, int64_t c, int64_t before,
                        double *mean, double *spread, const int vectors, int64_t lanes)
{
    const float *x = n->x;
    const int64_t channels = n->channels;
    vec start[VECTORS], middle[VECTORS], one[VECTORS] = {}, two[VECTORS] = {};
    for (int v = 0; v < vectors; v++) {
        start[v] = load_lanes(x + row * channels + c + LANES * v, lanes);
        middle[v] = (vec){};
    }
    for (int64_t r = row; r < row + rows; r++) {
        fetch_ahead(n, r, c, 0, vectors);
        for (int v = 0; v < vectors; v++)
            middle[v] += load_lanes(x + r * channels + c + LANES * v, lanes) - start[v];
    }
    for (int v = 0; v < vectors; v++)
        middle[v] = start[v] + middle[v] * (1.0f / (float)rows);
    for (int64_t r = row; r < row + rows; r++)
        for (int v = 0; v < vectors; v++) {
            const vec far = load_lanes(x + r * channels + c + LANES * v, lanes) - middle[v];
            one[v] += far;
            two[v] += far * far;
        }
    for (int v = 0; v < vectors; v++)
        for (int lane = 0; lane < lanes; lane++) {
            const int64_t at = c + LANES * v + lane;
            const double off = (double)one[v][lane] / rows;
            join_moments(mean + at, spread + at, before, middle[v][lane] + off,
                         two[v][lane] - off * off * rows, rows);
        }
}

/* Sums over `rows` rows, from number `row` on, of some channels, each added to a double: of the
 * gradients, and of their products with x less the mean. */
INLINE void add_gradients(const norm *n, int64_t row, int64_t rows, int64_t c, double *first,
                          double *second, const int64_t activation, const int vectors,
                          int64_t lanes)
{
    const float *x = n->x, *grad = n->grad;
    const int64_t channels = n->channels;
    vec mean[VECTORS], scale[VECTORS], shift[VECTORS], one[VECTORS] = {}, two[VECTORS] = {};
    for (int v = 0; v < vectors; v++) {
        mean[v] = load_lanes(n->mean + c + LANES * v, lanes);
        scale[v] = load_lanes(n->scale + c + LANES * v, lanes);
        shift[v] = load_lanes(n->shift + c + LANES * v, lanes);
    }
    for (int64_t r = row; r < row + rows; r++) {
        fetch_ahead(n, r, c, 1, vectors);
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * channels + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - mean[v];
            const vec g = activated_backward(load_lanes(grad + place, lanes),
                                             far * scale[v] + shift[v], activation);
            one[v] += g;
            two[v] += g * far;
        }
    }
    for (int v = 0; v < vectors; v++)
        for (int lane = 0; lane < lanes; lane++) {
            first[c + LANES * v + lane] += one[v][lane];
            second[c + LANES * v + lane] += two[v][lane];
        }
}

/* The norm at `rows` rows of some channels, activated; or the gradient of x there. */
INLINE void scale_rows(const norm *n, int64_t row, int64_t rows, int64_t c, const int backward,
                       const int64_t activation, const int vectors, int64_t lanes)
{
    const float *x = n->x, *grad = n->grad;
    float *y = n->y;
    const int64_t channels = n->channels;
    vec mean[VECTORS], scale[VECTORS], shift[VECTORS], slope[VECTORS], offset[VECTORS];
    for (int v = 0; v < vectors; v++) {
        mean[v] = load_lanes(n->mean + c + LANES * v, lanes);
        scale[v] = load_lanes(n->scale + c + LANES * v, lanes);
        shift[v] = load_lanes(n->shift + c + LANES * v, lanes);
        if (backward) {
            slope[v] = load_lanes(n->slope + c + LANES * v, lanes);
            offset[v] = load_lanes(n->offset + c + LANES * v, lanes);
        }
    }
    for (int64_t r = row; r < row + rows; r++)
        for (int v = 0; v < vectors; v++) {
            const int64_t place = r * channels + c + LANES * v;
            const vec far = load_lanes(x + place, lanes) - mean[v], z = far * scale[v] + shift[v];
            if (backward) {
                const vec g =
                    activated_backward(load_lanes(grad + place, lanes), z, activation);
                store_lanes(y + place, g * scale[v] + (far * slope[v] + offset[v]), lanes);
            } else
                store_lanes(y + place, activated(z, activation), lanes);
        }
}

/* Both at `rows` rows of the channels in [from, to), after `before` others: constants for what is
 * known. */
static void sum_block(const norm *n, int64_t row, int64_t rows, int64_t before, int64_t from,
                      int64_t to, double *first, double *second)
{
    int64_t c = from;
#define SUM(vectors, lanes) add_moments(n, row, rows, c, before, first, second, vectors, lanes)
    if (!n->grad) {
        FOR_CHANNELS(c, to, VECTORS, SUM)
        return;
    }
#undef SUM
#define SUM(vectors, lanes) add_gradients(n, row, rows, c, first, second, kind, vectors, lanes)
#define SUMS(activation)                                                                           \
    {                                                                                              \
        const int64_t kind = activation;                                                           \
        FOR_CHANNELS(c, to, VECTORS, SUM)                                                          \
    }
    FOR_ACTIVATIONS(n->activation, SUMS)
#undef SUMS
#undef SUM
}

static void scale_block(const norm *n, int64_t row, int64_t rows, int64_t from, int64_t to)
{
    int64_t c = from;
#define SCALE(vectors, lanes) scale_rows(n, row, rows, c, backward, kind, vectors, lanes)
#define SCALES(activation)                                                                         \
    {                                                                                              \
        const int64_t kind = activation;                                                           \
        FOR_CHANNELS(c, to, VECTORS, SCALE)                                                        \
    }
    if (n->grad) {
        const int backward = 1;
        FOR_ACTIVATIONS(n->activation, SCALES)
    } else {
        const int backward = 0;
        FOR_ACTIVATIONS(n->activation, SCALES)
    }
#undef SCALES
#undef SCALE
}

/* Channels whose rows stay in cache between the two passes, as many as leave work for several
 * threads; 0 where even a few do not, or all do. Not as many as there are threads: sums would depend
 * on these. Forward it is slower: what comes in was just computed. */
static int64_t piece_width(const norm *n)
{
    const int64_t bytes = n->rows * 3 * (int64_t)sizeof(float); /* of x, grad and y */
    const int64_t most = CACHE / bytes / LINE, lines = (n->channels + LINE - 1) / LINE;
    if (!n->grad || !most || bytes * n->channels <= CACHE)
        return 0;
    int64_t pieces = (lines + most - 1) / most;
    pieces = (pieces + PIECES - 1) / PIECES * PIECES;
    return (lines + pieces - 1) / pieces * LINE;
}

/* Both passes over some channels after another */
static void run_pieces(const norm *n, int64_t width, double *first, double *second, int threads)
{
    const int64_t size = block_rows(width);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t from = 0; from < n->channels; from += width) {
        const int64_t to = from + width < n->channels ? from + width : n->channels;
        for (int64_t row = 0; row < n->rows; row += size)
            sum_block(n, row, n->rows - row < size ? n->rows - row : size, row, from, to, first,
                      second);
        settle(n, from, to, first, second);
        for (int64_t row = 0; row < n->rows; row += size)
            scale_block(n, row, n->rows - row < size ? n->rows - row : size, from, to);
    }
}

/* What all shares of the rows come to, in place of the first share's. */
static void join_shares(const norm *n, double *first, double *second, int64_t shares)
{
    for (int64_t share = 1; share < shares; share++) {
        const int64_t before = n->rows * share / shares;
        const int64_t rows = n->rows * (share + 1) / shares - before;
        for (int64_t c = 0; c < n->channels; c++) {
            const int64_t i = share * n->channels + c;
            if (!n->grad) {
                join_moments(first + c, second + c, before, first[i], second[i], rows);
                continue;
            }
            first[c] += first[i];
            second[c] += second[i];
        }
    }
}

/* Both passes over all channels. In the second one a thread starts with the last of its rows, which
 * it has just summed up and still has in cache. first, second: (shares, channels). */
static void run_all(const norm *n, double *first, double *second, int64_t shares, int threads)
{
    const int64_t channels = n->channels, size = block_rows(channels);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t from = n->rows * share / shares, to = n->rows * (share + 1) / shares;
        double *one = first + share * channels, *two = second + share * channels;
        for (int64_t row = from; row < to; row += size)
            sum_block(n, row, to - row < size ? to - row : size, row - from, 0, channels, one, two);
    }
    join_shares(n, first, second, shares);
    settle(n, 0, channels, first, second);
    const int64_t blocks = (n->rows + size - 1) / size, each = (blocks + threads - 1) / threads;
#pragma omp parallel for schedule(static, each) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t begin = block / each * each;
        const int64_t end = begin + each < blocks ? begin + each : blocks;
        const int64_t row = (begin + end - 1 - block) * size;
        scale_block(n, row, n->rows - row < size ? n->rows - row : size, 0, channels);
    }
}

static report run(norm n, int threads)
{
    const int64_t shares = shares_of(n.rows), width = piece_width(&n);
    double *first = zeros(2 * shares * n.channels * sizeof(double));
    if (!first)
        return NO_MEMORY;
    double *second = first + shares * n.channels;
    n.apart = width && width < n.channels;
    if (width)
        run_pieces(&n, width, first, second, threads);
    else
        run_all(&n, first, second, shares, threads);
    free(first);
    return NULL;
}

static report check_sizes(int64_t rows, int64_t channels, int64_t activation)
{
    WITHIN(rows, 2, MAX_SIZE);
    WITHIN(channels, 1, MAX_SIZE);
    WITHIN(activation, NONE, HARD_SWISH);
    return NULL;
}

/* x, y: (rows, channels); weight, bias: (channels) or null; statistics: (STATISTICS, channels), what
 * the batch comes to. */
ENTRY mgic_norm(FLOATS(x), int64_t rows, int64_t channels, FLOATS(weight), FLOATS(bias), double eps,
                int64_t activation, OUT_FLOATS(y), OUT_FLOATS(statistics), int threads)
{
    TRY(check_sizes(rows, channels, activation));
    HOLDS(x, times(rows, channels));
    HOLDS_OR_NULL(weight, channels);
    HOLDS_OR_NULL(bias, channels);
    HOLDS(y, times(rows, channels));
    HOLDS(statistics, times(STATISTICS, channels));
    norm n = {.rows = rows, .channels = channels, .activation = activation, .eps = eps, .x = x,
              .weight = weight, .bias = bias, .y = y};
    place_statistics(&n, statistics);
    return run(n, threads);
}

/* grad, x, grad_x: (rows, channels); statistics: as above; grad_weight, grad_bias: (channels). */
ENTRY mgic_norm_backward(FLOATS(grad), FLOATS(x), int64_t rows, int64_t channels,
                         FLOATS(statistics), double eps, int64_t activation, OUT_FLOATS(grad_x),
                         OUT_FLOATS(grad_weight), OUT_FLOATS(grad_bias), int threads)
{
    TRY(check_sizes(rows, channels, activation));
    HOLDS(grad, times(rows, channels));
    HOLDS(x, times(rows, channels));
    HOLDS(statistics, times(STATISTICS, channels));
    HOLDS(grad_x, times(rows, channels));
    HOLDS(grad_weight, channels);
    HOLDS(grad_bias, channels);
    float *room = zeros(2 * channels * sizeof(float));
    if (!room)
        return NO_MEMORY;
    norm n = {.rows = rows, .channels = channels, .activation = activation, .eps = eps, .x = x,
              .grad = grad, .slope = room, .offset = room + channels,
              .grad_weight = grad_weight, .grad_bias = grad_bias, .y = grad_x};
    place_statistics(&n, (float *)statistics); /* only read on the way back */
    const report result = run(n, threads);
    free(room);
    return result;
}
