/* Depthwise convolutions that keep the resolution, and their gradients.
 *
 * A unit of work is a strip of rows of some channels of an image. These are copied, one vector of
 * channels behind the other, each with zeros around it, so that neighboring pixels are LANES
 * numbers apart whatever the number of channels. Weights are (channels, kernel, kernel). */

#include "team.h"
#include "tiles.h"

#define VECTORS 6                  /* of channels in a unit, at most */
#define STRIP_NUMBERS (128 * 1024) /* of a copy: it stays in the second cache */
#define UNITS 32                   /* of work at least, where gradients of weights are summed up */

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

/* Products of the gradients of a row with `count` rows of the copy, `far` numbers from one to the
 * next, at `kernel` places, added to sums, (count, kernel, LANES). The last three are constants. */
INLINE void correlate_row(const float *grad, const float *x, int64_t far, int64_t width,
                          int64_t dilation, float *sums, const int kernel, const int count)
{
    vec all[2 * MAX_KERNEL];
    for (int i = 0; i < kernel * count; i++)
        all[i] = LOAD(sums + i * LANES);
    for (int64_t column = 0; column < width; column++) {
        vec g = LOAD(grad + column * LANES);
        HOLD(g);
        for (int i = 0; i < count; i++)
            for (int k = 0; k < kernel; k++)
                all[i * kernel + k] += g * LOAD(x + i * far + (column + k * dilation) * LANES);
    }
    for (int i = 0; i < kernel * count; i++)
        STORE(sums + i * LANES, all[i]);
}

/* As many rows of a kernel at once as registers allow */
INLINE void correlate_side(const float *grad, const float *x, int64_t far, int64_t width,
                           int64_t dilation, float *sums, const int kernel)
{
    const int most = kernel < 4 ? 3 : kernel < 6 ? 2 : 1;
    int64_t i = 0;
    for (; i + most <= kernel; i += most)
        correlate_row(grad, x + i * far, far, width, dilation, sums + i * kernel * LANES, kernel,
                      most);
    for (; i < kernel; i++)
        correlate_row(grad, x + i * far, far, width, dilation, sums + i * kernel * LANES, kernel,
                      1);
}

/* The weight's gradient from a strip, added to sums, (vectors, taps, LANES). */
static void correlate_strip(const sizes *s, const strip *at, const float *grads,
                            const float *planes, float *sums)
{
    const int64_t far = s->dilation * s->row, inside = s->margin * (s->row + LANES);
    for (int64_t row = 0; row < at->bottom - at->top; row++)
        for (int64_t v = 0; v < at->vectors; v++) {
            const float *grad = grads + v * s->plane + row * s->row + inside;
            const float *x = planes + v * s->plane + row * s->row;
            float *to = sums + v * s->kernel * s->kernel * LANES;
#define SIDE(kernel, dilation)                                                                     \
    correlate_side(grad, x, far, s->width, dilation, to, kernel)
#define ANY_SIDE(dilation)                                                                         \
    switch (s->kernel) {                                                                           \
    case 9: SIDE(9, dilation); break;                                                              \
    case 7: SIDE(7, dilation); break;                                                              \
    case 5: SIDE(5, dilation); break;                                                              \
    case 3: SIDE(3, dilation); break;                                                              \
    default: SIDE(1, dilation);                                                                    \
    }
            if (s->dilation == 1)
                ANY_SIDE(1)
            else
                ANY_SIDE(s->dilation)
#undef ANY_SIDE
#undef SIDE
        }
}

static void filter_all(const sizes *s, int64_t batch, const float *x, const float *weight, float *y,
                       float *planes)
{
    float *packed = planes + s->vectors * s->plane;
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < batch * s->strips * s->chunks; unit++) {
        const strip at = strip_of(s, unit / s->chunks, unit % s->chunks);
        pack(s, at.channel, at.vectors, weight, 0, packed);
        copy_strip(s, &at, x, planes);
        filter_strip(s, &at, planes, packed, y);
    }
}

/* x, y: (batch, height, width, channels); weight: (channels, kernel, kernel). */
ENTRY mgic_depthwise(IMAGES(x), FLOATS(weight), OUT_IMAGES(y), int64_t batch, int64_t height,
                     int64_t width, int64_t channels, int64_t kernel, int64_t dilation, int threads)
{
    TRY(check_sizes(batch, height, width, channels, kernel, dilation));
    const sizes s = measure(height, width, channels, kernel, dilation);
    HOLDS(x, images(batch, &s));
    HOLDS(y, x_length);
    HOLDS(weight, times(channels, kernel * kernel));
    if (!batch)
        return NULL;
    const int64_t each = times(plus(s.plane, kernel * kernel * LANES), s.vectors);
    float *room = NULL;
#pragma omp parallel num_threads(threads)
    {
        const team all = all_threads();
        find_room(all, 0, each, &room);
        if (room)
            filter_all(&s, batch, x, weight, y, room + all.rank * each);
    }
    return room ? NULL : NO_MEMORY;
}

