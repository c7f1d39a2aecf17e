/* test_node.c: the memory node's core, operation by operation, then what must not kill it, then the embedded
 * shell. */
#include "memnode/server.h"
#include "tests/unit/node_asserts.h"

/* ---- HELLO and PING ---- */

static void hello(void **state)
{
    (void)state;
    uint64_t ns[] = {0, 7};
    struct harness *h =
        h_new(&(struct node_opts){.id = "n1", .cluster = "blue", .ns = ns, .n_ns = 2, .put_credit = 5 * MIB});
    const Scoutkv__Header *a = h_hello_with(h, H_BULK, 1, 9, "blue", 7, true);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_HELLO_ACK);
    assert_int_equal(a->hello_ack->version, 1);
    assert_string_equal(a->hello_ack->node, "n1");
    assert_int_equal(a->hello_ack->incarnation.len, 16);
    assert_int_equal(a->hello_ack->put_credit, 5 * MIB);
    assert_int_equal(a->hello_ack->max_block, PROTO_MAX_PAYLOAD);
    assert_false(a->hello_ack->durable);
    a = h_hello_with(h, H_READ, 1, 1, "blue", 0, false);
    assert_int_equal(a->hello_ack->put_credit, 0);
    a = h_hello_with(h, H_OTHER, 2, 9, "blue", 0, false);
    refused(a, REASON(VERSION), "2 to 9");
    assert_int_equal(a->refused->version_max, PROTO_VERSION_MAX);
    refused(h_hello_with(h, H_OTHER, 0, 0, "blue", 0, false), REASON(VERSION), "0 to 0");
    refused(h_hello_with(h, H_OTHER, 3, 1, "blue", 0, false), REASON(VERSION), "3 to 1");
    refused(h_hello_with(h, H_OTHER, 1, 1, "red", 0, false), REASON(CLUSTER), "'blue', not 'red'");
    refused(h_hello_with(h, H_OTHER, 1, 1, "blue", 3, false), REASON(NAMESPACE), "namespace 3");
    h_free(h);
}

static void before_hello(void **state)
{
    (void)state;
    struct harness *h = h_new(&(struct node_opts){0});
    struct h_block b;
    h_block(&b, 0, 1);
    Scoutkv__Ping ping = SCOUTKV__PING__INIT;
    H_HEADER(p, PING, ping, &ping);
    const Scoutkv__Header *a = h_ask(h, H_READ, &p, NULL);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_PONG);
    assert_int_equal(a->id, h->next_id);
    for (unsigned kind = 1; kind < 13; kind++) {
        if (kind == 11)
            continue;
        struct buf *s = h_sample(kind, &b, kind);
        h_clear(h);
        h_bytes(h, H_READ, s->data, s->len, 2, (struct view){b.payload->data, b.payload->len, b.payload});
        assert_int_equal(h->n_sent, 1);
        refused(h->sent[0].m.header, REASON(NO_HELLO), "HELLO");
        assert_int_equal(h->sent[0].m.header->id, kind);
        assert_int_equal(h->sent[0].m.header->refused->credit, kind == 1 ? b.payload->len : 0);
        buf_unref(s);
    }
    assert_int_equal(h_counter(h, "refused_no_hello"), 11);
    assert_int_equal(h_counter(h, "blocks"), 0);
    h_block_free(&b);
    h_free(h);
}

static void idle_peers(void **state)
{
    (void)state;
    struct harness *h = h_new(&(struct node_opts){.idle_ms = 1000});
    struct h_block b;
    h_block(&b, 0, 1);
    h_hello(h, H_BULK, 0, true);
    h->now += 900 * NS_PER_MS;
    node_tick(h->node, h->now);
    put_is(h_put(h, H_BULK, &b), STORED);
    h->now += 1100 * NS_PER_MS;
    node_tick(h->node, h->now);
    refused(h_put(h, H_BULK, &b), REASON(NO_HELLO), "idle");
    h_hello(h, H_BULK, 0, true);
    put_is(h_put(h, H_BULK, &b), SAME);

    /* A peer that the transport no longer knows is forgotten at once. */
    h->send_rc = -EHOSTUNREACH;
    h_put(h, H_BULK, &b);
    h->send_rc = 0;
    assert_int_equal(h_counter(h, "lanes"), 1); /* the counting lane's own */
    assert_int_equal(h_counter(h, "unread"), 1);
    h_block_free(&b);
    h_free(h);
}

