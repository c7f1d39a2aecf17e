/* Where spans keep their blocks' representatives: neighbours side by side, forks apart, and a place that was
 * given up is taken again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "decoder/context/internal.h"

enum { LAYERS = 2, HEADS = 3, DIMS = 40 };

static struct shape *some_shape(void)
{
    struct skv_layer layers[LAYERS];
    struct skv_model model = {.n_layers = LAYERS, .layers = layers};
    struct skv_error err;
    struct shape *s;
    for (unsigned l = 0; l < LAYERS; l++)
        layers[l] = (struct skv_layer){
            .n_heads = 2 * HEADS, .n_kv_heads = HEADS, .d_k = DIMS + 8 * l, .d_v = DIMS, .scale = 1};
    if (shape_new(&model, &(struct skv_context_opts){.dtype = SKV_F16}, &s, &err))
        fail_msg("%s", err.text);
    return s;
}

static void fill(const struct shape *s, struct span *sp, uint8_t with)
{
    for (unsigned l = 0; l < LAYERS; l++)
        for (unsigned h = 0; h < HEADS; h++)
            memset(span_block_groups(s, sp, l, h), with, span_blocks_bytes(s, l));
}

static void check(const struct shape *s, const struct span *sp, uint8_t with)
{
    for (unsigned l = 0; l < LAYERS; l++)
        for (unsigned h = 0; h < HEADS; h++)
            for (size_t i = 0; i < span_blocks_bytes(s, l); i++)
                assert_int_equal(span_block_groups(s, sp, l, h)[i], with);
}

static void test_neighbours(void **state)
{
    (void)state;
    struct shape *s = some_shape();
    struct span *sp[SHELF_SPANS + 1];
    for (size_t i = 0; i <= SHELF_SPANS; i++) {
        assert_non_null(sp[i] = span_new(s, i ? sp[i - 1] : NULL, i));
        fill(s, sp[i], (uint8_t)i);
    }
    for (unsigned i = 1; i < SHELF_SPANS; i++)
        for (unsigned l = 0; l < LAYERS; l++)
            for (unsigned h = 0; h < HEADS; h++)
                assert_ptr_equal(span_block_groups(s, sp[i], l, h),
                                 span_block_groups(s, sp[i - 1], l, h) + span_blocks_bytes(s, l));
    assert_ptr_not_equal(sp[SHELF_SPANS]->shelf, sp[0]->shelf);
    for (size_t i = 0; i <= SHELF_SPANS; i++)
        check(s, sp[i], (uint8_t)i);
    struct shelf *shelf = sp[5]->shelf;
    span_unref(sp[5]);
    assert_non_null(sp[5] = span_new(s, sp[4], 5)); /* the same place again */
    assert_ptr_equal(sp[5]->shelf, shelf);
    fill(s, sp[5], 99);
    check(s, sp[4], 4);
    check(s, sp[6], 6);
    for (size_t i = 0; i <= SHELF_SPANS; i++)
        span_unref(sp[i]);
    shape_unref(s);
}

/* Two contexts share spans, and go on each by itself. */
static void test_forks(void **state)
{
    (void)state;
    struct shape *s = some_shape();
    struct span *first = span_new(s, NULL, 0), *last = span_new(s, first, 1);
    fill(s, first, 1);
    fill(s, last, 2);
    struct span *other = span_own(s, span_ref(last));
    assert_ptr_not_equal(other, last);
    check(s, other, 2);
    fill(s, other, 3);
    check(s, last, 2);
    assert_ptr_equal(span_own(s, last), last);
    struct span *next = span_new(s, last, 2), *others = span_new(s, other, 2), *third = span_new(s, last, 2);
    assert_ptr_equal(next->shelf, last->shelf);
    assert_ptr_equal(others->shelf, other->shelf);
    assert_true(third->shelf != last->shelf && third->shelf != other->shelf); /* the place is taken */
    fill(s, next, 4);
    fill(s, others, 5);
    fill(s, third, 6);
    check(s, next, 4);
    check(s, last, 2);
    span_unref(first);
    span_unref(last);
    check(s, next, 4);
    span_unref(next);
    span_unref(other);
    check(s, others, 5);
    span_unref(others);
    span_unref(third);
    shape_unref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_neighbours), cmocka_unit_test(test_forks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
