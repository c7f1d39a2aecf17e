/* The simulated disk: what a sync promises and what it does not, torn writes, lost writes, and its faults. */
#include "tests/store/random.h"
#include "tests/store/sim_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { PAGE = 4096, FILE_BYTES = 1 << 20, SEEDS = 200 };

struct request {
    struct io_request io;
    struct iovec iov;
    bool done;
};

static void done(struct io_request *r)
{
    ((struct request *)r)->done = true;
}

static struct io *io;
static int file;
static uint8_t *page[4]; /* aligned; page i is full of 'a' + i, but the last, which reads go to */

static void submit(struct request *r, enum io_op op, uint64_t offset, uint8_t *bytes)
{
    *r = (struct request){.io = {.op = op, .file = file, .offset = offset, .done = done},
                          .iov = {bytes, PAGE}};
    if (op != IO_SYNC) {
        r->io.iov = &r->iov;
        r->io.n_iov = 1;
    }
    io->ops->submit(io, &r->io);
    io->ops->flush(io);
}

static int wait_for(struct request *r)
{
    while (!r->done)
        assert_true(io->ops->reap(io, true) > 0);
    return r->io.result;
}

static int one(enum io_op op, uint64_t offset, uint8_t *bytes)
{
    struct request r;
    submit(&r, op, offset, bytes);
    return wait_for(&r);
}

static void life(struct sim *s)
{
    bool created;
    io = sim_io(s);
    int dir = io->ops->mount(io, "d", NULL);
    assert_true(dir >= 0);
    file = io->ops->open(io, dir, "f", FILE_BYTES, &created, NULL);
    assert_true(file >= 0);
}

static struct sim *begin(uint64_t seed)
{
    struct sim *s = sim_new(seed);
    life(s);
    return s;
}

static void end(struct sim *s)
{
    io->ops->close(io);
    sim_free(s);
}

static void reboot(struct sim *s)
{
    while (sim_in_flight(s))
        io->ops->reap(io, true);
    io->ops->close(io);
    life(s);
}

/* How many sectors of page `at` hold this letter; all others must hold the other one. */
static unsigned sectors(uint64_t at, char letter, char other)
{
    unsigned n = 0;
    assert_int_equal(one(IO_READ, at, page[3]), 0);
    for (unsigned i = 0; i < PAGE; i += SIM_SECTOR) {
        char c = (char)page[3][i];
        assert_true(c == letter || c == other);
        n += c == letter;
        for (unsigned j = 1; j < SIM_SECTOR; j++)
            assert_int_equal(page[3][i + j], c);
    }
    return n;
}
enum { ALL = PAGE / SIM_SECTOR };

static int make_pages(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        page[i] = aligned_alloc(PAGE, PAGE);
        memset(page[i], 'a' + i, PAGE);
    }
    return 0;
}

static int free_pages(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        free(page[i]);
    return 0;
}

static void what_was_never_written_is_zero(void **state)
{
    (void)state;
    struct sim *s = begin(1);
    assert_int_equal(sectors(0, 0, 0), ALL);
    assert_int_equal(one(IO_READ, FILE_BYTES, page[3]), -EIO);
    end(s);
}

static void a_sync_keeps_what_completed_before_it(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim *s = begin(seed);
        assert_int_equal(one(IO_WRITE, PAGE, page[0]), 0);
        assert_int_equal(one(IO_SYNC, 0, NULL), 0);
        sim_power_loss(s);
        reboot(s);
        assert_int_equal(sectors(PAGE, 'a', 0), ALL);
        end(s);
    }
}

/* Of what has no sync any sectors survive: none, all, and parts are all seen. */
static void without_a_sync_anything_survives(void **state)
{
    (void)state;
    unsigned none = 0, all = 0, part = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim *s = begin(seed);
        struct request r;
        assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
        assert_int_equal(one(IO_SYNC, 0, NULL), 0);
        submit(&r, IO_WRITE, 0, page[1]);
        if (seed % 2) { /* seen by readers, and not safe for that */
            wait_for(&r);
            assert_int_equal(sectors(0, 'b', 'a'), ALL);
        }
        sim_power_loss(s);
        reboot(s);
        unsigned n = sectors(0, 'b', 'a');
        none += n == 0;
        all += n == ALL;
        part += n > 0 && n < ALL;
        end(s);
    }
    assert_true(none > 10 && all > 10 && part > 10);
}

/* A sync that was submitted while a write was in flight says nothing about it. */
static void a_sync_is_no_promise_for_later_completions(void **state)
{
    (void)state;
    unsigned lost = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim *s = begin(seed);
        struct request w, y;
        submit(&w, IO_WRITE, 0, page[0]);
        submit(&y, IO_SYNC, 0, NULL);
        assert_int_equal(wait_for(&w), 0);
        assert_int_equal(wait_for(&y), 0);
        sim_power_loss(s);
        reboot(s);
        lost += sectors(0, 'a', 0) < ALL;
        end(s);
    }
    assert_true(lost > 10);
}

