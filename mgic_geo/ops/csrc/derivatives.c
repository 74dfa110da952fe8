/* Differential convolution: features and their derivatives along three axes, mixed group by group.
 *
 * A graph is ptr, (nodes + 1), index, (edges), and value, (edges, 3): the weight of every edge in
 * the derivative along each axis, the node's own weight among the edges; and crossings,
 * (nodes + 1): how many edges join nodes before each one with it or later ones. Where none do,
 * another cloud starts. Second derivatives are needed for a few rows at a time and never leave the
 * cache; with clouds and narrow groups first ones do not either. */

#include "entry.h"
#include "pieces.h"

#define BLOCK 32    /* rows whose second derivatives are held together */
#define CHUNK 32    /* channels that are worked through together where groups allow it */
#define SMALL 512   /* nodes at least that are worked through together, if there are so many */
#define LARGE 4096  /* nodes at most of which CHUNK channels of first derivatives stay in cache */
#define VECTORS 4   /* whose sums along three axes are in registers */
#define AHEAD 16    /* rows ahead that are fetched: they are too far apart for the processor */
#define PARTS 7     /* the features, three first and three second derivatives */

typedef struct {
    const int64_t *ptr, *index, *crossings;
    const float *value;
    int64_t nodes;
} graph;

/* Derivatives along all axes at one node, some channels: y is (3, y_stride). Rows of x, the first
 * one of node `origin`, are `step` numbers apart, and the axes `across` numbers apart in a row, 0
 * where they derive the same features. */
INLINE void derive(const float *x, int64_t origin, int64_t step, int64_t across,
                   const graph *edges, int64_t node, float *y, int64_t y_stride,
                   const int vectors, int64_t lanes)
{
    vec sums[3][VECTORS] = {};
    for (int64_t e = edges->ptr[node]; e < edges->ptr[node + 1]; e++) {
        const float *row = x + (edges->index[e] - origin) * step;
        for (int v = 0; v < vectors; v++) {
            vec near = load_lanes(row + LANES * v, lanes);
            HOLD(near);
            for (int a = 0; a < 3; a++) {
                if (a && across)
                    near = load_lanes(row + a * across + LANES * v, lanes);
                sums[a][v] += edges->value[3 * e + a] * near;
                if (!across)
                    HOLD(sums[a][v]);
            }
        }
    }
    for (int a = 0; a < 3; a++)
        for (int v = 0; v < vectors; v++)
            store_lanes(y + a * y_stride + LANES * v, sums[a][v], lanes);
}

/* The same at `rows` nodes from number `first`, for all channels: y is (rows, 3, channels). A few
 * channels of all rows before the next ones: nodes that are near in space and in number then find
 * each other's neighbors in the first cache. */
INLINE void derive_rows(const float *x, int64_t origin, int64_t channels, int64_t step,
                        int64_t across, const graph *edges, int64_t first, int64_t rows, float *y)
{
    const int64_t stride = 3 * channels;
    int64_t c = 0;
#define DERIVE(vectors, lanes)                                                                     \
    for (int64_t r = 0; r < rows; r++)                                                             \
        derive(x + c, origin, step, across, edges, first + r, y + r * stride + c, channels,        \
               vectors, lanes)
    FOR_CHANNELS(c, channels, VECTORS, DERIVE)
#undef DERIVE
}

/* First derivatives, `many` 1 and `across` 0, of rows one after the other, or second ones, 3 and
 * 1, of first ones as this lays them out. Usual widths are constants, so that addresses are. */
INLINE void derive_all(const float *x, int64_t origin, int64_t channels, const int many,
                       const int across, const graph *edges, int64_t first, int64_t rows, float *y)
{
#define DERIVE(width)                                                                              \
    derive_rows(x, origin, width, many * (width), across * (width), edges, first, rows, y)
    if (channels == CHUNK)
        DERIVE(CHUNK);
    else if (channels == CHUNK / 2)
        DERIVE(CHUNK / 2);
    else if (channels == CHUNK / 4)
        DERIVE(CHUNK / 4);
    else
        DERIVE(channels);
#undef DERIVE
}

static void derive_first(const float *x, int64_t origin, int64_t channels, const graph *edges,
                         int64_t first, int64_t rows, float *y)
{
    derive_all(x, origin, channels, 1, 0, edges, first, rows, y);
}

static void derive_second(const float *x, int64_t origin, int64_t channels, const graph *edges,
                          int64_t first, int64_t rows, float *y)
{
    derive_all(x, origin, channels, 3, 1, edges, first, rows, y);
}

