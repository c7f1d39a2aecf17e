/* node_leases.c: PIN and UNPIN, and how leases outlive the process.
 *
 * DESIGN. On a node with disks every PIN leaves an object of the node's own kind, which ends with its leases:
 * who, and which of the blocks that were named are here. Its name follows from the owner and the keys that
 * were asked for, so a PIN that is repeated finds it and moves its end. PIN is answered when that is on the
 * medium. UNPIN of all drops the owner's objects; what an UNPIN of some keys gave back may be leased again
 * after a restart, until the end that it had. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    LEASE_ROOM = 4096, /* holds a lease and its owner's name */
    FINDING = 4,       /* objects being read at once */
};
#define REASON(x) SCOUTKV__REFUSED__REASON__##x

/* The bytes of such an object: this, then the keys. */
struct kept_head {
    char owner[OWNER_NAME_MAX + 1];
    uint64_t n;
};
struct kept_key {
    uint8_t chain[CHAIN_BYTES];
    uint32_t layer;
};
_Static_assert(sizeof(struct kept_head) == 264 && sizeof(struct kept_key) == 36, "on disk");
_Static_assert(sizeof(struct kept_head) + PROTO_MAX_HEADER <= PROTO_MAX_OBJECT,
               "the keys of one PIN, each of more than 36 bytes there, fit into an object");

static bool owner_acceptable(struct call *c, const char *owner)
{
    size_t len = strlen(owner);
    if (len >= 1 && len <= OWNER_NAME_MAX)
        return true;
    call_refuse_malformed(c, 0, "a lease's owner is a name of 1 to 255 bytes");
    return false;
}

static int take(struct node *n, const char *owner, struct block *b, uint64_t until)
{
    lease_owner(n->leases, b, n->now); /* ended ones make room */
    int rc = lease_take(n->leases, owner, b, until);
    if (rc == -ENOSPC && store_make_room(n->store, LEASE_ROOM))
        rc = lease_take(n->leases, owner, b, until);
    return rc;
}

/* ---- on disks ---- */

struct kept_name {
    char text[48]; /* all of one owner begin alike */
};

static struct kept_name kept_prefix(const char *owner)
{
    struct kept_name name;
    snprintf(name.text, sizeof name.text, "%016" PRIx64 "/", XXH3_64bits(owner, strlen(owner)));
    return name;
}

static struct kept_name kept_name(const Scoutkv__Pin *pin)
{
    struct kept_name name = kept_prefix(pin->owner);
    XXH3_state_t hash;
    XXH3_128bits_reset(&hash);
    for (size_t i = 0; i < pin->n_keys; i++) {
        XXH3_128bits_update(&hash, pin->keys[i]->chain.data, CHAIN_BYTES);
        XXH3_128bits_update(&hash, &pin->keys[i]->layer, sizeof pin->keys[i]->layer);
    }
    XXH128_hash_t h = XXH3_128bits_digest(&hash);
    size_t at = strlen(name.text);
    snprintf(name.text + at, sizeof name.text - at, "%015" PRIx64 "%015" PRIx64, h.high64 >> 4, h.low64 >> 4);
    return name;
}

/* Keeps the leases of a PIN. 0: *name is what they are kept under; or as object_store. */
static int keep(struct call *c, const Scoutkv__Pin *pin, struct block *const *blocks, uint32_t done,
                uint64_t until, struct kept_name *name, struct skv_error *err)
{
    struct node *n = c->node;
    size_t len = sizeof(struct kept_head) + done * sizeof(struct kept_key);
    struct kept_head *head = calloc(1, len);
    if (!head)
        return skv_fail(err, -ENOSPC, "node '%s' is out of memory", n->id);
    struct kept_key *key = (struct kept_key *)(head + 1);
    strcpy(head->owner, pin->owner);
    for (size_t i = 0; i < pin->n_keys; i++)
        if (blocks[i]) {
            memcpy(key->chain, blocks[i]->key.chain, CHAIN_BYTES);
            key->layer = blocks[i]->key.layer;
            key++;
            head->n++;
        }
    *name = kept_name(pin);
    objects_tick(n->objects, c->now);
    const struct object *held = object_find(n->objects, c->lane->ns, OBJECT_LEASES, name->text);
    struct object_version v = {.revision = held ? held->revision + 1 : 1,
                               .checksum = object_checksum(OBJECT_LEASES, name->text, head, len),
                               .until = until,
                               .bytes = head,
                               .len = len};
    bool same = held && !held->dropped && held->checksum == v.checksum;
    int rc = same && object_move_end(n->objects, held, until)
                 ? 0
                 : object_store(n->objects, c->lane->ns, OBJECT_LEASES, name->text, &v, err);
    free(head);
    return rc;
}

/* Forgets what is kept for this owner: a mark remains until the leases would have ended. */
static void unkeep(struct call *c, const char *owner)
{
    enum { SOME = 64 };
    struct node *n = c->node;
    struct kept_name prefix = kept_prefix(owner), after = {""};
    const struct object *found[SOME];
    bool more = true;
    while (more) {
        size_t m = objects_list(n->objects, c->lane->ns, OBJECT_LEASES, prefix.text, after.text, false, found,
                                SOME, &more);
        struct kept_name names[SOME];
        for (size_t i = 0; i < m; i++)
            strcpy(names[i].text, found[i]->name);
        for (size_t i = 0; i < m; i++) {
            const struct object *o = object_find(n->objects, c->lane->ns, OBJECT_LEASES, names[i].text);
            struct object_version v = {
                .revision = o->revision + 1, .until = o->until_stored, .dropped = true, .makes_room = true};
            (void)object_store(n->objects, c->lane->ns, OBJECT_LEASES, names[i].text, &v, NULL);
            after = names[i];
        }
    }
}

