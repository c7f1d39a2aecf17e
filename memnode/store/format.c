/* format.c: see format.h. */
#include "memnode/store/format.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static const uint8_t super_magic[8] = "SKVSTORE", segment_magic[8] = "SKVSEGMT", tail_magic[8] = "SKVSUMRY",
                     note_magic[8] = "SKVNOTE1";
static const uint8_t record_magic[4] = "SKVR";

static size_t round_up(size_t n)
{
    return (n + DISK_PAGE - 1) / DISK_PAGE * DISK_PAGE;
}

static bool all_zero(const void *bytes, size_t len)
{
    const uint8_t *b = bytes;
    for (size_t i = 0; i < len; i++)
        if (b[i])
            return false;
    return true;
}

size_t record_head_bytes(const struct block_layout *l)
{
    return sizeof(struct record_head) + layout_pages(l) * sizeof(struct record_page);
}

size_t record_payload_offset(const struct block_layout *l)
{
    return round_up(record_head_bytes(l));
}

size_t record_bytes(const struct block_layout *l)
{
    return record_payload_offset(l) + round_up(layout_block_bytes(l));
}

/* ---- super block ---- */

void super_write(struct disk_super *s, const uint8_t node[DISK_NODE], const char *name, uint32_t disk,
                 uint64_t segment_bytes, uint64_t n_segments)
{
    *s = (struct disk_super){
        .version = DISK_VERSION, .disk = disk, .segment_bytes = segment_bytes, .n_segments = n_segments};
    memcpy(s->magic, super_magic, sizeof s->magic);
    memcpy(s->node, node, DISK_NODE);
    assert(strlen(name) < DISK_NAME);
    memcpy(s->name, name, strlen(name));
    s->checksum = XXH3_64bits(s, offsetof(struct disk_super, checksum));
}

int super_check(const struct disk_super *s)
{
    if (all_zero(s, sizeof *s))
        return -ENOENT;
    if (memcmp(s->magic, super_magic, sizeof s->magic) != 0)
        return -EBADMSG;
    if (s->version != DISK_VERSION) /* its other fields may mean anything */
        return -EPROTONOSUPPORT;
    if (s->checksum != XXH3_64bits(s, offsetof(struct disk_super, checksum)) || s->name[DISK_NAME - 1] ||
        s->segment_bytes < SEGMENT_MIN || s->segment_bytes > SEGMENT_MAX || s->segment_bytes % DISK_PAGE ||
        s->n_segments >= UINT32_MAX)
        return -EBADMSG;
    return 0;
}

void note_write(struct disk_note *n, const uint8_t node[DISK_NODE], uint64_t run, uint64_t durable)
{
    *n = (struct disk_note){.run = run, .durable = durable};
    memcpy(n->magic, note_magic, sizeof n->magic);
    memcpy(n->node, node, DISK_NODE);
    n->checksum = XXH3_64bits(n, offsetof(struct disk_note, checksum));
}

bool note_check(const struct disk_note *n, const uint8_t node[DISK_NODE])
{
    return memcmp(n->magic, note_magic, sizeof n->magic) == 0 && memcmp(n->node, node, DISK_NODE) == 0 &&
           n->checksum == XXH3_64bits(n, offsetof(struct disk_note, checksum));
}

/* ---- segments ---- */

void segment_head_write(struct segment_head *h, const uint8_t node[DISK_NODE], uint32_t segment,
                        uint64_t epoch, uint64_t segment_bytes)
{
    *h = (struct segment_head){
        .version = DISK_VERSION, .segment = segment, .epoch = epoch, .segment_bytes = segment_bytes};
    memcpy(h->magic, segment_magic, sizeof h->magic);
    memcpy(h->node, node, DISK_NODE);
    h->checksum = XXH3_64bits(h, offsetof(struct segment_head, checksum));
}

int segment_head_check(const struct segment_head *h, const uint8_t node[DISK_NODE], uint32_t segment,
                       uint64_t segment_bytes)
{
    if (all_zero(h, sizeof *h))
        return -ENOENT;
    if (memcmp(h->magic, segment_magic, sizeof h->magic) != 0 ||
        h->checksum != XXH3_64bits(h, offsetof(struct segment_head, checksum)))
        return -EBADMSG;
    if (h->version != DISK_VERSION)
        return -EPROTONOSUPPORT;
    if (memcmp(h->node, node, DISK_NODE) != 0 || h->segment != segment || h->segment_bytes != segment_bytes)
        return -EXDEV;
    return 0;
}

/* ---- records ---- */

/* With the checksum field taken as 0, wherever the head lies. */
static uint64_t head_checksum(const void *head, size_t bytes)
{
    struct record_head fixed;
    memcpy(&fixed, head, sizeof fixed);
    fixed.checksum = 0;
    uint64_t seed = XXH3_64bits(&fixed, sizeof fixed);
    return XXH3_64bits_withSeed((const uint8_t *)head + sizeof fixed, bytes - sizeof fixed, seed);
}

