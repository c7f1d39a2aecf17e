/* quant_avx2.c: the AVX2 family (with FMA and F16C); see quant.h. Elsewhere than on x86-64 it is empty and
 * never chosen.
 *
 * DESIGN. Four rows are read side by side, a chunk of each in turn, so that the processor follows four
 * streams of memory. Each row has its lanes for itself, in its own order: neighbours don't touch its bits.
 * Inside a chunk the groups of 32 are written out: where a group has its bits and scales is known to the
 * compiler. */
#include "decoder/model/quant.h"

#ifdef __AVX2__
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* 32 weights: vector j holds weights 8j … 8j+7. */
struct group {
    __m256 v[4];
};

/* The scales of a chunk whose type keeps them apart from the weights (Q4_K: 8 and 8 minima, Q6_K: 16). */
struct scales {
    float d[16], m[8];
};

INLINE struct group f32_group(const uint8_t *row, size_t i, const struct scales *none)
{
    (void)none;
    struct group w;
    for (unsigned j = 0; j < 4; j++)
        w.v[j] = _mm256_loadu_ps((const float *)(const void *)(row + i * 128 + 32 * j));
    return w;
}

INLINE struct group f16_group(const uint8_t *row, size_t i, const struct scales *none)
{
    (void)none;
    struct group w;
    for (unsigned j = 0; j < 4; j++)
        w.v[j] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(row + i * 64 + 16 * j)));
    return w;
}

INLINE struct group bf16_group(const uint8_t *row, size_t i, const struct scales *none)
{
    (void)none;
    struct group w;
    for (unsigned j = 0; j < 4; j++) {
        __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(row + i * 64 + 16 * j)));
        w.v[j] = _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
    }
    return w;
}

/* Eight bytes as integers. From memory this costs half of what it does from a register. */
INLINE __m256i signed_bytes(const uint8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
INLINE __m256i bytes(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
INLINE __m256 scaled(__m256 d, __m256i q)
{
    return _mm256_mul_ps(d, _mm256_cvtepi32_ps(q));
}

/* An f16 in all lanes. Eight bytes are read, as every block has. */
INLINE __m256 half_lanes(const uint8_t *p)
{
    return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)p)));
}

INLINE struct group q8_0_group(const uint8_t *row, size_t i, const struct scales *none)
{
    (void)none;
    const uint8_t *b = row + i * Q8_0_BYTES;
    __m256 d = half_lanes(b);
    struct group w;
    for (unsigned j = 0; j < 4; j++)
        w.v[j] = scaled(d, signed_bytes(b + 2 + 8 * j));
    return w;
}

INLINE struct group q4_0_codes(const uint8_t *b)
{
    const __m256i nibble = _mm256_set1_epi32(15), eight = _mm256_set1_epi32(8);
    struct group w;
    for (unsigned j = 0; j < 2; j++) {
        __m256i q = bytes(b + 2 + 8 * j);
        w.v[j] = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(q, nibble), eight));
        w.v[2 + j] = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(q, 4), eight));
    }
    return w;
}

INLINE struct group q4_0_group(const uint8_t *row, size_t i, const struct scales *none)
{
    (void)none;
    const uint8_t *b = row + i * Q4_0_BYTES;
    __m256 d = half_lanes(b);
    struct group w = q4_0_codes(b);
    for (unsigned j = 0; j < 4; j++)
        w.v[j] = _mm256_mul_ps(d, w.v[j]);
    return w;
}

/* The scales and minima of quant.h's q4_k_scale, all sixteen at once. */
INLINE struct scales q4_k_scales(const uint8_t *b)
{
    uint32_t w[3];
    memcpy(w, b + 4, sizeof w);
    uint32_t scale[2] = {w[0] & 0x3f3f3f3f, (w[2] & 0x0f0f0f0f) | (w[0] >> 2 & 0x30303030)};
    uint32_t min[2] = {w[1] & 0x3f3f3f3f, (w[2] >> 4 & 0x0f0f0f0f) | (w[1] >> 2 & 0x30303030)};
    struct scales s;
    _mm256_storeu_ps(s.d, scaled(half_lanes(b), bytes((const uint8_t *)scale)));
    _mm256_storeu_ps(s.m, scaled(half_lanes(b + 2), bytes((const uint8_t *)min)));
    return s;
}

INLINE struct group q4_k_group(const uint8_t *row, size_t i, const struct scales *s)
{
    const unsigned sub = i % 8;
    const uint8_t *q = row + 16 + sub / 2 * 32;
    __m256 d = _mm256_broadcast_ss(&s->d[sub]), m = _mm256_broadcast_ss(&s->m[sub]);
    struct group w;
    for (unsigned j = 0; j < 4; j++) {
        __m256i both = bytes(q + 8 * j);
        __m256i code = sub % 2 ? _mm256_srli_epi32(both, 4) : _mm256_and_si256(both, _mm256_set1_epi32(15));
        w.v[j] = _mm256_sub_ps(scaled(d, code), m);
    }
    return w;
}

