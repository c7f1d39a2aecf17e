/* test_node_keys.c: the memory node's core: HAVE, HINT, DROP, leases, namespaces, objects, options. */
#include "memnode/leases.h"
#include "tests/unit/node_asserts.h"

#include <math.h>

static void by_keys(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b[3];
    struct h_block *all[] = {&b[0], &b[1], &b[2]}, *twice[] = {&b[0], &b[0]};
    for (uint32_t i = 0; i < 3; i++)
        h_block(&b[i], 0, i);
    put_is(h_put(h, H_BULK, &b[0]), STORED);
    put_is(h_put(h, H_BULK, &b[2]), STORED);
    const Scoutkv__Header *a = ask_keys(h, H_READ, 'H', NULL, 0, all, 3);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_HAVE_ACK);
    assert_int_equal(a->have_ack->present.len, 3);
    assert_memory_equal(a->have_ack->present.data, "\1\0\1", 3);
    done_is(ask_keys(h, H_READ, 'K', NULL, 0, all, 3), 2);
    Scoutkv__Hint hint = SCOUTKV__HINT__INIT;
    Scoutkv__Key *keys[] = {&b[0].wire_key};
    float nan_keep[] = {NAN};
    hint.n_keys = 1;
    hint.keys = keys;
    H_HEADER(header, HINT, hint, &hint);
    refused(h_ask(h, H_READ, &header, NULL), REASON(MALFORMED), "one number a key");
    hint.n_keep = 1;
    hint.keep = nan_keep;
    refused(h_ask(h, H_READ, &header, NULL), REASON(MALFORMED), "one number a key");

    b[1].wire_key.chain.len = 5;
    for (const char *op = "HKDPU"; *op; op++)
        refused(ask_keys(h, H_READ, *op, "o", 1000, all, 3), REASON(MALFORMED), "32 bytes");
    b[1].wire_key.chain.len = 32;
    done_is(ask_keys(h, H_READ, 'D', NULL, 0, twice, 2), 1);
    done_is(ask_keys(h, H_READ, 'D', NULL, 0, all, 3), 1);
    done_is(ask_keys(h, H_READ, 'D', NULL, 0, all, 0), 0);
    assert_int_equal(h_counter(h, "blocks"), 0);
    assert_int_equal(h_counter(h, "bytes"), 0);
    free_many(b, 3);
    h_free(h);
}

static void leases(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b[3];
    struct h_block *all[] = {&b[0], &b[1], &b[2]}, *second[] = {&b[1]};
    for (uint32_t i = 0; i < 3; i++) {
        h_block(&b[i], 0, i);
        if (i < 2)
            put_is(h_put(h, H_BULK, &b[i]), STORED);
    }
    uint64_t empty = h_counter(h, "ram_store_used");
    done_is(ask_keys(h, H_READ, 'P', "m1", 1000, all, 3), 2); /* the third is not here */
    done_is(ask_keys(h, H_READ, 'P', "m1", 1000, all, 3), 2); /* idempotent */
    assert_int_equal(h_counter(h, "leases"), 2);
    done_is(ask_keys(h, H_READ, 'P', "m2", 5000, second, 1), 1);
    refused(ask_keys(h, H_READ, 'D', NULL, 0, all, 3), REASON(LEASED), "'m1'");
    assert_int_equal(h_counter(h, "blocks"), 2); /* all or nothing */
    done_is(ask_keys(h, H_READ, 'U', "m1", 0, NULL, 0), 2);
    done_is(ask_keys(h, H_READ, 'U', "m1", 0, NULL, 0), 0);
    done_is(ask_keys(h, H_READ, 'D', NULL, 0, all, 1), 1);
    refused(ask_keys(h, H_READ, 'D', NULL, 0, second, 1), REASON(LEASED), "'m2'");
    done_is(ask_keys(h, H_READ, 'U', "m1", 0, second, 1), 0);
    put_is(h_put(h, H_BULK, &b[0]), STORED);

    /* Time ends leases: on its own (DROP looks at the clock), and in the tick. A longer one moves the end. */
    done_is(ask_keys(h, H_READ, 'P', "m2", 8000, second, 1), 1);
    done_is(ask_keys(h, H_READ, 'P', "m3", 1000, all, 1), 1);
    h->now += 6 * NS_PER_S;
    done_is(ask_keys(h, H_READ, 'D', NULL, 0, all, 1), 1);
    refused(ask_keys(h, H_READ, 'D', NULL, 0, second, 1), REASON(LEASED), "'m2'");
    h->now += 3 * NS_PER_S;
    node_tick(h->node, h->now);
    assert_int_equal(h_counter(h, "leases"), 0);
    assert_int_equal(h_counter(h, "leases_ended"), 1);
    put_is(h_put(h, H_BULK, &b[0]), STORED);
    assert_int_equal(h_counter(h, "ram_store_used"), empty); /* nothing is left over */

    refused(ask_keys(h, H_READ, 'P', "", 1000, all, 1), REASON(MALFORMED), "name");
    char name[300];
    memset(name, 'x', sizeof name);
    name[256] = 0;
    refused(ask_keys(h, H_READ, 'P', name, 1000, all, 1), REASON(MALFORMED), "255");
    for (int i = 0; i < LEASES_PER_BLOCK; i++) {
        snprintf(name, sizeof name, "owner %d", i);
        done_is(ask_keys(h, H_READ, 'P', name, 1000, all, 1), 1);
    }
    refused(ask_keys(h, H_READ, 'P', "one more", 1000, all, 1), REASON(FULL), "64 leases");
    done_is(ask_keys(h, H_READ, 'U', "owner 30", 0, all, 1), 1);
    done_is(ask_keys(h, H_READ, 'P', "one more", 1000, all, 1), 1);
    h_free(h); /* with leases standing */
    free_many(b, 3);
}

