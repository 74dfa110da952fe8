/* What decides on a batch norm, and what follows from it for every channel. */

#ifndef MGIC_NORM_H
#define MGIC_NORM_H

#include <math.h>

#include "activations.h"

typedef struct {
    int64_t rows, channels, activation;
    int64_t apart; /* whether what is read of a row is far from what is read of the next one */
    double eps;
    const float *x, *grad, *weight, *bias; /* grad: null forward; weight, bias: null for 1 and 0 */
    float *mean, *variance, *scale, *shift; /* the norm is (x - mean) * scale + shift */
    float *residual;                        /* what rounding took from the mean, which shift has */
    float *slope, *offset; /* grad_x: grad * scale + (x - mean) * slope + offset */
    float *grad_weight, *grad_bias, *y;    /* y: or grad_x */
} norm;

/* Rows of statistics, (STATISTICS, channels): what backward has to know of the way forward. */
#define STATISTICS 5

INLINE void place_statistics(norm *n, float *statistics)
{
    n->mean = statistics;
    n->variance = statistics + n->channels;
    n->scale = statistics + 2 * n->channels;
    n->shift = statistics + 3 * n->channels;
    n->residual = statistics + 4 * n->channels;
}

/* What the sums of the channels in [from, to) come to */
static void settle(const norm *n, int64_t from, int64_t to, const double *first,
                   const double *second)
{
    for (int64_t c = from; c < to; c++) {
        if (n->grad) {
            const double inverse = 1 / ((double)n->variance[c] + n->eps);
            const double along = second[c] - n->residual[c] * first[c];
            const double slope = -n->scale[c] * inverse * along / n->rows;
            n->grad_bias[c] = first[c];
            n->grad_weight[c] = along * sqrt(inverse);
            n->slope[c] = slope;
            n->offset[c] = -n->scale[c] * first[c] / n->rows - slope * n->residual[c];
            continue;
        }
        n->mean[c] = first[c];
        n->residual[c] = first[c] - n->mean[c];
        n->variance[c] = second[c] / n->rows;
        n->scale[c] = (n->weight ? n->weight[c] : 1) / sqrt(n->variance[c] + n->eps);
        n->shift[c] = (n->bias ? n->bias[c] : 0) - (double)n->residual[c] * n->scale[c];
    }
}

#endif