INLINE struct scales q6_k_scales(const uint8_t *b)
{
    /* d ends the block: nothing beyond it is read */
    __m128 last = _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(b + 202)));
    __m256 d = _mm256_broadcastss_ps(_mm_permute_ps(last, 0xff));
    struct scales s;
    _mm256_storeu_ps(s.d, scaled(d, signed_bytes(b + 192)));
    _mm256_storeu_ps(s.d + 8, scaled(d, signed_bytes(b + 200)));
    return s;
}

INLINE struct group q6_k_group(const uint8_t *row, size_t i, const struct scales *s)
{
    const unsigned half = (unsigned)i / 4, k = i % 4;
    const uint8_t *low = row + 64 * half + 32 * (k % 2), *high = row + 128 + 32 * half;
    const __m256i nibble = _mm256_set1_epi32(15), two_bits = _mm256_set1_epi32(3);
    struct group w;
    for (unsigned j = 0; j < 4; j++) {
        __m256i l = _mm256_and_si256(_mm256_srli_epi32(bytes(low + 8 * j), (int)(k / 2 * 4)), nibble);
        __m256i h = _mm256_and_si256(_mm256_srli_epi32(bytes(high + 8 * j), (int)(2 * k)), two_bits);
        __m256i code = _mm256_sub_epi32(_mm256_or_si256(l, _mm256_slli_epi32(h, 4)), _mm256_set1_epi32(32));
        w.v[j] = scaled(_mm256_broadcast_ss(&s->d[8 * half + 2 * k + j / 2]), code);
    }
    return w;
}

/* The other types have theirs in each group, or none. */
INLINE struct scales no_scales(const uint8_t *b)
{
    (void)b;
    return (struct scales){{0}, {0}};
}

INLINE void store_group(struct group w, float *out)
{
    for (unsigned j = 0; j < 4; j++)
        _mm256_storeu_ps(out + 8 * j, w.v[j]);
}

INLINE void add_group(struct group w, const float *x, __m256 acc[4])
{
    for (unsigned j = 0; j < 4; j++)
        acc[j] = _mm256_fmadd_ps(w.v[j], _mm256_loadu_ps(x + 8 * j), acc[j]);
}

INLINE float add_eight(__m256 v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}

INLINE float add_lanes(const __m256 acc[4])
{
    return add_eight(_mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3])));
}

/* ELEMENT is the size of one weight where rows may end inside a group of 32 (F32, F16, BF16), else 0. BLOCK
 * is the bytes of 256 weights. */
