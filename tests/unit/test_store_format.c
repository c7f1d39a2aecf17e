/* test_store_format.c: what lies on a disk: round trips, every bit flipped, every cut, random bytes. */
#include "memnode/store/format.h"
#include "tests/unit/store_segment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static const struct block_layout layouts[] = {
    {1, 1, 1, 0, 1}, {1, 64, 64, 0, 1},   {1, 64, 64, 6, 2},
    {2, 3, 5, 0, 7}, {1, 128, 128, 0, 8}, {2, 1, 1, 9, 100},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };
static const struct record place = {
    .epoch = 7, .sequence = 1234, .run = 1100, .durable = 1200, .segment = 3, .offset = 99};

/* Memory whose end is the end of what may be read: one byte beyond it is a crash. */
struct fence {
    uint8_t *map, *end;
    size_t size;
};
static struct fence fence_new(void)
{
    struct fence f = {.size = 1 << 17};
    f.map = mmap(NULL, f.size + DISK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(f.map != MAP_FAILED);
    f.end = f.map + f.size;
    assert_int_equal(mprotect(f.end, DISK_PAGE, PROT_NONE), 0);
    return f;
}
static void fence_free(struct fence *f)
{
    munmap(f->map, f->size + DISK_PAGE);
}
/* A copy that ends at the fence. */
static uint8_t *fenced(const struct fence *f, const void *bytes, size_t len)
{
    return memcpy(f->end - len, bytes, len);
}

static uint8_t *head_of(const struct block_layout *l, uint64_t *seed)
{
    struct block_key key = random_key(seed);
    size_t n = layout_pages(l);
    uint64_t *sums = malloc(n * sizeof *sums);
    uint8_t *head = malloc(record_head_bytes(l));
    for (size_t i = 0; i < n; i++)
        sums[i] = random_u64(seed);
    record_write(head, test_node, &key, l, sums, &place);
    free(sums);
    return head;
}

static void flip(void *bytes, size_t bit)
{
    ((uint8_t *)bytes)[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* ---- round trips ---- */

static void record_round_trip(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < LAYOUTS; i++) {
        const struct block_layout *l = &layouts[i];
        struct block_key key = random_key(&seed);
        size_t n = layout_pages(l), need;
        uint64_t *sums = malloc(n * sizeof *sums);
        uint8_t *head = malloc(record_head_bytes(l));
        struct record r;
        for (size_t p = 0; p < n; p++)
            sums[p] = random_u64(&seed);
        record_write(head, test_node, &key, l, sums, &place);
        assert_int_equal(record_read(head, record_head_bytes(l), test_node, &r, &need), 0);
        assert_int_equal(record_read(head, record_head_bytes(l) + 5, test_node, &r, &need), 0);
        assert_true(key_equal(&r.key, &key));
        assert_true(layout_equal(&r.layout, l));
        assert_true(r.epoch == 7 && r.sequence == 1234 && r.run == 1100 && r.durable == 1200);
        assert_true(r.segment == 3 && r.offset == 99);
        assert_true(r.head_bytes == record_head_bytes(l) && r.bytes == record_bytes(l));
        assert_true(r.payload_offset % DISK_PAGE == 0 && r.payload_offset >= r.head_bytes &&
                    r.payload_offset < r.head_bytes + DISK_PAGE);
        assert_true(r.payload_bytes == layout_block_bytes(l) && r.bytes % DISK_PAGE == 0 &&
                    r.bytes >= r.payload_offset + r.payload_bytes &&
                    r.bytes < r.payload_offset + r.payload_bytes + DISK_PAGE);
        for (size_t p = 0; p < n; p++) {
            assert_true(r.pages[p].checksum == sums[p] && r.pages[p].length == layout_page_bytes(l));
            assert_true(r.pages[p].offset == r.payload_offset + p * layout_page_bytes(l));
        }
        free(sums);
        free(head);
    }
}

static void others_are_refused(void **state)
{
    (void)state;
    uint64_t seed = 2;
    struct record r;
    size_t need;
    uint8_t *head = head_of(&layouts[1], &seed);
    assert_int_equal(record_read(head, record_head_bytes(&layouts[1]), other_node, &r, &need), -EBADMSG);
    free(head);

    /* With a checksum that is right: shapes that no writer makes. */
    const struct block_layout bad[] = {
        {0, 64, 64, 0, 1},   {5, 64, 64, 0, 1}, {1, 0, 64, 0, 1},
        {1, 64, 1025, 0, 1}, {1, 64, 64, 0, 0}, {1, 64, 64, 0, 1025},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        head = head_of(&bad[i], &seed);
        assert_int_equal(record_read(head, record_head_bytes(&bad[i]), test_node, &r, &need), -EBADMSG);
        free(head);
    }

    struct segment_head h;
    segment_head_write(&h, test_node, 5, 9, SEGMENT_MIN);
    assert_int_equal(segment_head_check(&h, test_node, 5, SEGMENT_MIN), 0);
    assert_int_equal(h.epoch, 9);
    assert_int_equal(segment_head_check(&h, other_node, 5, SEGMENT_MIN), -EXDEV);
    assert_int_equal(segment_head_check(&h, test_node, 6, SEGMENT_MIN), -EXDEV);
    assert_int_equal(segment_head_check(&h, test_node, 5, 2 * SEGMENT_MIN), -EXDEV);
    memset(&h, 0, sizeof h);
    assert_int_equal(segment_head_check(&h, test_node, 5, SEGMENT_MIN), -ENOENT);
}

static void super_round_trip(void **state)
{
    (void)state;
    struct disk_super s = {0};
    char longest[DISK_NAME];
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_int_equal(super_check(&s), -ENOENT);
    super_write(&s, test_node, longest, 2, SEGMENT_MAX, 77);
    assert_int_equal(super_check(&s), 0);
    assert_string_equal(s.name, longest);
    assert_memory_equal(s.node, test_node, DISK_NODE);
    assert_true(s.disk == 2 && s.segment_bytes == SEGMENT_MAX && s.n_segments == 77);
    const uint64_t sizes[] = {0, SEGMENT_MIN - DISK_PAGE, SEGMENT_MIN + 1, SEGMENT_MAX + DISK_PAGE};
    for (int i = 0; i < 4; i++) {
        super_write(&s, test_node, "n", 0, sizes[i], 8);
        assert_int_equal(super_check(&s), -EBADMSG);
    }
    super_write(&s, test_node, "n", 0, SEGMENT_MIN, UINT32_MAX);
    assert_int_equal(super_check(&s), -EBADMSG);
}

/* ---- flips: bytes that are not what was written are never taken for good ---- */

static void super_flips(void **state)
{
    (void)state;
    struct disk_super s;
    super_write(&s, test_node, "node", 1, SEGMENT_MIN, 8);
    for (size_t bit = 0; bit < 8 * sizeof s; bit++) {
        flip(&s, bit);
        int rc = super_check(&s);
        bool version = bit / 8 - offsetof(struct disk_super, version) < 4;
        if (rc != (version ? -EPROTONOSUPPORT : -EBADMSG))
            fail_msg("bit %zu flipped: %d", bit, rc);
        flip(&s, bit);
    }
    assert_int_equal(super_check(&s), 0);
}

static void segment_head_flips(void **state)
{
    (void)state;
    struct segment_head h;
    segment_head_write(&h, test_node, 5, 9, SEGMENT_MIN);
    for (size_t bit = 0; bit < 8 * sizeof h; bit++) {
        flip(&h, bit);
        int rc = segment_head_check(&h, test_node, 5, SEGMENT_MIN);
        if (rc != -EBADMSG && rc != -EPROTONOSUPPORT)
            fail_msg("bit %zu flipped: %d", bit, rc);
        flip(&h, bit);
    }
    assert_int_equal(segment_head_check(&h, test_node, 5, SEGMENT_MIN), 0);
}

static void record_flips(void **state)
{
    (void)state;
    uint64_t seed = 3;
    struct fence f = fence_new();
    for (int i = 0; i < LAYOUTS; i++) {
        size_t len = record_head_bytes(&layouts[i]), need;
        struct record r;
        uint8_t *head = head_of(&layouts[i], &seed), *at = fenced(&f, head, len);
        for (size_t bit = 0; bit < 8 * len; bit++) {
            flip(at, bit);
            int rc = record_read(at, len, test_node, &r, &need);
            if (rc != -EBADMSG)
                fail_msg("layout %d, bit %zu flipped: %d", i, bit, rc);
            flip(at, bit);
        }
        assert_int_equal(record_read(at, len, test_node, &r, &need), 0);
        free(head);
    }
    fence_free(&f);
}

static void summary_flips(void **state)
{
    (void)state;
    enum { RECORDS = 3 };
    uint64_t seed = 4;
    struct summary_tail t;
    size_t one = record_head_bytes(&layouts[2]), bytes = RECORDS * one;
    uint8_t *heads = malloc(bytes);
    for (int i = 0; i < RECORDS; i++) {
        uint8_t *head = head_of(&layouts[2], &seed);
        memcpy(heads + (size_t)i * one, head, one);
        free(head);
    }
    summary_write(&t, test_node, 3, 7, RECORDS, heads, bytes);
    assert_true(t.n_records == RECORDS && t.bytes == bytes);
    assert_int_equal(summary_check(&t, test_node, 3, 7, SEGMENT_MIN, NULL), 0);
    assert_int_equal(summary_check(&t, test_node, 3, 7, SEGMENT_MIN, heads), 0);
    assert_int_equal(summary_check(&t, other_node, 3, 7, SEGMENT_MIN, NULL), -EBADMSG);
    assert_int_equal(summary_check(&t, test_node, 4, 7, SEGMENT_MIN, NULL), -EBADMSG);
    assert_int_equal(summary_check(&t, test_node, 3, 8, SEGMENT_MIN, NULL), -EBADMSG); /* of an older epoch */
    for (size_t bit = 0; bit < 8 * sizeof t; bit++) {
        flip(&t, bit);
        if (summary_check(&t, test_node, 3, 7, SEGMENT_MIN, NULL) != -EBADMSG)
            fail_msg("bit %zu of the tail flipped, and nobody noticed", bit);
        flip(&t, bit);
    }
    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        flip(heads, bit);
        if (summary_check(&t, test_node, 3, 7, SEGMENT_MIN, heads) != -EBADMSG)
            fail_msg("bit %zu of the heads flipped, and nobody noticed", bit);
        flip(heads, bit);
    }
    /* More heads than a segment can hold are not even looked at. */
    summary_write(&t, test_node, 3, 7, RECORDS, heads, bytes);
    assert_int_equal(summary_check(&t, test_node, 3, 7, 2 * bytes - 2, heads), -EBADMSG);
    free(heads);
}

/* ---- cuts ---- */

static void record_cuts(void **state)
{
    (void)state;
    uint64_t seed = 5;
    struct fence f = fence_new();
    for (int i = 0; i < LAYOUTS; i++) {
        size_t whole = record_head_bytes(&layouts[i]);
        uint8_t *head = head_of(&layouts[i], &seed);
        for (size_t len = 0; len < whole; len++) {
            struct record r;
            size_t need = 0;
            int rc = record_read(fenced(&f, head, len), len, test_node, &r, &need);
            if (rc != -ENODATA || need <= len || need > whole)
                fail_msg("layout %d cut to %zu of %zu bytes: %d, %zu needed", i, len, whole, rc, need);
        }
        free(head);
    }
    fence_free(&f);
}

/* ---- random bytes ---- */

/* Neither random bytes nor heads of which a few bytes are random are taken for a head, and no byte behind the
 * end is read. */
static void record_fuzz(void **state)
{
    (void)state;
    enum { ROUNDS = 200000, MOST = 2048 };
    struct fence f = fence_new();
    uint8_t bytes[MOST];
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t seed = round;
        const struct block_layout *l = &layouts[random_u64(&seed) % LAYOUTS];
        size_t whole = record_head_bytes(l), need;
        uint8_t *head = head_of(l, &seed);
        size_t len = random_u64(&seed) % ((whole < MOST ? whole : MOST) + 1);
        struct record r;
        bool changed = round % 4 == 0;
        memcpy(bytes, head, len);
        if (changed)
            for (size_t i = 0; i < len; i++)
                bytes[i] = (uint8_t)random_u64(&seed);
        for (unsigned n = random_u64(&seed) % 4; n > 0 && len > 0; n--) {
            uint8_t *at = &bytes[random_u64(&seed) % len], was = *at;
            *at = (uint8_t)random_u64(&seed);
            changed |= *at != was;
        }
        int rc = record_read(fenced(&f, bytes, len), len, test_node, &r, &need);
        if (rc == 0 ? memcmp(bytes, head, whole) != 0 : rc == -ENODATA ? need <= len : rc != -EBADMSG)
            fail_msg("seed %llu: %d, %zu of %zu bytes", (unsigned long long)round, rc, len, whole);
        if (!changed && len < whole)
            assert_int_equal(rc, -ENODATA);
        free(head);
    }
    fence_free(&f);
}

