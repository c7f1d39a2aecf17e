/* test_saved.c: contexts as named things: saved, resumed, forked, leased, ended, several at once. */
#include "tests/unit/saved_asserts.h"

static void nap(unsigned ms)
{
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

static bool listed(skv_tier *t, const char *name)
{
    struct skv_error err = {0};
    char **names;
    size_t n;
    bool found = false;
    check(skv_saved_list(t, &names, &n, &err), &err);
    for (size_t i = 0; i < n; i++) {
        found |= strcmp(names[i], name) == 0;
        free(names[i]);
    }
    free(names);
    return found;
}

/* ---- by name ---- */

static void test_resume_needs_no_options(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 resume");
    struct skv_range ranges[] = {{100, 130}, {4000, 4100}};
    struct skv_error err = {0};
    o.protect = ranges;
    o.n_protect = 2;
    o.seal_lag = 320;
    o.decode.mass = 0.9f;
    uint64_t lengths[] = {1, 63, 64, 319, 320, 384, 1000, 4096 + 320, 4097 + 320, 5000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint64_t n = lengths[i], skip = 1, want = 1, got = 1;
        skv_tier *t = open_tier(three.list, 2), *u = open_tier(three.list, 1);
        skv_context *c = prefilled(t, &o, n, &skip);
        decode(t, c, n, n + 5, &skip);
        save(c, "plain");
        decode(t, c, n + 5, n + 45, &want);
        skv_context *r = resume(u, "plain");
        assert_int_equal(skv_length(r), n + 5);
        decode(u, r, n + 5, n + 45, &got);
        if (got != want)
            fail_msg("%llu tokens: other bits after resuming", (unsigned long long)n);
        /* Once more from what was resumed, with passes of prefill too. */
        save(r, "again");
        skv_context *q = resume(t, "again");
        want = got = 1;
        prefill(u, r, n + 45, n + 400, CHUNK, &want);
        prefill(t, q, n + 45, n + 400, CHUNK, &got);
        assert_true(got == want);
        skv_context_close(q);
        skv_context_close(r);
        skv_context_close(c);
        check(skv_saved_remove(t, "again", &err), &err);
        skv_tier_close(u);
        skv_tier_close(t);
    }
    skv_tier *t = open_tier(three.list, 1);
    drop(t, "plain");
    skv_tier_close(t);
}

static void test_what_is_told(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 told");
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 1);
    uint64_t skip = 1;
    o.decode.policy = SKV_WINDOW;
    o.cache_bytes = 12345;
    skv_context *c = prefilled(t, &o, 1000, &skip);
    const char state[] = "seed 7\0 and more";
    check(skv_context_snapshot(c, "told",
                               &(struct skv_save_opts){.ttl_ms = 3600 * 1000,
                                                       .model = "synthetic-1",
                                                       .engine = state,
                                                       .engine_bytes = sizeof state},
                               &err),
          &err);
    struct skv_saved *m;
    check(skv_saved_check(t, "told", &m, &err), &err);
    assert_string_equal(m->name, "told");
    assert_string_equal(m->model, "synthetic-1");
    assert_memory_equal(m->fingerprint, model.fingerprint, SKV_FINGERPRINT);
    assert_int_equal(m->tokens, 1000);
    assert_int_equal(m->bytes, 1000 * 2 * (KV_HEADS * (D + D_V) + 2 * (32 + 48)));
    assert_int_equal(m->ttl_ms, 3600 * 1000);
    assert_true(m->pinned && !m->salted);
    assert_true(m->created_ms == m->updated_ms && m->renewed_ms + 60000 > m->created_ms);
    assert_int_equal(m->engine_bytes, sizeof state);
    assert_memory_equal(m->engine, state, sizeof state);
    assert_int_equal(m->opts.decode.policy, SKV_WINDOW);
    assert_int_equal(m->opts.cache_bytes, 12345);
    assert_int_equal(m->opts.window, 128);
    assert_string_equal(m->opts.recipe, "chunk=128 told");
    assert_int_equal(m->blocks, 1000 / 64 * LAYERS); /* the tail's full blocks too: it is all prefill */
    assert_int_equal(m->blocks_present, m->blocks);
    uint64_t created = m->created_ms;
    skv_saved_free(m);
    nap(5);
    save(c, "told");
    check(skv_saved_read(t, "told", &m, &err), &err);
    assert_int_equal(m->created_ms, created);
    assert_true(m->updated_ms > created);
    assert_int_equal(m->ttl_ms, SKV_TTL_MS);
    assert_int_equal(m->engine_bytes, 0);
    skv_saved_free(m);
    assert_true(listed(t, "told"));
    drop(t, "told");
    assert_false(listed(t, "told"));
    assert_int_equal(skv_saved_read(t, "told", &m, &err), -ENOENT);
    assert_int_equal(skv_saved_remove(t, "told", &err), -ENOENT);
    skv_context_close(c);
    skv_tier_close(t);
}