/* More peers than a node remembers: the one silent for longest makes room. */
static void many_peers(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    Scoutkv__Hello body = SCOUTKV__HELLO__INIT;
    body.version_min = body.version_max = 1;
    body.cluster = (char *)(uintptr_t) "default";
    for (unsigned i = 0; i < 5000; i++) {
        H_HEADER(header, HELLO, hello, &body);
        header.version = 1;
        struct node_peer p = {.len = 5, .id = {250, (uint8_t)i, (uint8_t)(i >> 8), 1}};
        struct message m = {.header = &header};
        h_clear(h);
        node_receive(h->node, &p, &m, h->now);
        assert_int_equal(h->sent[0].m.header->body_case, SCOUTKV__HEADER__BODY_HELLO_ACK);
    }
    assert_int_equal(h_counter(h, "lanes"), 4096);
    h_free(h);
}

/* ---- PUT ---- */

static void put_versions(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b;
    h_block(&b, 0, 1);
    const Scoutkv__Header *a = h_put(h, H_BULK, &b);
    put_is(a, STORED);
    assert_int_equal(a->put_ack->credit, b.payload->len);
    assert_int_equal(a->put_ack->n_checksums, 0);
    a = h_put(h, H_BULK, &b);
    put_is(a, SAME);
    assert_int_equal(a->put_ack->credit, b.payload->len);

    /* Another version of the same key: the first stays, and its checksums are told. */
    struct h_block other;
    h_block(&other, 0, 1);
    other.payload->data[5000] ^= 1;
    block_checksums(&other.key, &other.layout, other.payload->data, other.checksums);
    a = h_put(h, H_BULK, &other);
    put_is(a, EXISTS);
    assert_int_equal(a->put_ack->n_checksums, b.n_pages);
    assert_memory_equal(a->put_ack->checksums, b.checksums, b.n_pages * 8);
    assert_int_equal(a->put_ack->credit, b.payload->len);
    h_block_free(&other);
    /* A different layout is a different version as well, even with equal sums. */
    other = b;
    other.wire_layout.head0 = 2;
    other.wire_key.chain.data = other.key.chain;
    put_is(h_put(h, H_BULK, &other), EXISTS);
    assert_int_equal(h_counter(h, "blocks"), 1);
    assert_int_equal(h_counter(h, "puts_exists"), 2);
    h_free(h);
    h_block_free(&b);
}

static const Scoutkv__Header *put_changed(struct harness *h, Scoutkv__Put *put, struct buf *payload)
{
    H_HEADER(header, PUT, put, put);
    return h_ask(h, H_BULK, &header, payload);
}

static void put_refusals(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b;
    h_block(&b, 0, 1);
    Scoutkv__Put put = h_put_of(&b);
    const Scoutkv__Header *a;

    refused(h_put(h, H_READ, &b), REASON(CREDIT), "bulk");
    put.key = NULL;
    a = put_changed(h, &put, b.payload);
    refused(a, REASON(MALFORMED), "32 bytes");
    assert_int_equal(a->refused->credit, b.payload->len);
    put = h_put_of(&b);
    put.layout = NULL;
    refused(put_changed(h, &put, b.payload), REASON(MALFORMED), "layout");
    put = h_put_of(&b);
    put.n_checksums--;
    refused(put_changed(h, &put, b.payload), REASON(MALFORMED), "one checksum a page");
    put = h_put_of(&b);
    refused(put_changed(h, &put, NULL), REASON(MALFORMED), "size");
    b.payload->len--;
    refused(put_changed(h, &put, b.payload), REASON(MALFORMED), "size");
    b.payload->len++;
    b.wire_layout.n_heads = 1024;
    refused(put_changed(h, &put, b.payload), REASON(TOO_LARGE), "limit");
    b.wire_layout.n_heads = 2;
    put.ack = SCOUTKV__ACK__DURABLE;
    refused(put_changed(h, &put, b.payload), REASON(NOT_DURABLE), "no disk");
    put.ack = (Scoutkv__Ack)99;
    refused(put_changed(h, &put, b.payload), REASON(NOT_DURABLE), "no disk");
    put.ack = SCOUTKV__ACK__RAM;

    b.payload->data[3 * 4096 + 17] ^= 0x10; /* one flipped bit, in page 3 of head 0 */
    a = put_changed(h, &put, b.payload);
    refused(a, REASON(CHECKSUM), "page 3 of KV head 0");
    assert_int_equal(a->refused->credit, b.payload->len);
    b.payload->data[3 * 4096 + 17] ^= 0x10;
    b.wire_layout.head0 = 1; /* the same bytes under another head are not the same pages */
    refused(put_changed(h, &put, b.payload), REASON(CHECKSUM), "KV head 1");
    b.wire_layout.head0 = 0;

    assert_int_equal(h_counter(h, "blocks"), 0);
    assert_int_equal(h_counter(h, "refused_malformed"), 5);
    put_is(h_put(h, H_BULK, &b), STORED); /* and none of that did harm */
    h_free(h);

    h = h_new(&(struct node_opts){.put_credit = 1000});
    h_hello(h, H_BULK, 0, true);
    refused(h_put(h, H_BULK, &b), REASON(CREDIT), "granted 1000");
    h_free(h);
    h_block_free(&b);
}

