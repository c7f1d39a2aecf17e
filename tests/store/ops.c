/* ops.c: what clients and the medium do to a store. */
#include "tests/store/history_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static unsigned a_key(struct history *h)
{
    return (unsigned)random_below(&h->rng, h->model.n_keys);
}

static struct lease *const LEASED = (struct lease *)(uintptr_t)64; /* never looked into */

/* ---- put ---- */

static bool any_pinned(const struct history *h)
{
    for (unsigned i = 0; i < h->model.n_keys; i++)
        if (h->model.keys[i].pinned)
            return true;
    for (unsigned i = 0; i < MAX_HELD; i++)
        if (h->held[i].buf)
            return true;
    return false;
}

/* Whether a refusal may be. */
static void judge_refusal(struct history *h, unsigned key, int rc, const char *text)
{
    say(h, "key %u: refused: %s", key, text);
    if (!text[0])
        BROKEN(h, "key %u: a put was refused with %d, and no sentence", key, rc);
    if (rc == -EAGAIN && h->serving)
        return;
    if ((rc == -EROFS || rc == -ENOSPC) && (writes_failed(h) || sim_dead(h->sim)))
        return;
    if (rc == -ENOSPC && !h->full) { /* leases and bufs that are held may be to
                                        blame: not for long */
        h->full = true;
        return;
    }
    if (rc == -ENOSPC && any_pinned(h))
        return;
    BROKEN(h, "key %u: a put was refused with %d: %s", key, rc, text);
}

static int put_bytes(struct history *h, const struct block_key *key, const struct version *v,
                     const uint8_t *payload, struct block **out, struct skv_error *err)
{
    struct buf *buf = NULL;
    int rc = store_room(h->store, layout_block_bytes(&v->layout), &buf, err);
    if (!rc) {
        memcpy(buf->data, payload, buf->len);
        rc = store_put(h->store, key, &v->layout, buf, v->checksums, out, err);
    }
    buf_unref(buf);
    return rc;
}

static void put(struct history *h, unsigned key, struct block *old)
{
    struct model_key *k = &h->model.keys[key];
    int version = old ? k->held : model_version(&h->model, key, &h->rng);
    const struct version *v = &k->version[version];
    const uint8_t *payload = model_payload(&h->model, key, version);
    struct block *b = NULL;
    struct skv_error err = {0};
    int rc;
    for (unsigned i = 0;; i++) {
        rc = put_bytes(h, &k->key, v, payload, &b, &err);
        if (rc != -EAGAIN || i == STUCK)
            break;
        look(h); /* a refused put may have evicted */
        run(h);
        if (!alive(h) || find(h, key) != old) /* run may have found or evicted it */
            return;
        if (old && !wants_put(old))
            return;
        payload = model_payload(&h->model, key, version);
    }
    if (rc) {
        if (rc == -EAGAIN && !writes_failed(h))
            BROKEN(h, "key %u: a put is asked to come again for ever", key);
        else
            judge_refusal(h, key, rc, err.text);
        look(h);
        return;
    }
    if (b != find(h, key) || !b->buf) {
        BROKEN(h, "key %u: a put did not give the entry, with its bytes", key);
        return;
    }
    h->counts->puts++;
    if (old) {
        say(h, "key %u: version %d put again", key, version);
        h->counts->put_again++;
        if (old->damaged)
            k->obliged = false; /* the old promise was broken by a fault */
    } else {
        say(h, "key %u: version %d put", key, version);
        k->held = version;
        k->instance++;
        k->obliged = k->on_disk = k->pinned = false;
        k->sound = k->put_here = true;
        k->touched = 0;
        k->at.segment = k->was.segment = NO_SEGMENT;
    }
    look(h);
    if (alive(h) && random_percent(&h->rng, 60) && (b = find(h, key)))
        ask_durable(h, key, b);
}

/* What a node does with a PUT. */
static void op_put(struct history *h)
{
    unsigned key = a_key(h);
    for (int i = 0; i < 3 && find(h, key); i++) /* mostly one that is not there */
        key = a_key(h);
    struct block *b = find(h, key);
    if (!b && !h->serving)
        return; /* it is told to come again */
    if (!b)
        put(h, key, NULL);
    else if (wants_put(b) && !b->put)
        put(h, key, b);
    else
        ask_durable(h, key, b);
}

/* ---- the others ---- */

static void op_get(struct history *h)
{
    unsigned key = a_key(h);
    struct block *b = find(h, key);
    if (!b)
        return;
    uint32_t pages = (uint32_t)layout_pages(&b->layout);
    uint32_t first = (uint32_t)random_below(&h->rng, pages), left = pages - first;
    uint32_t n = 1 + (uint32_t)random_below(&h->rng, left < STORE_READ_PAGES ? left : STORE_READ_PAGES);
    unsigned slot = (unsigned)random_below(&h->rng, MAX_HELD);
    if (random_percent(&h->rng, 70))
        store_touch(h->store, b);
    if (b->buf && random_percent(&h->rng, 20)) { /* its bytes are being sent, slowly */
        drop_held(h, slot);
        h->held[slot] = (struct held){buf_ref(b->buf), key, h->model.keys[key].held};
    }
    get(h, key, b, first, n);
}

