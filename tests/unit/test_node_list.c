/* test_node_list.c: LIST names what is there, in one order, while blocks come and go and the table grows. */
#include "tests/unit/node_asserts.h"

enum { STABLE = 700, CHURN = 3000, ALL = STABLE + CHURN, PAGE_MAX = 512 };
static const struct block_layout tiny = {.dtype = 1, .d_k = 1, .d_v = 1, .n_heads = 1};

static uint64_t next_random(uint64_t *x)
{
    uint64_t z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct walk {
    uint64_t from;
    struct block_key after;
    bool behind, more;
};

/* Asks for the next page; its entries are in the answer. */
static const Scoutkv__Listed *ask_page(struct harness *h, struct walk *w, uint32_t max)
{
    Scoutkv__Key after = SCOUTKV__KEY__INIT;
    Scoutkv__List list = SCOUTKV__LIST__INIT;
    after.chain = (ProtobufCBinaryData){CHAIN_BYTES, w->after.chain};
    after.layer = w->after.layer;
    list.from = w->from;
    list.after = w->behind ? &after : NULL;
    list.max = max;
    H_HEADER(header, LIST, list, &list);
    const Scoutkv__Header *a = h_ask(h, H_READ, &header, NULL);
    assert_non_null(a);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_LISTED);
    const Scoutkv__Listed *l = a->listed;
    w->more = l->more;
    w->from = l->from;
    w->behind = l->after != NULL;
    if (l->after)
        assert_true(key_from_wire(l->after, 0, &w->after));
    return l;
}

static void drop(struct harness *h, struct h_block *b)
{
    done_is(ask_keys(h, H_READ, 'D', NULL, 0, &b, 1), 1);
}

/* One walk over STABLE blocks while the others come and go. */
static void walk_and_churn(uint64_t seed)
{
    struct h_block *b = calloc(ALL, sizeof *b);
    unsigned *seen = calloc(ALL, sizeof *seen), n_pages = 0;
    bool *there = calloc(ALL, sizeof *there);
    uint64_t rng = seed;
    struct harness *h = h_ready(0);
    struct walk w = {0};
    struct block_key last;
    bool first = true;
    for (uint32_t i = 0; i < ALL; i++)
        h_block_sized(&b[i], 0, i * 2654435761u, tiny);
    for (uint32_t i = 0; i < STABLE; i++)
        put_is(h_put(h, H_BULK, &b[i]), STORED);
    do {
        uint32_t max = 1 + (uint32_t)(next_random(&rng) % 40);
        const Scoutkv__Listed *l = ask_page(h, &w, max);
        assert_true(l->n_entries <= max);
        for (size_t i = 0; i < l->n_entries; i++) {
            struct block_key key;
            uint32_t k = 0;
            assert_true(key_from_wire(l->entries[i]->key, 0, &key));
            if (!first && key_compare(&last, &key) >= 0)
                fail_msg("seed %llu: out of order", (unsigned long long)seed);
            last = key;
            first = false;
            while (k < ALL && !key_equal(&b[k].key, &key))
                k++;
            assert_true(k < ALL && (k < STABLE || there[k]));
            seen[k]++;
            assert_true(l->entries[i]->version == block_version(&tiny, b[k].checksums));
            assert_int_equal(l->entries[i]->bytes, layout_block_bytes(&tiny));
            assert_false(l->entries[i]->damaged);
        }
        for (unsigned i = 0; i < 60 && n_pages < 200; i++) { /* grows the table from 1024 buckets to 4096 */
            uint32_t k = STABLE + (uint32_t)(next_random(&rng) % CHURN);
            if (there[k] && next_random(&rng) % 4)
                continue;
            if (there[k])
                drop(h, &b[k]);
            else
                put_is(h_put(h, H_BULK, &b[k]), STORED);
            there[k] = !there[k];
        }
        n_pages++;
    } while (w.more);
    for (uint32_t i = 0; i < ALL; i++)
        if (seen[i] > 1 || (i < STABLE && seen[i] != 1))
            fail_msg("seed %llu: block %u was listed %u times", (unsigned long long)seed, i, seen[i]);
    assert_true(h_counter(h, "blocks") > 2048 && n_pages > 20);
    for (uint32_t i = 0; i < ALL; i++)
        h_block_free(&b[i]);
    h_free(h);
    free(b);
    free(seen);
    free(there);
}

static void listing_survives_change(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++)
        walk_and_churn(seed);
}

static void each_tenant_sees_its_own(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b[60];
    struct walk w = {0};
    size_t n = 0, pages = 0;
    h_hello(h, H_OTHER, 9, true);
    for (uint32_t i = 0; i < 60; i++) {
        h_block_sized(&b[i], i < 20 ? 0 : 9, i * 2654435761u, tiny);
        put_is(h_put(h, i < 20 ? H_BULK : H_OTHER, &b[i]), STORED);
    }
    bool told = false;
    do {
        const Scoutkv__Listed *l = ask_page(h, &w, 1);
        n += l->n_entries;
        for (size_t i = 0; i < l->n_other_namespaces; i++)
            told = told || l->other_namespaces[i] == 9;
        assert_true(++pages < 100);
    } while (w.more);
    assert_int_equal(n, 20);
    assert_true(told);

    /* From behind a block that is gone; past the end; with a key that is none. */
    w = (struct walk){0};
    assert_true(key_from_wire(ask_page(h, &w, 1)->entries[0]->key, 0, &w.after));
    w.behind = true;
    for (uint32_t i = 0; i < 20; i++)
        if (key_equal(&b[i].key, &w.after))
            drop(h, &b[i]);
    assert_int_equal(h_counter(h, "blocks"), 59);
    assert_int_equal(ask_page(h, &w, 0)->n_entries, 19);
    w = (struct walk){.from = UINT64_MAX};
    assert_true(ask_page(h, &w, 0)->n_entries <= 1 && !w.more);
    Scoutkv__Key bad = SCOUTKV__KEY__INIT;
    Scoutkv__List list = SCOUTKV__LIST__INIT;
    list.after = &bad;
    H_HEADER(header, LIST, list, &list);
    refused(h_ask(h, H_READ, &header, NULL), REASON(MALFORMED), "32 bytes");
    for (uint32_t i = 0; i < 60; i++)
        h_block_free(&b[i]);
    h_free(h);
}

static void leases_are_described(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b;
    struct h_block *one = &b;
    h_block(&b, 0, 1);
    put_is(h_put(h, H_BULK, &b), STORED);
    done_is(ask_keys(h, H_READ, 'P', "short", 1000, &one, 1), 1);
    done_is(ask_keys(h, H_READ, 'P', "long", 60000, &one, 1), 1);
    h->now += 2 * NS_PER_S;
    Scoutkv__Describe describe = SCOUTKV__DESCRIBE__INIT;
    describe.key = &b.wire_key;
    H_HEADER(header, DESCRIBE, describe, &describe);
    const Scoutkv__Header *a = h_ask(h, H_READ, &header, NULL);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_DESCRIBED);
    assert_true(a->described->found && !a->described->damaged);
    assert_int_equal(a->described->n_leases, 1);
    assert_string_equal(a->described->leases[0]->owner, "long");
    assert_int_equal(a->described->leases[0]->ttl_ms, 58000);
    h_block_free(&b);
    h_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listing_survives_change),
        cmocka_unit_test(each_tenant_sees_its_own),
        cmocka_unit_test(leases_are_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