static void full(void **state)
{
    (void)state;
    struct harness *h = h_ready(8 * MIB);
    struct h_block blocks[400];
    const Scoutkv__Header *a = NULL;
    unsigned n = 0;
    for (; n < 400; n++) {
        h_block(&blocks[n], 0, n);
        a = h_put(h, H_BULK, &blocks[n]);
        if (a->body_case == SCOUTKV__HEADER__BODY_REFUSED)
            break;
    }
    refused(a, REASON(FULL), "--ram");
    assert_int_equal(a->refused->credit, blocks[n].payload->len);
    assert_in_range(n, 5 * MIB / 32768, 6 * MIB / 32768); /* 2 MiB are kept for replies; little is wasted */
    assert_true(h_counter(h, "ram_store_used") <= h_counter(h, "ram_store_limit"));
    assert_int_equal(h_counter(h, "blocks"), n);
    put_is(h_put(h, H_BULK, &blocks[0]), SAME); /* what is there can still be found … */
    for (unsigned i = 0; i < n; i += 2) {       /* … and every second one makes room for others */
        struct h_block *one = &blocks[i];
        done_is(ask_keys(h, H_READ, 'D', NULL, 0, &one, 1), 1);
    }
    for (unsigned i = 0; i < n; i += 2)
        put_is(h_put(h, H_BULK, &blocks[i]), STORED);
    refused(h_put(h, H_BULK, &blocks[n]), REASON(FULL), "is full");

    /* A dropped context of one shape makes room for one of another. */
    for (unsigned i = 0; i < n; i++) {
        struct h_block *one = &blocks[i];
        done_is(ask_keys(h, H_READ, 'D', NULL, 0, &one, 1), 1);
    }
    assert_true(h_counter(h, "ram_store_used") < MIB / 2);
    struct h_block big;
    h_block_sized(&big, 0, 1,
                  (struct block_layout){.dtype = 2, .d_k = 512, .d_v = 512, .n_heads = 4}); /* 1 MiB */
    for (uint32_t i = 0; i < 5; i++) {
        struct h_block one;
        h_block_sized(&one, 0, 1000 + i, big.layout);
        put_is(h_put(h, H_BULK, &one), STORED);
        h_block_free(&one);
    }
    refused(h_put(h, H_BULK, &big), REASON(FULL), "5 blocks");
    h_block_free(&big);
    for (unsigned i = 0; i <= n; i++)
        h_block_free(&blocks[i]);
    h_free(h);
}

/* ---- GET ---- */

/* Asks for pages of blocks: masks[i][head]. */
static Scoutkv__Header *get_request(Scoutkv__Header *header, struct h_block *blocks, size_t n,
                                    uint32_t (*masks)[2])
{
    static Scoutkv__Get get;
    static Scoutkv__Get__Want wants[200], *pointers[200];
    static uint64_t sums[200][H_MAX_PAGES];
    scoutkv__get__init(&get);
    scoutkv__header__init(header);
    header->body_case = SCOUTKV__HEADER__BODY_GET;
    header->get = &get;
    get.n_wants = n;
    get.wants = pointers;
    for (size_t i = 0; i < n; i++) {
        scoutkv__get__want__init(&wants[i]);
        wants[i].key = &blocks[i].wire_key;
        wants[i].n_masks = 2;
        wants[i].masks = masks[i];
        wants[i].checksums = sums[i];
        for (size_t p = 0; p < 8; p++)
            if (masks[i][p / 4] >> p % 4 & 1)
                sums[i][wants[i].n_checksums++] = blocks[i].checksums[p];
        pointers[i] = &wants[i];
    }
    return header;
}

/* Checks that the answers so far hold exactly the wanted pages, found in order, and end once. Returns pages
 * found. */