/* What one call is about: see mgic_mix_derivatives. */
typedef struct {
    graph edges;
    const float *x;
    int64_t channels;
    packing plan;
    const float *weight, *bias;
    float *y;
    const float *other;
    int64_t other_channels;
    packing products;
    float *sums, *totals;
} task;

/* Room of a share in `sums`. */
INLINE int64_t sums_size(const task *task)
{
    return task->products.pieces * PARTS * task->products.inputs * LANES;
}

/* Second derivatives, products and their sums at `rows` nodes from number `start`, for `width`
 * channels from number `channel`. near, its rows near_stride apart, and first, (rows, 3, width):
 * features and first derivatives of all nodes from number `origin`. second: room for
 * (BLOCK, 3, width). Sums are those of number `share`. */
INLINE void mix_width(const task *task, int64_t start, int64_t rows, int64_t origin,
                      const float *near, int64_t near_stride, const float *first, float *second,
                      int64_t channel, int64_t width, int64_t share)
{
    for (int64_t r = start; r < start + rows; r++)
        for (int64_t c = channel; c < channel + width; c += LINE) {
            __builtin_prefetch(task->y + r * task->plan.out + c, 1);
            if (task->other)
                __builtin_prefetch(task->other + r * task->other_channels + c);
        }
    derive_second(first, origin, width, &task->edges, start, rows, second);
    const int64_t row = start - origin;
    const float *slopes[PARTS - 1];
    for (int a = 0; a < 3; a++) {
        slopes[a] = first + (row * 3 + a) * width;
        slopes[3 + a] = second + a * width;
    }
    near += row * near_stride;
    const parts parts = {near, near_stride, slopes, PARTS - 1, 3 * width};
    packing plan = task->plan, products = task->products;
    plan.origin = channel;
    plan.scale = NULL; /* as it is: a constant, so that no code for a norm is left */
    if (plan.addend)
        plan.addend += start * plan.out;
    while (plan.from < plan.to && plan.begins[plan.from] < channel)
        plan.from++;
    while (plan.to > plan.from && plan.begins[plan.to - 1] >= channel + width)
        plan.to--;
    multiply_block(&parts, rows, &plan, task->weight, task->bias, task->y + start * plan.out,
                   plan.out);
    if (!task->other)
        return;
    const int64_t from = channel / LANES, to = (channel + width + LANES - 1) / LANES;
    const float *other = task->other + start * task->other_channels;
    float *sums = task->sums + share * sums_size(task);
    for (int64_t piece = from; piece < to; piece++) {
        const float *wide = other + products.begins[piece];
        const int64_t lanes = lanes_of(&products, piece), at = piece * LANES - channel;
        const int64_t inputs = products.inputs, size = inputs * LANES;
        float *of = sums + piece * PARTS * size;
        outer_piece(wide, task->other_channels, inputs, near + at, 0, 1, near_stride, rows, lanes,
                    of);
        for (int p = 0; p < PARTS - 1; p += 3)
            outer_piece(wide, task->other_channels, inputs, slopes[p] + at, width, 3, 3 * width,
                        rows, lanes, of + (1 + p) * size);
    }
    float *totals = task->totals + share * task->channels + channel;
    for (int64_t c = 0; c < width; c += LANES) {
        const int64_t lanes = width - c < LANES ? width - c : LANES;
        vec total = {};
        for (int64_t r = 0; r < rows; r++)
            total += load_lanes(near + r * near_stride + c, lanes);
        store_lanes(totals + c, load_lanes(totals + c, lanes) + total, lanes);
    }
}

/* The same, usual widths as constants. */
static void mix_rows(const task *task, int64_t start, int64_t rows, int64_t origin,
                     const float *near, int64_t near_stride, const float *first, float *second,
                     int64_t channel, int64_t width, int64_t share)
{
    if (width == CHUNK && near_stride == CHUNK)
        mix_width(task, start, rows, origin, near, CHUNK, first, second, channel, CHUNK, share);
    else
        mix_width(task, start, rows, origin, near, near_stride, first, second, channel, width,
                  share);
}

/* The same at all nodes in [from, to), which no edge leaves, with first derivatives. */
static void mix_cloud(const task *task, int64_t from, int64_t to, int64_t channel, int64_t width,
                      float *room, int64_t share)
{
    const int64_t rows = to - from;
    float *near = room, *first = near + rows * width, *second = first + rows * 3 * width;
    for (int64_t r = 0; r < rows; r++) {
        const float *row = task->x + (from + r) * task->channels + channel;
        for (int64_t c = 0; c < width; c += LINE)
            __builtin_prefetch(row + AHEAD * task->channels + c);
        memcpy(near + r * width, row, width * sizeof(float));
    }
    derive_first(near, from, width, &task->edges, from, rows, first);
    for (int64_t start = from; start < to; start += BLOCK)
        mix_rows(task, start, to - start < BLOCK ? to - start : BLOCK, from, near, width, first,
                 second, channel, width, share);
}