/* Tenants do not see each other's blocks, objects and leases. */
static void namespaces(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block mine, theirs;
    struct h_block *one = &mine;
    h_hello(h, H_OTHER, 5, true);
    h_block(&mine, 0, 1);
    h_block(&theirs, 5, 1); /* the same chain and layer */
    put_is(h_put(h, H_BULK, &mine), STORED);
    assert_memory_equal(ask_keys(h, H_OTHER, 'H', NULL, 0, &one, 1)->have_ack->present.data, "\0", 1);
    done_is(ask_keys(h, H_OTHER, 'P', "m", 1000, &one, 1), 0);
    done_is(ask_keys(h, H_OTHER, 'D', NULL, 0, &one, 1), 0);
    put_is(h_put(h, H_OTHER, &theirs), STORED);
    done_is(ask_keys(h, H_READ, 'P', "m", 1000, &one, 1), 1);
    done_is(ask_keys(h, H_OTHER, 'U', "m", 0, NULL, 0), 0);
    done_is(ask_keys(h, H_OTHER, 'D', NULL, 0, &one, 1), 1);
    assert_int_equal(h_counter(h, "blocks"), 1);
    h_block_free(&mine);
    h_block_free(&theirs);
    h_free(h);
}

/* ---- objects ---- */

static const Scoutkv__Header *object_put(struct harness *h, Scoutkv__ObjectKind kind, const char *name,
                                         const char *text, uint64_t expect)
{
    Scoutkv__ObjectPut put = SCOUTKV__OBJECT_PUT__INIT;
    struct buf *bytes = buf_copy(text, strlen(text));
    put.kind = kind;
    put.name = (char *)(uintptr_t)name;
    put.checksum = object_checksum(kind, name, text, strlen(text));
    put.expect = expect;
    H_HEADER(header, OBJECT_PUT, object_put, &put);
    const Scoutkv__Header *a = h_ask(h, H_READ, &header, bytes);
    buf_unref(bytes);
    return a;
}

static void object_is(struct harness *h, Scoutkv__ObjectKind kind, const char *name, const char *text,
                      uint64_t revision)
{
    Scoutkv__ObjectGet get = SCOUTKV__OBJECT_GET__INIT;
    get.kind = kind;
    get.name = (char *)(uintptr_t)name;
    H_HEADER(header, OBJECT_GET, object_get, &get);
    const Scoutkv__Header *a = h_ask(h, H_READ, &header, NULL);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_OBJECT);
    assert_int_equal(a->object->found, text != NULL);
    if (!text)
        return;
    struct view *v = &h->sent[0].m.payload;
    assert_true(v->len == strlen(text) && (v->len == 0 || memcmp(v->data, text, v->len) == 0));
    assert_int_equal(a->object->revision, revision);
    assert_int_equal(a->object->checksum, object_checksum(kind, name, text, strlen(text)));
}

