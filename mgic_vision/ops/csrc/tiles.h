/* Products of a few pixels with a packed weight, and what else happens to a few pixels.
 *
 * Channels lie innermost. The map of one group is cut into pieces of LANES output channels, the last
 * one filled up with zeros: weight[piece][tap][input][LANES], bias[piece][LANES]. The sums of PIXELS
 * pixels and two pieces stay in registers: 12 of the 16 that AVX2 has, one for what is multiplied
 * and two for weights. */

#ifndef MGIC_TILES_H
#define MGIC_TILES_H

#include "activations.h"
#include "kernels.h"

#define PIXELS 6
#define PAIR 2

/* Of kernels, and of the zeros around an image. kernel.py reads these numbers here. */
#define MAX_KERNEL 9
#define MAX_MARGIN 64

#define MAX_TAPS (MAX_KERNEL * MAX_KERNEL)

INLINE int64_t pieces_of(int64_t channels) { return (channels + LANES - 1) / LANES; }
INLINE int64_t padded(int64_t channels) { return pieces_of(channels) * LANES; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* What `tile` needs beside the pixels. Offsets of taps are in numbers, from the first pixel. */
typedef struct {
    const float *weight, *bias;
    int64_t pieces, inputs, num_taps, activation;
    const int64_t *taps;
} map;

/* y[r] = activation(bias + sum over taps and inputs of weight * x[r]), `rows` pixels and `pieces`
 * pieces at once, both constants where this is inlined */
INLINE void tile(const map *m, int64_t piece, const float *x, int64_t x_stride, float *y,
                 int64_t y_stride, const int rows, const int pieces)
{
    const int64_t size = m->num_taps * m->inputs * LANES, inputs = m->inputs;
    const float *weight = m->weight + piece * size;
    vec sums[PIXELS][PAIR];
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < pieces; p++)
            sums[r][p] = LOAD(m->bias + (piece + p) * LANES);
    for (int64_t t = 0; t < m->num_taps; t++) {
        const float *from = x + m->taps[t];
        for (int64_t i = 0; i < inputs; i++, weight += LANES) {
            vec w[PAIR];
            for (int p = 0; p < pieces; p++)
                w[p] = LOAD(weight + p * size);
            for (int r = 0; r < rows; r++)
                for (int p = 0; p < pieces; p++)
                    sums[r][p] += from[r * x_stride + i] * w[p];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < pieces; p++)
            STORE(y + r * y_stride + (piece + p) * LANES, activated(sums[r][p], m->activation));
}

/* The same for the taps of single channels: weight[piece][tap][LANES] */
INLINE void filter_tile(const map *m, int64_t piece, const float *x, int64_t x_stride, float *y,
                        int64_t y_stride, const int rows)
{
    const float *weight = m->weight + piece * m->num_taps * LANES;
    vec sums[PIXELS];
    for (int r = 0; r < rows; r++)
        sums[r] = LOAD(m->bias + piece * LANES);
    for (int64_t t = 0; t < m->num_taps; t++, weight += LANES) {
        const float *from = x + m->taps[t] + piece * LANES;
        const vec w = LOAD(weight);
        for (int r = 0; r < rows; r++)
            sums[r] += LOAD(from + r * x_stride) * w;
    }
    for (int r = 0; r < rows; r++)
        STORE(y + r * y_stride + piece * LANES, activated(sums[r], m->activation));
}

#define FOR_PIXELS(rows, call)                                                                       \
    switch (rows) {                                                                                \
    case 6: call(6); break;                                                                        \
    case 5: call(5); break;                                                                        \
    case 4: call(4); break;                                                                        \
    case 3: call(3); break;                                                                        \
    case 2: call(2); break;                                                                        \
    default: call(1);                                                                              \
    }

/* Pixels to take next of `left`, so that the last ones are not few */
INLINE int64_t next_rows(int64_t left)
{
    const int64_t chunks = (left + PIXELS - 1) / PIXELS;
    return (left + chunks - 1) / chunks;
}

/* The pixels of an image in chunks of up to PIXELS. Threads share chunks, not pixels: as compiled,
 * sums of one pixel may be rounded otherwise than those of several at once. */
INLINE int64_t chunks_of(int64_t pixels) { return (pixels + PIXELS - 1) / PIXELS; }

INLINE int64_t chunk_begin(int64_t pixels, int64_t chunk)
{
    const int64_t chunks = chunks_of(pixels);
    return pixels / chunks * chunk + least(chunk, pixels % chunks);
}

/* Fetch `count` channels of the pixels behind these: neighbors in memory belong to other groups, and
 * so many streams are more than the processor foresees. */
INLINE void foresee(const float *x, int64_t x_stride, int64_t count, int64_t rows)
{
    for (int64_t r = rows; r < 2 * rows; r++)
        for (int64_t c = 0; c < count; c += LINE)
            __builtin_prefetch(x + r * x_stride + c);
}

/* All pieces of up to PIXELS pixels; y has room for whole pieces. */
INLINE void multiply(const map *m, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                     int64_t rows)
{
    int64_t piece = 0;
#define TWO(n) tile(m, piece, x, x_stride, y, y_stride, n, PAIR)
    for (; piece + PAIR <= m->pieces; piece += PAIR)
        FOR_PIXELS(rows, TWO)
#define ONE(n) tile(m, piece, x, x_stride, y, y_stride, n, 1)
    for (; piece < m->pieces; piece++)
        FOR_PIXELS(rows, ONE)
}

INLINE void filter(const map *m, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                   int64_t rows)
{
#define FILTER(n) filter_tile(m, piece, x, x_stride, y, y_stride, n)
    for (int64_t piece = 0; piece < m->pieces; piece++)
        FOR_PIXELS(rows, FILTER)
}

#endif