/* How a call ended. */
typedef enum { DONE, OUT_OF_MEMORY, BAD_EDGE } outcome;

/* Whether the edges of nodes [from, to) come from nodes in [low, high). */
INLINE int edges_within(const graph *edges, int64_t from, int64_t to, int64_t low, int64_t high)
{
    return all_within(edges->index, edges->ptr[from], edges->ptr[to], low, high);
}

/* The first node from here on at which a cloud starts, or the number of nodes. */
INLINE int64_t next_cloud(const graph *edges, int64_t node)
{
    while (node < edges->nodes && edges->crossings[node])
        node++;
    return node;
}

/* Where a share of the nodes starts: with a cloud. */
INLINE int64_t share_start(const graph *edges, int64_t share, int64_t shares)
{
    return next_cloud(edges, edges->nodes * share / shares);
}

/* Nodes from `from` on that are worked through together: whole clouds of a share, which ends where
 * a cloud does. Those after its end belong to the next share. */
INLINE int64_t clouds_end(const graph *edges, int64_t from, int64_t end)
{
    return from + SMALL < end ? next_cloud(edges, from + SMALL) : end;
}

/* Most nodes that would be worked through together; without end if that leaves less than half as
 * much to do in parallel as there are shares. */
static int64_t largest_clouds(const graph *edges, int64_t shares, int64_t chunks)
{
    int64_t largest = 0, busy = 0;
    for (int64_t share = 0; share < shares; share++) {
        int64_t from = share_start(edges, share, shares), to;
        const int64_t end = share_start(edges, share + 1, shares);
        busy += from < end;
        for (; from < end; from = to) {
            to = clouds_end(edges, from, end);
            largest = to - from > largest ? to - from : largest;
        }
    }
    return 2 * busy * chunks < shares ? INT64_MAX : largest;
}

/* Cloud by cloud and chunk by chunk of channels, in cache. */
static outcome mix_clouds(const task *task, int64_t largest, int64_t shares, int threads)
{
    const graph *edges = &task->edges;
    const int64_t chunks = (task->channels + CHUNK - 1) / CHUNK;
    outcome result = DONE;
#pragma omp parallel num_threads(threads)
    {
        float *room = aligned_alloc(64, (largest * 4 + BLOCK * 3) * CHUNK * sizeof(float));
        if (!room) {
#pragma omp atomic write
            result = OUT_OF_MEMORY;
        }
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < shares * chunks; unit++) {
            const int64_t share = unit / chunks, channel = unit % chunks * CHUNK;
            const int64_t left = task->channels - channel;
            int64_t from = share_start(edges, share, shares), to;
            const int64_t end = share_start(edges, share + 1, shares);
            for (; room && from < end; from = to) {
                to = clouds_end(edges, from, end);
                if (edges_within(edges, from, to, from, to))
                    mix_cloud(task, from, to, channel, left < CHUNK ? left : CHUNK, room, share);
                else {
#pragma omp atomic write
                    result = BAD_EDGE;
                }
            }
        }
        free(room);
    }
    return result;
}

/* All channels at once: first derivatives of all nodes, then the rest, block by block. */
static outcome mix_nodes(const task *task, int64_t shares, int threads)
{
    const graph *edges = &task->edges;
    const int64_t channels = task->channels, nodes = edges->nodes;
    float *first = malloc(nodes * 3 * channels * sizeof(float));
    outcome result = first ? DONE : OUT_OF_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads) if (first)
    for (int64_t node = 0; node < nodes; node += BLOCK) {
        const int64_t rows = nodes - node < BLOCK ? nodes - node : BLOCK;
        if (first && edges_within(edges, node, node + rows, 0, nodes))
            derive_first(task->x, 0, channels, edges, node, rows, first + node * 3 * channels);
        else if (first) {
#pragma omp atomic write
            result = BAD_EDGE;
        }
    }
    if (result != DONE) {
        free(first);
        return result;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t share = 0; share < shares; share++) {
        const int64_t from = nodes * share / shares, to = nodes * (share + 1) / shares;
        float *second = malloc(BLOCK * 3 * channels * sizeof(float));
        if (!second) {
#pragma omp atomic write
            result = OUT_OF_MEMORY;
        }
        for (int64_t start = from; second && start < to; start += BLOCK)
            mix_rows(task, start, to - start < BLOCK ? to - start : BLOCK, 0, task->x, channels,
                     first, second, 0, channels, share);
        free(second);
    }
    free(first);
    return result;
}

