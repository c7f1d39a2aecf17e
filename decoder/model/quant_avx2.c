/* quant_avx2.c: the AVX2 family (with FMA and F16C); see quant.h. Elsewhere than on x86-64 it is empty and
 * never chosen.
 *
 * DESIGN. Four rows are read side by side, 32 weights of each in turn, so that the processor follows four
 * streams of memory and has four chains of additions under way. Each row has its lanes for itself, in its own
 * order: neighbours don't touch its bits. Inside a chunk the groups of 32 are written out: where a group has
 * its bits and scales is known to the compiler. */
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

INLINE struct group q4_0_group(const uint8_t *row, size_t i, const struct scales *none)
{
    (void)none;
    const uint8_t *b = row + i * Q4_0_BYTES;
    const __m256i nibble = _mm256_set1_epi32(15), eight = _mm256_set1_epi32(8);
    __m256 d = half_lanes(b);
    struct group w;
    for (unsigned j = 0; j < 2; j++) {
        __m256i q = bytes(b + 2 + 8 * j);
        w.v[j] = scaled(d, _mm256_sub_epi32(_mm256_and_si256(q, nibble), eight));
        w.v[2 + j] = scaled(d, _mm256_sub_epi32(_mm256_srli_epi32(q, 4), eight));
    }
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

INLINE __m256 add_group(struct group w, const float *x, __m256 acc)
{
    for (unsigned j = 0; j < 4; j++)
        acc = _mm256_fmadd_ps(w.v[j], _mm256_loadu_ps(x + 8 * j), acc);
    return acc;
}

INLINE float add_lanes(__m256 v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}

/* GROUPS: of a chunk, which shares scales: 1, or 8 (a block) where they are made at once; then rows have
 * whole blocks. BLOCK: bytes of 256 weights. ELEMENT: the size of one weight where rows may end inside a
 * group of 32 (F32, F16, BF16), else 0. */
#define ADD(NAME, i)                    \
    for (unsigned r = 0; r < rows; r++) \
    acc[r] = add_group(NAME##_group(chunk + r * apart, i, &s[r]), x + 32 * (i), acc[r])
#define FAMILY(NAME, GROUPS, BLOCK, ELEMENT, SCALES)                                                         \
    INLINE struct group NAME##_tail(size_t n, const uint8_t *row)                                            \
    {                                                                                                        \
        uint8_t tail[128] = {0};                                                                             \
        memcpy(tail, row + n / 32 * 32 * ELEMENT, n % 32 * ELEMENT);                                         \
        return NAME##_group(tail, 0, NULL);                                                                  \
    }                                                                                                        \
    static void NAME##_to_f32(size_t n, const void *row, float *out)                                         \
    {                                                                                                        \
        for (size_t i = 0; i < n / 32; i++) {                                                                \
            const uint8_t *block = (const uint8_t *)row + i / 8 * (BLOCK);                                   \
            const struct scales s = SCALES(block);                                                           \
            store_group(NAME##_group(block, i % 8, &s), out + 32 * i);                                       \
        }                                                                                                    \
        if (ELEMENT && n % 32) {                                                                             \
            float w[32];                                                                                     \
            store_group(NAME##_tail(n, row), w);                                                             \
            memcpy(out + n / 32 * 32, w, n % 32 * sizeof *w);                                                \
        }                                                                                                    \
    }                                                                                                        \
    INLINE void NAME##_rows(const unsigned rows, size_t n, const uint8_t *row, size_t apart, const float *x, \
                            float *y)                                                                        \
    {                                                                                                        \
        const uint8_t *chunk = row;                                                                          \
        __m256 acc[QUANT_SIDE];                                                                              \
        struct scales s[QUANT_SIDE];                                                                         \
        for (unsigned r = 0; r < rows; r++)                                                                  \
            acc[r] = _mm256_setzero_ps();                                                                    \
        for (size_t c = 0; c < n / 32 / GROUPS; c++, chunk += (BLOCK)*GROUPS / 8, x += 32 * GROUPS) {        \
            for (unsigned r = 0; r < rows; r++)                                                              \
                s[r] = SCALES(chunk + r * apart);                                                            \
            ADD(NAME, 0);                                                                                    \
            if (GROUPS == 8) {                                                                               \
                ADD(NAME, 1);                                                                                \
                ADD(NAME, 2);                                                                                \
                ADD(NAME, 3);                                                                                \
                ADD(NAME, 4);                                                                                \
                ADD(NAME, 5);                                                                                \
                ADD(NAME, 6);                                                                                \
                ADD(NAME, 7);                                                                                \
            }                                                                                                \
        }                                                                                                    \
        if (ELEMENT && n % 32) {                                                                             \
            float xs[32] = {0};                                                                              \
            memcpy(xs, x, n % 32 * sizeof *xs);                                                              \
            for (unsigned r = 0; r < rows; r++)                                                              \
                acc[r] = add_group(NAME##_tail(n, row + r * apart), xs, acc[r]);                             \
        }                                                                                                    \
        for (unsigned r = 0; r < rows; r++)                                                                  \
            y[r] = add_lanes(acc[r]);                                                                        \
    }                                                                                                        \
    static void NAME##_dot_side(size_t n, const void *row, size_t apart, const float *x,                     \
                                float y[QUANT_SIDE])                                                         \
    {                                                                                                        \
        NAME##_rows(QUANT_SIDE, n, row, apart, x, y);                                                        \
    }                                                                                                        \
    static float NAME##_dot(size_t n, const void *row, const float *x)                                       \
    {                                                                                                        \
        float y;                                                                                             \
        NAME##_rows(1, n, row, 0, x, &y);                                                                    \
        return y;                                                                                            \
    }
FAMILY(f32, 1, 1024, 4, no_scales)
FAMILY(f16, 1, 512, 2, no_scales)
FAMILY(bf16, 1, 512, 2, no_scales)
FAMILY(q8_0, 1, 8 * Q8_0_BYTES, 0, no_scales)
FAMILY(q4_0, 1, 8 * Q4_0_BYTES, 0, no_scales)
FAMILY(q4_k, 8, Q4_K_BYTES, 0, q4_k_scales)
FAMILY(q6_k, 8, Q6_K_BYTES, 0, q6_k_scales)

#define OPS(NAME)                                  \
    {                                              \
        NAME##_to_f32, NAME##_dot, NAME##_dot_side \
    }
const struct quant_ops quant_avx2[QUANT_TYPES] = {
    [GGML_F32] = OPS(f32),   [GGML_F16] = OPS(f16),   [GGML_BF16] = OPS(bf16), [GGML_Q8_0] = OPS(q8_0),
    [GGML_Q4_0] = OPS(q4_0), [GGML_Q4_K] = OPS(q4_k), [GGML_Q6_K] = OPS(q6_k),
};
#else
const struct quant_ops quant_avx2[QUANT_TYPES];
#endif
