/* node_harness.h: a memory node's core on a transport of arrays, and a message of every kind. For
 * test_node.c, test_proto.c and fuzz_node.c. Every request travels through its wire form, as it would in
 * life. */
#ifndef TESTS_NODE_HARNESS_H
#define TESTS_NODE_HARNESS_H

#include "common/clock.h"
#include "memnode/node.h"
#include "proto/message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { H_MAX_SENT = 4096, H_BULK = 1, H_READ = 2, H_OTHER = 3 };

struct harness {
    struct node *node;
    uint64_t now, next_id;
    struct {
        uint8_t peer;
        struct message m;
    } sent[H_MAX_SENT];
    size_t n_sent;
    size_t room; /* messages that the transport takes before it says -EAGAIN */
    int send_rc; /* if not 0: what the transport says instead */
    struct skv_error err;
};

static inline void h_die(const char *what)
{
    fprintf(stderr, "test harness: %s\n", what);
    abort();
}

static inline int h_send(void *arg, const struct node_peer *p, struct buf *header, const struct view *payload)
{
    struct harness *h = (struct harness *)arg;
    struct view none = {0};
    uint64_t id;
    if (h->send_rc)
        return h->send_rc;
    if (h->n_sent >= h->room)
        return -EAGAIN;
    bool has = payload && payload->len;
    int rc = message_parse(&h->sent[h->n_sent].m, header->data, header->len, has ? 2 : 1,
                           has ? *payload : none, &id, &h->err);
    if (rc)
        h_die(h->err.text); /* a node must never send what its own parser refuses */
    h->sent[h->n_sent++].peer = p->id[0];
    return 0;
}

static inline void h_clear(struct harness *h)
{
    for (size_t i = 0; i < h->n_sent; i++)
        message_clear(&h->sent[i].m);
    h->n_sent = 0;
}

static inline struct harness *h_new(const struct node_opts *opts)
{
    struct harness *h = (struct harness *)calloc(1, sizeof *h);
    if (!h)
        h_die("out of memory");
    h->now = 1000 * NS_PER_S;
    h->room = H_MAX_SENT;
    h->node = node_new(opts, h_send, h, &h->err);
    if (!h->node)
        h_die(h->err.text);
    return h;
}

static inline void h_free(struct harness *h)
{
    h_clear(h);
    node_free(h->node);
    free(h);
}

static inline struct node_peer h_peer(uint8_t peer)
{
    return (struct node_peer){.len = 5, .id = {peer, 1, 2, 3, 4}};
}

/* Hands a node the bytes of one message, as the shell does. */
static inline void h_bytes(struct harness *h, uint8_t peer, const void *frame, size_t len, unsigned n_frames,
                           struct view payload)
{
    struct node_peer p = h_peer(peer);
    struct message m;
    uint64_t id;
    int rc = message_parse(&m, frame, len, n_frames, payload, &id, &h->err);
    if (rc)
        node_malformed(h->node, &p, id, rc, h->err.text, h->now);
    else
        node_receive(h->node, &p, &m, h->now);
    message_clear(&m);
}

/* Sends a request without running what waits; returns its id. */
static inline uint64_t h_request(struct harness *h, uint8_t peer, Scoutkv__Header *header,
                                 struct buf *payload)
{
    header->version = header->version ? header->version : PROTO_VERSION_MAX;
    header->id = ++h->next_id;
    struct buf *b = header_pack(header);
    struct view v = payload ? (struct view){payload->data, payload->len, payload} : (struct view){0};
    h_bytes(h, peer, b->data, b->len, payload ? 2 : 1, v);
    buf_unref(b);
    return header->id;
}

/* Sends a request and lets the node finish; the answers are h->sent. Returns the first, or NULL. */
static inline const Scoutkv__Header *h_ask(struct harness *h, uint8_t peer, Scoutkv__Header *header,
                                           struct buf *payload)
{
    h_clear(h);
    h_request(h, peer, header, payload);
    while (node_run(h->node, h->now) == NODE_BUSY)
        ;
    return h->n_sent ? h->sent[0].m.header : NULL;
}