static void others_fuzz(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 100000; round++) {
        uint64_t seed = round;
        struct disk_super s, s2;
        struct segment_head h, h2;
        super_write(&s, test_node, "node", 1, SEGMENT_MIN, 8);
        segment_head_write(&h, test_node, 5, 9, SEGMENT_MIN);
        s2 = s, h2 = h;
        for (unsigned n = 1 + random_u64(&seed) % 4; n > 0; n--) {
            ((uint8_t *)&s)[random_u64(&seed) % sizeof s] = (uint8_t)random_u64(&seed);
            ((uint8_t *)&h)[random_u64(&seed) % sizeof h] = (uint8_t)random_u64(&seed);
        }
        if ((memcmp(&s, &s2, sizeof s) != 0 && super_check(&s) == 0) ||
            (memcmp(&h, &h2, sizeof h) != 0 && segment_head_check(&h, test_node, 5, SEGMENT_MIN) == 0))
            fail_msg("seed %llu", (unsigned long long)round);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(record_round_trip),  cmocka_unit_test(others_are_refused),
        cmocka_unit_test(super_round_trip),   cmocka_unit_test(super_flips),
        cmocka_unit_test(segment_head_flips), cmocka_unit_test(record_flips),
        cmocka_unit_test(summary_flips),      cmocka_unit_test(record_cuts),
        cmocka_unit_test(record_fuzz),        cmocka_unit_test(others_fuzz),
    };
    return cmocka_run_group_tests_name("store_format", tests, NULL, NULL);
}