static size_t check_pages(struct harness *h, struct h_block *blocks, size_t n, uint32_t (*masks)[2],
                          size_t *missed)
{
    size_t found = 0;
    *missed = 0;
    for (size_t m = 0; m < h->n_sent; m++) {
        const Scoutkv__Header *a = h->sent[m].m.header;
        if (a->body_case == SCOUTKV__HEADER__BODY_REFUSED)
            fail_msg("refused: %s", a->refused->text);
        assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_PAGES);
        assert_int_equal(a->pages->last, m + 1 == h->n_sent);
        struct buf *payload = view_copy(&h->sent[m].m.payload);
        assert_true(payload->len <= PROTO_REPLY_BYTES);
        assert_int_equal(payload->len, a->pages->n_found * a->pages->page_bytes);
        *missed += a->pages->n_missed;
        for (size_t f = 0; f < a->pages->n_found; f++, found++) {
            uint32_t index = 0;
            bool seen = false;
            for (size_t i = 0; i < n && !seen; i++)
                for (size_t p = 0; p < 8 && !seen; p++)
                    if (masks[i][p / 4] >> p % 4 & 1 && index++ == a->pages->found[f]) {
                        seen = true;
                        assert_int_equal(a->pages->page_bytes, blocks[i].page_bytes);
                        assert_memory_equal(payload->data + f * blocks[i].page_bytes,
                                            blocks[i].payload->data + p * blocks[i].page_bytes,
                                            blocks[i].page_bytes);
                    }
            assert_true(seen);
        }
        buf_unref(payload);
    }
    return found;
}

enum { N_GET = 120 }; /* blocks of 32 KiB */

static void get_streams(void **state)
{
    (void)state;
    struct harness *h = h_ready(64 * MIB);
    static struct h_block blocks[N_GET + 1];
    static uint32_t masks[N_GET + 1][2];
    Scoutkv__Header header;
    size_t missed;
    put_many(h, blocks, N_GET);
    h_block(&blocks[N_GET], 0, 9999); /* never stored */
    for (size_t i = 0; i <= N_GET; i++)
        for (size_t s = 0; s < 2; s++)
            masks[i][s] = (uint32_t)(i * 7 + s * 3) % 16;
    masks[N_GET][0] = 0xf;
    masks[N_GET][1] = 0;
    h_ask(h, H_READ, get_request(&header, blocks, N_GET, masks), NULL);
    size_t found = check_pages(h, blocks, N_GET, masks, &missed);
    assert_int_equal(missed, 0);
    assert_true(found > 400 && h->n_sent == (found * 4096 + PROTO_REPLY_BYTES - 1) / PROTO_REPLY_BYTES);

    /* A last want that is not there still ends the stream. */
    h_ask(h, H_READ, get_request(&header, blocks, N_GET + 1, masks), NULL);
    assert_int_equal(check_pages(h, blocks, N_GET + 1, masks, &missed), found);
    assert_int_equal(missed, 4);
    /* Nothing wanted: an answer all the same. */
    memset(masks, 0, sizeof masks);
    h_ask(h, H_READ, get_request(&header, blocks, 3, masks), NULL);
    assert_int_equal(h->n_sent, 1);
    assert_true(h->sent[0].m.header->pages->last);
    h_ask(h, H_READ, get_request(&header, blocks, 0, masks), NULL);
    assert_int_equal(h->n_sent, 1);
    assert_true(h->sent[0].m.header->pages->last);
    free_many(blocks, N_GET + 1);
    h_free(h);
}

enum { N_LARGE = 20 }; /* blocks of 64 KiB: a run worth a frame of its own */

/* Runs of several blocks, and what was gathered between them, come in the frames of one message, if the
 * client takes so many. */
