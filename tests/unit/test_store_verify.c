/* test_store_verify.c: store_verify over segments written by hand: what it counts as right, as damaged, as
 * torn by a crash. The io is a few arrays that answer reads out of order and can refuse some. */
#include "memnode/store/io.h"
#include "memnode/store/store.h"
#include "tests/unit/store_segment.h"

#include <errno.h>
#include <stdio.h>

/* ---- a disk in memory ---- */

enum { FILES = 5, SEGMENTS = FILES - 1, QUEUE = 64 };

struct mem_io {
    struct io io;         /* first */
    uint8_t *file[FILES]; /* 0 is `store`; NULL: missing */
    size_t size[FILES];
    struct io_request *queue[QUEUE];
    unsigned n;
    uint64_t seed;
    int bad_file; /* whose pages bad_from … bad_to can't be read; -1: none */
    uint64_t bad_from, bad_to;
    unsigned opened;
};

static int mem_mount(struct io *io, const char *dir, struct skv_error *err)
{
    (void)io;
    return strcmp(dir, "held") == 0 ? skv_fail(err, -EBUSY, "held is in use") : 7;
}

static int mem_open(struct io *io, int dir, const char *name, uint64_t size, bool *created,
                    struct skv_error *err)
{
    struct mem_io *m = (struct mem_io *)io;
    unsigned number = 0;
    assert_int_equal(dir, 7);
    assert_int_equal(size, 0); /* nothing is made or changed */
    assert_true(strcmp(name, "store") == 0 || sscanf(name, "%6u.seg", &number) == 1);
    unsigned i = strcmp(name, "store") == 0 ? 0 : number + 1;
    *created = false;
    if (i >= FILES || !m->file[i])
        return skv_fail(err, -ENOENT, "%s is missing", name);
    m->opened++;
    return (int)i;
}

static void mem_submit(struct io *io, struct io_request *r)
{
    struct mem_io *m = (struct mem_io *)io;
    assert_true(m->n < QUEUE && r->op == IO_READ && r->n_iov == 1);
    assert_true(r->offset % IO_ALIGN == 0 && r->iov->iov_len % IO_ALIGN == 0 &&
                (uintptr_t)r->iov->iov_base % IO_ALIGN == 0 && r->iov->iov_len > 0);
    m->queue[m->n++] = r;
}

static void mem_flush(struct io *io)
{
    (void)io;
}

/* One, any of them. */
static unsigned mem_reap(struct io *io, bool wait)
{
    struct mem_io *m = (struct mem_io *)io;
    (void)wait;
    if (m->n == 0)
        return 0;
    unsigned i = (unsigned)(random_u64(&m->seed) % m->n);
    struct io_request *r = m->queue[i];
    m->queue[i] = m->queue[--m->n];
    uint64_t end = r->offset + r->iov->iov_len;
    bool bad = r->file == m->bad_file && r->offset < m->bad_to && end > m->bad_from;
    memset(r->iov->iov_base, 0xee, r->iov->iov_len); /* a failed read leaves anything */
    if (bad || end > m->size[r->file]) {
        r->result = -EIO;
    } else {
        memcpy(r->iov->iov_base, m->file[r->file] + r->offset, r->iov->iov_len);
        r->result = 0;
    }
    r->done(r);
    return 1;
}

static const struct io_ops mem_ops = {.name = "memory",
                                      .mount = mem_mount,
                                      .open = mem_open,
                                      .submit = mem_submit,
                                      .flush = mem_flush,
                                      .reap = mem_reap};

/* ---- a world: a node's directory of four segments ---- */

struct world {
    struct mem_io m;
    struct test_segment segment[SEGMENTS];
    uint64_t seed, sequence;
    struct verify_report report;
    struct skv_error err;
};

static const struct block_layout small = {1, 64, 64, 0, 1}, wide = {2, 3, 5, 6, 7},
                                 large = {1, 128, 128, 0, 16};