/* ---- restart ---- */

struct finding {
    struct node *node;
    uint64_t ns, until;
    size_t len;
};

static void find_leases(struct node *n, uint64_t ns, uint64_t until, const uint8_t *bytes, size_t len)
{
    struct kept_head head;
    size_t lost = 0;
    memcpy(&head, bytes, sizeof head);
    if (head.owner[OWNER_NAME_MAX] || head.n > len || len != sizeof head + head.n * sizeof(struct kept_key))
        return;
    for (uint64_t i = 0; i < head.n; i++) {
        struct kept_key kept;
        memcpy(&kept, bytes + sizeof head + i * sizeof kept, sizeof kept);
        struct block_key key = {.ns = ns, .layer = kept.layer};
        memcpy(key.chain, kept.chain, CHAIN_BYTES);
        struct block *b = store_find(n->store, &key);
        lost += b && take(n, head.owner, b, until);
    }
    if (lost)
        log_write(n->log, LOG_LEVEL_WARN, "%zu leases of '%.255s' found no memory", lost, head.owner);
}

static void leases_read(void *arg, struct buf *buf, uint32_t n_bad)
{
    struct finding *f = arg;
    struct node *n = f->node;
    n->leases_reading--;
    if (n->leases && buf && n_bad == 0)
        find_leases(n, f->ns, f->until, buf->data + OBJECT_HEAD, f->len);
    else if (n->leases)
        log_write(n->log, LOG_LEVEL_ERROR, "leases are damaged on the disk, and lost");
    buf_unref(buf);
    free(f);
}

static void find_one(struct node *n, const struct object *o)
{
    struct block *b = object_block(n->objects, o);
    if (!b || o->len < sizeof(struct kept_head) || o->until <= n->now)
        return;
    if (b->buf) {
        find_leases(n, o->ns, o->until, b->buf->data + OBJECT_HEAD, o->len);
        return;
    }
    struct finding *f = malloc(sizeof *f);
    if (f)
        *f = (struct finding){n, o->ns, o->until, o->len};
    n->leases_reading += f != NULL;
    if (f && store_load(n->store, b, leases_read, f))
        leases_read(f, NULL, 0);
}

int leases_find(struct node *n)
{
    const struct object *o = NULL;
    while (n->leases_reading < FINDING && (o = objects_next(n->objects, &n->leases_at, OBJECT_LEASES)))
        find_one(n, o);
    return n->leases_reading ? 2 : 0;
}

/* ---- the operations ---- */

/* Answers a PIN that has leased `done` blocks. -EAGAIN: not now. */
static int keep_and_answer(struct call *c, const Scoutkv__Pin *pin, struct block *const *blocks,
                           uint32_t done, uint64_t until)
{
    struct skv_error why = {0};
    struct kept_name name;
    int rc = c->node->n_disks && done ? keep(c, pin, blocks, done, until, &name, &why) : -EROFS;
    if (rc == 0)
        object_settle(c, OBJECT_LEASES, name.text, SCOUTKV__ACK__DURABLE, done);
    else if (rc == -EROFS) /* in RAM, for this life */
        call_answer_done(c, done, 0);
    else if (rc != -EAGAIN)
        call_refuse_full(c, 0, &why);
    return rc == -EAGAIN ? rc : 0;
}

int pin_now(struct call *c)
{
    struct node *n = c->node;
    const Scoutkv__Pin *pin = c->message->header->pin;
    uint64_t until = c->now + pin->ttl_ms * NS_PER_MS;
    uint32_t done = 0;
    int rc = 0;
    struct block **blocks = call_find_blocks(c, pin->keys, pin->n_keys, true);
    if (!blocks)
        return 0;
    for (size_t i = 0; i < pin->n_keys && rc == 0; i++)
        if (blocks[i]) {
            rc = take(n, pin->owner, blocks[i], until);
            done += rc == 0;
        }
    if (rc == -EMLINK)
        call_refuse(c, REASON(FULL), 0,
                    "a block has %d leases, which is the limit; %u of the blocks were leased before it",
                    LEASES_PER_BLOCK, done);
    else if (rc)
        call_refuse_full(c, 0, NULL);
    else
        rc = keep_and_answer(c, pin, blocks, done, until);
    free(blocks);
    return rc == -EAGAIN ? rc : 0;
}

void op_pin(struct call *c)
{
    const Scoutkv__Pin *pin = c->message->header->pin;
    c->node->counters.pins++;
    if (view_stale(c, 0) || !owner_acceptable(c, pin->owner))
        return;
    if (node_starting(c->node))
        call_refuse_starting(c, 0);
    else if (pin_now(c))
        object_park(c);
}

void op_unpin(struct call *c)
{
    struct node *n = c->node;
    const Scoutkv__Unpin *unpin = c->message->header->unpin;
    uint32_t done = 0;
    n->counters.unpins++;
    if (!owner_acceptable(c, unpin->owner))
        return;
    if (node_starting(n))
        return call_refuse_starting(c, 0);
    if (unpin->n_keys == 0) {
        unkeep(c, unpin->owner);
        return call_answer_done(c, (uint32_t)lease_end_all(n->leases, c->lane->ns, unpin->owner), 0);
    }
    struct block **blocks = call_find_blocks(c, unpin->keys, unpin->n_keys, false);
    if (!blocks)
        return;
    for (size_t i = 0; i < unpin->n_keys; i++)
        done += blocks[i] && lease_end(n->leases, unpin->owner, blocks[i]);
    free(blocks);
    call_answer_done(c, done, 0);
}