static void get_frames(void **state)
{
    (void)state;
    struct harness *h = h_ready(64 * MIB);
    struct h_block blocks[N_LARGE];
    uint32_t masks[N_LARGE][2];
    Scoutkv__Header header;
    size_t missed;
    for (uint32_t i = 0; i < N_LARGE; i++) {
        h_block_sized(&blocks[i], 0, i,
                      (struct block_layout){.dtype = 1, .d_k = 128, .d_v = 128, .n_heads = 2});
        put_is(h_put(h, H_BULK, &blocks[i]), STORED);
        masks[i][0] = masks[i][1] = 0xf;
    }
    masks[2][0] = masks[4][1] = 0x5; /* pages that lie apart */
    masks[2][1] = masks[4][0] = 0;
    static const struct {
        uint32_t frames;
        size_t messages;
    } takes[] = {{0, 6}, {1, 6}, {2, 3}, {5, 2}, {6, 1}, {16, 1}, {UINT32_MAX, 1}};
    for (size_t i = 0; i < sizeof takes / sizeof *takes; i++) {
        get_request(&header, blocks, 6, masks)->get->frames = takes[i].frames;
        h_ask(h, H_READ, &header, NULL);
        assert_int_equal(check_pages(h, blocks, 6, masks, &missed), 4 * 8 + 2 * 2);
        assert_int_equal(missed, 0);
        assert_int_equal(h->n_sent, takes[i].messages);
    }
    assert_int_equal(view_parts(&h->sent[0].m.payload), 6);

    /* A message has 1 MiB all the same, and its parts outlive the blocks. */
    for (size_t i = 0; i < N_LARGE; i++)
        masks[i][0] = masks[i][1] = 0xf;
    get_request(&header, blocks, N_LARGE, masks)->get->frames = 16;
    h_ask(h, H_READ, &header, NULL);
    assert_int_equal(h->n_sent, 2);
    assert_int_equal(view_parts(&h->sent[0].m.payload), 16);
    struct view kept = h->sent[0].m.payload;
    buf_ref(kept.owner);
    for (size_t i = 0; i < N_LARGE; i++) {
        struct h_block *one = &blocks[i];
        done_is(ask_keys(h, H_READ, 'D', NULL, 0, &one, 1), 1);
    }
    for (unsigned i = 0; i < 16; i++)
        assert_memory_equal(view_part(&kept, i)->data, blocks[i].payload->data, 64 << 10);
    uint64_t used = h_counter(h, "ram_store_used");
    buf_unref(kept.owner);
    assert_true(h_counter(h, "ram_store_used") < used);
    free_many(blocks, N_LARGE);
    h_free(h);
}

static void get_versions(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b;
    uint32_t masks[1][2] = {{0x5, 0x8}};
    Scoutkv__Header header;
    size_t missed;
    h_block(&b, 0, 1);
    put_is(h_put(h, H_BULK, &b), STORED);
    get_request(&header, &b, 1, masks);
    header.get->wants[0]->checksums[1] ^= 1; /* page 2 of head 0 in another version */
    h_ask(h, H_READ, &header, NULL);
    assert_int_equal(check_pages(h, &b, 1, masks, &missed), 2);
    assert_int_equal(missed, 1);
    assert_int_equal(h->sent[0].m.header->pages->missed[0], 1);

    /* A head that the stored block has not is a miss, too. */
    uint32_t three[3] = {1, 0, 1};
    get_request(&header, &b, 1, masks);
    header.get->wants[0]->n_masks = 3;
    header.get->wants[0]->masks = three;
    header.get->wants[0]->n_checksums = 2;
    h_ask(h, H_READ, &header, NULL);
    assert_int_equal(h->sent[0].m.header->pages->n_found, 1);
    assert_int_equal(h->sent[0].m.header->pages->missed[0], 1);

    uint32_t bad[2] = {0x10, 0};
    header.get->wants[0]->n_masks = 2;
    header.get->wants[0]->masks = bad;
    header.get->wants[0]->n_checksums = 1;
    refused(h_ask(h, H_READ, &header, NULL), REASON(MALFORMED), "mask");
    bad[0] = 0xf;
    refused(h_ask(h, H_READ, &header, NULL), REASON(MALFORMED), "checksum");
    header.get->wants[0]->key = NULL;
    refused(h_ask(h, H_READ, &header, NULL), REASON(MALFORMED), "key");
    assert_int_equal(h_counter(h, "get_misses"), 2);
    assert_int_equal(h_counter(h, "get_pages"), 3);
    h_block_free(&b);
    h_free(h);
}

/* Runs of 64 KiB and more are handed out without copying, split at 1 MiB, among small pages that are
 * gathered. */
