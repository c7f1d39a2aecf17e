/* store_segment.h: random keys and blocks, and segments written by hand, for tests of what lies on a disk. */
#ifndef TESTS_STORE_SEGMENT_H
#define TESTS_STORE_SEGMENT_H

#include "memnode/store/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t test_node[DISK_NODE] = "this test's node";
__attribute__((unused)) static const uint8_t other_node[DISK_NODE] = "some other node.";

static inline uint64_t random_u64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline struct block_key random_key(uint64_t *state)
{
    struct block_key k = {.ns = random_u64(state), .layer = (uint32_t)random_u64(state) % 100};
    for (int i = 0; i < CHAIN_BYTES; i++)
        k.chain[i] = (uint8_t)random_u64(state);
    return k;
}

/* ---- a segment in memory, as an engine would write it ---- */

enum { SEGMENT_RECORDS = 256 };

struct test_segment {
    uint8_t *bytes; /* SEGMENT_MIN of them */
    uint32_t number;
    uint64_t epoch;
    uint64_t run, durable; /* what the next record says */
    uint64_t end;          /* of the last record */
    unsigned n;
    uint64_t at[SEGMENT_RECORDS]; /* where each record begins */
    struct block_layout layout[SEGMENT_RECORDS];
};

/* A new epoch of the segment: whatever lay there stays under it. */
static inline void segment_begin(struct test_segment *s, uint64_t epoch)
{
    struct segment_head h;
    segment_head_write(&h, test_node, s->number, epoch, SEGMENT_MIN);
    memset(s->bytes, 0, DISK_PAGE);
    memcpy(s->bytes, &h, sizeof h);
    s->epoch = epoch;
    s->end = DISK_PAGE;
    s->n = 0;
}

static inline void segment_new(struct test_segment *s, uint32_t number, uint64_t epoch)
{
    *s = (struct test_segment){.number = number};
    s->bytes = calloc(1, SEGMENT_MIN);
    segment_begin(s, epoch);
}

/* Appends a block of random bytes. */
static inline void segment_add(struct test_segment *s, const struct block_layout *l, uint64_t sequence,
                               uint64_t *seed)
{
    struct block_key key = random_key(seed);
    uint8_t *record = s->bytes + s->end, *payload = record + record_payload_offset(l);
    uint64_t *sums = malloc(layout_pages(l) * sizeof *sums);
    assert_true(s->n < SEGMENT_RECORDS && s->end + record_bytes(l) <= SEGMENT_MIN);
    memset(record, 0, record_bytes(l));
    for (size_t i = 0; i + 8 <= layout_block_bytes(l); i += 8) {
        uint64_t word = random_u64(seed);
        memcpy(payload + i, &word, 8);
    }
    block_checksums(&key, l, payload, sums);
    struct record place = {.epoch = s->epoch,
                           .sequence = sequence,
                           .run = s->run,
                           .durable = s->durable,
                           .segment = s->number,
                           .offset = (uint32_t)(s->end / DISK_PAGE)};
    record_write(record, test_node, &key, l, sums, &place);
    s->at[s->n] = s->end;
    s->layout[s->n++] = *l;
    s->end += record_bytes(l);
    free(sums);
}

/* Seals it: writes the summary of its records. */
static inline void segment_seal(struct test_segment *s)
{
    struct summary_tail t;
    size_t bytes = 0, at = 0;
    for (unsigned i = 0; i < s->n; i++)
        bytes += record_head_bytes(&s->layout[i]);
    uint8_t *heads = s->bytes + SEGMENT_MIN - sizeof t - bytes;
    assert_true(s->end <= SEGMENT_MIN - sizeof t - bytes);
    for (unsigned i = 0; i < s->n; at += record_head_bytes(&s->layout[i++]))
        memcpy(heads + at, s->bytes + s->at[i], record_head_bytes(&s->layout[i]));
    summary_write(&t, test_node, s->number, s->epoch, s->n, heads, bytes);
    memcpy(s->bytes + SEGMENT_MIN - sizeof t, &t, sizeof t);
}

#endif
