/* test_store_ram.c: which blocks of a store with a disk stay in its RAM: those that are used most, or that a
 * hint expects to be; and that no hint evicts what is leased. */
#include "common/clock.h"
#include "memnode/store/store.h"
#include "tests/store/sim_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum {
    FEW = 40,
    IN_RAM = 150,
    MANY = 800,
    MIB = 1 << 20
}; /* RAM holds more than IN_RAM, less than 2 of it */

static const struct block_layout layout = {1, 64, 64, 0, 2}; /* 32 KiB */
static const struct store_disk disk = {"d", STORE_DISK_MIN};

struct world {
    struct sim *sim;
    struct memory *memory;
    struct store *store;
    uint64_t now;
};

static void begin(struct world *w)
{
    struct skv_error err;
    *w = (struct world){.sim = sim_new(1), .memory = memory_new(8 * MIB)};
    sim_set_pace(w->sim, 100);
    w->store = store_open(
        &(struct store_opts){
            .memory = w->memory, .io = sim_io(w->sim), .disks = &disk, .n_disks = 1, .name = "ram"},
        &err);
    if (!w->store)
        fail_msg("%s", err.text);
    while (store_state(w->store, NULL) == STORE_STARTING)
        store_run(w->store, w->now += NS_PER_MS);
}

static void end(struct world *w)
{
    store_close(w->store);
    sim_io(w->sim)->ops->close(sim_io(w->sim));
    memory_free(w->memory);
    sim_free(w->sim);
}

static void run(struct world *w)
{
    for (int i = 0; i < 1000; i++)
        store_run(w->store, w->now += NS_PER_MS);
    assert_true(store_flushed(w->store));
}

static struct block *find(struct world *w, unsigned number)
{
    return store_find(w->store, &(struct block_key){.layer = number});
}

/* Blocks [from, to), on the disk too when this returns. */
static void put(struct world *w, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        struct block_key key = {.layer = i};
        uint64_t sums[8];
        struct skv_error err;
        struct block *b;
        struct buf *buf;
        int rc;
        while ((rc = store_room(w->store, layout_block_bytes(&layout), &buf, &err)) == -EAGAIN)
            store_run(w->store, w->now += NS_PER_MS);
        if (rc)
            fail_msg("%s", err.text);
        memset(buf->data, (int)(i & 255), buf->len);
        for (unsigned p = 0; p < 8; p++)
            sums[p] = page_checksum(&key, p / 4, p % 4, buf->data + p * 4096, 4096);
        assert_int_equal(store_put(w->store, &key, &layout, buf, sums, &b, &err), 0);
        buf_unref(buf);
        store_run(w->store, w->now += NS_PER_MS);
    }
    run(w);
}

static void use(struct world *w, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        store_touch(w->store, find(w, i));
        while (find(w, i)->loading)
            store_run(w->store, w->now += NS_PER_MS);
    }
}

static void hint(struct world *w, unsigned from, unsigned to, float keep)
{
    for (unsigned i = from; i < to; i++)
        store_hint(w->store, find(w, i), keep);
}

static unsigned in_ram(struct world *w, unsigned from, unsigned to)
{
    unsigned n = 0;
    for (unsigned i = from; i < to; i++)
        n += find(w, i) && find(w, i)->buf;
    return n;
}

static void the_newest_stay(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    put(&w, 0, MANY);
    assert_int_equal(in_ram(&w, MANY - IN_RAM, MANY), IN_RAM);
    assert_int_equal(in_ram(&w, 0, MANY - 2 * IN_RAM), 0);
    end(&w);
}

static void what_is_used_most_stays(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    put(&w, 0, FEW);
    for (int i = 0; i < 5; i++)
        use(&w, 0, FEW);
    put(&w, FEW, MANY);
    assert_int_equal(in_ram(&w, 0, FEW), FEW);
    end(&w);
}

static void what_is_hinted_stays(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    put(&w, 0, FEW);
    hint(&w, 0, FEW, 4);
    put(&w, FEW, MANY);
    assert_int_equal(in_ram(&w, 0, FEW), FEW);
    end(&w);
}

static void what_is_hinted_low_goes_first(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    put(&w, 0, IN_RAM);
    hint(&w, IN_RAM - FEW, IN_RAM, 0); /* the newest, which would stay longest */
    unsigned n = IN_RAM;
    while (in_ram(&w, 0, n) == n) /* until something has to go */
        put(&w, n, n + 1), n++;
    put(&w, n, n + FEW / 2);
    assert_int_equal(in_ram(&w, 0, IN_RAM - FEW), IN_RAM - FEW);
    assert_true(in_ram(&w, IN_RAM - FEW, IN_RAM) < FEW);
    end(&w);
}

/* Whoever hinted may be gone. */
static void hints_fade(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    put(&w, 0, FEW);
    hint(&w, 0, FEW, 1e9f);
    put(&w, FEW, FEW + 2 * IN_RAM);
    assert_int_equal(in_ram(&w, 0, FEW), FEW);
    for (int i = 0; i < 30; i++)
        use(&w, FEW, FEW + 2 * IN_RAM);
    assert_int_equal(in_ram(&w, 0, FEW), 0);
    end(&w);
}

/* One use of a page on disk doesn't bring the block back, unless it is expected to be used more. */
static void what_comes_back(void **state)
{
    (void)state;
    struct world w;
    struct store_stats s;
    begin(&w);
    put(&w, 0, MANY);
    store_stats(w.store, &s);
    assert_int_equal(s.promoted, 0);
    hint(&w, 0, FEW, 8);
    hint(&w, FEW, 2 * FEW, 0.5f);
    use(&w, 0, 2 * FEW);
    store_stats(w.store, &s);
    assert_int_equal(s.promoted, FEW);
    assert_int_equal(in_ram(&w, 0, FEW), FEW);
    for (int i = 0; i < 4; i++)
        use(&w, FEW, 2 * FEW);
    assert_int_equal(in_ram(&w, FEW, 2 * FEW), FEW);
    end(&w);
}

static void leased_blocks_stay_whatever_the_hint(void **state)
{
    (void)state;
    enum { ALL = 4 * STORE_DISK_MIN / (32 << 10) / 3 };
    struct world w;
    struct store_stats s;
    begin(&w);
    put(&w, 0, FEW);
    hint(&w, 0, FEW, 0);
    hint(&w, FEW / 2, FEW, 16);
    for (unsigned i = 0; i < FEW / 2; i++)
        find(&w, i)->leases = (struct lease *)&w; /* the store only looks whether there is one */
    for (unsigned i = FEW; i < ALL; i += 64)
        put(&w, i, i + 64);
    store_stats(w.store, &s);
    assert_true(s.evicted_disk > 0);
    for (unsigned i = 0; i < FEW; i++)
        assert_non_null(find(&w, i)); /* leased, or expected to be used */
    for (unsigned i = 0; i < FEW / 2; i++)
        find(&w, i)->leases = NULL;
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_stay),
        cmocka_unit_test(what_is_used_most_stays),
        cmocka_unit_test(what_is_hinted_stays),
        cmocka_unit_test(what_is_hinted_low_goes_first),
        cmocka_unit_test(hints_fade),
        cmocka_unit_test(what_comes_back),
        cmocka_unit_test(leased_blocks_stay_whatever_the_hint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