static void a_failed_sync_is_never_made_good(void **state)
{
    (void)state;
    unsigned seen = 0, lost = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim *s = begin(seed);
        assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
        sim_set_faults(s, &(struct sim_faults){.sync_error = 1000000});
        assert_int_equal(one(IO_SYNC, 0, NULL), -EIO);
        sim_set_faults(s, &(struct sim_faults){0});
        assert_int_equal(one(IO_SYNC, 0, NULL), 0);
        bool there = sectors(0, 'a', 0) == ALL;
        sim_power_loss(s);
        reboot(s);
        seen += there;
        lost += there && sectors(0, 'a', 0) < ALL;
        /* A new write over it has a new chance. */
        assert_int_equal(one(IO_WRITE, 0, page[1]), 0);
        assert_int_equal(one(IO_SYNC, 0, NULL), 0);
        sim_power_loss(s);
        reboot(s);
        assert_int_equal(sectors(0, 'b', 'b'), ALL);
        end(s);
    }
    assert_true(seen > 10 && lost > 10);
}

/* What overwrites sectors whose sync failed, and is synced itself, is what is read. */
static void doomed_sectors_do_not_come_back(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim *s = begin(seed);
        assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
        sim_set_faults(s, &(struct sim_faults){.sync_error = 1000000});
        assert_int_equal(one(IO_SYNC, 0, NULL), -EIO);
        sim_set_faults(s, &(struct sim_faults){0});
        assert_int_equal(one(IO_WRITE, 0, page[1]), 0);
        assert_int_equal(one(IO_SYNC, 0, NULL), 0);
        assert_int_equal(sectors(0, 'b', 'b'), ALL);
        end(s);
    }
}

static void a_killed_process_leaves_what_completed(void **state)
{
    (void)state;
    unsigned lost = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim *s = begin(seed);
        struct request r;
        assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
        submit(&r, IO_WRITE, PAGE, page[1]);
        sim_kill(s);
        assert_int_equal(wait_for(&r), -EIO);
        reboot(s);
        assert_int_equal(sectors(0, 'a', 'a'), ALL);
        sectors(PAGE, 'b', 0);
        sim_power_loss(s);
        reboot(s);
        lost += sectors(0, 'a', 0) < ALL;
        end(s);
    }
    assert_true(lost > 10); /* it was never synced */
}

static void requests_complete_in_any_order(void **state)
{
    (void)state;
    unsigned swapped = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim *s = begin(seed);
        struct request a, b;
        submit(&a, IO_WRITE, 0, page[0]);
        submit(&b, IO_WRITE, 0, page[1]);
        io->ops->reap(io, true);
        swapped += b.done && !a.done;
        wait_for(&a);
        wait_for(&b);
        unsigned n = sectors(0, 'a', 'b');
        assert_true(n == 0 || n == ALL);
        end(s);
    }
    assert_true(swapped > 10);
}

static void nothing_starts_before_flush(void **state)
{
    (void)state;
    struct sim *s = begin(1);
    struct request r = {.io = {.op = IO_SYNC, .file = file, .done = done}};
    io->ops->submit(io, &r.io);
    assert_int_equal(io->ops->reap(io, true), 0);
    io->ops->flush(io);
    assert_int_equal(wait_for(&r), 0);
    end(s);
}

static void death_comes_when_it_was_said(void **state)
{
    (void)state;
    struct sim *s = begin(1);
    sim_power_loss_after(s, 2);
    assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
    assert_int_equal(one(IO_SYNC, 0, NULL), 0);
    assert_false(sim_dead(s));
    assert_int_equal(one(IO_WRITE, 0, page[1]), -EIO);
    assert_true(sim_dead(s));
    assert_int_equal(one(IO_READ, 0, page[3]), -EIO);
    reboot(s);
    assert_false(sim_dead(s));
    sectors(0, 'a', 'b');
    end(s);
}