static void op_touch(struct history *h)
{
    unsigned key = a_key(h);
    for (int i = 0; i < 3; i++) {
        struct block *b = find(h, key);
        if (b)
            store_touch(h->store, b);
    }
}

static void op_hint(struct history *h)
{
    struct block *b = find(h, a_key(h));
    if (b)
        store_hint(h->store, b, (float)((double)random_below(&h->rng, 100) / 10 - 3));
}

static void op_remove(struct history *h)
{
    unsigned key = a_key(h);
    struct model_key *k = &h->model.keys[key];
    struct block *b = find(h, key);
    if (!b || k->pinned || !h->serving)
        return;
    say(h, "key %u: removed", key);
    k->held = -1;
    k->instance++;
    k->obliged = k->sound = k->put_here = false;
    h->full = false;
    store_remove(h->store, b);
    if (find(h, key))
        BROKEN(h, "key %u: it was removed, and is there", key);
}

static void unpin(struct history *h, unsigned key)
{
    struct block *b = find(h, key);
    if (b)
        b->leases = NULL;
    h->model.keys[key].pinned = false;
    h->full = false;
}

static void op_pin(struct history *h)
{
    unsigned key = a_key(h);
    struct block *b = find(h, key);
    if (h->model.keys[key].pinned) {
        unpin(h, key);
    } else if (b && h->serving &&
               random_below(&h->rng, h->model.n_keys) <
                   6) { /* few at a time, or the disks are full of them */
        b->leases = LEASED;
        h->model.keys[key].pinned = true;
        say(h, "key %u: leased", key);
    }
}

static void op_drop_held(struct history *h)
{
    drop_held(h, (unsigned)random_below(&h->rng, MAX_HELD));
    h->full = false;
}

/* ---- the medium ---- */

static bool a_segment(struct history *h, const char **dir, char name[16])
{
    const struct store_disk *d = &h->disks[random_below(&h->rng, h->n_disks)];
    *dir = d->dir;
    snprintf(name, 16, "%06u.seg", (unsigned)random_below(&h->rng, d->size / SEGMENT_MIN));
    return true;
}

static void flip_one(struct history *h)
{
    const char *dir;
    char name[16];
    uint64_t at = 0, kind = random_below(&h->rng, 100);
    const struct model_key *k = &h->model.keys[a_key(h)];
    if (kind < 35 && k->at.segment != NO_SEGMENT) { /* a block's head, or its payload */
        dir = h->dirs[k->at.disk];
        snprintf(name, sizeof name, "%06u.seg", k->at.segment);
        at = (uint64_t)k->at.offset * DISK_PAGE;
        at += kind < 15 ? random_below(&h->rng, 160) : random_below(&h->rng, k->record);
    } else if (kind < 45) { /* a segment's head */
        a_segment(h, &dir, name);
        at = random_below(&h->rng, sizeof(struct segment_head));
    } else if (kind < 60) { /* a summary's end, or before it */
        a_segment(h, &dir, name);
        at = SEGMENT_MIN - 1 - random_below(&h->rng, kind < 52 ? sizeof(struct summary_tail) : DISK_PAGE);
    } else if (kind < 62) {
        dir = h->dirs[random_below(&h->rng, h->n_disks)];
        snprintf(name, sizeof name, "store");
        at = random_below(&h->rng, sizeof(struct disk_super));
    } else { /* anywhere */
        a_segment(h, &dir, name);
        if (!sim_written_page(h->sim, dir, name, &at))
            return;
        at += random_below(&h->rng, DISK_PAGE);
    }
    unsigned bit = (unsigned)random_below(&h->rng, 8);
    if (sim_flip(h->sim, dir, name, at, bit))
        say(h, "a bit flips: %s/%s, byte %" PRIu64 ", bit %u", dir, name, at, bit);
}

void flip_some(struct history *h)
{
    for (; h->flips && random_percent(&h->rng, 60); h->flips--)
        flip_one(h);
    look(h);
}

/* ---- one step ---- */

void any_op(struct history *h)
{
    uint64_t kind = random_below(&h->rng, 100);
    if (kind < 45)
        for (uint64_t n = random_between(&h->rng, 1, h->burst); n && alive(h); n--)
            op_put(h);
    else if (kind < 70)
        op_get(h);
    else if (kind < 77)
        op_touch(h);
    else if (kind < 81)
        op_hint(h);
    else if (kind < 85)
        op_remove(h);
    else if (kind < 90)
        op_pin(h);
    else if (kind < 94)
        op_drop_held(h);
    else if (kind < 96 && h->serving)
        wait_flushed(h);
    else if (h->flips)
        flip_some(h);
    for (uint64_t n = random_below(&h->rng, 4); n && alive(h); n--)
        run(h);
}
