/* test_kv_types: pages of few bits: how far off they may be, what they do with odd numbers, and the same bits
 * in every family. */
#include "decoder/kernels/kv_types.h"
#include "common/identity.h"
#include "decoder/kernels/families.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { TOKENS = PAGE_TOKENS, Q8_0 = 3, Q4 = 4, MAX_D = 160 };

static const unsigned key_dims[] = {8, 32, 40, 64, 128, MAX_D}, value_dims[] = {1, 7, 32, 33, 64, 77, 128};
enum {
    N_KEY_DIMS = sizeof key_dims / sizeof *key_dims,
    N_VALUE_DIMS = sizeof value_dims / sizeof *value_dims
};

struct page {
    unsigned d_k, d_v, type;
    float k[TOKENS * MAX_D], v[TOKENS * MAX_D]; /* as f16 holds them */
    float k_back[TOKENS * MAX_D], v_back[TOKENS * MAX_D];
    uint8_t *bytes;
    size_t n;
};

static uint64_t seed = 0x9E3779B97F4A7C15u;
static float uniform(float range)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return ((float)(seed >> 40) / (float)(1 << 23) - 1.0f) * range;
}

static float half(float x)
{
    uint16_t h;
    kernels_portable.f32_to_f16(1, &x, &h);
    kernels_portable.f16_to_f32(1, &h, &x);
    return x;
}

/* Packs p->k and p->v, and unpacks them with every family: p->k_back, p->v_back. */
static void round_trip(struct page *p)
{
    const struct block_layout l = {
        .dtype = (uint8_t)p->type, .d_k = (uint16_t)p->d_k, .d_v = (uint16_t)p->d_v, .n_heads = 1};
    assert_true(layout_valid(&l));
    p->n = layout_page_bytes(&l);
    p->bytes = realloc(p->bytes, p->n + 1); /* at an odd address, and ASan sees what lies beyond */
    uint8_t *at = p->bytes + 1;
    memset(at, 0xa5, p->n);
    (p->type == Q4 ? kv_pack_q4 : kv_pack_q8_0)(p->d_k, p->d_v, p->k, p->v, at);
    static const char *const names[] = {"portable", "avx2"};
    for (unsigned f = 0; f < 2; f++) {
        const struct kernels *kn = kernels_named(names[f]);
        static float k[TOKENS * MAX_D], v[TOKENS * MAX_D];
        if (!kn)
            continue;
        float *to_k = f ? k : p->k_back, *to_v = f ? v : p->v_back;
        (p->type == Q4 ? kn->unpack_q4 : kn->unpack_q8_0)(p->d_k, p->d_v, at, to_k, to_v);
        if (f == 0)
            continue;
        assert_memory_equal(k, p->k_back, (size_t)TOKENS * p->d_k * sizeof *k);
        assert_memory_equal(v, p->v_back, (size_t)TOKENS * p->d_v * sizeof *v);
    }
}

/* The largest step that a group of numbers spread like this may have. */
static float step_of(unsigned type, float least, float most)
{
    float exact = type == Q4 ? (most - least) / 15.0f : fmaxf(fabsf(least), fabsf(most)) / 127.0f;
    return exact == 0 ? 0 : fmaxf(exact * (1.0f + 0x1p-10f), exact + 0x1p-24f);
}

static void check_group(const struct page *p, const float *x, const float *back, unsigned n, unsigned stride)
{
    float least = INFINITY, most = -INFINITY;
    for (unsigned i = 0; i < n; i++) {
        least = fminf(least, x[i * stride]);
        most = fmaxf(most, x[i * stride]);
    }
    float rounding = 0x1p-22f * fmaxf(fabsf(least), fabsf(most));
    for (unsigned i = 0; i < n; i++)
        if (!(fabsf(x[i * stride] - back[i * stride]) <= 0.5f * step_of(p->type, least, most) + rounding))
            fail_msg("type %u, d %u+%u: %.9g came back as %.9g of %.9g to %.9g", p->type, p->d_k, p->d_v,
                     (double)x[i * stride], (double)back[i * stride], (double)least, (double)most);
}

static void check_rows(const struct page *p, unsigned d, const float *x, const float *back)
{
    for (unsigned t = 0; t < TOKENS; t++)
        for (unsigned i = 0; i < d; i += KV_GROUP)
            check_group(p, x + t * d + i, back + t * d + i, d - i < KV_GROUP ? d - i : KV_GROUP, 1);
}

static void check_page(const struct page *p)
{
    for (unsigned i = 0; i < p->d_k && p->type == Q4; i++)
        check_group(p, p->k + i, p->k_back + i, TOKENS, p->d_k);
    if (p->type == Q8_0)
        check_rows(p, p->d_k, p->k, p->k_back);
    check_rows(p, p->d_v, p->v, p->v_back);
}