static void refuses(skv_tier *t, const struct skv_model *m, const struct skv_context_opts *o,
                    const char *name, int rc, const char *why)
{
    struct skv_error err = {0};
    skv_context *c;
    int got = skv_context_reopen(t, m, o, name, &c, &err);
    if (got != rc || !strstr(err.text, why))
        fail_msg("rc %d \"%s\", wanted %d and \"%s\"", got, err.text, rc, why);
}

static void test_contradictions(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 contra"), p;
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 1);
    skv_context *c = open_context(t, &o), *r;
    uint64_t skip = 1;
    prefill(t, c, 0, 600, CHUNK, &skip);
    save(c, "contra");
    struct skv_model other = model;
    other.fingerprint[0]++;
    refuses(t, &other, NULL, "contra", -EINVAL, "another model");
    refuses(t, &model, NULL, "no such story", -ENOENT, "no such story");
    refuses(t, &model, NULL, "", -EINVAL, "1 to 200 bytes");
    refuses(t, &model, NULL, "a\nb", -EINVAL, "control characters");
    p = o;
    p.window = 64;
    refuses(t, &model, &p, "contra", -EINVAL, "window, 128 tokens and not 64");
    p = o;
    p.seal_lag = 256;
    refuses(t, &model, &p, "contra", -EINVAL, "seal lag, 128 tokens and not 256");
    p = o;
    p.prefill.policy = SKV_DENSE;
    refuses(t, &model, &p, "contra", -EINVAL, "prefill policy");
    p = o;
    p.dtype = SKV_F32;
    refuses(t, &model, &p, "contra", -EINVAL, "KV dtype");
    p = o;
    p.recipe = "chunk=256 contra";
    refuses(t, &model, &p, "contra", -EINVAL, "chunk=256");
    p = o;
    p.sinks = 32;
    refuses(t, &model, &p, "contra", -EINVAL, "protected ranges");
    p = o;
    p.durable = true;
    refuses(t, &model, &p, "contra", -EINVAL, "without durable blocks");
    p = o;
    p.decode.policy = SKV_DENSE; /* may differ */
    check(skv_context_reopen(t, &model, &p, "contra", &r, &err), &err);
    skv_context_close(r);
    skv_context_close(c);

    uint8_t salt[32] = "grain";
    o.salt = salt;
    c = prefilled(t, &o, 600, &skip);
    save(c, "contra");
    refuses(t, &model, NULL, "contra", -EINVAL, "salt");
    check(skv_context_reopen(t, &model, &o, "contra", &r, &err), &err);
    skv_context_close(r);
    salt[0]++;
    refuses(t, &model, &o, "contra", -EINVAL, "salt");
    assert_int_equal(skv_context_snapshot(c, "x", &(struct skv_save_opts){.ttl_ms = 10}, &err), -EINVAL);
    assert_non_null(strstr(err.text, "time to live"));
    uint32_t id = 1;
    check(skv_append(c, SKV_DECODE, 1, &id, NULL, &err), &err);
    assert_int_equal(skv_context_snapshot(c, "x", NULL, &err), -EINVAL); /* its last pass has no K/V */
    drop(t, "contra");
    skv_context_close(c);
    skv_tier_close(t);
}