/* Whether no piece has inputs from two chunks of channels, so that chunks can be taken alone. */
static int is_narrow(const packing *plan)
{
    for (int64_t piece = 0; piece < plan->pieces; piece++)
        if (plan->begins[piece] / CHUNK != (plan->begins[piece] + plan->inputs - 1) / CHUNK)
            return 0;
    return 1;
}

/* x: (nodes, channels); ptr, crossings: (nodes + 1); index: (edges); value: (edges, 3); begins:
 * (pieces); weight, places: of PARTS parts of `inputs`; bias: (pieces * LANES) or null; subtrahend,
 * y: (nodes, out), the first one or null: y has ReLU where that is asked for, less subtrahend.
 *
 * Where grad_bias is given, (channels), the rows of x are added up into it, and the products of
 * `other`, (nodes, other_channels), with all parts into the weight from `other` to x's channels that
 * is packed as other_begins and inverse say: gradients if x is the output's and the graph is
 * transposed. */
ENTRY mgic_mix_derivatives(FLOATS(x), int64_t nodes, int64_t channels, INTS(ptr), INTS(index),
                           FLOATS(value), INTS(crossings), INTS(begins), int64_t inputs,
                           int64_t out, FLOATS(weight), INTS(places), FLOATS(bias), int64_t relu,
                           FLOATS(subtrahend), OUT_FLOATS(y), FLOATS(other),
                           int64_t other_channels, INTS(other_begins), int64_t other_inputs,
                           INTS(inverse), OUT_FLOATS(grad_weight), OUT_FLOATS(grad_bias),
                           int threads)
{
    const int64_t pieces = begins_length, other_pieces = other_begins_length;
    WITHIN(nodes, 0, MAX_SIZE);
    WITHIN(channels, 1, MAX_SIZE);
    HOLDS(x, times(nodes, channels));
    HOLDS(ptr, nodes + 1);
    HOLDS(crossings, nodes + 1);
    HOLDS(value, times(index_length, 3));
    TRY(check_starts("ptr", ptr, nodes + 1, index_length));
    TRY(check_plan("begins", begins, pieces, inputs, out, channels));
    PACKS(weight, places, times(pieces, PARTS * inputs * LANES));
    HOLDS_OR_NULL(bias, times(pieces, LANES));
    HOLDS_OR_NULL(subtrahend, times(nodes, out));
    HOLDS(y, times(nodes, out));
    int64_t size = 0;
    if (grad_bias || other) {
        HOLDS(other, times(nodes, other_channels));
        TRY(check_plan("other_begins", other_begins, other_pieces, other_inputs, channels,
                       other_channels));
        size = times(other_pieces, PARTS * other_inputs * LANES);
        UNPACKS(grad_weight, inverse, size);
        HOLDS(grad_bias, channels);
    }
    const int64_t shares = shares_of(nodes), numbers = shares * (size + grad_bias_length);
    float *room = zeros((places_length + numbers) * sizeof(float));
    if (!room)
        return NO_MEMORY;
    float *sums = room + places_length, *totals = sums + shares * size;
    task task = {
        .edges = {ptr, index, crossings, value, nodes},
        .x = x,
        .channels = channels,
        .plan = all_pieces(begins, pieces, inputs, out),
        .weight = pack(weight, weight_length, places, places_length, room),
        .bias = bias,
        .y = y,
        .other = other,
        .other_channels = other_channels,
        .products = all_pieces(other_begins, other_pieces, other_inputs, channels),
        .sums = sums,
        .totals = totals,
    };
    task.plan.relu = relu;
    task.plan.addend = subtrahend;
    task.plan.sign = -1;
    const int64_t chunks = (channels + CHUNK - 1) / CHUNK;
    const int64_t largest =
        is_narrow(&task.plan) ? largest_clouds(&task.edges, shares, chunks) : INT64_MAX;
    const outcome result = largest <= LARGE ? mix_clouds(&task, largest, shares, threads)
                                            : mix_nodes(&task, shares, threads);
    if (grad_bias) {
        unpack(sums, shares, size, inverse, inverse_length, grad_weight);
        for (int64_t c = 0; c < channels; c++) {
            grad_bias[c] = 0;
            for (int64_t share = 0; share < shares; share++)
                grad_bias[c] += totals[share * channels + c];
        }
    }
    free(room);
    if (result == OUT_OF_MEMORY)
        return NO_MEMORY;
    if (result == BAD_EDGE) {
        NODES_WITHIN(index, ptr[nodes], 0, nodes);
        return problem("crossings must count the edges that cross a node, these do not");
    }
    return NULL;
}
