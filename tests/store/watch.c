/* watch.c: what must hold, whatever happens. */
#include "tests/store/history_impl.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void say(struct history *h, const char *fmt, ...)
{
    va_list args;
    if (!h->verbose)
        return;
    fprintf(stderr, "%9.3f ms  ", (double)h->now / 1e6);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

void blame(struct history *h, uint64_t *counter, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ++*counter;
    if (!h->failed || h->verbose) /* the first one says it; the rest are counted */
        fprintf(stderr, "seed %" PRIu64 ": %s\n  to repeat it: make check-store SEED=%" PRIu64 " N=1\n",
                h->seed, text, h->seed);
    h->failed = true;
}

bool writes_failed(const struct history *h)
{
    const struct sim_counts *c = sim_counts(h->sim);
    return c->write_faults > h->at_open.write_faults || c->sync_faults > h->at_open.sync_faults;
}

bool alive(const struct history *h)
{
    return !h->failed && !sim_dead(h->sim);
}

struct block *find(struct history *h, unsigned key)
{
    return store_find(h->store, &h->model.keys[key].key);
}

/* ---- what faults touched ---- */

static unsigned touched_at(const struct history *h, const struct place *p, size_t record)
{
    char name[16];
    if (p->segment == NO_SEGMENT)
        return 0;
    snprintf(name, sizeof name, "%06u.seg", p->segment);
    const char *dir = h->dirs[p->disk];
    return sim_touched(h->sim, dir, name, 0, SIM_SECTOR) |
           sim_touched(h->sim, dir, name, (uint64_t)p->offset * DISK_PAGE, record);
}

void touched_now(struct history *h, struct model_key *k)
{
    k->touched |= touched_at(h, &k->at, k->record) | touched_at(h, &k->was, k->record);
}

/* Where its record lies now. */
static void note_place(struct history *h, unsigned key, const struct block *b)
{
    struct model_key *k = &h->model.keys[key];
    if (b->segment == NO_SEGMENT ||
        (k->at.segment == b->segment && k->at.offset == b->offset && k->at.disk == b->disk))
        return;
    touched_now(h, k);
    if (k->touched) /* what was misread has perhaps been copied so */
        k->touched |= SIM_FLIPPED;
    k->was = k->at;
    k->at = (struct place){b->disk, b->segment, b->offset};
    k->record = record_bytes(&b->layout);
    touched_now(h, k);
    say(h, "key %u: disk %u, segment %u, offset %u, sequence %" PRIu64 "%s", key, b->disk, b->segment,
        b->offset, b->sequence, b->damaged ? ", damaged" : "");
}

/* ---- acknowledgements ---- */

void oblige(struct history *h, unsigned key)
{
    struct model_key *k = &h->model.keys[key];
    h->counts->acks++;
    if (k->obliged && k->obliged_version == k->held)
        return;
    k->obliged = k->sound = true;
    k->obliged_version = k->held;
    for (struct reading *r = h->readings; r; r = r->next) /* of an earlier record, perhaps */
        if (r->key == key)
            r->touched |= k->touched;
    k->touched = 0;
    k->was.segment = NO_SEGMENT;
    touched_now(h, k);
}

static void ack_done(struct store_waiter *w, int rc)
{
    struct ack *a = (struct ack *)w;
    struct history *h = a->h;
    struct model_key *k = &h->model.keys[a->key];
    assert(!a->finished);
    a->finished = true;
    say(h, "key %u: durable: %d", a->key, rc);
    if (rc == 0) {
        if (a->instance != k->instance) {
            h->counts->acks++; /* removed since: nothing is owed */
            return;
        }
        struct block *b = find(h, a->key);
        if (b) /* it has just got a place, and look() has not been there yet */
            note_place(h, a->key, b);
        oblige(h, a->key);
    } else if (rc == -ECANCELED) {
        if (a->instance == k->instance && !h->closing)
            BROKEN(h, "key %u: its durable ack was canceled, and nobody removed it", a->key);
    } else if (rc == -EAGAIN && !h->serving) {
        /* what is still unread may be another version */
    } else if (rc != -EIO || (!writes_failed(h) && !sim_dead(h->sim))) {
        BROKEN(h, "key %u: 'durable' was refused with %d, and no write had failed", a->key, rc);
    }
}

void ask_durable(struct history *h, unsigned key, struct block *b)
{
    struct ack *a = calloc(1, sizeof *a);
    assert(a);
    *a = (struct ack){.waiter.done = ack_done, .h = h, .key = key, .instance = h->model.keys[key].instance};
    a->next = h->acks;
    h->acks = a;
    if (!store_when_durable(h->store, b, &a->waiter)) {
        a->finished = true;
        say(h, "key %u: durable already", key);
        oblige(h, key);
    }
}

void forget_acks(struct history *h)
{
    for (struct ack *a = h->acks; a; a = a->next)
        if (!a->finished) {
            store_waiter_cancel(&a->waiter);
            a->finished = true;
        }
}

void free_finished(struct history *h)
{
    for (struct ack **at = &h->acks, *a; (a = *at);) {
        if (a->finished) {
            *at = a->next;
            free(a);
        } else {
            at = &a->next;
        }
    }
    for (struct reading **at = &h->readings, *r; (r = *at);) {
        if (r->finished) {
            *at = r->next;
            free(r->memory);
            free(r);
        } else {
            at = &r->next;
        }
    }
}

/* ---- GET ---- */

static void compare(struct history *h, unsigned key, int version, uint32_t page, const void *bytes,
                    const char *where)
{
    size_t len = layout_page_bytes(&h->model.keys[key].version[version].layout);
    h->counts->gets++;
    if (!model_same(&h->model, key, version, page * len, bytes, len))
        WRONG(h, "key %u: page %u of version %d, from %s, has other bytes", key, page, version, where);
}

static void read_done(struct store_read *read)
{
    struct reading *r = (struct reading *)read;
    struct history *h = r->h;
    struct model_key *k = &h->model.keys[r->key];
    size_t len = layout_page_bytes(&k->version[r->version].layout);
    uint32_t n_good = 0;
    assert(!r->finished);
    r->finished = true;
    for (uint32_t i = 0; i < read->n; i++)
        if (read->good >> i & 1) {
            n_good++;
            compare(h, r->key, r->version, read->first + i, read->into + i * len, "a disk");
        }
    if (read->n < 64 && read->good >> read->n)
        BROKEN(h, "key %u: good pages beyond those that were read", r->key);
    if (n_good == read->n || sim_dead(h->sim) || h->closing || r->instance != k->instance || !r->must_be_good)
        return;
    if (sim_counts(h->sim)->read_faults != r->faults) /* perhaps this very read */
        return;
    touched_now(h, k);
    if ((k->touched | r->touched) & SIM_FLIPPED)
        return;
    if (k->obliged)
        LOST(h,
             "key %u: %u of %u pages of version %d (disk %u, segment %u, offset "
             "%u) do not come back",
             r->key, read->n - n_good, read->n, r->version, k->at.disk, k->at.segment, k->at.offset);
    else
        BROKEN(h, "key %u: %u of %u pages of version %d are missing, for no reason", r->key, read->n - n_good,
               read->n, r->version);
}

void get(struct history *h, unsigned key, struct block *b, uint32_t first, uint32_t n)
{
    struct model_key *k = &h->model.keys[key];
    size_t len = layout_page_bytes(&b->layout);
    if (b->buf) {
        if (b->buf->len < layout_block_bytes(&b->layout))
            BROKEN(h, "key %u: its buf is too short", key);
        for (uint32_t i = first; i < first + n && !h->failed; i++)
            compare(h, key, k->held, i, b->buf->data + i * len, "RAM");
        return;
    }
    if (b->segment == NO_SEGMENT) {
        if (!k->touched)
            BROKEN(h, "key %u: it is neither in RAM nor on a disk", key);
        return;
    }
    struct reading *r = calloc(1, sizeof *r);
    size_t skew = random_percent(&h->rng, 50) ? 0 : 64;
    size_t room = (skew + n * len + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
    uint8_t *memory = aligned_alloc(IO_ALIGN, room);
    assert(r && memory);
    *r = (struct reading){.read = {.into = memory + skew, .first = first, .n = n, .done = read_done},
                          .next = h->readings,
                          .h = h,
                          .key = key,
                          .version = k->held,
                          .instance = k->instance,
                          .faults = sim_counts(h->sim)->read_faults,
                          .memory = memory,
                          .must_be_good = k->sound};
    h->readings = r;
    if (store_read(h->store, b, &r->read))
        r->finished = true;
}

void drop_held(struct history *h, unsigned i)
{
    struct held *x = &h->held[i];
    if (!x->buf)
        return;
    const struct block_layout *l = &h->model.keys[x->key].version[x->version].layout;
    if (!model_same(&h->model, x->key, x->version, 0, x->buf->data, layout_block_bytes(l)))
        WRONG(h, "key %u: a buf that is still referenced has changed", x->key);
    buf_unref(x->buf);
    x->buf = NULL;
}

/* ---- the entries ---- */

struct change {
    unsigned vanished;    /* without a fault that explains it */
    unsigned one_of_them; /* for the sentence */
};

static void vanished(struct history *h, unsigned key, struct change *c)
{
    struct model_key *k = &h->model.keys[key];
    touched_now(h, k);
    if (k->pinned)
        BROKEN(h, "key %u: it was leased, and is gone", key);
    if (!h->serving && k->obliged) {
        /* check_promises will see it */
    } else if (!k->sound && writes_failed(h)) {
        /* what a killed process left, until the sync of it failed */
    } else if (!(k->touched && k->on_disk)) {
        c->vanished++;
        c->one_of_them = key;
    }
    say(h, "key %u: gone%s", key, k->obliged ? " (was durable)" : "");
    k->held = -1;
    k->instance++;
    k->pinned = k->sound = k->put_here = false;
    if (h->serving || !k->obliged)
        k->obliged = false;
}

static void is_there(struct history *h, unsigned key, struct block *b)
{
    struct model_key *k = &h->model.keys[key];
    int version = model_identify(&h->model, key, b);
    if (version < 0) {
        WRONG(h, "key %u: the store names checksums that were never put", key);
        return;
    }
    if (version != k->held) {
        if (h->serving)
            BROKEN(h,
                   "key %u: version %d is there, nobody put it, and the store had "
                   "said that all is read",
                   key, version);
        h->counts->again += !k->obliged;
        k->held = version;
        k->instance++;
        k->sound = k->obliged && k->obliged_version == version;
        k->pinned = false;
    }
    k->on_disk = b->segment != NO_SEGMENT;
    if (k->pinned != (b->leases != NULL))
        BROKEN(h, "key %u: its leases changed", key);
    note_place(h, key, b);
    if (b->damaged && k->put_here && h->serving && !sim_dead(h->sim)) {
        touched_now(h, k);
        if (!k->touched)
            BROKEN(h, "key %u: it is called damaged, and no fault touched it", key);
    }
}

static bool faults_since(const struct sim_counts *now, const struct sim_counts *then)
{
    return now->read_faults != then->read_faults || now->flips != then->flips;
}

/* Once a life, when all is read: what was promised is there. */
static void check_promises(struct history *h, struct change *c)
{
    for (unsigned i = 0; i < h->model.n_keys; i++) {
        struct model_key *k = &h->model.keys[i];
        if (!k->obliged || k->held == k->obliged_version)
            continue;
        touched_now(h, k);
        if (k->touched) {
            say(h, "key %u: version %d is gone, as a fault (%u) had touched it", i, k->obliged_version,
                k->touched);
            h->counts->excused++;
        } else {
            say(h, "key %u: version %d is not found (disk %u, segment %u, offset %u)", i, k->obliged_version,
                k->at.disk, k->at.segment, k->at.offset);
            c->vanished++;
            c->one_of_them = i;
        }
        k->obliged = false;
    }
}

void look(struct history *h)
{
    struct change c = {0};
    struct store_stats stats;
    const struct sim_counts *counts = sim_counts(h->sim);
    bool dead = sim_dead(h->sim);
    store_stats(h->store, &stats);
    for (unsigned i = 0; i < h->model.n_keys; i++) {
        struct model_key *k = &h->model.keys[i];
        struct block *b = find(h, i);
        if (b)
            is_there(h, i, b);
        else if (k->held >= 0 && !dead)
            vanished(h, i, &c);
        if (faults_since(counts, &h->looked))
            touched_now(h, k);
    }
    h->looked = *counts;
    bool serving = store_state(h->store, NULL) == STORE_SERVING;
    if (serving && !h->serving && !dead) {
        say(h, "serving %" PRIu64 " blocks", stats.blocks);
        h->serving = true;
        check_promises(h, &c);
    }
    uint64_t evicted = stats.evicted_disk - h->evicted;
    h->evicted = stats.evicted_disk;
    if (c.vanished > evicted && !dead)
        LOST(h,
             "%u blocks are not found any more, key %u (version %d) among them, "
             "and %" PRIu64 " were evicted",
             c.vanished, c.one_of_them, h->model.keys[c.one_of_them].obliged_version, evicted);
}

/* ---- time ---- */

static uint64_t a_while(uint64_t *rng)
{
    uint64_t kind = random_below(rng, 20);
    return kind < 14   ? random_below(rng, 2 * NS_PER_MS)
           : kind < 19 ? random_below(rng, 50 * NS_PER_MS)
                       : random_below(rng, 4 * NS_PER_S);
}

void run(struct history *h)
{
    h->now += 1 + a_while(&h->rng);
    if (store_run(h->store, h->now))
        h->full = false;
    look(h);
    free_finished(h);
}

bool wait_serving(struct history *h)
{
    for (unsigned i = 0; alive(h) && !h->serving; i++) {
        run(h);
        if (i == STUCK)
            BROKEN(h, "it never ends reading its disks");
    }
    return alive(h);
}

/* Nothing waits any more: whatever no fault kept from the disks is on them. */
static void check_flushed(struct history *h)
{
    if (writes_failed(h))
        return;
    for (struct ack *a = h->acks; a; a = a->next)
        if (!a->finished)
            BROKEN(h, "key %u: all is flushed, and its durable ack is still to come", a->key);
    for (unsigned i = 0; i < h->model.n_keys && !h->failed; i++) {
        struct block *b = find(h, i);
        if (!b || wants_put(b) || h->model.keys[i].obliged || (!b->buf && b->segment == NO_SEGMENT))
            continue;
        uint64_t acks = h->counts->acks;
        ask_durable(h, i, b);
        if (h->counts->acks == acks)
            BROKEN(h, "key %u: all is flushed, and it is not durable", i);
    }
}

void wait_flushed(struct history *h)
{
    wait_serving(h);
    for (unsigned i = 0; alive(h) && !store_flushed(h->store); i++) {
        h->now += 20 * NS_PER_MS;
        run(h);
        if (i == STUCK && !writes_failed(h))
            BROKEN(h, "it never gets flushed");
        if (i >= STUCK)
            break;
    }
    if (alive(h))
        run(h); /* acks come from there */
    if (alive(h) && store_flushed(h->store))
        check_flushed(h);
}

void get_all(struct history *h)
{
    for (unsigned i = 0; alive(h) && i < h->model.n_keys; i++) {
        struct block *b = find(h, i);
        if (!b)
            continue;
        uint32_t pages = (uint32_t)layout_pages(&b->layout);
        for (uint32_t at = 0; at < pages; at += STORE_READ_PAGES)
            get(h, i, b, at, pages - at < STORE_READ_PAGES ? pages - at : STORE_READ_PAGES);
        if (i % 8 == 7)
            run(h);
    }
    for (unsigned i = 0; alive(h) && h->readings; i++) {
        run(h);
        if (i == STUCK)
            BROKEN(h, "a read never ends");
    }
}