#define SPREAD(NAME, BLOCK, ELEMENT, SCALES)                                              \
    static void NAME##_to_f32(size_t n, const void *row, float *out)                      \
    {                                                                                     \
        for (size_t i = 0; i < n / 32; i++) {                                             \
            const uint8_t *block = (const uint8_t *)row + i / 8 * (BLOCK);                \
            const struct scales s = SCALES(block);                                        \
            store_group(NAME##_group(block, i % 8, &s), out + 32 * i);                    \
        }                                                                                 \
        if (ELEMENT && n % 32) {                                                          \
            uint8_t tail[128] = {0};                                                      \
            float w[32];                                                                  \
            memcpy(tail, (const uint8_t *)row + n / 32 * 32 * ELEMENT, n % 32 * ELEMENT); \
            store_group(NAME##_group(tail, 0, NULL), w);                                  \
            memcpy(out + n / 32 * 32, w, n % 32 * sizeof *w);                             \
        }                                                                                 \
    }

/* A chunk is 4 groups, or a block of 256 whose scales are made once. */
#define ADD(NAME, i) add_group(NAME##_group(chunk, i, &s), x + 32 * (i), a)
#define LANES_SIDE(NAME, GROUPS, BLOCK, ELEMENT, SCALES)                                                     \
    INLINE void NAME##_chunk(const uint8_t *chunk, const float *x, __m256 acc[4])                            \
    {                                                                                                        \
        const struct scales s = SCALES(chunk);                                                               \
        __m256 a[4] = {acc[0], acc[1], acc[2], acc[3]};                                                      \
        ADD(NAME, 0), ADD(NAME, 1), ADD(NAME, 2), ADD(NAME, 3);                                              \
        if (GROUPS == 8)                                                                                     \
            ADD(NAME, 4), ADD(NAME, 5), ADD(NAME, 6), ADD(NAME, 7);                                          \
        for (unsigned j = 0; j < 4; j++)                                                                     \
            acc[j] = a[j];                                                                                   \
    }                                                                                                        \
    /* What of a row is beyond its chunks, and the sum. */                                                   \
    INLINE float NAME##_end(size_t n, const uint8_t *row, const float *x, __m256 acc[4])                     \
    {                                                                                                        \
        for (size_t i = n / 32 - n / 32 % GROUPS; ELEMENT && i < n / 32; i++)                                \
            add_group(NAME##_group(row, i, NULL), x + 32 * i, acc);                                          \
        if (ELEMENT && n % 32) {                                                                             \
            uint8_t tail[128] = {0};                                                                         \
            float xs[32] = {0};                                                                              \
            memcpy(tail, row + n / 32 * 32 * ELEMENT, n % 32 * ELEMENT);                                     \
            memcpy(xs, x + n / 32 * 32, n % 32 * sizeof *xs);                                                \
            add_group(NAME##_group(tail, 0, NULL), xs, acc);                                                 \
        }                                                                                                    \
        return add_lanes(acc);                                                                               \
    }                                                                                                        \
    INLINE void NAME##_rows(const unsigned rows, size_t n, const uint8_t *row, size_t apart, const float *x, \
                            float *y)                                                                        \
    {                                                                                                        \
        __m256 acc[QUANT_SIDE][4];                                                                           \
        for (unsigned r = 0; r < rows; r++)                                                                  \
            for (unsigned j = 0; j < 4; j++)                                                                 \
                acc[r][j] = _mm256_setzero_ps();                                                             \
        for (size_t c = 0; c < n / 32 / GROUPS; c++)                                                         \
            for (unsigned r = 0; r < rows; r++)                                                              \
                NAME##_chunk(row + r * apart + c * ((BLOCK)*GROUPS / 8), x + 32 * GROUPS * c, acc[r]);       \
        for (unsigned r = 0; r < rows; r++)                                                                  \
            y[r] = NAME##_end(n, row + r * apart, x, acc[r]);                                                \
    }

/* A block's codes times activations, in 8 lanes. */
INLINE __m256 q8_0_sum(const uint8_t *b, const __m256 x[4])
{
    __m256 s = _mm256_mul_ps(_mm256_cvtepi32_ps(signed_bytes(b + 2)), x[0]);
    for (unsigned j = 1; j < 4; j++)
        s = _mm256_fmadd_ps(_mm256_cvtepi32_ps(signed_bytes(b + 2 + 8 * j)), x[j], s);
    return s;
}

INLINE __m256 q4_0_sum(const uint8_t *b, const __m256 x[4])
{
    struct group q = q4_0_codes(b);
    __m256 s = _mm256_mul_ps(q.v[0], x[0]);
    for (unsigned j = 1; j < 4; j++)
        s = _mm256_fmadd_ps(q.v[j], x[j], s);
    return s;
}

#define SCALED_SIDE(NAME, BYTES)                                                                             \
    INLINE void NAME##_rows(const unsigned rows, size_t n, const uint8_t *row, size_t apart, const float *x, \
                            float *y)                                                                        \
    {                                                                                                        \
        __m256 acc[QUANT_SIDE];                                                                              \
        for (unsigned r = 0; r < rows; r++)                                                                  \
            acc[r] = _mm256_setzero_ps();                                                                    \
        for (size_t i = 0; i < n / 32; i++, x += 32, row += BYTES) {                                         \
            __m256 xs[4];                                                                                    \
            for (unsigned j = 0; j < 4; j++)                                                                 \
                xs[j] = _mm256_loadu_ps(x + 8 * j);                                                          \
            for (unsigned r = 0; r < rows; r++)                                                              \
                acc[r] =                                                                                     \
                    _mm256_fmadd_ps(half_lanes(row + r * apart), NAME##_sum(row + r * apart, xs), acc[r]);   \
        }                                                                                                    \
        for (unsigned r = 0; r < rows; r++)                                                                  \
            y[r] = add_eight(acc[r]);                                                                        \
    }

INLINE struct group q8_0_codes(const uint8_t *b)
{
    struct group w;
    for (unsigned j = 0; j < 4; j++)
        w.v[j] = _mm256_cvtepi32_ps(signed_bytes(b + 2 + 8 * j));
    return w;
}

/* The same arithmetic with a block's codes spread once for T vectors. */
#define SCALED_LANES(NAME, BYTES)                                                              \
    INLINE void NAME##_vectors(const unsigned T, size_t n, const uint8_t *row, const float *x, \
                               size_t stride, float *sums)                                     \
    {                                                                                          \
        __m256 acc[QUANT_VECTORS];                                                             \
        for (unsigned t = 0; t < T; t++)                                                       \
            acc[t] = _mm256_loadu_ps(sums + 8 * t);                                            \
        for (size_t i = 0; i < n / 32; i++, x += 32, row += BYTES) {                           \
            struct group q = NAME##_codes(row);                                                \
            __m256 d = half_lanes(row);                                                        \
            for (unsigned t = 0; t < T; t++) {                                                 \
                __m256 s = _mm256_mul_ps(q.v[0], _mm256_loadu_ps(x + t * stride));             \
                for (unsigned j = 1; j < 4; j++)                                               \
                    s = _mm256_fmadd_ps(q.v[j], _mm256_loadu_ps(x + t * stride + 8 * j), s);   \
                acc[t] = _mm256_fmadd_ps(d, s, acc[t]);                                        \
            }                                                                                  \
        }                                                                                      \
        for (unsigned t = 0; t < T; t++)                                                       \
            _mm256_storeu_ps(sums + 8 * t, acc[t]);                                            \
    }                                                                                          \
    static void NAME##_lanes_add(size_t n, const void *row, unsigned vectors, const float *x,  \
                                 size_t x_stride, float *sums)                                 \
    {                                                                                          \
        if (vectors == QUANT_VECTORS)                                                          \
            NAME##_vectors(QUANT_VECTORS, n, row, x, x_stride, sums);                          \
        else                                                                                   \
            for (unsigned t = 0; t < vectors; t++)                                             \
                NAME##_vectors(1, n, row, x + t * x_stride, x_stride, sums + 8 * t);           \
    }
SCALED_LANES(q8_0, Q8_0_BYTES)
SCALED_LANES(q4_0, Q4_0_BYTES)

static void lanes_sum(unsigned vectors, const float *sums, float *out)
{
    for (unsigned t = 0; t < vectors; t++)
        out[t] = add_eight(_mm256_loadu_ps(sums + 8 * t));
}

#define FAMILY(NAME, BLOCK, ELEMENT, SCALES, SIDE)                                            \
    SPREAD(NAME, BLOCK, ELEMENT, SCALES)                                                      \
    SIDE static void NAME##_dot_side(size_t n, const void *row, size_t apart, const float *x, \
                                     float y[QUANT_SIDE])                                     \
    {                                                                                         \
        NAME##_rows(QUANT_SIDE, n, row, apart, x, y);                                         \
    }                                                                                         \
    static float NAME##_dot(size_t n, const void *row, const float *x)                        \
    {                                                                                         \
        float y;                                                                              \
        NAME##_rows(1, n, row, 0, x, &y);                                                     \
        return y;                                                                             \
    }