static void fill(struct page *p, float range)
{
    for (unsigned i = 0; i < TOKENS * p->d_k; i++) /* some dims are large in every token, as keys' are */
        p->k[i] = half(uniform(range) + (i % p->d_k % 5 == 0 ? 8 * range : 0));
    for (unsigned i = 0; i < TOKENS * p->d_v; i++)
        p->v[i] = half(uniform(range));
}

static void test_error_is_bounded(void **s)
{
    (void)s;
    static struct page p;
    static const float ranges[] = {1.0f, 0x1p-12f, 0x1p-20f, 0x1p-24f, 7000.0f};
    for (p.type = Q8_0; p.type <= Q4; p.type++)
        for (unsigned i = 0; i < N_KEY_DIMS; i++)
            for (unsigned j = 0; j < N_VALUE_DIMS; j++)
                for (unsigned r = 0; r < sizeof ranges / sizeof *ranges; r++) {
                    p.d_k = key_dims[i];
                    p.d_v = value_dims[j];
                    fill(&p, ranges[r]);
                    round_trip(&p);
                    check_page(&p);
                }
    free(p.bytes);
    p.bytes = NULL;
}

static void test_sizes(void **s)
{
    (void)s;
    const struct block_layout f16 = {.dtype = 1, .d_k = 128, .d_v = 128, .n_heads = 8},
                              q8_0 = {.dtype = 3, .d_k = 128, .d_v = 128, .n_heads = 8},
                              q4 = {.dtype = 4, .d_k = 128, .d_v = 128, .n_heads = 8};
    assert_int_equal(layout_page_bytes(&f16), 8192);
    assert_int_equal(layout_page_bytes(&q8_0), 4352); /* 8.5 bits a number */
    assert_int_equal(layout_page_bytes(&q4), 2816);   /* keys 6, values 5 */
    assert_false(layout_valid(&(struct block_layout){.dtype = 5, .d_k = 8, .d_v = 8, .n_heads = 1}));
}

static void test_zeros_and_constants(void **s)
{
    (void)s;
    static struct page p = {.d_k = 40, .d_v = 33};
    for (p.type = Q8_0; p.type <= Q4; p.type++) {
        memset(p.k, 0, sizeof p.k);
        memset(p.v, 0, sizeof p.v);
        round_trip(&p);
        assert_memory_equal(p.k_back, p.k, TOKENS * p.d_k * sizeof *p.k);
        assert_memory_equal(p.v_back, p.v, TOKENS * p.d_v * sizeof *p.v);
        for (unsigned i = 0; i < TOKENS * p.d_k; i++)
            p.k[i] = half(0.1f * (float)(i % p.d_k));
        for (unsigned i = 0; i < TOKENS * p.d_v; i++)
            p.v[i] = 65504.0f; /* f16's largest */
        round_trip(&p);
        check_page(&p);
        if (p.type == Q4) { /* what is the same in every token is kept as it is */
            assert_memory_equal(p.k_back, p.k, TOKENS * p.d_k * sizeof *p.k);
            assert_memory_equal(p.v_back, p.v, TOKENS * p.d_v * sizeof *p.v);
        }
    }
    p.type = Q4;
    for (unsigned i = 0; i < TOKENS * p.d_v; i++)
        p.v[i] = i % 2 ? 65504.0f : -65504.0f; /* the widest range */
    round_trip(&p);
    check_page(&p);
    free(p.bytes);
    p.bytes = NULL;
}

/* One broken number breaks its group, and nothing else. */
static void test_infinities_and_nan(void **s)
{
    (void)s;
    static struct page p = {.d_k = 64, .d_v = 64};
    static const float broken[] = {INFINITY, -INFINITY, NAN};
    for (p.type = Q8_0; p.type <= Q4; p.type++)
        for (unsigned b = 0; b < 3; b++) {
            const unsigned t = 5, i = 40; /* the token's second group */
            fill(&p, 1.0f);
            p.k[t * p.d_k + i] = p.v[t * p.d_v + i] = broken[b];
            round_trip(&p);
            for (unsigned u = 0; u < TOKENS; u++)
                for (unsigned j = 0; j < p.d_k; j++) {
                    bool row = u == t && j >= KV_GROUP;
                    assert_true(!isnan(p.k_back[u * p.d_k + j]) == !(p.type == Q4 ? j == i : row));
                    assert_true(!isnan(p.v_back[u * p.d_v + j]) == !row);
                }
        }
    free(p.bytes);
    p.bytes = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_is_bounded),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_zeros_and_constants),
        cmocka_unit_test(test_infinities_and_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
