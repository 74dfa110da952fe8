/* Batch norm over rows and the activation behind it, forward and backward, in two passes each.
 *
 * Sums are taken share by share: their order is that of the shares, not of the threads. Backward,
 * where there are few rows and many channels, both passes go over some channels after another, and
 * the second one finds them in cache. */

#include "entry.h"
#include "norm_rows.h"

#define CACHE (5 << 17) /* bytes of the second cache that are kept between two passes */
#define PIECES 4        /* of the channels: a multiple, so that several threads get as many */

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

static void run(norm n, double *sums, int64_t shares, int threads)
{
    double *first = sums, *second = sums + shares * n.channels;
    const int64_t width = piece_width(&n);
    n.apart = width && width < n.channels;
    if (width)
        run_pieces(&n, width, first, second, threads);
    else
        run_all(&n, first, second, shares, threads);
}

static report check_sizes(int64_t rows, int64_t channels, int64_t shares, int64_t activation)
{
    WITHIN(rows, 2, MAX_SIZE);
    WITHIN(channels, 1, MAX_SIZE);
    WITHIN(shares, 1, rows);
    WITHIN(activation, NONE, HARD_SWISH);
    return NULL;
}

/* x, y: (rows, channels); weight, bias: (channels) or null; statistics: (STATISTICS, channels), what
 * the batch comes to; sums: (2, shares, channels), zero. */
ENTRY mgic_norm(FLOATS(x), int64_t rows, int64_t channels, FLOATS(weight), FLOATS(bias), double eps,
                int64_t activation, OUT_FLOATS(y), OUT_FLOATS(statistics), OUT_DOUBLES(sums),
                int64_t shares, int threads)
{
    TRY(check_sizes(rows, channels, shares, activation));
    HOLDS(x, times(rows, channels));
    HOLDS_OR_NULL(weight, channels);
    HOLDS_OR_NULL(bias, channels);
    HOLDS(y, times(rows, channels));
    HOLDS(statistics, times(STATISTICS, channels));
    HOLDS(sums, times(2, times(shares, channels)));
    norm n = {.rows = rows, .channels = channels, .activation = activation, .eps = eps, .x = x,
              .weight = weight, .bias = bias, .y = y};
    place_statistics(&n, statistics);
    run(n, sums, shares, threads);
    return NULL;
}

/* grad, x, grad_x: (rows, channels); statistics, sums: as above; grad_weight, grad_bias: (channels);
 * room: (2, channels), to work with. */
ENTRY mgic_norm_backward(FLOATS(grad), FLOATS(x), int64_t rows, int64_t channels,
                         FLOATS(statistics), double eps, int64_t activation, OUT_FLOATS(grad_x),
                         OUT_FLOATS(grad_weight), OUT_FLOATS(grad_bias), OUT_FLOATS(room),
                         OUT_DOUBLES(sums), int64_t shares, int threads)
{
    TRY(check_sizes(rows, channels, shares, activation));
    HOLDS(grad, times(rows, channels));
    HOLDS(x, times(rows, channels));
    HOLDS(statistics, times(STATISTICS, channels));
    HOLDS(grad_x, times(rows, channels));
    HOLDS(grad_weight, channels);
    HOLDS(grad_bias, channels);
    HOLDS(room, times(2, channels));
    HOLDS(sums, times(2, times(shares, channels)));
    norm n = {.rows = rows, .channels = channels, .activation = activation, .eps = eps, .x = x,
              .grad = grad, .slope = room, .offset = room + channels,
              .grad_weight = grad_weight, .grad_bias = grad_bias, .y = grad_x};
    place_statistics(&n, (float *)statistics); /* only read on the way back */
    run(n, sums, shares, threads);
    return NULL;
}