/* Declares a header of this kind around a body. */
#define H_HEADER(NAME, CASE, field, contents)      \
    Scoutkv__Header NAME = SCOUTKV__HEADER__INIT;  \
    NAME.body_case = SCOUTKV__HEADER__BODY_##CASE; \
    NAME.field = (contents)

static inline const Scoutkv__Header *h_hello_with(struct harness *h, uint8_t peer, uint32_t vmin,
                                                  uint32_t vmax, const char *cluster, uint64_t ns, bool bulk)
{
    Scoutkv__Hello hello = SCOUTKV__HELLO__INIT;
    hello.version_min = vmin;
    hello.version_max = vmax;
    hello.cluster = (char *)(uintptr_t)cluster;
    hello.namespace_ = ns;
    hello.client = (char *)(uintptr_t) "test";
    hello.bulk = bulk;
    H_HEADER(header, HELLO, hello, &hello);
    return h_ask(h, peer, &header, NULL);
}

/* HELLO on a lane of the default cluster. */
static inline void h_hello(struct harness *h, uint8_t peer, uint64_t ns, bool bulk)
{
    const Scoutkv__Header *a =
        h_hello_with(h, peer, PROTO_VERSION_MIN, PROTO_VERSION_MAX, "default", ns, bulk);
    if (!a || a->body_case != SCOUTKV__HEADER__BODY_HELLO_ACK)
        h_die("HELLO was not acknowledged");
}

/* A core with two lanes that have said HELLO: H_BULK and H_READ. */
static inline struct harness *h_ready(uint64_t ram)
{
    struct harness *h = h_new(&(struct node_opts){.id = "n1", .ram = ram});
    h_hello(h, H_BULK, 0, true);
    h_hello(h, H_READ, 0, false);
    h_clear(h);
    return h;
}

/* ---- blocks ---- */

enum { H_MAX_PAGES = 64 };

/* A block whose bytes follow from its number. */
struct h_block {
    struct block_key key;
    struct block_layout layout;
    uint64_t checksums[H_MAX_PAGES];
    size_t n_pages, page_bytes;
    struct buf *payload;
    Scoutkv__Key wire_key;
    Scoutkv__Layout wire_layout;
};

static inline void h_block_sized(struct h_block *b, uint64_t ns, uint32_t number, struct block_layout layout)
{
    *b = (struct h_block){.key = {.ns = ns, .layer = number % 7}, .layout = layout};
    for (int i = 0; i < CHAIN_BYTES; i++)
        b->key.chain[i] = (uint8_t)(number >> i % 4 * 8) ^ (uint8_t)(i * 37);
    b->n_pages = layout_pages(&layout);
    b->page_bytes = layout_page_bytes(&layout);
    if (b->n_pages > H_MAX_PAGES)
        h_die("a test block has too many pages");
    b->payload = buf_new(layout_block_bytes(&layout));
    for (size_t i = 0; i < b->payload->len; i++)
        b->payload->data[i] = (uint8_t)(i * 131 + number * 17 + (i >> 8));
    block_checksums(&b->key, &layout, b->payload->data, b->checksums);
    scoutkv__key__init(&b->wire_key);
    b->wire_key.chain = (ProtobufCBinaryData){CHAIN_BYTES, b->key.chain};
    b->wire_key.layer = b->key.layer;
    scoutkv__layout__init(&b->wire_layout);
    b->wire_layout.dtype = layout.dtype;
    b->wire_layout.d_k = layout.d_k;
    b->wire_layout.d_v = layout.d_v;
    b->wire_layout.head0 = layout.head0;
    b->wire_layout.n_heads = layout.n_heads;
}

