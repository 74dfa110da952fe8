/* What the kernels share: vectors as wide as the processor's registers, and threads where the
 * compiler has OpenMP.
 *
 * The vector type is GCC's and Clang's own. A wider one than the registers would compile, too, but
 * GCC then keeps every sum in memory, which costs a factor of ten. Loads and stores need no
 * alignment beyond that of a number. */

#ifndef MGIC_KERNELS_H
#define MGIC_KERNELS_H

#include <stdint.h>
#include <string.h>

#ifdef __AVX__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define LINE 16 /* numbers that are fetched together */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define WIDE_LANES (LANES / 2) /* of float64 */

typedef double wide __attribute__((vector_size(8 * WIDE_LANES), aligned(8), may_alias));

#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define LOAD_WIDE(p) (*(const wide *)(p))
#define STORE_WIDE(p, v) (*(wide *)(p) = (v))
#define INLINE static inline __attribute__((always_inline))

/* In a register from here on. GCC otherwise loads a number again for each product that it is in,
 * and loads are what such a loop waits for. */
#if defined(__AVX512F__)
#define HOLD(v) __asm__("" : "+v"(v))
#elif defined(__x86_64__)
#define HOLD(v) __asm__("" : "+x"(v))
#else
#define HOLD(v) (void)(v)
#endif

/* A product that is rounded before anything is added to it: a fused multiply-add would round once
 * where two operations round twice. */
#if defined(__x86_64__)
#define ROUND(v) HOLD(v)
#elif defined(__aarch64__)
#define ROUND(v) __asm__("" : "+w"(v))
#else
#define ROUND(v)                                                                                   \
    do {                                                                                           \
        volatile __typeof__(v) rounded = v;                                                        \
        v = rounded;                                                                               \
    } while (0)
#endif

/* sum + x * w, rounded once wherever the processor can. Compilers fuse one loop and not the next, and
 * what is computed twice has to be the same both times. */
INLINE vec add_product(vec sum, vec x, vec w)
{
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)sum);
#elif defined(__AVX__) && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)x, (__m256)w, (__m256)sum);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)sum, (float32x4_t)x, (float32x4_t)w);
#else
    return sum + x * w;
#endif
}

#if defined(__AVX2__) && !defined(__AVX512F__)
INLINE __m256i first_lanes(int64_t lanes)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

/* The first `lanes` numbers, zero after them; nothing beyond them is touched. */
INLINE vec load_lanes(const float *p, int64_t lanes)
{
    if (lanes == LANES)
        return LOAD(p);
#ifdef __AVX512F__
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), p);
#elif defined(__AVX2__)
    return (vec)_mm256_maskload_ps(p, first_lanes(lanes));
#else
    vec v = {};
    for (int64_t lane = 0; lane < lanes; lane++)
        v[lane] = p[lane];
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
#elif defined(__AVX2__)
    _mm256_maskstore_ps(p, first_lanes(lanes), (__m256)v);
#else
    for (int64_t lane = 0; lane < lanes; lane++)
        p[lane] = v[lane];
#endif
}

/* From channel `c` on, work(vectors, lanes) for `most` vectors of channels at a time, then for two,
 * for one and for what is left. */
#define FOR_CHANNELS(c, channels, most, work)                                                      \
    for (; c + most * LANES <= channels; c += most * LANES)                                        \
        work(most, LANES);                                                                         \
    for (; c + 2 * LANES <= channels; c += 2 * LANES)                                              \
        work(2, LANES);                                                                            \
    for (; c + LANES <= channels; c += LANES)                                                      \
        work(1, LANES);                                                                            \
    if (c < channels)                                                                              \
        work(1, channels - c);

/* a where the mask is -1, b where it is 0 */
INLINE vec choose(ints mask, vec a, vec b)
{
    return (vec)(((ints)a & mask) | ((ints)b & ~mask));
}

INLINE vec smaller(vec a, vec b) { return choose(a < b, a, b); }

/* One bit a lane: which of LANES numbers are at most `bound`. */
INLINE uint32_t at_most(const float *p, float bound)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(p), _mm512_set1_ps(bound), _CMP_LE_OQ);
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), _mm256_set1_ps(bound), _CMP_LE_OQ));
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < LANES; lane++)
        bits |= (uint32_t)(p[lane] <= bound) << lane;
    return bits;
#endif
}

INLINE uint32_t wide_at_most(const double *p, double bound)
{
#if defined(__AVX512F__)
    return _mm512_cmp_pd_mask(_mm512_loadu_pd(p), _mm512_set1_pd(bound), _CMP_LE_OQ);
#elif defined(__AVX2__)
    return _mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(p), _mm256_set1_pd(bound), _CMP_LE_OQ));
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < WIDE_LANES; lane++)
        bits |= (uint32_t)(p[lane] <= bound) << lane;
    return bits;
#endif
}

#endif
