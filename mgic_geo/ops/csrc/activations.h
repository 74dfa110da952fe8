/* Activations that kernels apply on the way, numbered as in batch_norm_act.py. */

#ifndef MGIC_ACTIVATIONS_H
#define MGIC_ACTIVATIONS_H

#include "kernels.h"

enum activation { NONE, RELU, HARD_SWISH };

/* Here and below a comparison is such that NaN, of which none holds, propagates as in torch. */
INLINE vec hard_sigmoid(vec v)
{
    const vec six = (vec){} + 6;
    v = choose(v < -3, (vec){}, v + 3);
    return choose(v > six, six, v) * (1.0f / 6);
}

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
        return choose(v <= 0, (vec){}, grad);
    if (activation == HARD_SWISH) {
        const vec sloped = choose(v >= 3, grad, grad * (v * (1.0f / 3) + 0.5f));
        return choose(v <= -3, (vec){}, sloped);
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
