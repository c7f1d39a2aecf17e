/* trace_replay.c: see trace_replay.h. Blocks are made outside of what is timed. */
#include "decoder/cli/trace_replay.h"
#include "common/clock.h"
#include "common/pool.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/tier/tier.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum { BATCH_BYTES = 16 << 20 }; /* made at a time */

struct replay {
    struct replay_opts o;
    size_t pages, block_bytes; /* of a block */
    struct replay_counts counts;
    struct skv_error failure; /* the first of the request's answers; code 0: none */
    /* Of the request under way, one (or `pages`) a block. */
    size_t room;
    struct block_key *keys;
    bool *present;
    struct buf **payload;
    uint64_t *checksums;     /* [room][pages] */
    struct tier_want *wants; /* [room][pages] */
};

struct replay *replay_new(const struct replay_opts *o)
{
    struct replay *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->o = *o;
    r->pages = layout_pages(&o->layout);
    r->block_bytes = layout_block_bytes(&o->layout);
    return r;
}

static void drop_room(struct replay *r)
{
    free(r->keys);
    free(r->present);
    free(r->payload);
    free(r->checksums);
    free(r->wants);
}

void replay_free(struct replay *r)
{
    if (!r)
        return;
    drop_room(r);
    free(r);
}

const struct replay_counts *replay_counts(const struct replay *r)
{
    return &r->counts;
}

/* Room for n blocks; what was there is lost. */
static int reserve(struct replay *r, size_t n, struct skv_error *err)
{
    if (n <= r->room)
        return 0;
    drop_room(r);
    r->room = 0;
    r->keys = calloc(n, sizeof *r->keys);
    r->present = calloc(n, sizeof *r->present);
    r->payload = calloc(n, sizeof(struct buf *));
    r->checksums = calloc(n * r->pages, sizeof *r->checksums);
    r->wants = calloc(n * r->pages, sizeof *r->wants);
    if (!r->keys || !r->present || !r->payload || !r->checksums || !r->wants)
        return skv_fail(err, -ENOMEM, "out of memory");
    r->room = n;
    return 0;
}

/* ---- making blocks ---- */

struct making {
    struct replay *r;
    const struct trace_request *request;
    size_t first;
    bool keep; /* the bytes, too; else only their checksums */
};

static void make_one(void *arg, unsigned part)
{
    const struct making *m = arg;
    struct replay *r = m->r;
    size_t i = m->first + part;
    if (load_block(&r->o.layout, r->o.ns, r->o.seed, m->request->ids[i], &r->keys[i], &r->payload[i],
                   r->checksums + i * r->pages))
        return; /* payload stays NULL */
    if (!m->keep)
        buf_unref(r->payload[i]);
}

/* Keys and checksums of blocks [first, first + n), and (keep) their bytes, to be dropped by the caller. */
static int make_blocks(struct replay *r, const struct trace_request *q, size_t first, size_t n, bool keep,
                       struct skv_error *err)
{
    struct making m = {r, q, first, keep};
    bool short_of = false;
    pool_run(r->o.pool, (unsigned)n, make_one, &m);
    for (size_t i = first; i < first + n; i++)
        short_of |= !r->payload[i];
    for (size_t i = first; i < first + n && short_of && keep; i++)
        buf_unref(r->payload[i]);
    return short_of ? skv_fail(err, -ENOMEM, "out of memory") : 0;
}

/* ---- lookup ---- */

/* *prefix: how many of the first blocks some node has. */
static int look_up(struct replay *r, const struct trace_request *q, size_t *prefix, struct skv_error *err)
{
    for (size_t i = 0; i < q->n; i++)
        load_key(&r->o.layout, r->o.ns, r->o.seed, q->ids[i], &r->keys[i]);
    uint64_t start = clock_ns();
    int rc = tier_have(r->o.tier, r->keys, q->n, r->present, err);
    if (rc)
        return rc;
    hist_add(&r->counts.lookup, clock_ns() - start);
    *prefix = 0;
    while (*prefix < q->n && r->present[*prefix])
        ++*prefix;
    for (size_t i = *prefix; i < q->n; i++)
        r->counts.stranded_blocks += r->present[i];
    return 0;
}

/* ---- fetch ---- */

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct replay *r = arg;
    size_t block = want / r->pages;
    (void)bytes; /* that the tier handed them out means that they are what was asked for */
    if (rc == 0) {
        r->counts.fetched_bytes += layout_page_bytes(&r->o.layout);
    } else if (rc == -ENODATA) {
        r->counts.gone_blocks += r->present[block];
        r->present[block] = false;
    } else if (!r->failure.code) {
        skv_fail(&r->failure, rc,
                 rc == -EBADMSG ? "pages came with bytes other than those that were stored"
                                : "a memory node was lost during a fetch: see `scoutkv stats`");
    }
}