static void get_runs(void **state)
{
    (void)state;
    struct harness *h = h_ready(64 * MIB);
    struct h_block b[3];
    size_t missed;
    h_block(&b[0], 0, 0);
    h_block_sized(&b[1], 0, 1,
                  (struct block_layout){.dtype = 2, .d_k = 1000, .d_v = 1000, .n_heads = 2}); /* 1000 KiB */
    h_block(&b[2], 0, 2);
    for (int i = 0; i < 3; i++)
        put_is(h_put(h, H_BULK, &b[i]), STORED);
    /* protobuf stays out of it: sizes differ between blocks, so this also closes messages where page_bytes
     * changes */
    uint32_t masks[3][2] = {{0xb, 0}, {0xf, 0xf}, {0x1, 0x1}};
    Scoutkv__Header header;
    h_ask(h, H_READ, get_request(&header, b, 3, masks), NULL);
    assert_int_equal(check_pages(h, b, 3, masks, &missed), 13);
    assert_int_equal(missed, 0);
    assert_int_equal(h->n_sent, 3);
    struct buf *whole = h->sent[1].m.payload.owner;
    assert_int_equal(h->sent[1].m.payload.len, b[1].payload->len);
    assert_ptr_equal(whole->data, h->sent[1].m.payload.data);
    assert_ptr_not_equal(whole, b[1].payload);

    /* The block may be dropped meanwhile: its bytes stay as long as they are read, and count as long. */
    struct view kept = h->sent[1].m.payload;
    buf_ref(kept.owner);
    struct h_block *one = &b[1];
    done_is(ask_keys(h, H_READ, 'D', NULL, 0, &one, 1), 1);
    uint64_t used = h_counter(h, "ram_store_used");
    assert_true(used > b[1].payload->len);
    assert_memory_equal(kept.data, b[1].payload->data, kept.len);
    buf_unref(kept.owner);
    assert_true(h_counter(h, "ram_store_used") + b[1].payload->len <= used);
    assert_int_equal(h_counter(h, "get_zero_copy_bytes"), b[1].payload->len);
    free_many(b, 3);
    h_free(h);
}

/* A peer that does not read: pages are gathered only as fast as the transport takes them, in order. */
static void slow_peer(void **state)
{
    (void)state;
    struct harness *h = h_ready(64 * MIB);
    static struct h_block blocks[N_GET];
    static uint32_t masks[N_GET][2];
    Scoutkv__Header header;
    size_t missed;
    put_many(h, blocks, N_GET);
    for (size_t i = 0; i < N_GET; i++)
        masks[i][0] = masks[i][1] = 0xf;
    h_clear(h);
    h->room = 1;
    h_request(h, H_READ, get_request(&header, blocks, N_GET, masks), NULL);
    Scoutkv__Ping ping = SCOUTKV__PING__INIT;
    H_HEADER(p, PING, ping, &ping);
    h_request(h, H_READ, &p, NULL);
    while (node_run(h->node, h->now) == NODE_BUSY)
        ;
    assert_int_equal(h->n_sent, 1);
    assert_int_equal(node_run(h->node, h->now), NODE_BLOCKED);
    while (h->room < 20) {
        h->room++;
        while (node_run(h->node, h->now) == NODE_BUSY)
            ;
    }
    assert_int_equal(node_run(h->node, h->now), NODE_IDLE);
    assert_int_equal(h->n_sent, 5); /* 3.75 MiB of pages, and the pong where its turn came */
    size_t at = 0;
    while (at < 5 && h->sent[at].m.header->body_case != SCOUTKV__HEADER__BODY_PONG)
        at++;
    assert_true(at < 5);
    message_clear(&h->sent[at].m);
    memmove(&h->sent[at], &h->sent[at + 1], (4 - at) * sizeof h->sent[0]);
    h->n_sent--;
    assert_int_equal(check_pages(h, blocks, N_GET, masks, &missed), N_GET * 8);

    /* One that reads nothing for half a minute is forgotten, with what waits for it. */
    h_clear(h);
    h->room = 0;
    h_request(h, H_READ, get_request(&header, blocks, N_GET, masks), NULL);
    assert_int_equal(node_run(h->node, h->now), NODE_BLOCKED);
    h->now += 31 * NS_PER_S;
    node_tick(h->node, h->now);
    assert_int_equal(node_run(h->node, h->now), NODE_IDLE);
    h->room = H_MAX_SENT;
    refused(h_ask(h, H_READ, get_request(&header, blocks, 1, masks), NULL), REASON(NO_HELLO), "HELLO");

    /* One that goes on asking without reading is forgotten when its queue is full. */
    h_hello(h, H_READ, 0, false);
    h_clear(h);
    h->room = 0;
    for (int i = 0; i < 40000; i++)
        h_request(h, H_READ, &p, NULL);
    h->room = H_MAX_SENT;
    refused(h_ask(h, H_READ, get_request(&header, blocks, 1, masks), NULL), REASON(NO_HELLO), "HELLO");
    assert_true(h_counter(h, "unread") >= 2);
    free_many(blocks, N_GET);
    h_free(h);
}

/* Replies that nobody releases use up their part of the budget: GETs wait, then are refused; once released,
 * all is well. */