static struct world *world_new(uint64_t seed)
{
    struct world *w = calloc(1, sizeof *w);
    w->m = (struct mem_io){.io = {&mem_ops}, .seed = seed, .bad_file = -1};
    w->seed = seed;
    w->sequence = 100;
    w->m.file[0] = calloc(1, DISK_PAGE);
    w->m.size[0] = DISK_PAGE;
    struct disk_super super;
    super_write(&super, test_node, "n", 0, SEGMENT_MIN, SEGMENTS);
    memcpy(w->m.file[0], &super, sizeof super);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        segment_new(&w->segment[i], i, 1);
        w->segment[i].run = 100;
        if (i == SEGMENTS - 1) /* the last one was never used */
            memset(w->segment[i].bytes, 0, SEGMENT_MIN);
        w->m.file[i + 1] = w->segment[i].bytes;
        w->m.size[i + 1] = SEGMENT_MIN;
    }
    return w;
}

static void world_free(struct world *w)
{
    for (int i = 0; i < FILES; i++)
        free(w->m.file[i]);
    free(w);
}

/* n blocks of several shapes; every third says that all before it is on the medium. */
static void add_blocks(struct world *w, unsigned segment, unsigned n)
{
    const struct block_layout *shapes[] = {&small, &wide, &large};
    struct test_segment *s = &w->segment[segment];
    for (unsigned i = 0; i < n; i++, w->sequence++) {
        if (i % 3 == 0)
            s->durable = w->sequence - 1;
        segment_add(s, shapes[i % 3], w->sequence, &w->seed);
    }
}

static struct world *world_full(uint64_t seed)
{
    struct world *w = world_new(seed);
    add_blocks(w, 0, 21);
    segment_seal(&w->segment[0]);
    add_blocks(w, 1, 30);
    add_blocks(w, 2, 9); /* its first record says that all of segment 1 is on the medium */
    return w;
}

struct counts {
    uint64_t segments, records, pages, bytes;
};
static struct counts count(const struct world *w)
{
    struct counts c = {.segments = SEGMENTS};
    for (int i = 0; i < SEGMENTS; i++)
        for (unsigned r = 0; r < w->segment[i].n; r++) {
            c.records++;
            c.pages += layout_pages(&w->segment[i].layout[r]);
            c.bytes += layout_block_bytes(&w->segment[i].layout[r]);
        }
    return c;
}

static uint64_t progress_done, progress_total;
static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    assert_ptr_equal(arg, &progress_done);
    assert_true(done >= progress_done && done <= total);
    progress_done = done;
    progress_total = total;
}

static const struct verify_report *verify(struct world *w)
{
    progress_done = 0;
    int rc = store_verify(&w->m.io, "dir", &w->report, on_progress, &progress_done, &w->err);
    if (rc)
        fail_msg("%d: %s", rc, w->err.text);
    assert_int_equal(w->m.n, 0);
    assert_int_equal(progress_done, progress_total);
    return &w->report;
}

static void is_right(const struct world *w, struct counts c)
{
    const struct verify_report *r = &w->report;
    if (r->segments != c.segments || r->records != c.records || r->pages != c.pages || r->bytes != c.bytes)
        fail_msg(
            "found %llu segments, %llu records, %llu pages, %llu bytes; there are %llu, %llu, %llu, %llu",
            (unsigned long long)r->segments, (unsigned long long)r->records, (unsigned long long)r->pages,
            (unsigned long long)r->bytes, (unsigned long long)c.segments, (unsigned long long)c.records,
            (unsigned long long)c.pages, (unsigned long long)c.bytes);
}

