/* rebalance.c: see rebalance.h. A merge of the nodes' lists: every node gives its blocks in rising order, a
 * page at a time; the lowest key among those next in line is a block, and the nodes that have it next in line
 * are its holders. */
#include "decoder/tier/rebalance.h"
#include "decoder/tier/client_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { AT_ONCE = 8 };
static const uint64_t BURST_NS = 20 * NS_PER_MS; /* how far copying may run ahead of its rate */

struct entry {
    struct block_key key;
    uint64_t version;
    uint32_t bytes;
    bool damaged;
};

struct list {
    struct rebalance *owner;
    unsigned node;
    bool more, asked;
    uint64_t from;
    bool behind;
    struct block_key after, last; /* last: listed before, if any was */
    bool any;
    struct entry *entry;
    size_t n, next;
};

struct rebalance {
    struct client *client;
    struct rebalance_opts opts;
    struct rebalance_report report;
    uint64_t map_epoch;
    uint64_t now, next_move; /* time: no copy is begun before */
    unsigned moving;
    bool stopped, done;
    struct list list[PLACEMENT_MAX_NODES];
};

struct rebalance *rebalance_new(struct client *c, const struct rebalance_opts *o)
{
    struct rebalance *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    assert(c->map.n);
    r->client = c;
    r->opts = *o;
    r->map_epoch = c->map.epoch;
    r->opts.at_once = o->at_once ? o->at_once : AT_ONCE;
    for (unsigned i = 0; i < PLACEMENT_MAX_NODES; i++)
        if (is_member(c, i)) {
            r->list[i] = (struct list){.owner = r, .node = i, .more = true};
            strcpy(r->report.node[i].id, c->nodes[i].id);
        }
    return r;
}

void rebalance_free(struct rebalance *r)
{
    if (!r)
        return;
    for (unsigned i = 0; i < PLACEMENT_MAX_NODES; i++)
        free(r->list[i].entry);
    free(r);
}

void rebalance_stop(struct rebalance *r)
{
    r->stopped = true;
}

bool rebalance_done(const struct rebalance *r)
{
    return r->done;
}

const struct rebalance_report *rebalance_report(const struct rebalance *r)
{
    return &r->report;
}

/* ---- lists ---- */

static void give_up_list(struct list *l, const struct skv_error *why)
{
    struct rebalance_report *report = &l->owner->report;
    l->more = false;
    l->n = l->next = 0;
    report->node[l->node].absent = true;
    report->absent++;
    if (!report->failure.code)
        report->failure = *why;
}

static void note_namespaces(struct rebalance_report *report, const Scoutkv__Listed *m)
{
    for (size_t i = 0; i < m->n_other_namespaces; i++) {
        size_t k = 0;
        while (k < report->n_namespaces && report->namespaces[k] != m->other_namespaces[i])
            k++;
        if (k == report->n_namespaces && k < REBALANCE_NAMESPACES)
            report->namespaces[report->n_namespaces++] = m->other_namespaces[i];
    }
}

