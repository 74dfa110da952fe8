/* Convolutions whose groups are narrower than a vector, as where the width changes.
 *
 * The outputs are cut into pieces of LANES whatever the groups, each with the range of input channels
 * that its groups see, and zero weights where a group ends inside a piece: weight[piece][tap][input]
 * [LANES]. Strips of the input are copied with zeros around them. */

#include "team.h"
#include "tiles.h"

#define STRIP_NUMBERS (64 * 1024)

typedef struct {
    int64_t in_channels, out_channels, kernel, stride, dilation, pieces;
    const int64_t *begins; /* first input channel of every piece */
} conv;

static int64_t rows_in(const conv *c, int64_t rows)
{
    return (rows - 1) * c->stride + (c->kernel - 1) * c->dilation + 1;
}

static int64_t strip_row(const conv *c, int64_t width)
{
    return times(width + (c->kernel - 1) * c->dilation, c->in_channels);
}

/* `rows` rows of an image from number `top - margin` on */
static void copy_strip(const conv *c, const float *x, int64_t height, int64_t width, int64_t top,
                       int64_t rows, float *strip)
{
    const int64_t margin = c->kernel / 2 * c->dilation, row_size = strip_row(c, width);
    const int64_t begin = margin * c->in_channels, size = width * c->in_channels;
    for (int64_t r = 0; r < rows; r++, strip += row_size) {
        const int64_t row = top + r - margin;
        if (row < 0 || row >= height) {
            memset(strip, 0, row_size * sizeof(float));
            continue;
        }
        memset(strip, 0, begin * sizeof(float));
        memcpy(strip + begin, x + row * size, size * sizeof(float));
        memset(strip + begin + size, 0, (row_size - begin - size) * sizeof(float));
    }
}

/* A few pixels of a row, all pieces; the last piece may be narrower than a vector. */
static void convolve(const conv *c, const map *m, const float *x, float *y, int64_t rows)
{
    const int64_t x_stride = c->stride * c->in_channels, out = c->out_channels;
    const int64_t whole = out / LANES;
#define ONE_PIECE(n) tile(m, piece, x + c->begins[piece], x_stride, y, out, n, 1)
    for (int64_t piece = 0; piece < whole; piece++)
        FOR_PIXELS(rows, ONE_PIECE)
    if (whole == c->pieces)
        return;
    float last[PIXELS * LANES], *to = last - whole * LANES;
    const int64_t piece = whole;
#define LAST_PIECE(n) tile(m, piece, x + c->begins[piece], x_stride, to, LANES, n, 1)
    FOR_PIXELS(rows, LAST_PIECE)
    for (int64_t r = 0; r < rows; r++)
        store_lanes(y + r * out + whole * LANES, LOAD(last + r * LANES), out - whole * LANES);
}

/* Images, their results, and how they are cut into strips of `rows` rows of the result. */
typedef struct {
    const float *x;
    float *y;
    int64_t height, width, out_height, out_width, rows, strips;
} task;

/* A few rows of one result; strip: room for what they see of the image. */
static void run_strip(const conv *c, const map *m, const task *t, int64_t unit, float *strip)
{
    const int64_t image = unit / t->strips, first = unit % t->strips * t->rows;
    const int64_t here = least(t->rows, t->out_height - first), row_size = strip_row(c, t->width);
    copy_strip(c, t->x + image * t->height * t->width * c->in_channels, t->height, t->width,
               first * c->stride, rows_in(c, here), strip);
    for (int64_t r = 0; r < here; r++) {
        const float *from = strip + r * c->stride * row_size;
        float *to = t->y + (image * t->out_height + first + r) * t->out_width * c->out_channels;
        for (int64_t column = 0, n; column < t->out_width; column += n) {
            n = next_rows(t->out_width - column);
            convolve(c, m, from + column * c->stride * c->in_channels,
                     to + column * c->out_channels, n);
        }
    }
}