static void is_damaged(const struct world *w, uint64_t segments, uint64_t records, uint64_t pages,
                       uint64_t torn)
{
    const struct verify_report *r = &w->report;
    if (r->bad_segments != segments || r->bad_records != records || r->bad_pages != pages ||
        r->torn_records != torn)
        fail_msg("bad segments %llu, records %llu, pages %llu, torn %llu; expected %llu, %llu, %llu, %llu",
                 (unsigned long long)r->bad_segments, (unsigned long long)r->bad_records,
                 (unsigned long long)r->bad_pages, (unsigned long long)r->torn_records,
                 (unsigned long long)segments, (unsigned long long)records, (unsigned long long)pages,
                 (unsigned long long)torn);
}

static uint8_t *record_at(struct world *w, unsigned segment, unsigned record)
{
    return w->segment[segment].bytes + w->segment[segment].at[record];
}
static uint8_t *payload_at(struct world *w, unsigned segment, unsigned record)
{
    return record_at(w, segment, record) + record_payload_offset(&w->segment[segment].layout[record]);
}

/* ---- all right ---- */

static void nothing_is_wrong(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct world *w = world_full(seed);
        verify(w);
        is_right(w, count(w));
        is_damaged(w, 0, 0, 0, 0);
        assert_int_equal(progress_total, (uint64_t)SEGMENTS * SEGMENT_MIN);
        world_free(w);
    }
}

/* A segment that is in use again: what its older epochs left is neither counted nor damage. */
static void older_epochs(void **state)
{
    (void)state;
    struct world *w = world_full(4);
    for (unsigned i = 0; i < 2; i++) { /* one has a summary, and it is of the older epoch */
        segment_begin(&w->segment[i], 2);
        add_blocks(w, i, 5);
    }
    verify(w);
    is_right(w, count(w));
    is_damaged(w, 0, 0, 0, 0);
    world_free(w);
}

/* ---- damage ---- */

/* Any byte of the pages. */
static void pages_are_hit(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct world *w = world_full(seed);
        unsigned segment = seed % 2, n = segment ? 27 : 21; /* of 1, all but the last group of the disk */
        unsigned r = (unsigned)(random_u64(&w->seed) % n);
        struct block_layout l = w->segment[segment].layout[r];
        payload_at(w, segment, r)[random_u64(&w->seed) % layout_block_bytes(&l)] ^= 0x10;
        struct counts c = count(w);
        c.pages--;
        c.bytes -= layout_page_bytes(&l);
        verify(w);
        is_right(w, c);
        is_damaged(w, 0, 0, 1, 0);
        world_free(w);
    }
}

static void heads_are_hit(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct world *w = world_full(seed);
        unsigned segment = seed % 2, n = segment ? 27 : 21, r = (unsigned)(random_u64(&w->seed) % n);
        struct block_layout l = w->segment[segment].layout[r];
        record_at(w, segment, r)[random_u64(&w->seed) % record_head_bytes(&l)] ^= 0x10;
        struct counts c = count(w);
        c.records--;
        if (segment == 1) { /* no summary: what the head said is lost with it */
            c.pages -= layout_pages(&l);
            c.bytes -= layout_block_bytes(&l);
        }
        verify(w);
        is_right(w, c);
        is_damaged(w, 0, 1, 0, 0);
        world_free(w);
    }
}

/* A summary that was hit is no summary: the heads tell. */
static void summary_is_hit(void **state)
{
    (void)state;
    struct world *w = world_full(5);
    struct counts c = count(w);
    w->segment[0].bytes[SEGMENT_MIN - sizeof(struct summary_tail) - 9] ^= 1;
    verify(w);
    is_right(w, c);
    is_damaged(w, 0, 0, 0, 0);
    w->segment[0].bytes[SEGMENT_MIN - 1] ^= 1;
    verify(w);
    is_right(w, c);
    is_damaged(w, 0, 0, 0, 0);
    world_free(w);
}

