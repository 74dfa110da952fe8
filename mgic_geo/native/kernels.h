/* What the kernels share: vectors of 16 numbers, and threads where the compiler has OpenMP.
 *
 * The vector type is GCC's and Clang's own; a processor with narrower registers gets two or four
 * instructions for one. Loads and stores need no alignment beyond that of a number. */

#ifndef MGIC_KERNELS_H
#define MGIC_KERNELS_H

#include <stdint.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES 16

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define INLINE static inline __attribute__((always_inline))

/* The first `lanes` numbers, zero behind them; nothing beyond them is touched. */
INLINE vec load_lanes(const float *p, int64_t lanes)
{
    if (lanes == LANES)
        return LOAD(p);
#ifdef __AVX512F__
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), p);
#else
    vec v = {};
    memcpy(&v, p, lanes * sizeof(float));
    return v;
#endif
}

INLINE void store_lanes(float *p, vec v, int64_t lanes)
{
    if (lanes == LANES) {
        STORE(p, v);
        return;
    }
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << lanes) - 1), (__m512)v);
#else
    memcpy(p, &v, lanes * sizeof(float));
#endif
}

/* a where the mask is -1, b where it is 0 */
INLINE vec choose(ints mask, vec a, vec b)
{
    return (vec)(((ints)a & mask) | ((ints)b & ~mask));
}

INLINE vec smaller(vec a, vec b) { return choose(a < b, a, b); }

/* One bit a lane: which of 16 numbers are at most `bound`. */
INLINE uint32_t at_most(const float *p, float bound)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(p), _mm512_set1_ps(bound), _CMP_LE_OQ);
#elif defined(__AVX2__)
    const __m256 all = _mm256_set1_ps(bound);
    const uint32_t low = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), all, _CMP_LE_OQ));
    const uint32_t high =
        _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p + 8), all, _CMP_LE_OQ));
    return low | high << 8;
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < LANES; lane++)
        bits |= (uint32_t)(p[lane] <= bound) << lane;
    return bits;
#endif
}

#endif
