/* test_store_flips.c: 10,000 bits of real segment files are flipped, half of them under a running store, half
 * before a restart. No wrong byte is served, and every page whose own bytes and record head were not hit is.
 */
#include "common/clock.h"
#include "memnode/store/io.h"
#include "memnode/store/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_BLOCKS = 1200, N_FLIPS = 10000, SEED = 20261124, MOST_SEGMENTS = 64 };

/* 16 pages of 4 KiB: read in place. And 12 of 3,584 bytes: through the covering range. */
static const struct block_layout layouts[2] = {{1, 64, 64, 0, 4}, {1, 56, 56, 2, 3}};

struct world {
    char dir[64];
    struct io *io;
    struct memory *memory;
    struct store *store;
    uint64_t random;
};

/* What is known about a block's record before anything is flipped. */
struct known {
    unsigned segment;
    uint64_t at; /* of the record in its file */
    size_t head_bytes, payload_offset;
    bool head_hit, page_hit[16];
};
static struct known known[N_BLOCKS];

static uint64_t next_random(struct world *w)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random;
}

static const struct block_layout *layout_of(unsigned i)
{
    return &layouts[i % 2];
}

static struct block_key key_of(unsigned i)
{
    struct block_key key = {.ns = i % 3, .layer = i};
    memset(key.chain, (int)(i % 251), sizeof key.chain);
    return key;
}

static void payload_of(unsigned i, uint8_t *out)
{
    size_t words = layout_block_bytes(layout_of(i)) / 4;
    for (size_t j = 0; j < words; j++) {
        uint32_t word = (uint32_t)(j + 1) * 2654435761u ^ i * 40503u;
        memcpy(out + 4 * j, &word, 4);
    }
}

static void open_store(struct world *w)
{
    struct skv_error err = {0}, why = {0};
    w->io = io_new(&why, &err);
    if (!w->io)
        fail_msg("%s", err.text);
    w->memory = memory_new(16 << 20);
    struct store_disk disk = {w->dir, 256 << 20};
    struct store_opts o = {.memory = w->memory, .io = w->io, .disks = &disk, .n_disks = 1, .name = "flips"};
    w->store = store_open(&o, &err);
    if (!w->store)
        fail_msg("%s", err.text);
    while (store_state(w->store, NULL) == STORE_STARTING)
        store_run(w->store, clock_ns());
}

static void close_store(struct world *w)
{
    store_close(w->store);
    w->io->ops->close(w->io);
    memory_free(w->memory);
}

static void fill(struct world *w)
{
    uint8_t *payload = malloc(layout_block_bytes(&layouts[0]));
    uint64_t sums[16];
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        struct block_key key = key_of(i);
        struct block *b;
        struct skv_error err;
        struct buf *buf;
        int rc;
        payload_of(i, payload);
        block_checksums(&key, layout_of(i), payload, sums);
        while ((rc = store_room(w->store, layout_block_bytes(layout_of(i)), &buf, &err)) == -EAGAIN)
            store_run(w->store, clock_ns());
        assert_int_equal(rc, 0);
        memcpy(buf->data, payload, buf->len);
        assert_int_equal(store_put(w->store, &key, layout_of(i), buf, sums, &b, &err), 0);
        buf_unref(buf);
    }
    while (!store_flushed(w->store))
        store_run(w->store, clock_ns());
    free(payload);
}

static void note_places(struct world *w)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        struct block_key key = key_of(i);
        struct block *b = store_find(w->store, &key);
        assert_non_null(b);
        assert_int_not_equal(b->segment, NO_SEGMENT);
        known[i] = (struct known){.segment = b->segment,
                                  .at = (uint64_t)b->offset * DISK_PAGE,
                                  .head_bytes = record_head_bytes(layout_of(i)),
                                  .payload_offset = record_payload_offset(layout_of(i))};
    }
}

/* Marks what a flip at this byte of this segment hits. */
static void mark(unsigned segment, uint64_t at)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        struct known *k = &known[i];
        if (k->segment != segment || at < k->at || at >= k->at + record_bytes(layout_of(i)))
            continue;
        uint64_t in = at - k->at, page = (in - k->payload_offset) / layout_page_bytes(layout_of(i));
        k->head_hit = k->head_hit || in < k->head_bytes;
        if (in >= k->payload_offset && page < layout_pages(layout_of(i)))
            k->page_hit[page] = true;
        return;
    }
}