void record_write(void *out, const uint8_t node[DISK_NODE], const struct block_key *key,
                  const struct block_layout *l, const uint64_t *checksums, const struct record *place)
{
    struct record_head h = {.version = DISK_VERSION,
                            .epoch = place->epoch,
                            .sequence = place->sequence,
                            .run = place->run,
                            .durable = place->durable,
                            .segment = place->segment,
                            .offset = place->offset,
                            .ns = key->ns,
                            .layer = key->layer,
                            .d_k = l->d_k,
                            .d_v = l->d_v,
                            .head0 = l->head0,
                            .n_heads = l->n_heads,
                            .dtype = l->dtype,
                            .n_pages = (uint32_t)layout_pages(l),
                            .payload_offset = (uint32_t)record_payload_offset(l),
                            .payload_bytes = (uint32_t)layout_block_bytes(l)};
    memcpy(h.magic, record_magic, sizeof h.magic);
    memcpy(h.node, node, DISK_NODE);
    memcpy(h.chain, key->chain, CHAIN_BYTES);
    struct record_page *pages = (struct record_page *)((uint8_t *)out + sizeof h);
    for (uint32_t i = 0; i < h.n_pages; i++)
        pages[i] = (struct record_page){.offset = h.payload_offset + i * (uint32_t)layout_page_bytes(l),
                                        .length = (uint32_t)layout_page_bytes(l),
                                        .checksum = checksums[i]};
    memcpy(out, &h, sizeof h);
    h.checksum = head_checksum(out, record_head_bytes(l));
    memcpy(out, &h, sizeof h);
}

int record_read(const void *bytes, size_t len, const uint8_t node[DISK_NODE], struct record *r, size_t *need)
{
    struct record_head h;
    *need = sizeof h;
    if (len < sizeof h)
        return -ENODATA;
    memcpy(&h, bytes, sizeof h);
    if (memcmp(h.magic, record_magic, sizeof h.magic) != 0 || h.version != DISK_VERSION ||
        memcmp(h.node, node, DISK_NODE) != 0)
        return -EBADMSG;
    *r = (struct record){.key = {.ns = h.ns, .layer = h.layer},
                         .layout = {h.dtype, h.d_k, h.d_v, h.head0, h.n_heads},
                         .epoch = h.epoch,
                         .sequence = h.sequence,
                         .run = h.run,
                         .durable = h.durable,
                         .segment = h.segment,
                         .offset = h.offset,
                         .pages = (const struct record_page *)((const uint8_t *)bytes + sizeof h)};
    memcpy(r->key.chain, h.chain, CHAIN_BYTES);
    if (!layout_valid(&r->layout) || h.n_pages != layout_pages(&r->layout))
        return -EBADMSG;
    r->head_bytes = record_head_bytes(&r->layout);
    r->payload_offset = record_payload_offset(&r->layout);
    r->payload_bytes = layout_block_bytes(&r->layout);
    r->bytes = record_bytes(&r->layout);
    if (h.payload_offset != r->payload_offset || h.payload_bytes != r->payload_bytes)
        return -EBADMSG;
    *need = r->head_bytes;
    if (len < r->head_bytes)
        return -ENODATA;
    return h.checksum == head_checksum(bytes, r->head_bytes) ? 0 : -EBADMSG;
}

/* ---- summary ---- */

void summary_write(struct summary_tail *t, const uint8_t node[DISK_NODE], uint32_t segment, uint64_t epoch,
                   uint32_t n_records, const void *heads, size_t bytes)
{
    *t = (struct summary_tail){.epoch = epoch, .segment = segment, .n_records = n_records, .bytes = bytes};
    memcpy(t->magic, tail_magic, sizeof t->magic);
    memcpy(t->node, node, DISK_NODE);
    t->heads_sum = XXH3_64bits(heads, bytes);
    t->checksum = XXH3_64bits(t, offsetof(struct summary_tail, checksum));
}

int summary_check(const struct summary_tail *t, const uint8_t node[DISK_NODE], uint32_t segment,
                  uint64_t epoch, uint64_t segment_bytes, const void *heads)
{
    if (memcmp(t->magic, tail_magic, sizeof t->magic) != 0 ||
        t->checksum != XXH3_64bits(t, offsetof(struct summary_tail, checksum)) ||
        memcmp(t->node, node, DISK_NODE) != 0 || t->segment != segment || t->epoch != epoch ||
        t->bytes > segment_bytes / 2)
        return -EBADMSG;
    return heads && XXH3_64bits(heads, t->bytes) != t->heads_sum ? -EBADMSG : 0;
}