/* inputs: channels that a piece sees. */
static report check_sizes(int64_t in_channels, int64_t out_channels, int64_t kernel, int64_t stride,
                          int64_t dilation, int64_t activation, int64_t inputs)
{
    WITHIN(in_channels, 1, MAX_SIZE);
    WITHIN(out_channels, 1, MAX_SIZE);
    WITHIN(kernel, 1, MAX_KERNEL);
    CHECK(kernel % 2, "kernel must be odd, got %lld", (long long)kernel);
    WITHIN(stride, 1, MAX_SIZE);
    WITHIN(dilation, 1, kernel > 1 ? MAX_MARGIN / (kernel / 2) : MAX_SIZE);
    WITHIN(activation, NONE, HARD_SWISH);
    WITHIN(inputs, 1, in_channels);
    return NULL;
}

/* The same number of rows for every thread, and no more than stay in cache. */
static void cut(const conv *c, task *t, int threads)
{
    t->rows = STRIP_NUMBERS / strip_row(c, t->width) / c->stride + 1;
    t->rows = least(t->rows, (t->out_height + threads - 1) / threads);
    t->strips = (t->out_height + t->rows - 1) / t->rows;
}

static void run_all(const conv *c, const map *m, const task *t, int64_t batch, int threads,
                    int64_t each, float **room)
{
    (void)threads; /* without OpenMP */
#pragma omp parallel num_threads(threads)
    {
        const team all = all_threads();
        const int64_t units = batch * t->strips;
        find_room(all, 0, each, room);
        for (int64_t unit = share_begin(all, units); *room && unit < share_end(all, units); unit++)
            run_strip(c, m, t, unit, *room + all.rank * each);
    }
}

/* x: (batch, height, width, in_channels); y: (batch, height / stride, width / stride, out_channels),
 * rounded up; begins: (pieces); weight: (pieces, taps, inputs, LANES); bias: (pieces, LANES). */
ENTRY mgic_grouped_conv(IMAGES(x), INTS(begins), FLOATS(weight), FLOATS(bias), OUT_IMAGES(y),
                        int64_t batch, int64_t height, int64_t width, int64_t in_channels,
                        int64_t out_channels, int64_t kernel, int64_t stride, int64_t dilation,
                        int64_t activation, int64_t inputs, int threads)
{
    TRY(check_sizes(in_channels, out_channels, kernel, stride, dilation, activation, inputs));
    WITHIN(batch, 0, MAX_SIZE);
    WITHIN(height, 1, MAX_SIZE);
    WITHIN(width, 1, MAX_SIZE);
    const conv c = {in_channels, out_channels, kernel, stride, dilation, pieces_of(out_channels),
                    begins};
    task t = {.x = x, .y = y, .height = height, .width = width,
              .out_height = (height + stride - 1) / stride,
              .out_width = (width + stride - 1) / stride};
    HOLDS(x, times(times(batch, height), times(width, in_channels)));
    HOLDS(y, times(times(batch, t.out_height), times(t.out_width, out_channels)));
    HOLDS(begins, c.pieces);
    NODES_WITHIN(begins, c.pieces, 0, in_channels - inputs + 1);
    HOLDS(weight, times(times(c.pieces, kernel * kernel), times(inputs, LANES)));
    HOLDS(bias, times(c.pieces, LANES));
    if (!batch)
        return NULL;
    const int64_t row_size = strip_row(&c, width);
    if (row_size < 0)
        return NO_MEMORY;
    cut(&c, &t, threads);
    int64_t taps[MAX_TAPS], num_taps = 0;
    for (int64_t i = 0; i < kernel; i++)
        for (int64_t k = 0; k < kernel; k++)
            taps[num_taps++] = dilation * (i * row_size + k * in_channels);
    const map m = {weight, bias, c.pieces, inputs, num_taps, activation, taps};
    float *room = NULL;
    run_all(&c, &m, &t, batch, threads, filled(times(rows_in(&c, t.rows), row_size)), &room);
    return room ? NULL : NO_MEMORY;
}