FAMILY(f32, 1024, 4, no_scales, LANES_SIDE(f32, 4, 1024, 4, no_scales))
FAMILY(f16, 512, 2, no_scales, LANES_SIDE(f16, 4, 512, 2, no_scales))
FAMILY(bf16, 512, 2, no_scales, LANES_SIDE(bf16, 4, 512, 2, no_scales))
FAMILY(q8_0, 8 * Q8_0_BYTES, 0, no_scales, SCALED_SIDE(q8_0, Q8_0_BYTES))
FAMILY(q4_0, 8 * Q4_0_BYTES, 0, no_scales, SCALED_SIDE(q4_0, Q4_0_BYTES))
FAMILY(q4_k, Q4_K_BYTES, 0, q4_k_scales, LANES_SIDE(q4_k, 8, Q4_K_BYTES, 0, q4_k_scales))
FAMILY(q6_k, Q6_K_BYTES, 0, q6_k_scales, LANES_SIDE(q6_k, 8, Q6_K_BYTES, 0, q6_k_scales))

#define OPS(NAME)                                              \
    {                                                          \
        NAME##_to_f32, NAME##_dot, NAME##_dot_side, NULL, NULL \
    }
#define SCALED_OPS(NAME)                                                        \
    {                                                                           \
        NAME##_to_f32, NAME##_dot, NAME##_dot_side, NAME##_lanes_add, lanes_sum \
    }
const struct quant_ops quant_avx2[QUANT_TYPES] = {
    [GGML_F32] = OPS(f32),          [GGML_F16] = OPS(f16),          [GGML_BF16] = OPS(bf16),
    [GGML_Q8_0] = SCALED_OPS(q8_0), [GGML_Q4_0] = SCALED_OPS(q4_0), [GGML_Q4_K] = OPS(q4_k),
    [GGML_Q6_K] = OPS(q6_k),
};
#else
const struct quant_ops quant_avx2[QUANT_TYPES];
#endif