/* The head of a segment: its records are found by the highest epoch among them. */
static void segment_heads_are_hit(void **state)
{
    (void)state;
    struct world *w = world_full(6);
    segment_begin(&w->segment[1], 2);
    add_blocks(w, 1, 5);
    struct counts c = count(w);
    c.segments -= 2;
    w->segment[0].bytes[20] ^= 1;
    memset(w->segment[1].bytes, 0, DISK_PAGE); /* not "never used": there are records */
    verify(w);
    is_right(w, c);
    is_damaged(w, 2, 0, 0, 0);
    payload_at(w, 1, 1)[0] ^= 1;
    verify(w);
    is_damaged(w, 2, 0, 1, 0);
    world_free(w);

    w = world_full(7); /* the write of a newer head was lost */
    segment_begin(&w->segment[1], 2);
    add_blocks(w, 1, 3);
    uint8_t lost[DISK_PAGE];
    struct segment_head old;
    segment_head_write(&old, test_node, 1, 1, SEGMENT_MIN);
    memset(lost, 0, sizeof lost);
    memcpy(lost, &old, sizeof old);
    memcpy(w->segment[1].bytes, lost, sizeof lost);
    c = count(w);
    c.segments--;
    verify(w);
    is_right(w, c);
    is_damaged(w, 1, 0, 0, 0);
    world_free(w);
}

/* Sectors that can't be read, a file that is too short, one that is missing. */
static void unreadable(void **state)
{
    (void)state;
    struct world *w = world_full(8);
    struct counts c = count(w);
    w->m.bad_file = 2;
    w->m.bad_from = w->segment[1].at[2] + 2 * DISK_PAGE; /* in a large block, whose pages are 8 KiB */
    w->m.bad_to = w->m.bad_from + 1;
    c.pages--;
    c.bytes -= layout_page_bytes(&large);
    verify(w);
    is_right(w, c);
    is_damaged(w, 0, 0, 1, 0);
    w->m.bad_from = 0; /* the head of the segment */
    w->m.bad_to = 1;
    c = count(w);
    c.segments--;
    verify(w);
    is_right(w, c);
    is_damaged(w, 1, 0, 0, 0);
    w->m.bad_file = -1;

    w->m.size[2] = w->segment[1].at[20];
    verify(w);
    c.segments = 4;
    for (unsigned r = 20; r < w->segment[1].n; r++) {
        c.records--;
        c.pages -= layout_pages(&w->segment[1].layout[r]);
        c.bytes -= layout_block_bytes(&w->segment[1].layout[r]);
    }
    is_right(w, c);

    free(w->m.file[2]);
    w->m.file[2] = NULL;
    verify(w);
    is_damaged(w, 1, 0, 0, 0);
    free(w->m.file[FILES - 1]); /* the last ones may never have been made */
    w->m.file[FILES - 1] = NULL;
    verify(w);
    is_damaged(w, 1, 0, 0, 0);
    world_free(w);
}

/* ---- what a crash leaves ---- */

static void torn_ends(void **state)
{
    (void)state;
    /* The last group of the disk: nothing says that it was on the medium. A head, then a page of it. */
    struct world *w = world_full(9);
    memset(record_at(w, 2, 7), 0, DISK_PAGE);
    verify(w);
    is_damaged(w, 0, 0, 0, 1);
    payload_at(w, 2, 8)[5] ^= 1;
    verify(w);
    is_damaged(w, 0, 0, 0, 2);
    /* Its very end is not even seen. */
    memset(record_at(w, 2, 8), 0, DISK_PAGE);
    verify(w);
    is_damaged(w, 0, 0, 0, 0);

    /* The next run goes on behind what it found, and says nothing about the one before. */
    struct test_segment *s = &w->segment[2];
    uint64_t remnant = s->at[7];
    s->end = s->at[6] + record_bytes(&s->layout[6]);
    s->run = w->sequence;
    s->durable = 0;
    s->n = 7;
    add_blocks(w, 2, 6);
    assert_true(s->end > remnant);
    verify(w);
    is_right(w, count(w));
    is_damaged(w, 0, 0, 0, 0);
    payload_at(w, 2, 6)[0] ^= 1; /* unknown, still */
    payload_at(w, 2, 7)[0] ^= 1;
    verify(w);
    is_damaged(w, 0, 0, 1, 1);
    world_free(w);
}