static void test_fork_and_remove(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 fork");
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 1);
    uint64_t skip = 1, want = 1, got = 1, leases = counter("leases");
    skv_context *c = prefilled(t, &o, 5000, &skip);
    save(c, "first");
    uint64_t blocks = counter("blocks"), one = counter("leases") - leases;
    assert_int_equal(one, 5000 / 64 * LAYERS);
    decode(t, c, 5000, 5040, &want);
    skv_context_close(c);
    check(skv_saved_fork(t, "first", "second", 0, &err), &err);
    assert_int_equal(counter("blocks"), blocks); /* shared */
    assert_int_equal(counter("leases"), leases + 2 * one);
    assert_int_equal(skv_saved_fork(t, "first", "second", 0, &err), -EEXIST);
    assert_int_equal(skv_saved_fork(t, "absent", "third", 0, &err), -ENOENT);
    assert_false(listed(t, "third"));
    drop(t, "first");
    assert_int_equal(counter("leases"), leases + one);
    c = resume(t, "second");
    decode(t, c, 5000, 5040, &got);
    assert_true(got == want);
    skv_context_close(c);

    /* Both go their ways. */
    check(skv_saved_fork(t, "second", "first", 0, &err), &err);
    c = resume(t, "second");
    prefill(t, c, 5000, 6000, CHUNK, &skip);
    save(c, "second");
    skv_context_close(c);
    c = resume(t, "first");
    got = 1;
    decode(t, c, 5000, 5040, &got);
    assert_true(got == want);
    skv_context_close(c);
    drop(t, "first");
    drop(t, "second");
    assert_int_equal(counter("leases"), leases);
    skv_tier_close(t);
}

static void test_pin_and_unpin(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 pin");
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 1);
    uint64_t skip = 1, leases = counter("leases"), objects = counter("objects");
    skv_context *c = prefilled(t, &o, 2000, &skip);
    struct skv_saved *m;
    save(c, "pins");
    skv_context_close(c);
    uint64_t one = counter("leases") - leases;
    assert_true(one > 0);
    check(skv_saved_unpin(t, "pins", &err), &err);
    assert_int_equal(counter("leases"), leases);
    check(skv_saved_read(t, "pins", &m, &err), &err);
    assert_false(m->pinned);
    assert_true(m->ttl_ms <= SKV_TTL_MS && m->ttl_ms + 60000 > SKV_TTL_MS);
    skv_saved_free(m);
    check(skv_saved_pin(t, "pins", SKV_TTL_MAX_MS, &err), &err); /* longer than its sidecars were to last */
    check(skv_saved_pin(t, "pins", 0, &err), &err);
    assert_int_equal(counter("leases"), leases + one);
    check(skv_saved_read(t, "pins", &m, &err), &err);
    assert_true(m->pinned && m->ttl_ms == SKV_TTL_MAX_MS);
    skv_saved_free(m);
    assert_int_equal(skv_saved_pin(t, "pins", SKV_TTL_MAX_MS + 1, &err), -EINVAL);
    c = resume(t, "pins");
    skv_context_close(c);
    /* Saved again and again: what only the older ones needed is gone with them. */
    c = resume(t, "pins");
    save(c, "pins");
    uint64_t many = counter("objects");
    save(c, "pins");
    assert_int_equal(counter("objects"), many);
    assert_int_equal(counter("leases"), leases + one);
    skv_context_close(c);
    drop(t, "pins");
    assert_true(counter("objects") < many && counter("objects") > objects); /* the index ages out */
    skv_tier_close(t);
}