/* The page's blocks. -EPROTO if they are none, or not in order; -ENOMEM. */
static int take_entries(struct list *l, const Scoutkv__Listed *m)
{
    struct entry *grown = realloc(l->entry, (m->n_entries + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    l->entry = grown;
    l->n = l->next = 0;
    for (size_t i = 0; i < m->n_entries; i++) {
        struct entry *e = &l->entry[i];
        if (!key_from_wire(m->entries[i]->key, l->owner->client->opts.ns, &e->key) ||
            (l->any && key_compare(&l->last, &e->key) >= 0))
            return -EPROTO;
        e->version = m->entries[i]->version;
        e->bytes = m->entries[i]->bytes;
        e->damaged = m->entries[i]->damaged;
        l->last = e->key;
        l->any = true;
    }
    l->n = m->n_entries;
    l->more = m->more;
    l->from = m->from;
    l->behind = m->after != NULL;
    return m->after && !key_from_wire(m->after, l->owner->client->opts.ns, &l->after) ? -EPROTO : 0;
}

static void on_listed(void *arg, int rc, const struct message *reply, const struct skv_error *err)
{
    struct list *l = arg;
    struct skv_error own;
    char name[384];
    l->asked = false;
    if (rc == 0) {
        note_namespaces(&l->owner->report, reply->header->listed);
        rc = take_entries(l, reply->header->listed);
        if (rc)
            skv_fail(&own, rc,
                     rc == -EPROTO ? "%s lists its blocks out of order: use the same release on all ends"
                                   : "out of memory for the blocks that %s lists",
                     node_name(&l->owner->client->nodes[l->node], name));
        err = &own;
    }
    if (rc)
        give_up_list(l, err);
}

static void ask_page(struct list *l)
{
    struct client *c = l->owner->client;
    struct skv_error err;
    Scoutkv__Key after = SCOUTKV__KEY__INIT;
    Scoutkv__List list = SCOUTKV__LIST__INIT;
    after.chain = (ProtobufCBinaryData){CHAIN_BYTES, l->after.chain};
    after.layer = l->after.layer;
    list.from = l->from;
    list.after = l->behind ? &after : NULL;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_LIST;
    h.list = &list;
    l->asked = true;
    if (client_call(c, l->node, false, &h, (struct view){0}, SCOUTKV__HEADER__BODY_LISTED, on_listed, l,
                    c->now, &err)) {
        l->asked = false;
        give_up_list(l, &err);
    }
}

/* ---- one block ---- */

/* A version of it, and who holds that. */
struct found {
    uint64_t version, holders, hurt, targets;
};

/* The versions among the nodes in `at`, those first in rank first, with the places that each gets: what
 * client_move.c would do with them. */
static unsigned sort_out(struct rebalance *r, const struct block_key *key, uint64_t at,
                         struct found f[PLACEMENT_MAX_NODES])
{
    struct client *c = r->client;
    uint8_t order[PLACEMENT_MAX_NODES];
    unsigned n = 0;
    uint64_t claimed = 0;
    placement_rank(&c->map, key_hash(key), order);
    for (unsigned i = 0; i < c->map.n; i++) {
        if (!(at & node_bit(order[i])))
            continue;
        const struct list *l = &r->list[order[i]];
        const struct entry *e = &l->entry[l->next];
        unsigned v = 0;
        while (v < n && f[v].version != e->version)
            v++;
        if (v == n)
            f[n++] = (struct found){.version = e->version};
        *(e->damaged ? &f[v].hurt : &f[v].holders) |= node_bit(order[i]);
    }
    for (unsigned v = 0; v < n; v++) {
        f[v].targets = block_places(c, order, (at & ~(f[v].holders | f[v].hurt)) | claimed);
        claimed |= f[v].targets;
    }
    return n;
}

/* Counts it. True if something is out of place that can be put right. *copies: how many are to be made. */
static bool count_block(struct rebalance *r, const struct found *f, unsigned n, uint32_t bytes,
                        unsigned *copies)
{
    struct rebalance_report *report = &r->report;
    unsigned replicas = r->client->opts.replicas, missing = 0, elsewhere = 0;
    uint64_t whole = 0;
    *copies = 0;
    for (unsigned v = 0; v < n; v++) {
        uint64_t lacks = f[v].targets & ~f[v].holders, over = (f[v].holders | f[v].hurt) & ~f[v].targets;
        whole |= f[v].holders;
        missing += replicas - (unsigned)__builtin_popcountll(f[v].targets & f[v].holders);
        elsewhere += (unsigned)__builtin_popcountll(over);
        for (unsigned i = 0; i < PLACEMENT_MAX_NODES; i++) {
            report->node[i].missing += lacks >> i & 1;
            report->node[i].elsewhere += over >> i & 1;
            *copies += (lacks >> i & 1) && !report->node[i].absent;
        }
    }
    for (unsigned i = 0; i < PLACEMENT_MAX_NODES; i++)
        for (unsigned v = 0; v < n; v++)
            report->node[i].sole += f[v].holders == node_bit(i);
    report->blocks++;
    report->bytes += bytes;
    report->missing += missing;
    report->elsewhere += elsewhere;
    report->in_place += !missing && !elsewhere;
    report->conflicts += n > 1;
    report->lost += !whole;
    return *copies || elsewhere;
}

static void on_moved(void *arg, const struct move_result *m)
{
    struct rebalance *r = arg;
    struct rebalance_report *report = &r->report;
    r->moving--;
    if (m->rc == -ESTALE) { /* the pass ends, see rebalance_step */
        report->copied += m->copied;
        return;
    }
    report->copied += m->copied;
    report->copied_bytes += m->copied_bytes;
    report->dropped += m->dropped;
    report->leased += m->leased;
    report->failed += m->rc != 0;
    if (m->rc && !report->failure.code)
        report->failure = m->err;
}

static void begin_move(struct rebalance *r, const struct block_key *key, uint64_t bytes)
{
    struct move_opts opts = {.drop = true};
    r->moving++;
    if (client_move(r->client, key, &opts, on_moved, r)) {
        struct move_result none = {.rc = -ENOMEM, .err = {.code = -ENOMEM, .text = "out of memory"}};
        on_moved(r, &none);
        return;
    }
    if (r->opts.rate) {
        r->next_move = r->next_move > r->now ? r->next_move : r->now;
        r->next_move += (uint64_t)((double)bytes / (double)r->opts.rate * (double)NS_PER_S);
    }
}

/* ---- the merge ---- */

/* Asks for what is needed to go on. False: an answer has to come first. *any: some list has a block. */
static bool lists_ready(struct rebalance *r, bool *any)
{
    bool ready = true;
    *any = false;
    for (unsigned i = 0; i < PLACEMENT_MAX_NODES; i++) {
        struct list *l = &r->list[i];
        if (l->next == l->n && l->more && !l->asked)
            ask_page(l);
        ready = ready && !l->asked;
        *any = *any || l->next < l->n;
    }
    return ready;
}

/* The nodes whose next block is the lowest. */
static uint64_t lowest(const struct rebalance *r, unsigned *first)
{
    const struct entry *low = NULL;
    uint64_t at = 0;
    for (unsigned i = 0; i < PLACEMENT_MAX_NODES; i++) {
        const struct list *l = &r->list[i];
        if (l->next == l->n)
            continue;
        int order = low ? key_compare(&l->entry[l->next].key, &low->key) : -1;
        if (order < 0) {
            low = &l->entry[l->next];
            *first = i;
            at = 0;
        }
        at |= order <= 0 ? node_bit(i) : 0;
    }
    return at;
}

static void take_block(struct rebalance *r)
{
    struct found f[PLACEMENT_MAX_NODES];
    unsigned first = 0, copies;
    uint64_t at = lowest(r, &first);
    struct entry e = r->list[first].entry[r->list[first].next];
    unsigned n = sort_out(r, &e.key, at, f);
    for (unsigned i = 0; i < PLACEMENT_MAX_NODES; i++)
        if (at & node_bit(i)) {
            r->report.node[i].blocks++;
            r->report.node[i].bytes += r->list[i].entry[r->list[i].next].bytes;
            r->list[i].next++;
        }
    r->report.progress = (double)key_position(&e.key) * 0x1p-64;
    if (count_block(r, f, n, e.bytes, &copies) && !r->opts.dry)
        begin_move(r, &e.key, (uint64_t)copies * e.bytes);
}

static bool answers_open(const struct rebalance *r)
{
    bool open = r->moving > 0;
    for (unsigned i = 0; i < PLACEMENT_MAX_NODES; i++)
        open = open || r->list[i].asked;
    return open;
}

void rebalance_step(struct rebalance *r, uint64_t now)
{
    bool any;
    r->now = now;
    if (r->client->map.epoch != r->map_epoch)
        r->stopped = r->report.view_changed = true;
    if (r->stopped) {
        r->done = !answers_open(r);
        return;
    }
    while (!r->done && r->moving < r->opts.at_once && r->next_move <= now + BURST_NS) {
        if (!lists_ready(r, &any))
            return;
        if (any)
            take_block(r);
        else if (r->moving)
            return;
        else
            r->done = true;
    }
    if (r->done)
        r->report.progress = 1;
}
