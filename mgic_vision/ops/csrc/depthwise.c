/* Depthwise convolutions that keep the resolution, and their gradients; see strips.h. */

#include "strips.h"
#include "team.h"

#define UNITS 32 /* of work at least, where gradients of weights are summed up */

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
    (void)threads; /* without OpenMP */
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
    (void)threads; /* without OpenMP */
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