/* 2 heads of d = 64 in f16: 8 pages of 4 KiB. */
static inline void h_block(struct h_block *b, uint64_t ns, uint32_t number)
{
    h_block_sized(b, ns, number, (struct block_layout){.dtype = 1, .d_k = 64, .d_v = 64, .n_heads = 2});
}

static inline void h_block_free(struct h_block *b)
{
    buf_unref(b->payload);
}

static inline Scoutkv__Put h_put_of(struct h_block *b)
{
    Scoutkv__Put put = SCOUTKV__PUT__INIT;
    put.key = &b->wire_key;
    put.layout = &b->wire_layout;
    put.n_checksums = b->n_pages;
    put.checksums = b->checksums;
    return put;
}

static inline const Scoutkv__Header *h_put(struct harness *h, uint8_t peer, struct h_block *b)
{
    Scoutkv__Put put = h_put_of(b);
    H_HEADER(header, PUT, put, &put);
    return h_ask(h, peer, &header, b->payload);
}

/* ---- counters ---- */

static inline uint64_t h_counter(struct harness *h, const char *name)
{
    Scoutkv__Stats stats = SCOUTKV__STATS__INIT;
    H_HEADER(header, STATS, stats, &stats);
    h_clear(h);
    h_hello(h, 200, 0, false);
    const Scoutkv__Header *a = h_ask(h, 200, &header, NULL);
    if (!a || a->body_case != SCOUTKV__HEADER__BODY_STATS_ACK)
        h_die("STATS was not answered");
    for (size_t i = 0; i < a->stats_ack->n_counters; i++)
        if (strcmp(a->stats_ack->counters[i]->name, name) == 0)
            return a->stats_ack->counters[i]->value;
    h_die(name);
    return 0;
}

/* ---- a message of every kind ---- */

enum { H_KINDS = 27 };

