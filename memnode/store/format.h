/* format.h: what lies on a disk; README.md has the picture. Numbers are little-endian.
 *
 * A directory holds `store` (a struct disk_super, and a struct disk_note in its second page) and segments
 * `000000.seg`, `000001.seg` … of equal size. A segment is a struct segment_head in its first 4096 bytes,
 * then records one behind another, each beginning at a multiple of 4096; a sealed segment ends with a
 * summary: its records' heads once more, so that a restart reads one run of bytes a segment instead of one
 * page a record. */
#ifndef MEMNODE_STORE_FORMAT_H
#define MEMNODE_STORE_FORMAT_H

#include "common/identity.h"

#include <assert.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the disk format is little-endian");

enum {
    DISK_VERSION = 1,
    DISK_PAGE = 4096,
    DISK_NAME = 64, /* a node's name and its final zero */
    DISK_NODE = 16, /* bytes of a node's identity: the incarnation that it tells its clients */
    SEGMENT_MIN = 8 << 20,
    SEGMENT_MAX = 1 << 30,
};

struct disk_super {
    uint8_t magic[8];
    uint32_t version;
    uint32_t disk; /* which of the node's disks, from 0 */
    uint8_t node[DISK_NODE];
    char name[DISK_NAME];
    uint64_t segment_bytes;
    uint64_t n_segments; /* files; grows with --disk, never shrinks */
    uint64_t checksum;   /* of all before it */
};
_Static_assert(sizeof(struct disk_super) == 120, "on disk");

/* The second page of `store`: what a process had on the medium when it had nothing more to write. True
 * whenever it can be read, so it needs no sync; without it more is verified, and written again, at the next
 * start. */
struct disk_note {
    uint8_t magic[8];
    uint8_t node[DISK_NODE];
    uint64_t run, durable; /* as in a record's head */
    uint64_t checksum;     /* of all before it */
};
_Static_assert(sizeof(struct disk_note) == 48, "on disk");

/* One sector: a torn write leaves the old one or the new one. It is on the medium before the first record of
 * its epoch is written. */
struct segment_head {
    uint8_t magic[8];
    uint32_t version;
    uint32_t segment;
    uint8_t node[DISK_NODE];
    uint64_t epoch; /* from 1; grows with every reuse of the segment */
    uint64_t segment_bytes;
    uint64_t reserved;
    uint64_t checksum; /* of all before it */
};
_Static_assert(sizeof(struct segment_head) == 64, "on disk");

struct record_page {
    uint32_t offset; /* from the record's beginning */
    uint32_t length;
    uint64_t checksum; /* page_checksum() of common/identity.h */
};
_Static_assert(sizeof(struct record_page) == 16, "on disk");

/* Followed by one struct record_page a page; the payload begins at the next multiple of 4096 and is padded
 * with zeros to one. */
struct record_head {
    uint8_t magic[4];
    uint16_t version;
    uint16_t reserved;
    uint64_t checksum; /* of the head and its pages, with this field 0 */
    uint8_t node[DISK_NODE];
    uint64_t epoch;    /* the segment's */
    uint64_t sequence; /* of the node; of two records of one key the later one counts */
    uint64_t run;      /* the sequence at which the process that wrote this began */
    uint64_t durable;  /* every record of this disk and run up to this sequence was on the medium by then */
    uint32_t segment, offset; /* where this record lies: its segment, and the offset in it in units of 4096 */
    uint64_t ns;
    uint8_t chain[CHAIN_BYTES];
    uint32_t layer;
    uint16_t d_k, d_v, head0, n_heads;
    uint8_t dtype, pad[3];
    uint32_t n_pages;
    uint32_t payload_offset; /* bytes from the record's beginning */
    uint32_t payload_bytes;
};
_Static_assert(sizeof(struct record_head) == 144, "on disk");

/* The last bytes of a sealed segment. The summary proper lies before it: the heads of the records, each with
 * its pages, packed, in their order. */
struct summary_tail {
    uint8_t magic[8];
    uint8_t node[DISK_NODE];
    uint64_t epoch;
    uint32_t segment, n_records;
    uint64_t bytes;     /* of the heads */
    uint64_t heads_sum; /* checksum of the heads */
    uint64_t checksum;  /* of all before it */
};
_Static_assert(sizeof(struct summary_tail) == 64, "on disk");

/* What a head says once it has been checked. */
struct record {
    struct block_key key;
    struct block_layout layout;
    uint64_t epoch, sequence, run, durable;
    uint32_t segment, offset;        /* offset in units of 4096 */
    const struct record_page *pages; /* layout_pages(&layout) of them, within what was parsed */
    size_t head_bytes, payload_offset, payload_bytes, bytes; /* bytes: all of it, a multiple of 4096 */
};

/* Sizes in bytes for a block of this layout. */
size_t record_head_bytes(const struct block_layout *);
size_t record_payload_offset(const struct block_layout *);
size_t record_bytes(const struct block_layout *);

void super_write(struct disk_super *, const uint8_t node[DISK_NODE], const char *name, uint32_t disk,
                 uint64_t segment_bytes, uint64_t n_segments);
void note_write(struct disk_note *, const uint8_t node[DISK_NODE], uint64_t run, uint64_t durable);
bool note_check(const struct disk_note *, const uint8_t node[DISK_NODE]);
/* 0; -ENOENT all zeros; -EBADMSG not a super block or damaged; -EPROTONOSUPPORT another version. */
int super_check(const struct disk_super *);

void segment_head_write(struct segment_head *, const uint8_t node[DISK_NODE], uint32_t segment,
                        uint64_t epoch, uint64_t segment_bytes);
/* 0; -ENOENT all zeros: never used; -EBADMSG; -EPROTONOSUPPORT; -EXDEV another node's or another segment's.
 */
int segment_head_check(const struct segment_head *, const uint8_t node[DISK_NODE], uint32_t segment,
                       uint64_t segment_bytes);

/* Writes head and pages into out (record_head_bytes(layout) bytes). Of `place`: epoch, sequence, run,
 * durable, segment and offset. */
void record_write(void *out, const uint8_t node[DISK_NODE], const struct block_key *,
                  const struct block_layout *, const uint64_t *checksums, const struct record *place);
/* Reads a head of which `len` bytes are at hand. 0; -ENODATA: more bytes are needed, *need of them; else
 * -EBADMSG: not a head, damaged, another node's or another version's. Does not judge epoch and place. */
int record_read(const void *bytes, size_t len, const uint8_t node[DISK_NODE], struct record *, size_t *need);

void summary_write(struct summary_tail *, const uint8_t node[DISK_NODE], uint32_t segment, uint64_t epoch,
                   uint32_t n_records, const void *heads, size_t bytes);
/* 0 or -EBADMSG. heads may be NULL to check the tail alone. */
int summary_check(const struct summary_tail *, const uint8_t node[DISK_NODE], uint32_t segment,
                  uint64_t epoch, uint64_t segment_bytes, const void *heads);

#endif
