/* store.c: see store.h. Entries: a chained hash table that doubles when it has as many blocks as buckets. */
#include "memnode/store/store_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    TICK_NS = 200000000,
    FIRST_BUCKETS = 1024,
    SPARE_SHARE = 32, /* of RAM is kept aside */
    SPARE_AT_ONCE = 8 << 20,
    WALK_BUCKETS = 256,
};
/* ---- life ---- */

struct store *store_open(const struct store_opts *o, struct skv_error *err)
{
    struct store *s = calloc(1, sizeof *s);
    if (!s) {
        skv_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    s->memory = o->memory;
    s->io = o->io;
    s->log = o->log;
    s->scrub_rate = o->scrub_rate;
    s->puts.end = &s->puts.first;
    s->sequence = s->run = 1;
    strncpy(s->name, o->name ? o->name : "", sizeof s->name - 1);
    if (o->node)
        memcpy(s->node, o->node, DISK_NODE);
    else if (getrandom(s->node, DISK_NODE, 0) != DISK_NODE) {
        skv_fail(err, -errno, "no random bytes from the system: %s", strerror(errno));
        free(s);
        return NULL;
    }
    s->n_buckets = FIRST_BUCKETS;
    if (!memory_charge(s->memory, s->n_buckets * sizeof *s->buckets)) {
        free(s);
        skv_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    s->buckets = calloc(s->n_buckets, sizeof *s->buckets);
    if (!s->buckets) {
        skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    if (o->n_disks && (disks_open(s, o, err) || scan_start(s, err)))
        goto error;
    return s;
error:
    store_close(s);
    return NULL;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    disks_close(s);
    for (size_t i = 0; s->buckets && i < s->n_buckets; i++)
        while (s->buckets[i]) {
            assert(!s->buckets[i]->leases);
            block_free(s, s->buckets[i]);
        }
    memory_uncharge(s->memory, s->spare + s->n_buckets * sizeof *s->buckets);
    free(s->buckets);
    for (uint32_t i = 0; i < s->n_disks; i++)
        free(s->disks[i].segments);
    free(s->disks);
    free(s);
}

const uint8_t *store_node(const struct store *s)
{
    return s->node;
}

/* ---- entries ---- */

/* Where the pointer to the entry of this key is, or would be. */
static struct block **find_slot(const struct store *s, const struct block_key *key, uint64_t hash)
{
    struct block **at = &s->buckets[hash & (s->n_buckets - 1)];
    while (*at && !((*at)->hash == hash && key_equal(&(*at)->key, key)))
        at = &(*at)->next;
    return at;
}

struct block *store_find(struct store *s, const struct block_key *key)
{
    return *find_slot(s, key, key_hash(key));
}

/* Memory for what is kept about blocks. RAM copies fill all there is, and evicting one gives nothing back
 * while its span holds others: so some memory is kept aside. */
static bool charge(struct store *s, size_t len)
{
    if (memory_charge(s->memory, len))
        return true;
    if (s->spare < len)
        return false;
    s->spare -= len;
    return true;
}

/* Without memory for it, the table just stays as it is: slower, not wrong. */
static void grow(struct store *s)
{
    size_t n = s->n_buckets * 2, more = s->n_buckets * sizeof *s->buckets;
    if (!charge(s, more))
        return;
    struct block **buckets = calloc(n, sizeof *buckets);
    if (!buckets) {
        memory_uncharge(s->memory, more);
        return;
    }
    for (size_t i = 0; i < s->n_buckets; i++)
        for (struct block *b = s->buckets[i], *next; b; b = next) {
            next = b->next;
            b->next = buckets[b->hash & (n - 1)];
            buckets[b->hash & (n - 1)] = b;
        }
    free(s->buckets);
    s->buckets = buckets;
    s->n_buckets = n;
}

static size_t entry_bytes(const struct block_layout *l)
{
    return sizeof(struct block) + layout_pages(l) * sizeof(uint64_t);
}

struct block *block_new(struct store *s, const struct block_key *key, const struct block_layout *layout,
                        const uint64_t *checksums)
{
    size_t entry = entry_bytes(layout);
    if (s->stats.blocks >= s->n_buckets)
        grow(s);
    if (!charge(s, entry))
        return NULL;
    struct block *b = malloc(entry);
    if (!b) {
        memory_uncharge(s->memory, entry);
        return NULL;
    }
    *b = (struct block){
        .hash = key_hash(key), .key = *key, .layout = *layout, .keep = 1, .segment = NO_SEGMENT};
    memcpy(b->checksums, checksums, layout_pages(layout) * sizeof *checksums);
    struct block **at = find_slot(s, key, b->hash);
    assert(!*at);
    *at = b;
    s->stats.blocks++;
    s->stats.bytes += layout_block_bytes(layout);
    if (block_reserved(b)) {
        s->stats.own_blocks++;
        s->stats.own_bytes += layout_block_bytes(layout);
    }
    return b;
}

void block_free(struct store *s, struct block *b)
{
    assert(!b->leases);
    struct block **at = find_slot(s, &b->key, b->hash);
    assert(*at == b);
    *at = b->next;
    put_abandon(b);
    ram_detach(s, b);
    block_unplace(s, b);
    s->stats.blocks--;
    s->stats.bytes -= layout_block_bytes(&b->layout);
    if (block_reserved(b)) {
        s->stats.own_blocks--;
        s->stats.own_bytes -= layout_block_bytes(&b->layout);
    }
    memory_uncharge(s->memory, entry_bytes(&b->layout));
    free(b);
}

void store_remove(struct store *s, struct block *b)
{
    assert(s->state == STORE_SERVING);
    block_free(s, b);
}

/* ---- places on disks ---- */

void block_place(struct store *s, struct block *b, struct disk *d, uint32_t segment, uint32_t offset,
                 uint64_t sequence)
{
    struct segment *g = &d->segments[segment];
    block_unplace(s, b);
    b->disk = d->index;
    b->segment = segment;
    b->offset = offset;
    b->spared = b->damaged = b->unproven = false;
    b->sequence = sequence;
    b->prev_in_segment = NULL;
    b->next_in_segment = g->live;
    if (g->live)
        g->live->prev_in_segment = b;
    g->live = b;
    g->n_live++;
    g->live_bytes += record_bytes(&b->layout);
    s->stats.disk_live_bytes += record_bytes(&b->layout);
}

void block_unplace(struct store *s, struct block *b)
{
    if (!block_on_disk(b))
        return;
    b->loading = false; /* a read of that record may still be under way: its sequence tells */
    struct disk *d = &s->disks[b->disk];
    struct segment *g = &d->segments[b->segment];
    uint32_t segment = b->segment;
    if (b->prev_in_segment)
        b->prev_in_segment->next_in_segment = b->next_in_segment;
    else
        g->live = b->next_in_segment;
    if (b->next_in_segment)
        b->next_in_segment->prev_in_segment = b->prev_in_segment;
    g->n_live--;
    g->live_bytes -= record_bytes(&b->layout);
    s->stats.disk_live_bytes -= record_bytes(&b->layout);
    b->segment = NO_SEGMENT;
    b->damaged = b->unproven = false;
    segment_settle(d, segment);
}

/* ---- put ---- */

static int refuse_ram_full(struct store *s, struct skv_error *err)
{
    return skv_fail(err, -ENOSPC,
                    "node '%s' is full: %.1f of its %.1f MiB for blocks are taken, by %llu blocks; start it "
                    "with a larger --ram, add a node, or drop contexts that are no longer needed",
                    s->name, (double)memory_used(s->memory, MEMORY_STORE) / (1 << 20),
                    (double)memory_limit(s->memory, MEMORY_STORE) / (1 << 20),
                    (unsigned long long)s->stats.blocks);
}

/* -EAGAIN while RAM may yet come free: by what is written to the disks, or what is on them already. */
static int refuse_ram(struct store *s, struct skv_error *err)
{
    if (s->stats.dirty_bytes == 0 && !(s->n_disks && ram_evict_one(s)))
        return refuse_ram_full(s, err);
    s->urgent = true;
    return skv_fail(err, -EAGAIN, "node '%s' has no memory for it until its disks took more", s->name);
}

/* Whether the disks take another block now. */
static int disks_take(struct store *s, size_t len, struct skv_error *err)
{
    bool writable = false, room = false;
    for (uint32_t i = 0; i < s->n_disks; i++) {
        const struct disk *d = &s->disks[i];
        writable = writable || !d->failed;
        room = room || (!d->failed && !d->stuck);
    }
    if (!writable)
        return skv_fail(err, -EROFS, "node '%s' takes no more blocks: %s", s->name, s->trouble);
    if (s->state == STORE_STARTING)
        return skv_fail(err, -EAGAIN, "node '%s' is still reading its disks", s->name);
    if (!room)
        return skv_fail(
            err, -ENOSPC,
            "node '%s' is full: leases and objects hold what is on its disks, and %.1f MiB of records leave "
            "no segment to free; give it a larger --disk, add a node, or end leases that are no "
            "longer needed",
            s->name, (double)s->stats.disk_live_bytes / (1 << 20));
    /* Half of RAM may be dirty; one block always may. */
    if (s->stats.dirty_bytes && s->stats.dirty_bytes + len > memory_limit(s->memory, MEMORY_STORE) / 2) {
        s->urgent = true;
        return skv_fail(err, -EAGAIN, "node '%s' writes to its disks as fast as it can", s->name);
    }
    return 0;
}

int store_room(struct store *s, size_t len, struct buf **out, struct skv_error *err)
{
    int rc = s->n_disks ? disks_take(s, len, err) : 0;
    if (rc)
        return rc;
    *out = ram_take(s, len);
    if (!*out)
        return refuse_ram(s, err);
    memset((*out)->data + len, 0, -len % DISK_PAGE); /* the rest of its last page on disk */
    return 0;
}

/* A block whose record is damaged is there already: only its bytes are needed. */
static int put_again(struct store *s, struct block *b, struct buf *buf, struct skv_error *err)
{
    if (!b->buf)
        ram_attach(s, b, buf_ref(buf));
    if (b->put && b->put->moving) /* that is the damaged record */
        put_abandon(b);
    if (!b->put && !put_start(s, b, b->buf, NULL))
        return refuse_ram_full(s, err);
    return 0;
}

int store_put(struct store *s, const struct block_key *key, const struct block_layout *layout,
              struct buf *buf, const uint64_t *checksums, struct block **out, struct skv_error *err)
{
    assert(buf->len == layout_block_bytes(layout));
    struct block *old = store_find(s, key);
    if (old) {
        assert(old->damaged);
        *out = old;
        return put_again(s, old, buf, err);
    }
    struct block *b = block_new(s, key, layout, checksums);
    if (!b)
        return refuse_ram(s, err);
    b->used = ++s->uses;
    ram_attach(s, b, buf_ref(buf));
    if (s->n_disks && !put_start(s, b, buf, NULL)) {
        block_free(s, b);
        return refuse_ram_full(s, err);
    }
    s->stats.put_bytes += buf->len;
    *out = b;
    return 0;
}

/* ---- the rest of the interface ---- */

/* Fills up what `charge` took. */
static void keep_spare(struct store *s)
{
    uint64_t wanted = memory_limit(s->memory, MEMORY_STORE) / SPARE_SHARE;
    size_t evicted = 0, more = 1;
    while (s->spare < wanted && more) {
        if (memory_charge(s->memory, wanted - s->spare)) {
            s->spare = wanted;
            return;
        }
        more = evicted < SPARE_AT_ONCE ? ram_evict_one(s) : 0;
        evicted += more;
        s->moved = true;
    }
}

void store_hurry(struct store *s)
{
    s->urgent = true;
}

bool store_tight(const struct store *s)
{
    for (uint32_t i = 0; i < s->n_disks; i++)
        if (!s->disks[i].failed && segments_free(&s->disks[i]) >= SPARE_SEGMENTS)
            return false;
    return s->n_disks > 0;
}

void store_hold(struct store *s, bool on)
{
    s->held = on;
}

bool store_walk_reserved(struct store *s, size_t *at, void (*each)(void *arg, struct block *), void *arg)
{
    size_t end = *at + WALK_BUCKETS < s->n_buckets ? *at + WALK_BUCKETS : s->n_buckets;
    for (; *at < end; ++*at)
        for (struct block *b = s->buckets[*at], *next; b; b = next) {
            next = b->next;
            if (block_reserved(b))
                each(arg, b);
        }
    return *at < s->n_buckets;
}

bool store_run(struct store *s, uint64_t now)
{
    if (!s->n_disks)
        return false;
    s->moved = false;
    s->now = now;
    s->tick = now >= s->last_tick + TICK_NS;
    if (s->tick) {
        s->last_tick = now;
        keep_spare(s);
    }
    if (s->in_flight && s->io->ops->reap(s->io, false))
        s->moved = true;
    scan_run(s);
    if (s->state == STORE_SERVING) {
        for (uint32_t i = 0; i < s->n_disks; i++)
            clean_run(&s->disks[i]);
        log_run(s);
        scrub_run(s);
    }
    read_run(s);
    s->io->ops->flush(s->io);
    return s->moved;
}

int store_fd(const struct store *s)
{
    return s->n_disks ? s->io->ops->fd(s->io) : -1;
}

bool store_busy(const struct store *s)
{
    return s->moved;
}

bool store_flushed(const struct store *s)
{
    return !s->n_disks || log_idle(s);
}

enum store_state store_state(const struct store *s, double *progress)
{
    if (progress)
        *progress = s->state == STORE_SERVING ? 1.0 : scan_progress(s);
    return s->state;
}

const char *store_trouble(const struct store *s)
{
    return s->trouble;
}

void store_stats(const struct store *s, struct store_stats *out)
{
    *out = s->stats;
    for (uint32_t i = 0; i < s->n_disks; i++) {
        const struct disk *d = &s->disks[i];
        out->disk_segments += d->n_segments;
        out->disk_readonly += d->failed;
        for (uint32_t j = 0; j < d->n_segments; j++) {
            const struct segment *g = &d->segments[j];
            if (g->state == SEGMENT_FREE || g->state == SEGMENT_READY || g->state == SEGMENT_PREPARING)
                out->disk_free_segments++;
            else
                out->disk_bytes += (uint64_t)g->used * DISK_PAGE;
        }
    }
}