/* What the gradients of a batch are computed from and go to; those that nobody asks for are null.
 * Sums of the weight's are taken share by share, (shares, chunks, vectors, taps, LANES), and do not
 * depend on the threads. */
typedef struct {
    const sizes *s;
    int64_t strips, shares;
    const float *grad, *x, *weight;
    float *grad_x, *sums;
} gradients;

INLINE int64_t size_of_sums(const sizes *s) { return s->kernel * s->kernel * s->vectors * LANES; }

/* One share of the strips, some of their channels; grads: room of this thread. */
static void run_share(const gradients *g, int64_t share, int64_t chunk, float *grads)
{
    const sizes *s = g->s;
    float *planes = grads + s->vectors * s->plane, *packed = planes + s->vectors * s->plane;
    const int64_t end = g->strips * (share + 1) / g->shares;
    for (int64_t number = g->strips * share / g->shares; number < end; number++) {
        const strip at = strip_of(s, number, chunk);
        copy_strip(s, &at, g->grad, grads);
        if (g->grad_x) {
            pack(s, at.channel, at.vectors, g->weight, 1, packed);
            filter_strip(s, &at, grads, packed, g->grad_x);
        }
        if (g->sums) {
            copy_strip(s, &at, g->x, planes);
            correlate_strip(s, &at, grads, planes,
                            g->sums + (share * s->chunks + chunk) * size_of_sums(s));
        }
    }
}

static void run_shares(const gradients *g, float *mine)
{
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < g->shares * g->s->chunks; unit++)
        run_share(g, unit / g->s->chunks, unit % g->s->chunks, mine);
}

/* The weight's gradient from the sums of all shares */
static void join_shares(const gradients *g, float *grad_weight)
{
    const sizes *s = g->s;
    const int64_t taps = s->kernel * s->kernel, size = size_of_sums(s);
    for (int64_t c = 0; c < s->channels; c++)
        for (int64_t t = 0; t < taps; t++) {
            const int64_t place = (c / LANES * taps + t) * LANES + c % LANES;
            double sum = 0;
            for (int64_t share = 0; share < g->shares; share++)
                sum += g->sums[share * s->chunks * size + place];
            grad_weight[c * taps + t] = (float)sum;
        }
}

/* grad, x, grad_x: (batch, height, width, channels); weight, grad_weight: (channels, kernel,
 * kernel); grad_x or grad_weight null where nobody asks for them. */
ENTRY mgic_depthwise_backward(IMAGES(grad), IMAGES(x), FLOATS(weight), OUT_IMAGES(grad_x),
                              OUT_FLOATS(grad_weight), int64_t batch, int64_t height,
                              int64_t width, int64_t channels, int64_t kernel, int64_t dilation,
                              int threads)
{
    TRY(check_sizes(batch, height, width, channels, kernel, dilation));
    const sizes s = measure(height, width, channels, kernel, dilation);
    HOLDS(x, images(batch, &s));
    HOLDS(grad, x_length);
    HOLDS_OR_NULL(grad_x, x_length);
    HOLDS(weight, times(channels, kernel * kernel));
    HOLDS_OR_NULL(grad_weight, weight_length);
    gradients g = {&s, batch * s.strips, least((UNITS + s.chunks - 1) / s.chunks, batch * s.strips),
                   grad, x, weight, grad_x, NULL};
    const int64_t sums = grad_weight ? times(g.shares * s.chunks, size_of_sums(&s)) : 0;
    const int64_t each = batch ? plus(times(2 * s.vectors, s.plane), size_of_sums(&s)) : 0;
    float *room = NULL;
#pragma omp parallel num_threads(threads)
    {
        const team all = all_threads();
        find_room(all, sums, each, &room);
        if (room && all.rank == 0 && grad_weight)
            g.sums = memset(room, 0, sums * sizeof(float));
        meet(all);
        if (room)
            run_shares(&g, room + sums + all.rank * each);
    }
    if (room && grad_weight)
        join_shares(&g, grad_weight);
    return room ? NULL : NO_MEMORY;
}