static void test_time_to_live(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 ttl");
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 1);
    uint64_t skip = 1, leases = counter("leases"), at = 700;
    skv_context *c = prefilled(t, &o, at, &skip);
    struct skv_saved *m = NULL;
    check(skv_context_snapshot(c, "brief", &(struct skv_save_opts){.ttl_ms = 3000}, &err), &err);
    check(skv_saved_read(t, "brief", &m, &err), &err);
    uint64_t saved = m->renewed_ms;
    skv_saved_free(m);
    /* Whoever has it open renews it while it runs … */
    for (uint64_t renewed = saved; renewed == saved; nap(50)) {
        decode(t, c, at, at + 1, &skip);
        at++;
        check(skv_saved_read(t, "brief", &m, &err), &err);
        renewed = m->renewed_ms;
        skv_saved_free(m);
    }
    skv_context_close(c);
    /* … and when nobody has, it ends. */
    check(skv_saved_pin(t, "brief", 1000, &err), &err);
    for (unsigned i = 0; i < 300 && (listed(t, "brief") || counter("leases") > leases); i++)
        nap(50);
    assert_false(listed(t, "brief"));
    assert_int_equal(counter("leases"), leases);
    refuses(t, &model, NULL, "brief", -ENOENT, "brief");
    skv_tier_close(t);
}

static void test_lost_parts(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 lost");
    skv_tier *t = open_tier(three.list, 1);
    uint64_t skip = 1;
    skv_context *c = prefilled(t, &o, 5000, &skip);
    save(c, "lost");
    assert_true(lose_objects("index4/") > 0);
    refuses(t, &model, NULL, "lost", -ENODATA, "the context is lost");
    save(c, "lost"); /* whole again */
    skv_context_close(resume(t, "lost"));
    assert_true(lose_objects("part/") > 0);
    refuses(t, &model, NULL, "lost", -ENODATA, "the context is lost");
    drop(t, "lost");
    skv_context_close(c);
    skv_tier_close(t);
}

/* ---- several at once ---- */

/* A process of its own that saves n tokens of a text that parts from the others' at 4500. */
static int child_saves(const char *nodes, const char *name, uint64_t n, unsigned which)
{
    struct skv_context_opts o = own_opts("chunk=128 many");
    struct skv_error err = {0};
    skv_tier *t;
    skv_context *c;
    uint64_t digest = 1;
    text.part_at = 4500;
    text.other = which;
    if (skv_tier_open(&(struct skv_tier_opts){.nodes = nodes, .threads = 1}, &t, &err) ||
        skv_context_open(t, &model, &o, &c, &err))
        goto failed;
    for (uint64_t at = 0; at < n; at += CHUNK)
        if (pass(t, c, SKV_PREFILL, at, CHUNK, &digest, NULL, &err))
            goto failed;
    for (int i = 0; i < 5; i++)
        if (skv_context_snapshot(c, i % 2 ? name : "contested", NULL, &err))
            goto failed;
    skv_context_close(c);
    skv_tier_close(t);
    return 0;
failed:
    fprintf(stderr, "%s: %s\n", name, err.text);
    return 1;
}

static void test_several_processes(void **s)
{
    (void)s;
    enum { CHILDREN = 3 };
    const uint64_t n = 6016 / CHUNK * CHUNK;
    struct skv_context_opts o = own_opts("chunk=128 many");
    uint64_t before = counter("blocks"), leases = counter("leases"), skip = 1;
    pid_t pid[CHILDREN];
    char name[32];
    for (unsigned i = 0; i < CHILDREN; i++) {
        snprintf(name, sizeof name, "child%u", i);
        if ((pid[i] = fork()) == 0)
            _exit(child_saves(three.list, name, n, i));
    }
    for (unsigned i = 0; i < CHILDREN; i++) {
        int status;
        waitpid(pid[i], &status, 0);
        assert_int_equal(status, 0);
    }
    /* Their common beginning is stored once; the pass in which they part is each one's own. */
    uint64_t shared = 4500 / CHUNK * CHUNK / 64, own = n / 64 - shared;
    assert_int_equal(counter("blocks") - before, (shared + CHILDREN * own) * LAYERS);
    assert_int_equal(counter("leases") - leases, (CHILDREN + 1) * (n / 64) * LAYERS);
    skv_tier *t = open_tier(three.list, 2), *alone = open_tier(NULL, 2);
    text.part_at = 4500;
    for (unsigned i = 0; i < CHILDREN; i++) {
        uint64_t want = 1, got = 1;
        snprintf(name, sizeof name, "child%u", i);
        text.other = i;
        skv_context *a = prefilled(alone, &o, n, &skip), *b = resume(t, name);
        decode(alone, a, n, n + 20, &want);
        decode(t, b, n, n + 20, &got);
        assert_true(got == want);
        skv_context_close(a);
        skv_context_close(b);
        drop(t, name);
    }
    text.other = 0;
    skv_context_close(resume(t, "contested")); /* one of theirs, whole */
    drop(t, "contested");
    assert_int_equal(counter("leases"), leases);
    skv_tier_close(alone);
    skv_tier_close(t);
}