static void held_replies(void **state)
{
    (void)state;
    struct harness *h = h_ready(16 * MIB); /* 2 MiB of it for replies */
    static struct h_block blocks[N_GET];
    static uint32_t masks[N_GET][2];
    Scoutkv__Header header;
    size_t missed;
    put_many(h, blocks, N_GET);
    for (size_t i = 0; i < N_GET; i++)
        masks[i][0] = 0x5, masks[i][1] = 0xa; /* no runs: all is gathered */
    h_clear(h);
    h_request(h, H_READ, get_request(&header, blocks, N_GET, masks), NULL);
    h_request(h, H_READ, get_request(&header, blocks, N_GET, masks), NULL);
    while (node_run(h->node, h->now) == NODE_BUSY)
        ;
    assert_int_equal(node_run(h->node, h->now), NODE_BLOCKED);
    assert_int_equal(h->n_sent, 2);
    h->now += 6 * NS_PER_S;
    node_tick(h->node, h->now);
    assert_int_equal(h->n_sent, 3);
    refused(h->sent[2].m.header, REASON(CREDIT), "nobody reads");
    h_ask(h, H_READ, get_request(&header, blocks, N_GET, masks), NULL);
    assert_int_equal(check_pages(h, blocks, N_GET, masks, &missed), N_GET * 4);
    h_clear(h);
    assert_int_equal(h_counter(h, "ram_replies_used"), 0);
    free_many(blocks, N_GET);
    h_free(h);
}

/* ---- what must not kill it ---- */

static void wrong_messages(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct view none = {0};
    h_clear(h);
    h_bytes(h, H_READ, "nonsense", 8, 1, none);
    refused(h->sent[0].m.header, REASON(MALFORMED), "header");
    h_bytes(h, 77, "\x08\x63\x10\x05", 4, 1, none); /* version 99, id 5, from a stranger */
    refused(h->sent[1].m.header, REASON(VERSION), "version 99");
    assert_int_equal(h->sent[1].m.header->id, 5);
    assert_int_equal(h->sent[1].m.header->refused->version_min, PROTO_VERSION_MIN);
    h_bytes(h, H_READ, "", 0, 1, none);
    refused(h->sent[2].m.header, REASON(VERSION), "version 0");
    assert_int_equal(h->n_sent, 3);
    Scoutkv__Done done = SCOUTKV__DONE__INIT;
    H_HEADER(answer, DONE, done, &done);
    refused(h_ask(h, H_READ, &answer, NULL), REASON(MALFORMED), "not a request");
    Scoutkv__Refused no = SCOUTKV__REFUSED__INIT;
    H_HEADER(refusal, REFUSED, refused, &no);
    assert_null(h_ask(h, H_READ, &refusal, NULL)); /* never answered, or two ends would refuse for ever */
    assert_int_equal(h_counter(h, "malformed"), 3);
    assert_int_equal(h_counter(h, "wrong_version"), 2);
    node_set_transport(h->node,
                       &(struct node_transport){.disconnected = 3, .handshake_failed = 4, .cpu_ns = 5});
    assert_int_equal(h_counter(h, "zmq_handshake_failed"), 4);
    assert_int_equal(h_counter(h, "cpu_ns"), 5);
    h_free(h);
}

/* Every kind of message with every byte changed and every length cut, to a lane that has said HELLO: the node
 * answers or stays silent, and lives on. */
static void damaged_messages(void **state)
{
    (void)state;
    struct h_block b;
    h_block(&b, 0, 1);
    struct view payload = {b.payload->data, b.payload->len, b.payload};
    unsigned long n = 0;
    for (unsigned kind = 0; kind < H_KINDS; kind++) {
        struct harness *h = h_ready(16 * MIB);
        put_is(h_put(h, H_BULK, &b), STORED);
        struct buf *s = h_sample(kind, &b, 1);
        for (size_t i = 0; i < s->len; i++) {
            static const uint8_t changes[] = {0x01, 0x02, 0x08, 0x10, 0x40, 0x80, 0x7f, 0xff};
            for (size_t c = 0; c < sizeof changes; c++, n++) {
                s->data[i] ^= changes[c];
                h_clear(h);
                h_bytes(h, H_BULK, s->data, s->len, kind == 1 || kind == 7 || c & 1 ? 2 : 1, payload);
                s->data[i] ^= changes[c];
            }
            struct buf *cut = buf_copy(s->data, i);
            h_clear(h);
            h_bytes(h, H_BULK, cut->data, i, 2, payload);
            buf_unref(cut);
            node_run(h->node, h->now);
            node_tick(h->node, h->now += NS_PER_MS);
        }
        buf_unref(s);
        Scoutkv__Ping ping = SCOUTKV__PING__INIT;
        H_HEADER(p, PING, ping, &ping);
        const Scoutkv__Header *a = h_ask(h, H_READ, &p, NULL);
        assert_true(a && a->body_case == SCOUTKV__HEADER__BODY_PONG);
        assert_true(h_counter(h, "blocks") <= 200);
        h_free(h);
    }
    assert_true(n > 5000);
    h_block_free(&b);
}