static void flip(struct world *w, unsigned n)
{
    int fds[MOST_SEGMENTS];
    unsigned segments = 0;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < N_BLOCKS; i++) { /* as far as it was written */
        if (known[i].segment >= segments)
            segments = known[i].segment + 1;
    }
    assert_true(segments <= MOST_SEGMENTS);
    for (unsigned i = 0; i < segments; i++) {
        char path[128];
        struct stat st;
        snprintf(path, sizeof path, "%s/%06u.seg", w->dir, i);
        fds[i] = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fds[i] >= 0);
        assert_int_equal(fstat(fds[i], &st), 0);
        bytes = (uint64_t)st.st_size;
    }
    for (unsigned i = 0; i < n; i++) {
        unsigned segment = (unsigned)(next_random(w) % segments);
        uint64_t at = next_random(w) % bytes;
        uint8_t byte;
        assert_int_equal(pread(fds[segment], &byte, 1, (off_t)at), 1);
        byte ^= (uint8_t)(1u << next_random(w) % 8);
        assert_int_equal(pwrite(fds[segment], &byte, 1, (off_t)at), 1);
        mark(segment, at);
    }
    for (unsigned i = 0; i < segments; i++) {
        assert_int_equal(fsync(fds[i]), 0);
        close(fds[i]);
    }
}

static void read_end(struct store_read *r)
{
    *(bool *)r->arg = true;
}

struct tally {
    unsigned served, hit, wrong, withheld;
};

/* heads_matter: after a restart, a block whose head was hit may be gone. */
static struct tally look(struct world *w, bool heads_matter)
{
    struct tally t = {0};
    uint8_t *want = malloc(layout_block_bytes(&layouts[0]));
    uint8_t *got = aligned_alloc(DISK_PAGE, layout_block_bytes(&layouts[0]));
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        struct block_key key = key_of(i);
        struct block *b = store_find(w->store, &key);
        size_t page = layout_page_bytes(layout_of(i)), n = layout_pages(layout_of(i));
        uint64_t good = 0;
        payload_of(i, want);
        if (b && b->segment != NO_SEGMENT) {
            bool done = false;
            struct store_read r = {.into = got, .n = (uint32_t)n, .done = read_end, .arg = &done};
            assert_int_equal(store_read(w->store, b, &r), 0);
            while (!done)
                store_run(w->store, clock_ns());
            good = r.good;
        }
        for (size_t p = 0; p < n; p++) {
            bool served = good >> p & 1, hit = known[i].page_hit[p] || (heads_matter && known[i].head_hit);
            t.served += served;
            t.hit += known[i].page_hit[p];
            t.wrong += served && memcmp(got + p * page, want + p * page, page) != 0;
            t.withheld += !served && !hit;
        }
    }
    free(want);
    free(got);
    return t;
}

static void remove_all(const struct world *w)
{
    char path[128];
    for (unsigned i = 0; i < MOST_SEGMENTS; i++) {
        snprintf(path, sizeof path, "%s/%06u.seg", w->dir, i);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/store", w->dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/lock", w->dir);
    unlink(path);
    rmdir(w->dir);
}

static void ten_thousand_flips(void **state)
{
    (void)state;
    struct world w = {.random = SEED};
    const char *tmp = getenv("TMPDIR");
    snprintf(w.dir, sizeof w.dir, "%.40s/flips.XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(w.dir));
    open_store(&w);
    fill(&w);
    note_places(&w);
    struct tally before = look(&w, false);
    assert_int_equal(before.withheld + before.wrong, 0);

    flip(&w, N_FLIPS / 2);
    struct tally live = look(&w, false);
    flip(&w, N_FLIPS - N_FLIPS / 2);
    close_store(&w);
    open_store(&w);
    struct tally again = look(&w, true);
    close_store(&w);
    remove_all(&w);
    print_message("%d flips: running: %u of %u pages served, %u hit; restarted: %u served, %u hit\n", N_FLIPS,
                  live.served, before.served, live.hit, again.served, again.hit);
    assert_int_equal(live.wrong + again.wrong, 0);
    assert_int_equal(live.withheld, 0);
    assert_int_equal(again.withheld, 0);
    assert_true(live.hit > 0 && live.served + live.hit == before.served); /* the flips did reach pages */
    assert_true(again.hit > live.hit && again.served <= before.served - again.hit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ten_thousand_flips)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