/* Another writer has other bits for the same keys, as other machines may: the first one's stay. */
static void test_two_versions(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 versions");
    skv_tier *t = open_tier(three.list, 1), *u = open_tier(three.list, 1);
    uint64_t skip = 1, first = 1, second = 1;
    struct skv_stats st;
    text.feedback = 0.5f;
    skv_context *a = prefilled(t, &o, 5120, &skip);
    save(a, "one");
    text.feedback = 0.25f;
    skv_context *b = prefilled(u, &o, 5120, &skip);
    save(b, "two");
    skv_context_stats(b, &st);
    assert_true(st.blocks_adopted > 0);
    text.feedback = 0.5f;
    skv_context_close(a);
    skv_context_close(b);
    a = resume(t, "one");
    b = resume(u, "two");
    decode(t, a, 5120, 5160, &first);
    decode(u, b, 5120, 5160,
           &second); /* what both stored is read as the first wrote it; their tails differ */
    assert_true(first != second);
    skv_context_close(a);
    skv_context_close(b);
    text.feedback = 0;
    drop(t, "one");
    drop(t, "two");
    skv_tier_close(u);
    skv_tier_close(t);
}

/* With two replicas a dead node takes nothing away; with one, what was its is said to be out of reach. */
static void test_node_dies(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 dies");
    struct skv_error err = {0};
    struct nodes own;
    skv_tier *t, *u;
    uint64_t skip = 1, want = 1, got = 1;
    uint32_t ids[5000];
    for (unsigned i = 0; i < 5000; i++)
        ids[i] = id_of(i);
    assert_int_equal(nodes_start(&own, 3, "64MiB"), 0);
    struct skv_tier_opts to = {.nodes = own.list, .threads = 1, .timeout_ms = 700, .replicas = 2};
    check(skv_tier_open(&to, &t, &err), &err);
    check(skv_tier_open(&to, &u, &err), &err);
    skv_context *c = prefilled(t, &o, 5000, &skip), *r;
    check(skv_context_snapshot(c, "dies", NULL, &err), &err);
    decode(t, c, 5000, 5040, &want);
    kill(own.pid[1], SIGKILL);
    waitpid(own.pid[1], NULL, 0);
    own.pid[1] = 0;
    check(skv_context_reopen(u, &model, NULL, "dies", &r, &err), &err);
    decode(u, r, 5000, 5040, &got);
    assert_true(got == want);
    skv_context_close(r);
    check(skv_context_open_prefix(u, &model, &o, ids, 5000, CHUNK, &r, &err), &err);
    assert_int_equal(skv_length(r), 4992);
    skv_context_close(r);
    check(skv_context_snapshot(c, "dies", NULL, &err), &err);
    check(skv_saved_remove(u, "dies", &err), &err);
    skv_context_close(c);
    skv_tier_close(u);
    skv_tier_close(t);
    nodes_stop(&own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume_needs_no_options),
        cmocka_unit_test(test_what_is_told),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_fork_and_remove),
        cmocka_unit_test(test_pin_and_unpin),
        cmocka_unit_test(test_time_to_live),
        cmocka_unit_test(test_lost_parts),
        cmocka_unit_test(test_several_processes),
        cmocka_unit_test(test_two_versions),
        cmocka_unit_test(test_node_dies),
    };
    return cmocka_run_group_tests_name("saved", tests, start_three_one_text, stop_three);
}