/* Bytes that clients still hold stay valid when the node is gone. */
static void outlive(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b;
    uint32_t masks[1][2] = {{0x5, 0}};
    Scoutkv__Header header;
    h_block(&b, 0, 1);
    put_is(h_put(h, H_BULK, &b), STORED);
    h_ask(h, H_READ, get_request(&header, &b, 1, masks), NULL);
    struct view v = h->sent[0].m.payload;
    buf_ref(v.owner);
    h_free(h);
    assert_memory_equal(v.data, b.payload->data, 4096);
    buf_unref(v.owner);
    h_block_free(&b);
}

/* ---- the shell, embedded ---- */

static void embedded(void **state)
{
    (void)state;
    struct skv_error err = {0};
    struct h_block b;
    struct zmqx_message m;
    struct zmqx_socket *lane;
    void *ctx = zmqx_ctx_new(1, &err);
    struct server *s =
        server_start(ctx, "inproc://node", &(struct node_opts){.id = "e", .ram = 16 * MIB}, &err);
    assert_non_null(s);
    assert_null(server_start(ctx, "inproc://node", &(struct node_opts){0}, &err)); /* taken */
    assert_int_equal(err.code, -EADDRINUSE);
    assert_null(server_start(ctx, "inproc://other", &(struct node_opts){.ram = 1}, &err));
    assert_int_equal(zmqx_dealer(ctx, server_endpoint(s), PROTO_MAX_PAYLOAD, &lane, &err), 0);
    h_block(&b, 0, 1);
    struct view payload = {b.payload->data, b.payload->len, b.payload};
    uint32_t masks[1][2] = {{0xf, 0xf}};
    Scoutkv__Header get;
    get_request(&get, &b, 1, masks);
    get.version = 1;
    get.id = 3;
    struct buf *requests[] = {buf_copy("junk", 4), h_sample(0, &b, 1), h_sample(1, &b, 2), header_pack(&get)};
    static const int answers[] = {SCOUTKV__HEADER__BODY_REFUSED, SCOUTKV__HEADER__BODY_HELLO_ACK,
                                  SCOUTKV__HEADER__BODY_PUT_ACK, SCOUTKV__HEADER__BODY_PAGES};
    for (size_t i = 0; i < 4; i++) {
        struct message a;
        uint64_t id;
        assert_int_equal(zmqx_send(lane, NULL, requests[i], i == 2 ? &payload : NULL), 0);
        buf_unref(requests[i]);
        struct zmqx_poll_item item = {.socket = lane};
        assert_int_equal(zmqx_poll(&item, 1, 10000), 1);
        assert_int_equal(zmqx_recv(lane, &m), 0);
        assert_int_equal(message_parse(&a, m.header.data, m.header.len, m.n_frames, m.payload, &id, &err), 0);
        assert_int_equal(a.header->body_case, answers[i]);
        assert_int_equal(id, i);
        if (i < 3)
            zmqx_message_clear(&m);
        message_clear(&a);
    }
    server_stop(s);
    assert_int_equal(m.payload.len, b.payload->len); /* held beyond the node's end */
    assert_memory_equal(m.payload.data, b.payload->data, b.payload->len);
    zmqx_message_clear(&m);
    zmqx_close(lane);
    zmqx_ctx_free(ctx);
    h_block_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello),        cmocka_unit_test(before_hello),   cmocka_unit_test(idle_peers),
        cmocka_unit_test(many_peers),   cmocka_unit_test(put_versions),   cmocka_unit_test(put_refusals),
        cmocka_unit_test(full),         cmocka_unit_test(get_streams),    cmocka_unit_test(get_frames),
        cmocka_unit_test(get_versions), cmocka_unit_test(get_runs),       cmocka_unit_test(slow_peer),
        cmocka_unit_test(held_replies), cmocka_unit_test(wrong_messages), cmocka_unit_test(damaged_messages),
        cmocka_unit_test(outlive),      cmocka_unit_test(embedded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
