/* Convolutions whose groups are narrower than a vector, as where the width changes.
 *
 * The outputs are cut into pieces of LANES whatever the groups, each with the range of input channels
 * that its groups see, and zero weights where a group ends inside a piece: weight[piece][tap][input]
 * [LANES]. Strips of the input are copied with zeros around them. */

#include "team.h"
#include "tiles.h"

#define STRIP_NUMBERS (64 * 1024)

/* Sizes as Python lays them out (grouped_conv.py, ConvPlan). */
typedef struct {
    int64_t in_channels, out_channels, kernel, stride, dilation, activation, pieces, inputs;
} conv;

static int64_t rows_in(const conv *c, int64_t rows)
{
    return (rows - 1) * c->stride + (c->kernel - 1) * c->dilation + 1;
}

static int64_t strip_row(const conv *c, int64_t width)
{
    return (width + (c->kernel - 1) * c->dilation + c->stride) * c->in_channels;
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
static void convolve(const conv *c, const map *m, const int64_t *begins, const float *x, float *y,
                     int64_t rows)
{
    const int64_t x_stride = c->stride * c->in_channels, out = c->out_channels;
    const int64_t whole = out / LANES;
#define ONE_PIECE(n) tile(m, piece, x + begins[piece], x_stride, y, out, n, 1)
    for (int64_t piece = 0; piece < whole; piece++)
        FOR_ROWS(rows, ONE_PIECE)
    if (whole == c->pieces)
        return;
    float last[ROWS * LANES], *to = last - whole * LANES;
    const int64_t piece = whole;
#define LAST_PIECE(n) tile(m, piece, x + begins[piece], x_stride, to, LANES, n, 1)
    FOR_ROWS(rows, LAST_PIECE)
    for (int64_t r = 0; r < rows; r++)
        store_lanes(y + r * out + whole * LANES, LOAD(last + r * LANES), out - whole * LANES);
}

static _Thread_local arena memory;

/* x: (batch, height, width, in); y: (batch, out_height, out_width, out); bias: (pieces * LANES).
 * Returns 0, or 1 where there is no memory. */
int64_t mgic_grouped_conv(const float *x, float *y, int64_t batch, int64_t height, int64_t width,
                          int64_t out_height, int64_t out_width, const int64_t *plan,
                          const int64_t *begins, const float *weight, const float *bias,
                          int threads)
{
    const conv *c = (const conv *)plan;
    const int64_t row_size = strip_row(c, width);
    int64_t rows = STRIP_NUMBERS / row_size / c->stride + 1;
    rows = least(rows, (out_height + threads - 1) / threads);
    const int64_t strips = (out_height + rows - 1) / rows, units = batch * strips;
    const int64_t room_each = padded(rows_in(c, rows) * row_size);
    float *base = room(&memory, threads * room_each);
    int64_t taps[MAX_TAPS], num_taps = 0;
    if (!base)
        return 1;
    for (int64_t i = 0; i < c->kernel; i++)
        for (int64_t k = 0; k < c->kernel; k++)
            taps[num_taps++] = c->dilation * (i * row_size + k * c->in_channels);
    const map m = {weight, bias, c->pieces, c->inputs, num_taps, c->activation, taps};
#pragma omp parallel num_threads(threads)
    {
        const team t = all_threads();
        float *strip = base + t.rank * room_each;
        for (int64_t unit = share_begin(t, units); unit < share_end(t, units); unit++) {
            const int64_t image = unit / strips, first = unit % strips * rows;
            const int64_t here = least(rows, out_height - first);
            copy_strip(c, x + image * height * width * c->in_channels, height, width,
                       first * c->stride, rows_in(c, here), strip);
            for (int64_t r = 0; r < here; r++) {
                float *to = y + (image * out_height + first + r) * out_width * c->out_channels;
                for (int64_t column = 0, n; column < out_width; column += n) {
                    n = next_rows(out_width - column);
                    convolve(c, &m, begins,
                             strip + r * c->stride * row_size +
                                 column * c->stride * c->in_channels,
                             to + column * c->out_channels, n);
                }
            }
        }
    }
    return 0;
}