/* Packs the kind-th message (0..H_KINDS-1) about this block. */
static inline struct buf *h_sample(unsigned kind, struct h_block *b, uint64_t id)
{
    Scoutkv__Key *keys[2] = {&b->wire_key, &b->wire_key};
    float keep[2] = {0.5f, 2};
    uint32_t masks[2] = {0xf, 0xf}, indexes[3] = {0, 1, 200};
    char *names[2] = {(char *)(uintptr_t) "one", (char *)(uintptr_t) "two"};
    uint8_t bytes[16] = {1, 2, 3};
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.version = PROTO_VERSION_MAX;
    h.id = id;
    h.epoch = kind;
    struct buf *out = NULL;
#define SAMPLE(NUMBER, CASE, TYPE, INIT, field, ...)    \
    case NUMBER: {                                      \
        Scoutkv__##TYPE body = SCOUTKV__##INIT##__INIT; \
        __VA_ARGS__                                     \
        h.body_case = SCOUTKV__HEADER__BODY_##CASE;     \
        h.field = &body;                                \
        out = header_pack(&h);                          \
        break;                                          \
    }
    switch (kind) {
        SAMPLE(0, HELLO, Hello, HELLO, hello, body.version_min = 1; body.version_max = 1;
               body.cluster = (char *)(uintptr_t) "default"; body.client = names[0]; body.bulk = true;)
        SAMPLE(1, PUT, Put, PUT, put, body = h_put_of(b);)
        SAMPLE(2, GET, Get, GET, get, Scoutkv__Get__Want w = SCOUTKV__GET__WANT__INIT;
               Scoutkv__Get__Want * wants[] = {&w}; w.key = &b->wire_key; w.n_masks = 2; w.masks = masks;
               w.n_checksums = b->n_pages; w.checksums = b->checksums; body.n_wants = 1; body.wants = wants;)
        SAMPLE(3, HAVE, Have, HAVE, have, body.n_keys = 2; body.keys = keys;)
        SAMPLE(4, HINT, Hint, HINT, hint, body.n_keys = 2; body.keys = keys; body.n_keep = 2;
               body.keep = keep;)
        SAMPLE(5, PIN, Pin, PIN, pin, body.owner = names[0]; body.n_keys = 2; body.keys = keys;
               body.ttl_ms = 1000;)
        SAMPLE(6, UNPIN, Unpin, UNPIN, unpin, body.owner = names[0]; body.n_keys = 1; body.keys = keys;)
        SAMPLE(7, OBJECT_PUT, ObjectPut, OBJECT_PUT, object_put, body.name = names[0];
               body.checksum =
                   object_checksum(SCOUTKV__OBJECT_KIND__MANIFEST, "one", b->payload->data, b->payload->len);)
        SAMPLE(8, OBJECT_GET, ObjectGet, OBJECT_GET, object_get, body.name = names[0];)
        SAMPLE(9, OBJECT_LIST, ObjectList, OBJECT_LIST, object_list, body.prefix = names[0];
               body.after = names[1];)
        SAMPLE(10, STATS, Stats, STATS, stats, )
        SAMPLE(11, PING, Ping, PING, ping, )
        SAMPLE(12, DROP, Drop, DROP, drop, body.n_keys = 2; body.keys = keys;)
        SAMPLE(13, HELLO_ACK, HelloAck, HELLO_ACK, hello_ack, body.version = 1; body.node = names[0];
               body.incarnation.len = 16; body.incarnation.data = bytes; body.put_credit = 1 << 20;)
        SAMPLE(14, PUT_ACK, PutAck, PUT_ACK, put_ack, body.result = SCOUTKV__PUT_ACK__RESULT__EXISTS;
               body.n_checksums = b->n_pages; body.checksums = b->checksums;)
        SAMPLE(15, PAGES, Pages, PAGES, pages, body.n_found = 3; body.found = indexes; body.n_missed = 2;
               body.missed = masks; body.last = true; body.page_bytes = 4096;)
        SAMPLE(16, HAVE_ACK, HaveAck, HAVE_ACK, have_ack, body.present.len = 3; body.present.data = bytes;)
        SAMPLE(17, OBJECT, Object, OBJECT, object, body.found = true; body.checksum = 7; body.revision = 3;)
        SAMPLE(18, OBJECT_NAMES, ObjectNames, OBJECT_NAMES, object_names, body.n_names = 2;
               body.names = names; body.more = true; protobuf_c_boolean dropped[2] = {false, true};
               uint64_t revisions[2] = {3, 4}; body.n_revisions = 2; body.revisions = revisions;
               body.n_dropped = 2; body.dropped = dropped;)
        SAMPLE(19, STATS_ACK, StatsAck, STATS_ACK, stats_ack,
               Scoutkv__StatsAck__Counter c = SCOUTKV__STATS_ACK__COUNTER__INIT;
               Scoutkv__StatsAck__Counter * cs[] = {&c}; c.name = names[1]; c.value = 5; body.n_counters = 1;
               body.counters = cs;)
        SAMPLE(20, PONG, Pong, PONG, pong, body.incarnation.len = 16; body.incarnation.data = bytes;)
        SAMPLE(21, DONE, Done, DONE, done, body.count = 2; body.revision = 9;)
        SAMPLE(22, REFUSED, Refused, REFUSED, refused, body.reason = SCOUTKV__REFUSED__REASON__FULL;
               body.text = names[0];)
        SAMPLE(23, OBJECT_DROP, ObjectDrop, OBJECT_DROP, object_drop, body.name = names[0];
               body.revision = 9;)
        SAMPLE(24, VIEW_PUT, ViewPut, VIEW_PUT, view_put, body.epoch = 3;)
        SAMPLE(25, VIEW_GET, ViewGet, VIEW_GET, view_get, )
        SAMPLE(26, VIEW, View, VIEW, view, body.epoch = 3;)
    }
#undef SAMPLE
    if (!out)
        h_die("no such kind of message");
    return out;
}

#endif