static void objects(void **state)
{
    (void)state;
    const Scoutkv__ObjectKind M = SCOUTKV__OBJECT_KIND__MANIFEST, S = SCOUTKV__OBJECT_KIND__SIDECAR;
    struct harness *h = h_ready(16 * MIB);
    object_is(h, M, "ctx", NULL, 0);
    const Scoutkv__Header *a = object_put(h, M, "ctx", "one", 0);
    done_is(a, 1);
    assert_int_equal(a->done->revision, 1);
    object_is(h, M, "ctx", "one", 1);
    object_is(h, S, "ctx", NULL, 0);
    done_is(object_put(h, M, "ctx", "two", 1), 1);
    refused(object_put(h, M, "ctx", "three", 1), REASON(CONFLICT), "revision 2, not 1");
    object_is(h, M, "ctx", "two", 2);
    done_is(object_put(h, M, "ctx", "", 0), 1);
    object_is(h, M, "ctx", "", 3);
    done_is(object_put(h, M, "new", "x", 4), 1); /* its writer saw revision 4 elsewhere */
    object_is(h, M, "new", "x", 5);

    done_is(object_put(h, S, "reps", "bytes", 0), 1);
    done_is(object_put(h, S, "reps", "bytes", 0), 1);
    refused(object_put(h, S, "reps", "other", 0), REASON(CONFLICT), "never change");
    object_is(h, S, "reps", "bytes", 1);

    refused(object_put(h, (Scoutkv__ObjectKind)7, "x", "y", 0), REASON(MALFORMED), "manifest or a sidecar");
    refused(object_put(h, M, "", "y", 0), REASON(MALFORMED), "1 to 255");
    char *big = malloc(PROTO_MAX_OBJECT + 2);
    memset(big, 'z', PROTO_MAX_OBJECT + 1);
    big[PROTO_MAX_OBJECT + 1] = 0;
    refused(object_put(h, M, "big", big, 0), REASON(TOO_LARGE), "at most");
    big[300] = 0;
    refused(object_put(h, M, big, "y", 0), REASON(MALFORMED), "255");
    Scoutkv__ObjectPut put = SCOUTKV__OBJECT_PUT__INIT;
    struct buf *some = buf_copy("some", 4);
    put.name = big + 290;
    H_HEADER(header, OBJECT_PUT, object_put, &put);
    refused(h_ask(h, H_READ, &header, some), REASON(CHECKSUM), "checksum");
    put.ack = SCOUTKV__ACK__DURABLE;
    refused(h_ask(h, H_READ, &header, some), REASON(NOT_DURABLE), "no disk");
    buf_unref(some);

    /* Objects count against the budget, and what was replaced does not. */
    big[300] = 'z';
    big[PROTO_MAX_OBJECT] = 0;
    for (int i = 0; i < 40; i++)
        done_is(object_put(h, M, "same", big, 0), 1);
    int n = 0;
    char name[32];
    do {
        snprintf(name, sizeof name, "big %d", n);
        a = object_put(h, M, name, big, 0);
    } while (a->body_case == SCOUTKV__HEADER__BODY_DONE && n++ < 100);
    refused(a, REASON(FULL), "--ram");
    assert_in_range(n, 10, 13);
    free(big);
    h_free(h);
}