static void reads_err(void **state)
{
    (void)state;
    struct sim *s = sim_new(1);
    sim_keep_stale(s);
    life(s);
    for (int i = 0; i < 2; i++) { /* a, then b; elsewhere c */
        assert_int_equal(one(IO_WRITE, 0, page[i]), 0);
        assert_int_equal(one(IO_WRITE, 8 * PAGE, page[2]), 0);
        assert_int_equal(one(IO_SYNC, 0, NULL), 0);
    }
    sim_set_faults(s, &(struct sim_faults){.read_error = 1000000});
    assert_int_equal(one(IO_READ, 0, page[3]), -EIO);
    assert_int_equal(sim_touched(s, "d", "f", 0, PAGE), SIM_MISREAD);
    assert_int_equal(sim_touched(s, "d", "f", PAGE, PAGE), 0);

    sim_set_faults(s, &(struct sim_faults){.read_stale = 1000000});
    unsigned old = 0;
    for (int i = 0; i < 20; i++)
        old += sectors(0, 'a', 'b');
    assert_true(old > 0);

    sim_set_faults(s, &(struct sim_faults){.read_misdirected = 1000000});
    unsigned elsewhere = 0;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(one(IO_READ, 0, page[3]), 0);
        elsewhere += page[3][0] != 'b';
    }
    assert_true(elsewhere > 100);

    sim_set_faults(s, &(struct sim_faults){0});
    assert_int_equal(sectors(0, 'b', 'b'), ALL); /* the medium is as it was */
    assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
    assert_int_equal(sim_touched(s, "d", "f", 0, PAGE), SIM_MISREAD); /* still what lies on the medium */
    assert_int_equal(one(IO_SYNC, 0, NULL), 0);
    assert_int_equal(sim_touched(s, "d", "f", 0, PAGE), 0);
    end(s);
}

static void writes_err(void **state)
{
    (void)state;
    struct sim *s = begin(1);
    unsigned some = 0;
    assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
    for (int i = 0; i < 50; i++) {
        sim_set_faults(s, &(struct sim_faults){.write_error = 500000, .write_no_space = 1000000});
        int rc = one(IO_WRITE, 0, page[1]);
        assert_true(rc == -EIO || rc == -ENOSPC);
        unsigned n = sectors(0, 'b', 'a');
        some += n > 0 && n < ALL;
        sim_set_faults(s, &(struct sim_faults){0});
        assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
    }
    assert_true(some > 0);
    assert_int_equal(sim_counts(s)->write_faults, 50);
    end(s);
}

static void bits_flip(void **state)
{
    (void)state;
    struct sim *s = begin(1);
    assert_false(sim_flip(s, "d", "f", 5, 0)); /* nothing there */
    assert_false(sim_flip(s, "d", "g", 5, 0));
    assert_int_equal(one(IO_WRITE, 0, page[0]), 0);
    assert_int_equal(one(IO_SYNC, 0, NULL), 0);
    assert_true(sim_flip(s, "d", "f", 600, 1));
    assert_int_equal(one(IO_READ, 0, page[3]), 0);
    assert_int_equal(page[3][600], 'a' ^ 2);
    assert_int_equal(sim_touched(s, "d", "f", 0, 512), 0);
    assert_int_equal(sim_touched(s, "d", "f", 0, PAGE), SIM_FLIPPED);
    assert_int_equal(sim_counts(s)->flips, 1);
    end(s);
}

/* The same seed, the same story. */
static void a_seed_decides_everything(void **state)
{
    (void)state;
    uint64_t sum[2] = {0};
    for (int run = 0; run < 2; run++) {
        uint64_t rng = 7;
        struct sim *s = begin(4711);
        for (int i = 0; i < 200; i++) {
            struct request r[3];
            for (int j = 0; j < 3; j++)
                submit(&r[j], j == 2 ? IO_SYNC : IO_WRITE, random_below(&rng, 16) * PAGE,
                       page[random_below(&rng, 3)]);
            io->ops->reap(io, false);
            if (i % 10 == 9) {
                sim_power_loss(s);
                reboot(s);
            }
            for (int j = 0; j < 3; j++)
                wait_for(&r[j]);
            assert_true(sim_peek(s, "d", "f", random_below(&rng, 16) * PAGE, page[3], PAGE));
            for (int j = 0; j < PAGE; j += SIM_SECTOR)
                sum[run] = random_mix(sum[run] + page[3][j]);
        }
        end(s);
    }
    assert_true(sum[0] == sum[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_never_written_is_zero),
        cmocka_unit_test(a_sync_keeps_what_completed_before_it),
        cmocka_unit_test(without_a_sync_anything_survives),
        cmocka_unit_test(a_sync_is_no_promise_for_later_completions),
        cmocka_unit_test(a_failed_sync_is_never_made_good),
        cmocka_unit_test(doomed_sectors_do_not_come_back),
        cmocka_unit_test(a_killed_process_leaves_what_completed),
        cmocka_unit_test(requests_complete_in_any_order),
        cmocka_unit_test(nothing_starts_before_flush),
        cmocka_unit_test(death_comes_when_it_was_said),
        cmocka_unit_test(reads_err),
        cmocka_unit_test(writes_err),
        cmocka_unit_test(bits_flip),
        cmocka_unit_test(a_seed_decides_everything),
    };
    return cmocka_run_group_tests(tests, make_pages, free_pages);
}