/* Fetches the first n blocks. *hits: how many came before the first that did not. */
static int fetch(struct replay *r, const struct trace_request *q, size_t n, size_t *hits,
                 struct skv_error *err)
{
    struct tier_fetch *f;
    int rc = 0;
    *hits = 0;
    for (size_t at = 0, part = BATCH_BYTES / r->block_bytes; at < n && !rc; at += part)
        rc = make_blocks(r, q, at, n - at < part ? n - at : part, false, err);
    if (rc || !n)
        return rc;
    for (size_t i = 0; i < n * r->pages; i++)
        r->wants[i] = (struct tier_want){&r->keys[i / r->pages], (uint16_t)(i % r->pages / BLOCK_PAGES),
                                         (uint8_t)(i % BLOCK_PAGES), r->checksums[i]};
    uint64_t start = clock_ns();
    rc = tier_fetch_begin(r->o.tier, &r->o.layout, r->wants, n * r->pages, on_page, r, &f, err);
    if (rc)
        return rc;
    rc = tier_fetch_end(r->o.tier, f, err);
    hist_add(&r->counts.fetch, clock_ns() - start);
    if (rc && rc != -ENODATA && rc == r->failure.code)
        return rc; /* err says which page it was */
    if (r->failure.code)
        return skv_fail(err, r->failure.code, "%s", r->failure.text);
    while (*hits < n && r->present[*hits])
        ++*hits;
    return 0;
}

/* ---- put ---- */

static void on_put(void *arg, const struct tier_put_result *put)
{
    struct replay *r = arg;
    if (put->rc == -ENOSPC)
        r->counts.full_blocks++;
    else if (put->rc && !r->failure.code)
        r->failure = *put->err;
    else if (put->stored && !r->failure.code)
        skv_fail(
            &r->failure, -EBADMSG,
            "a node has a block under the same key with other bytes: give another --seed or --namespace");
}

/* Queues blocks [first, first + n). */
static int put_batch(struct replay *r, size_t first, size_t n, struct skv_error *err)
{
    int rc = 0;
    for (size_t i = first; i < first + n; i++) {
        if (!rc) {
            rc = tier_put(r->o.tier, &r->keys[i], &r->o.layout, r->payload[i], r->checksums + i * r->pages,
                          TIER_ACK_RAM, on_put, r, err);
            r->counts.put_blocks += !rc;
            r->counts.put_bytes += rc ? 0 : r->block_bytes;
        }
        buf_unref(r->payload[i]);
    }
    return rc;
}

static int put_rest(struct replay *r, const struct trace_request *q, size_t first, struct skv_error *err)
{
    uint64_t spent = 0;
    int rc = 0;
    for (size_t at = first, part = BATCH_BYTES / r->block_bytes; at < q->n && !rc && !r->failure.code;
         at += part) {
        size_t n = q->n - at < part ? q->n - at : part;
        rc = make_blocks(r, q, at, n, true, err);
        uint64_t start = clock_ns();
        if (!rc)
            rc = put_batch(r, at, n, err);
        spent += clock_ns() - start;
    }
    uint64_t start = clock_ns();
    tier_flush(r->o.tier, NULL); /* on_put has heard of every failure */
    spent += clock_ns() - start;
    if (!rc && first < q->n)
        hist_add(&r->counts.put, spent);
    if (!rc && r->failure.code)
        rc = skv_fail(err, r->failure.code, "%s", r->failure.text);
    return rc;
}

int replay_request(struct replay *r, const struct trace_request *q, size_t *hits, struct skv_error *err)
{
    assert(r->block_bytes <= BATCH_BYTES);
    size_t prefix;
    *hits = 0;
    r->counts.requests += !q->n;
    if (!q->n)
        return 0; /* a prompt shorter than a block */
    r->failure.code = 0;
    int rc = reserve(r, q->n, err);
    if (!rc)
        rc = look_up(r, q, &prefix, err);
    if (!rc)
        rc = fetch(r, q, prefix, hits, err);
    if (!rc)
        rc = put_rest(r, q, *hits, err);
    if (rc)
        return rc;
    r->counts.requests++;
    r->counts.hit_blocks += *hits;
    r->counts.hit_tokens += trace_prefix_tokens(q, *hits);
    return 0;
}
