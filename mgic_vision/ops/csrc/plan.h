/* Levels of a cycle as Python lays them out, and what has to hold of them. */

#ifndef MGIC_PLAN_H
#define MGIC_PLAN_H

#include "scratch.h"
#include "tiles.h"

#define MAX_LEVELS 16 /* plan.py reads it here */
#define ABSENT -1

/* A level (LevelPlan of plan.py, which reads this): sizes, then where weights begin. */
typedef struct {
    int64_t channels, inner, groups;
    int64_t kernel, first_kernel, dilation, depthwise, activation;
    int64_t pre; /* whether scale, shift and activation stand in front of the first map */
    int64_t squeezed; /* width inside squeeze-excite, 0 for none */
    int64_t coarse, restrict_groups, prolong_groups, restrict_activation;
    int64_t restrict_weight, restrict_bias, prolong_weight, prolong_bias, scale, shift;
    int64_t first_weight, first_bias, spatial_weight, spatial_bias, last_weight, last_bias;
    int64_t reduce_weight, reduce_bias, gate_weight, gate_bias;
} level;

#define FIELDS ((int64_t)(sizeof(level) / sizeof(int64_t)))

INLINE int64_t margin_of(const level *l) { return l->kernel / 2 * l->dilation; }
INLINE int64_t first_margin_of(const level *l) { return l->first_kernel / 2 * l->dilation; }
INLINE int64_t width_in(const level *l) { return l->channels / l->groups; }
INLINE int64_t width_inside(const level *l) { return l->inner / l->groups; }

/* A field of level number `n` in [low, high]. */
#define FIELD(field, low, high)                                                                    \
    CHECK(l->field >= (low) && l->field <= (high),                                                 \
          "level %lld: " #field " must be from %lld to %lld, got %lld", (long long)n,              \
          (long long)(low), (long long)(high), (long long)l->field)

#define DIVIDES(field, number)                                                                     \
    CHECK((number) % l->field == 0, "level %lld: " #field " must divide %lld, got %lld",           \
          (long long)n, (long long)(number), (long long)l->field)

/* `size` weights that begin where the field says; none, where that is too many. */
#define PART(field, size)                                                                          \
    do {                                                                                           \
        const int64_t numbers = size;                                                              \
        CHECK(numbers >= 0 && l->field >= 0 && l->field <= length - numbers,                       \
              "level %lld: " #field " must leave %lld of %lld weights, got %lld", (long long)n,    \
              (long long)numbers, (long long)length, (long long)l->field);                         \
    } while (0)

/* Weights of maps to `outputs` channels of each group from `inputs`, and their biases. */
#define MAP(name, groups, outputs, inputs)                                                         \
    do {                                                                                           \
        const int64_t rows = times(groups, padded(outputs));                                       \
        PART(name##_weight, times(rows, inputs));                                                  \
        PART(name##_bias, rows);                                                                   \
    } while (0)

static report check_sizes(const level *l, int64_t n)
{
    FIELD(channels, 1, MAX_SIZE);
    FIELD(inner, 1, MAX_SIZE);
    FIELD(groups, 1, MAX_SIZE);
    DIVIDES(groups, l->channels);
    DIVIDES(groups, l->inner);
    FIELD(kernel, 1, MAX_KERNEL);
    CHECK(l->kernel % 2, "level %lld: kernel must be odd, got %lld", (long long)n,
          (long long)l->kernel);
    CHECK(l->first_kernel == 1 || l->first_kernel == l->kernel,
          "level %lld: first_kernel must be 1 or kernel, got %lld", (long long)n,
          (long long)l->first_kernel);
    FIELD(dilation, 1, l->kernel > 1 ? MAX_MARGIN / (l->kernel / 2) : MAX_SIZE);
    FIELD(depthwise, 0, 1);
    FIELD(activation, NONE, HARD_SWISH);
    FIELD(pre, 0, 1);
    FIELD(squeezed, 0, MAX_SIZE);
    return NULL;
}

/* The maps to the next level and back; each group of this one reads what its group of P does. */
static report check_transfers(const level *l, int64_t n, int64_t coarse, int64_t length)
{
    FIELD(coarse, coarse, coarse);
    FIELD(restrict_groups, 1, MAX_SIZE);
    DIVIDES(restrict_groups, l->channels);
    DIVIDES(restrict_groups, coarse);
    FIELD(prolong_groups, 1, MAX_SIZE);
    DIVIDES(prolong_groups, l->groups);
    DIVIDES(prolong_groups, coarse);
    FIELD(restrict_activation, NONE, HARD_SWISH);
    MAP(restrict, l->restrict_groups, coarse / l->restrict_groups,
        l->channels / l->restrict_groups);
    MAP(prolong, l->groups, width_in(l), coarse / l->prolong_groups);
    return NULL;
}

static report check_layer(const level *l, int64_t n, int64_t length)
{
    const int64_t outer = width_in(l), inside = width_inside(l);
    const int64_t seen = times(l->kernel * l->kernel, l->depthwise ? 1 : inside);
    if (l->first_weight == ABSENT || l->last_weight == ABSENT)
        FIELD(inner, l->channels, l->channels);
    if (l->first_weight == ABSENT)
        FIELD(first_kernel, 1, 1);
    else
        MAP(first, l->groups, inside, times(l->first_kernel * l->first_kernel, outer));
    MAP(spatial, l->groups, inside, seen);
    if (l->last_weight == ABSENT)
        FIELD(squeezed, 0, 0);
    else
        MAP(last, l->groups, outer, inside);
    if (l->pre) {
        PART(scale, l->channels);
        PART(shift, l->channels);
    }
    if (l->squeezed) {
        const int64_t all = times(l->groups, padded(inside));
        MAP(reduce, 1, l->squeezed, all);
        MAP(gate, 1, all, l->squeezed);
    }
    return NULL;
}

/* Nothing of what a cycle then follows leads out of `length` weights or out of its images. */
static report check_levels(const level *levels, int64_t num, int64_t length)
{
    for (int64_t n = 0; n < num; n++) {
        TRY(check_sizes(levels + n, n));
        TRY(check_layer(levels + n, n, length));
    }
    for (int64_t n = 0; n + 1 < num; n++)
        TRY(check_transfers(levels + n, n, levels[n + 1].channels, length));
    const level *l = levels + num - 1;
    const int64_t n = num - 1;
    FIELD(coarse, 0, 0);
    return NULL;
}

#undef MAP
#undef PART
#undef DIVIDES
#undef FIELD

#endif