/* The same, and a record of the torn group is left behind what the next run wrote. */
static void remnants(void **state)
{
    (void)state;
    struct world *w = world_new(10);
    struct test_segment *s = &w->segment[0];
    add_blocks(w, 0, 9);
    uint64_t left = s->at[8];
    s->run = w->sequence;
    s->durable = 0;
    s->end = s->at[7];
    s->n = 7;
    segment_add(s, &(struct block_layout){1, 8, 8, 0, 1}, w->sequence++, &w->seed);
    assert_true(s->end < left);
    s->durable = w->sequence - 1;
    w->segment[1].run = s->run;
    add_blocks(w, 1, 3);
    verify(w);
    struct counts c = count(w);
    c.records++; /* it is right, and so it is counted; the space before it is no damage */
    c.pages += layout_pages(&large);
    c.bytes += layout_block_bytes(&large);
    is_right(w, c);
    is_damaged(w, 0, 0, 0, 0);
    world_free(w);
}

/* ---- what can't be verified ---- */

static void fails(struct world *w, const char *dir, int rc, const char *says)
{
    assert_int_equal(store_verify(&w->m.io, dir, &w->report, NULL, NULL, &w->err), rc);
    if (!strstr(w->err.text, says))
        fail_msg("said: %s", w->err.text);
    assert_int_equal(w->m.n, 0);
}

static void refused(void **state)
{
    (void)state;
    struct world *w = world_full(11);
    fails(w, "held", -EBUSY, "in use");
    w->m.file[0][8]++; /* the version */
    fails(w, "dir", -EPROTONOSUPPORT, "another version");
    w->m.file[0][8]--;
    w->m.file[0][40] ^= 1;
    fails(w, "dir", -EBADMSG, "damaged");
    memset(w->m.file[0], 0, DISK_PAGE);
    fails(w, "dir", -ENOENT, "no store yet");
    w->m.size[0] = 100;
    fails(w, "dir", -EIO, "can't be read");
    free(w->m.file[0]);
    w->m.file[0] = NULL;
    fails(w, "dir", -ENOENT, "holds no store");
    world_free(w);
}

/* ---- the same on files ---- */

static void write_file(const char *dir, const char *name, const void *bytes, size_t len)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void real_files(void **state)
{
    (void)state;
    struct world *w = world_full(12);
    char dir[] = "/tmp/test_store_verify.XXXXXX", command[64];
    assert_non_null(mkdtemp(dir));
    write_file(dir, "store", w->m.file[0], DISK_PAGE);
    payload_at(w, 0, 3)[0] ^= 1;
    for (int i = 0; i < SEGMENTS; i++) {
        char name[16];
        snprintf(name, sizeof name, "%06d.seg", i);
        write_file(dir, name, w->segment[i].bytes, SEGMENT_MIN);
    }
    for (int threads = 0; threads < 2; threads++) {
        struct skv_error why;
        struct io *io = threads ? io_threads_new(&w->err) : io_new(&why, &w->err);
        assert_non_null(io);
        if (store_verify(io, dir, &w->report, NULL, NULL, &w->err))
            fail_msg("%s", w->err.text);
        is_damaged(w, 0, 0, 1, 0);
        assert_int_equal(w->report.records, count(w).records);
        io->ops->close(io);
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_wrong), cmocka_unit_test(older_epochs),
        cmocka_unit_test(pages_are_hit),    cmocka_unit_test(heads_are_hit),
        cmocka_unit_test(summary_is_hit),   cmocka_unit_test(segment_heads_are_hit),
        cmocka_unit_test(unreadable),       cmocka_unit_test(torn_ends),
        cmocka_unit_test(remnants),         cmocka_unit_test(refused),
        cmocka_unit_test(real_files),
    };
    return cmocka_run_group_tests_name("store_verify", tests, NULL, NULL);
}