/* Revisions that the writer chose, conditions, ends and drops. */
static void object_revisions(void **state)
{
    (void)state;
    const Scoutkv__ObjectKind M = SCOUTKV__OBJECT_KIND__MANIFEST, S = SCOUTKV__OBJECT_KIND__SIDECAR;
    struct harness *h = h_ready(16 * MIB);
    Scoutkv__ObjectPut put = SCOUTKV__OBJECT_PUT__INIT;
    struct buf *bytes = buf_copy("bytes", 5);
    put.name = (char *)(uintptr_t) "name";
    put.checksum = object_checksum(M, put.name, "bytes", 5);
    put.revision = 100;
    put.absent = true;
    H_HEADER(header, OBJECT_PUT, object_put, &put);
    for (int i = 0; i < 3; i++) { /* a repetition is harmless, whatever its condition was */
        const Scoutkv__Header *a = h_ask(h, H_READ, &header, bytes);
        done_is(a, 1);
        assert_int_equal(a->done->revision, 100);
    }
    put.revision = 101;
    refused(h_ask(h, H_READ, &header, bytes), REASON(CONFLICT), "is there already");
    assert_int_equal(h->sent[0].m.header->refused->revision, 100);
    put.absent = false;
    put.revision = 99;
    refused(h_ask(h, H_READ, &header, bytes), REASON(CONFLICT), "not later");
    assert_int_equal(h->sent[0].m.header->refused->revision, 100);
    put.revision = 100;
    put.ttl_ms = 1000; /* the same again, with an end */
    done_is(h_ask(h, H_READ, &header, bytes), 1);
    h->now += 999 * NS_PER_MS;
    object_is(h, M, "name", "bytes", 100);
    assert_int_equal(h->sent[0].m.header->object->ttl_ms, 1);
    h->now += NS_PER_MS;
    object_is(h, M, "name", NULL, 0);
    assert_false(h->sent[0].m.header->object->dropped);

    /* A sidecar's end moves away only; for ever is furthest. */
    put.kind = S;
    put.checksum = object_checksum(S, put.name, "bytes", 5);
    const uint64_t ttls[] = {1000, 3000, 2000};
    for (int i = 0; i < 3; i++) {
        put.ttl_ms = ttls[i];
        put.revision++;
        const Scoutkv__Header *a = h_ask(h, H_READ, &header, bytes);
        done_is(a, 1);
        assert_int_equal(a->done->revision, 101); /* it is the same object */
    }
    object_is(h, S, "name", "bytes", 101);
    assert_int_equal(h->sent[0].m.header->object->ttl_ms, 3000);

    /* A drop is a revision; the mark that it leaves is for those who ask, and for late comers. */
    Scoutkv__ObjectDrop drop = SCOUTKV__OBJECT_DROP__INIT;
    drop.kind = S;
    drop.name = put.name;
    drop.revision = 101;
    H_HEADER(dropping, OBJECT_DROP, object_drop, &drop);
    refused(h_ask(h, H_READ, &dropping, NULL), REASON(CONFLICT), "not later");
    drop.revision = 200;
    done_is(h_ask(h, H_READ, &dropping, NULL), 1);
    done_is(h_ask(h, H_READ, &dropping, NULL), 0);
    object_is(h, S, "name", NULL, 0);
    assert_true(h->sent[0].m.header->object->dropped);
    assert_int_equal(h->sent[0].m.header->object->revision, 200);
    assert_int_equal(h_counter(h, "objects"), 0);
    put.revision = 150;
    refused(h_ask(h, H_READ, &header, bytes), REASON(CONFLICT), "not later");
    put.revision = 201;
    done_is(h_ask(h, H_READ, &header, bytes), 1);
    object_is(h, S, "name", "bytes", 201);
    assert_int_equal(h_counter(h, "blocks"), 0); /* objects are no blocks to anybody else */
    buf_unref(bytes);
    h_free(h);
}

static void object_lists(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    char name[64], after[64] = "";
    for (int i = 0; i < 1234; i++) {
        snprintf(name, sizeof name, "ctx/%04d", (i * 577) % 1234); /* not in order */
        done_is(object_put(h, SCOUTKV__OBJECT_KIND__MANIFEST, name, "m", 0), 1);
    }
    done_is(object_put(h, SCOUTKV__OBJECT_KIND__MANIFEST, "another", "m", 0), 1);
    done_is(object_put(h, SCOUTKV__OBJECT_KIND__SIDECAR, "ctx/s", "m", 0), 1);
    int seen = 0, answers = 0;
    for (bool more = true; more; answers++) {
        Scoutkv__ObjectList list = SCOUTKV__OBJECT_LIST__INIT;
        list.prefix = (char *)(uintptr_t) "ctx/";
        list.after = after;
        H_HEADER(header, OBJECT_LIST, object_list, &list);
        const Scoutkv__Header *a = h_ask(h, H_READ, &header, NULL);
        assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_OBJECT_NAMES);
        more = a->object_names->more;
        for (size_t i = 0; i < a->object_names->n_names; i++, seen++) {
            snprintf(name, sizeof name, "ctx/%04d", seen);
            assert_string_equal(a->object_names->names[i], name);
            snprintf(after, sizeof after, "%s", name);
        }
    }
    assert_int_equal(seen, 1234);
    assert_int_equal(answers, 3);
    h_free(h);
}

static void bad_options(void **state)
{
    (void)state;
    struct skv_error err = {0};
    assert_null(node_new(&(struct node_opts){.ram = 1000}, h_send, NULL, &err));
    assert_int_equal(err.code, -EINVAL);
    assert_non_null(strstr(err.text, "8 MiB"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_options),      cmocka_unit_test(by_keys), cmocka_unit_test(leases),
        cmocka_unit_test(namespaces),       cmocka_unit_test(objects), cmocka_unit_test(object_lists),
        cmocka_unit_test(object_revisions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
