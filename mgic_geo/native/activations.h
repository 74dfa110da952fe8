/* Activations that kernels apply on the way, numbered as in activations.py. */

#ifndef MGIC_ACTIVATIONS_H
#define MGIC_ACTIVATIONS_H

#include "kernels.h"

enum activation { NONE, RELU, HARD_SWISH };

INLINE vec hard_sigmoid(vec v)
{
    const vec six = (vec){} + 6;
    v = choose(v > -3, v + 3, (vec){});
    return choose(v < six, v, six) * (1.0f / 6);
}

/* What is not a number stays it. */
INLINE vec activated(vec v, const int64_t activation)
{
    if (activation == RELU)
        return choose(v < 0, (vec){}, v);
    if (activation == HARD_SWISH)
        return v * hard_sigmoid(v);
    return v;
}

/* The gradient of v from that of its activation */
INLINE vec activated_backward(vec grad, vec v, const int64_t activation)
{
    if (activation == RELU)
        return choose(v > 0, grad, (vec){});
    if (activation == HARD_SWISH) {
        const vec slope = choose(v > -3, v * (1.0f / 3) + 0.5f, (vec){});
        return grad * choose(v < 3, slope, (vec){} + 1);
    }
    return grad;
}

/* work(activation) with a constant */
#define FOR_ACTIVATIONS(activation, work)                                                          \
    switch (activation) {                                                                          \
    case RELU: work(RELU); break;                                                                  \
    case HARD_SWISH: work(HARD_SWISH); break;                                                      \
    default: work(NONE);                                                                           \
    }

#endif
