/* Strips of images copied for depthwise convolutions, and the convolution of a copy.
 *
 * A unit of work is a strip of rows of some channels of an image. These are copied, one vector of
 * channels behind the other, each with zeros around it, so that neighboring pixels are LANES
 * numbers apart whatever the number of channels. Weights are (channels, kernel, kernel). */

#ifndef MGIC_STRIPS_H
#define MGIC_STRIPS_H

#include "scratch.h"
#include "tiles.h"

#define VECTORS 6                  /* of channels in a unit, at most */
#define STRIP_NUMBERS (128 * 1024) /* of a copy: it stays in the second cache */

typedef struct {
    int64_t height, width, channels, kernel, dilation;
    int64_t chunks, vectors;          /* vectors: of a chunk of channels */
    int64_t margin, row, rows, plane; /* row, plane: numbers; rows: of a strip */
    int64_t strips;                   /* of an image */
} sizes;

static sizes measure(int64_t height, int64_t width, int64_t channels, int64_t kernel,
                     int64_t dilation)
{
    sizes s = {.height = height, .width = width, .channels = channels, .kernel = kernel,
               .dilation = dilation};
    s.chunks = (pieces_of(channels) + VECTORS - 1) / VECTORS;
    s.vectors = (pieces_of(channels) + s.chunks - 1) / s.chunks; /* all about as wide */
    s.margin = kernel / 2 * dilation;
    s.row = (width + 2 * s.margin) * LANES;
    s.rows = STRIP_NUMBERS / s.vectors / s.row - 2 * s.margin;
    s.rows = least(s.rows < 4 ? 4 : s.rows, height);
    const int64_t strips = (height + s.rows - 1) / s.rows;
    s.rows = (height + strips - 1) / strips; /* all about as high */
    s.strips = (height + s.rows - 1) / s.rows;
    s.plane = times(s.rows + 2 * s.margin, s.row);
    return s;
}

static report check_sizes(int64_t batch, int64_t height, int64_t width, int64_t channels,
                          int64_t kernel, int64_t dilation)
{
    WITHIN(batch, 0, MAX_SIZE);
    WITHIN(height, 1, MAX_SIZE);
    WITHIN(width, 1, MAX_SIZE);
    WITHIN(channels, 1, MAX_SIZE);
    WITHIN(kernel, 1, MAX_KERNEL);
    CHECK(kernel % 2, "kernel must be odd, got %lld", (long long)kernel);
    WITHIN(dilation, 1, kernel > 1 ? MAX_MARGIN / (kernel / 2) : MAX_SIZE);
    return NULL;
}

/* Numbers of a batch of images, -1 for more than there can be */
static int64_t images(int64_t batch, const sizes *s)
{
    return times(times(batch, s->height), times(s->width, s->channels));
}

/* One of the strips of all images, some of its channels. */
typedef struct {
    int64_t image, top, bottom, channel, vectors; /* the last vector may not be full */
} strip;

static strip strip_of(const sizes *s, int64_t number, int64_t chunk)
{
    const int64_t top = number % s->strips * s->rows, channel = chunk * s->vectors * LANES;
    return (strip){number / s->strips, top, least(top + s->rows, s->height), channel,
                   least(s->vectors, pieces_of(s->channels - channel))};
}

INLINE int64_t lanes_at(const sizes *s, int64_t channel)
{
    return least(LANES, s->channels - channel);
}

/* The copy of a strip, with its margins */
static void copy_strip(const sizes *s, const strip *at, const float *x, float *planes)
{
    const int64_t margin = s->margin, channels = s->channels;
    const int64_t last = at->vectors - 1, lanes = lanes_at(s, at->channel + last * LANES);
    for (int64_t row = at->top - margin; row < at->bottom + margin; row++, planes += s->row) {
        for (int64_t v = 0; v < at->vectors; v++) {
            float *to = planes + v * s->plane;
            if (row < 0 || row >= s->height) {
                memset(to, 0, s->row * sizeof(float));
                continue;
            }
            memset(to, 0, margin * LANES * sizeof(float));
            memset(to + s->row - margin * LANES, 0, margin * LANES * sizeof(float));
        }
        if (row < 0 || row >= s->height)
            continue;
        const float *from = x + (at->image * s->height + row) * s->width * channels + at->channel;
        float *to = planes + margin * LANES;
        for (int64_t column = 0; column < s->width; column++, from += channels, to += LANES) {
            for (int64_t c = 0; c < at->vectors * LANES; c += LINE)
                __builtin_prefetch(from + 8 * channels + c);
            for (int64_t v = 0; v < last; v++)
                STORE(to + v * s->plane, LOAD(from + v * LANES));
            STORE(to + last * s->plane, load_lanes(from + last * LANES, lanes));
        }
    }
}

/* Weights of a chunk, (vectors, taps, LANES), the taps in reverse where that is asked for */
static void pack(const sizes *s, int64_t channel, int64_t vectors, const float *weight,
                 int64_t reverse, float *packed)
{
    const int64_t taps = s->kernel * s->kernel;
    for (int64_t v = 0; v < vectors; v++, channel += LANES)
        for (int64_t t = 0; t < taps; t++, packed += LANES)
            for (int64_t lane = 0; lane < LANES; lane++)
                packed[lane] = channel + lane < s->channels
                                   ? weight[(channel + lane) * taps + (reverse ? taps - 1 - t : t)]
                                   : 0;
}

/* The convolution of the copy of a strip, into the image y; weights as packed. */
static void filter_strip(const sizes *s, const strip *at, const float *planes, const float *packed,
                         float *y)
{
    static const float no_bias[LANES];
    int64_t taps[MAX_TAPS], num_taps = 0;
    for (int64_t i = 0; i < s->kernel; i++)
        for (int64_t k = 0; k < s->kernel; k++)
            taps[num_taps++] = s->dilation * (i * s->row + k * LANES);
    for (int64_t row = at->top; row < at->bottom; row++)
        for (int64_t v = 0; v < at->vectors; v++) {
            const int64_t channel = at->channel + v * LANES, lanes = lanes_at(s, channel);
            const map m = {packed + v * num_taps * LANES, no_bias, 1, 1, num_taps, NONE, taps};
            const float *from = planes + v * s->plane + (row - at->top) * s->row;
            float *to = y + (at->image * s->height + row) * s->width * s->channels + channel;
            for (int64_t column = 0, n; column < s->width; column += n) {
                n = next_rows(s->width - column);
                float *pixel = to + column * s->channels, part[PIXELS * LANES];
                if (lanes == LANES) {
                    filter(&m, from + column * LANES, LANES, pixel, s->channels, n);
                    continue;
                }
                filter(&m, from + column * LANES, LANES, part, LANES, n);
                for (int64_t r = 0; r < n; r++)
                    store_lanes(pixel + r * s->channels, LOAD(part + r * LANES), lanes);
            }
        }
}

#endif
