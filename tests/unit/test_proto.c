/* test_proto.c: what crosses the wire: parsing and its limits, and zmqx, which carries it. */
#include "common/zmqx.h"
#include "tests/unit/node_harness.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <unistd.h>

#include <cmocka.h>

static int parse(const void *bytes, size_t len, unsigned n_frames, size_t payload_len, uint64_t *id,
                 char *why)
{
    static const uint8_t some[1];
    struct message m;
    struct skv_error err = {0};
    int rc = message_parse(&m, bytes, len, n_frames, (struct view){some, payload_len, NULL}, id, &err);
    assert_int_equal(rc, err.code);
    assert_true(rc == 0 || (err.text[0] && !m.header));
    if (why)
        strcpy(why, err.text);
    message_clear(&m);
    return rc;
}

static void limits(void **state)
{
    (void)state;
    char why[500];
    uint64_t id;
    struct h_block b;
    h_block(&b, 0, 1);
    struct buf *ping = h_sample(11, &b, 77);
    assert_int_equal(parse(ping->data, ping->len, 1, 0, &id, NULL), 0);
    assert_int_equal(id, 77);
    assert_int_equal(parse(ping->data, ping->len, 2, PROTO_MAX_PAYLOAD, &id, NULL), 0);
    assert_int_equal(parse(ping->data, ping->len, 2, PROTO_MAX_PAYLOAD + 1, &id, why), -EBADMSG);
    assert_non_null(strstr(why, "payload"));
    assert_int_equal(parse(ping->data, ping->len, 3, 0, &id, why), -EBADMSG); /* only pages may */
    assert_non_null(strstr(why, "3"));
    assert_int_equal(parse(ping->data, ping->len, 2 + PROTO_MAX_FRAMES, 0, &id, why), -EBADMSG);
    assert_non_null(strstr(why, "18"));
    assert_int_equal(parse(NULL, 0, 0, 0, &id, NULL), -EBADMSG);
    assert_int_equal(parse("garbage!", 8, 1, 0, &id, NULL), -EBADMSG);
    assert_int_equal(parse("\x08\x01\x10\x05", 4, 1, 0, &id, why), -EBADMSG); /* version 1, id 5, no body */
    assert_int_equal(id, 5);
    assert_non_null(strstr(why, "body"));
    assert_int_equal(parse("\x08\x02\x10\x05", 4, 1, 0, &id, why),
                     -EPROTONOSUPPORT); /* of version 2, its body unknown */
    assert_int_equal(id, 5);
    assert_non_null(strstr(why, "version 2"));
    uint8_t *big = calloc(1, PROTO_MAX_HEADER + 1);
    assert_int_equal(parse(big, PROTO_MAX_HEADER + 1, 1, 0, &id, why), -EBADMSG);
    assert_non_null(strstr(why, "header"));
    free(big);
    buf_unref(ping);
    h_block_free(&b);
}

static void plain_structs(void **state)
{
    (void)state;
    struct h_block b;
    struct block_key key;
    struct block_layout layout;
    h_block(&b, 9, 3);
    assert_true(key_from_wire(&b.wire_key, 9, &key));
    assert_true(key_equal(&key, &b.key));
    assert_true(layout_from_wire(&b.wire_layout, &layout));
    assert_int_equal(layout.d_v, 64);
    assert_int_equal(layout.n_heads, 2);
    assert_false(key_from_wire(NULL, 0, &key));
    assert_false(layout_from_wire(NULL, &layout));
    b.wire_key.chain.len = 31;
    assert_false(key_from_wire(&b.wire_key, 0, &key));
    uint32_t *fields[] = {&b.wire_layout.dtype, &b.wire_layout.d_k, &b.wire_layout.d_v,
                          &b.wire_layout.n_heads};
    for (size_t i = 0; i < 4; i++) { /* values whose low bits alone would pass */
        uint32_t good = *fields[i];
        *fields[i] = 0;
        assert_false(layout_from_wire(&b.wire_layout, &layout));
        *fields[i] = good + 65536;
        assert_false(layout_from_wire(&b.wire_layout, &layout));
        *fields[i] = good;
    }
    b.wire_layout.head0 = 65535;
    assert_false(layout_from_wire(&b.wire_layout, &layout));
    assert_int_not_equal(object_checksum(0, "a", "x", 1), object_checksum(1, "a", "x", 1));
    assert_int_not_equal(object_checksum(0, "a", "x", 1), object_checksum(0, "b", "x", 1));
    assert_int_not_equal(object_checksum(0, "a", "x", 1), object_checksum(0, "a", "y", 1));
    h_block_free(&b);
}

/* Every kind of message, every byte of it replaced and every length of it cut: parsed or refused, nothing
 * else. */
static void damaged(void **state)
{
    (void)state;
    struct h_block b;
    uint64_t id;
    h_block(&b, 0, 1);
    for (unsigned kind = 0; kind < H_KINDS; kind++) {
        struct buf *s = h_sample(kind, &b, 1);
        assert_int_equal(parse(s->data, s->len, 1, 0, &id, NULL), 0);
        for (size_t i = 0; i < s->len; i++) {
            uint8_t was = s->data[i];
            for (unsigned v = 0; v < 256; v++) {
                s->data[i] = (uint8_t)v;
                parse(s->data, s->len, 1, 0, &id, NULL);
            }
            s->data[i] = was;
            struct buf *cut = buf_copy(s->data, i); /* its own allocation: reading beyond it shows */
            parse(cut->data, i, 1, 0, &id, NULL);
            buf_unref(cut);
        }
        buf_unref(s);
    }
    h_block_free(&b);
}

/* ---- zmqx ---- */

struct pair {
    void *ctx;
    struct zmqx_socket *router, *dealer;
};

static void pair_open(struct pair *p, const char *endpoint)
{
    struct skv_error err;
    p->ctx = zmqx_ctx_new(1, &err);
    assert_non_null(p->ctx);
    assert_int_equal(zmqx_router(p->ctx, endpoint, 64 << 10, &p->router, &err), 0);
    assert_int_equal(zmqx_dealer(p->ctx, zmqx_endpoint(p->router), 64 << 10, &p->dealer, &err), 0);
}

static void pair_close(struct pair *p)
{
    zmqx_close(p->dealer);
    zmqx_close(p->router);
    zmqx_ctx_free(p->ctx);
}

static void wait_for(struct zmqx_socket *s, bool write)
{
    struct zmqx_poll_item item = {.socket = s, .want_write = write};
    for (int i = 0; i < 100; i++)
        if (zmqx_poll(&item, 1, 100) > 0 && (write ? item.writable : item.readable))
            return;
    fail_msg("nothing came within 10 s");
}

static _Atomic int released;

static void count_release(struct buf *b)
{
    (void)b;
    released++;
}

static void wait_released(int n)
{
    for (int i = 0; i < 1000 && released < n; i++)
        usleep(10000);
    assert_int_equal(released, n);
}

static void round_trip(const char *endpoint)
{
    struct pair p;
    struct zmqx_message m;
    static uint8_t bytes[40000];
    struct buf payload = {.refs = 1, .len = sizeof bytes, .data = bytes, .release = count_release};
    struct buf *header = buf_copy("header", 6);
    pair_open(&p, endpoint);
    released = 0;
    memset(bytes, 7, sizeof bytes);
    assert_int_equal(zmqx_recv(p.router, &m), -EAGAIN);
    wait_for(p.dealer, true);
    assert_int_equal(zmqx_send(p.dealer, NULL, header, &(struct view){bytes + 100, 30000, &payload}), 0);
    buf_unref(&payload);
    wait_for(p.router, false);
    assert_int_equal(zmqx_recv(p.router, &m), 0);
    assert_int_equal(m.n_frames, 2);
    assert_true(m.header.len == 6 && memcmp(m.header.data, "header", 6) == 0);
    assert_true(m.payload.len == 30000 && m.payload.data[29999] == 7);
    assert_true(m.peer.len > 0);

    /* The answer passes the received bytes on: they live as long as somebody holds them. */
    struct zmqx_message back;
    assert_int_equal(zmqx_send(p.router, &m.peer, header, &m.payload), 0);
    zmqx_message_clear(&m);
    wait_for(p.dealer, false);
    assert_int_equal(zmqx_recv(p.dealer, &back), 0);
    assert_true(back.payload.len == 30000 && back.payload.data[0] == 7);
    zmqx_message_clear(&back);
    wait_released(1);

    /* Without a payload, and to a stranger. */
    assert_int_equal(zmqx_send(p.dealer, NULL, header, NULL), 0);
    wait_for(p.router, false);
    assert_int_equal(zmqx_recv(p.router, &m), 0);
    assert_true(m.n_frames == 1 && m.payload.len == 0 && !m.payload.owner);
    zmqx_message_clear(&m);
    struct zmqx_peer stranger = {.len = 5, .id = {0, 9, 9, 9, 9}};
    assert_int_equal(zmqx_send(p.router, &stranger, header, NULL), -EHOSTUNREACH);
    buf_unref(header);
    pair_close(&p);
}

/* A payload that lies in several places; the one who receives it has a reference on all of it. */
static void several_frames(void **state)
{
    (void)state;
    struct pair p;
    struct zmqx_message m;
    static uint8_t bytes[3][20000];
    struct buf part[3];
    struct view rest[2];
    struct buf *header = buf_copy("header", 6);
    for (int i = 2; i >= 0; i--) {
        memset(bytes[i], i + 1, sizeof bytes[i]);
        part[i] = (struct buf){.refs = 1, .len = sizeof bytes[i], .data = bytes[i], .release = count_release};
        if (i)
            rest[i - 1] = (struct view){bytes[i], 10000 + (size_t)i, &part[i]};
    }
    part[0].rest = rest;
    part[0].n_rest = 2;
    released = 0;
    pair_open(&p, "tcp://127.0.0.1:0");
    wait_for(p.dealer, true);
    struct view payload = {bytes[0], 10000, &part[0]};
    assert_int_equal(view_len(&payload), 30003);
    assert_int_equal(zmqx_send(p.dealer, NULL, header, &payload), 0);
    for (int i = 0; i < 3; i++)
        buf_unref(&part[i]);
    wait_released(3);
    wait_for(p.router, false);
    assert_int_equal(zmqx_recv(p.router, &m), 0);
    assert_int_equal(m.n_frames, 4);
    assert_int_equal(view_parts(&m.payload), 3);
    struct view kept = m.payload;
    buf_ref(kept.owner);
    zmqx_message_clear(&m);
    struct buf *copy = view_copy(&kept);
    assert_int_equal(copy->len, 30003);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(view_part(&kept, i)->len, 10000 + i);
        assert_memory_equal(view_part(&kept, i)->data, bytes[i], 10000 + i);
    }
    assert_memory_equal(copy->data + 20001, bytes[2], 10002);
    buf_unref(copy);
    buf_unref(kept.owner);
    buf_unref(header);
    pair_close(&p);
}

static void over_inproc(void **state)
{
    (void)state;
    round_trip("inproc://test");
}

static void over_tcp(void **state)
{
    (void)state;
    round_trip("tcp://127.0.0.1:0");
}

/* A burst that the connection can't take at once: the ROUTER says so before it has queued without end. */
static void slow_reader(void **state)
{
    (void)state;
    struct pair p;
    struct zmqx_message m;
    struct buf *header = buf_copy("h", 1), *payload = buf_new(60000);
    memset(payload->data, 1, payload->len);
    struct view v = {payload->data, payload->len, payload};
    pair_open(&p, "tcp://127.0.0.1:0");
    wait_for(p.dealer, true);
    zmqx_send(p.dealer, NULL, header, NULL);
    wait_for(p.router, false);
    assert_int_equal(zmqx_recv(p.router, &m), 0);
    size_t n = 0;
    int rc = 0;
    for (; n < 100000 && rc == 0; n++)
        rc = zmqx_send(p.router, &m.peer, header, &v);
    assert_int_equal(rc, -EAGAIN); /* 100,000 of them would be 6 GB */
    zmqx_message_clear(&m);
    buf_unref(header);
    buf_unref(payload);
    pair_close(&p);
}

static uint64_t wait_event(struct zmqx_socket *s, size_t offset, uint64_t at_least)
{
    uint64_t got = 0;
    for (int i = 0; i < 1000; i++) {
        struct zmqx_events e = zmqx_events(s);
        memcpy(&got, (const char *)&e + offset, sizeof got);
        if (got >= at_least)
            break;
        usleep(10000);
    }
    return got;
}

static int connect_plain(const char *endpoint)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* What libzmq drops without a word is seen by the monitor. */
static void monitor(void **state)
{
    (void)state;
    struct pair p;
    struct zmqx_message m;
    pair_open(&p, "tcp://127.0.0.1:0");
    wait_for(p.dealer, true);
    assert_int_equal(wait_event(p.dealer, offsetof(struct zmqx_events, connected), 1), 1);

    int fd = connect_plain(zmqx_endpoint(p.router)); /* ZMTP's signature, then nonsense */
    static const uint8_t nonsense[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'O', 'P', 'E'};
    assert_int_equal(write(fd, nonsense, sizeof nonsense), sizeof nonsense);
    assert_int_equal(wait_event(p.router, offsetof(struct zmqx_events, handshake_failed), 1), 1);
    close(fd);

    struct buf *header = buf_new((64 << 10) + 1); /* one byte too many for the other end */
    memset(header->data, 0, header->len);
    uint64_t before = zmqx_events(p.router).disconnected;
    assert_int_equal(zmqx_send(p.dealer, NULL, header, NULL), 0);
    assert_true(wait_event(p.router, offsetof(struct zmqx_events, disconnected), before + 1) > before);
    assert_int_equal(zmqx_recv(p.router, &m), -EAGAIN);
    buf_unref(header);
    assert_int_equal(wait_event(p.dealer, offsetof(struct zmqx_events, connected), 2),
                     2); /* it comes back by itself */
    pair_close(&p);
}

static void receive_one(struct zmqx_socket *s)
{
    struct zmqx_poll_item item = {.socket = s};
    struct zmqx_message m;
    assert_int_equal(zmqx_poll(&item, 1, 10000), 1);
    assert_true(item.readable && !item.writable && !item.told);
    assert_int_equal(zmqx_recv(s, &m), 0);
    if (m.peer.len) { /* sending may take notice of what has come: the next poll must know it all the same */
        struct buf *header = buf_copy("answer", 6);
        assert_int_equal(zmqx_send(s, &m.peer, header, NULL), 0);
        buf_unref(header);
    }
    zmqx_message_clear(&m);
}

/* Messages that came together, or while others were sent, are each announced. */
static void waiting(void **state)
{
    (void)state;
    struct pair p;
    struct zmqx_message m;
    struct buf *header = buf_copy("h", 1);
    pair_open(&p, "tcp://127.0.0.1:0");
    wait_for(p.dealer, true);
    for (int round = 0; round < 200; round++) {
        int n = 1 + round % 5;
        for (int i = 0; i < n; i++)
            assert_int_equal(zmqx_send(p.dealer, NULL, header, NULL), 0);
        for (int i = 0; i < n; i++)
            receive_one(p.router);
        for (int i = 0; i < n; i++)
            receive_one(p.dealer);
        assert_int_equal(zmqx_recv(p.dealer, &m), -EAGAIN);
    }
    struct zmqx_poll_item item = {.socket = p.router};
    assert_int_equal(zmqx_poll(&item, 1, 1), 0);
    buf_unref(header);
    pair_close(&p);
}

/* Who wants to hear of connections is woken by them, until zmqx_events has told. */
static void told(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, "tcp://127.0.0.1:0");
    wait_for(p.dealer, true);
    zmqx_close(p.router);
    p.router = NULL;
    struct zmqx_poll_item item = {.socket = p.dealer, .want_events = true};
    while (zmqx_events(p.dealer).disconnected == 0) {
        assert_int_equal(zmqx_poll(&item, 1, 10000), 1);
        assert_true(item.told && !item.readable);
    }
    pair_close(&p);
}

static void addresses(void **state)
{
    (void)state;
    char out[ZMQX_ENDPOINT];
    struct skv_error err;
    assert_int_equal(zmqx_endpoint_parse("127.0.0.1:7071", out, &err), 0);
    assert_string_equal(out, "tcp://127.0.0.1:7071");
    assert_int_equal(zmqx_endpoint_parse("tcp://[::1]:0", out, &err), 0);
    assert_int_equal(zmqx_endpoint_parse("inproc://x", out, &err), 0);
    assert_string_equal(out, "inproc://x");
    static const char *const bad[] = {
        "", "host", ":7071", "host:", "host:x", "host:70710", "host:-1", "host:1x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (zmqx_endpoint_parse(bad[i], out, &err) != -EINVAL)
            fail_msg("'%s' was taken for an address", bad[i]);
    char long_one[400];
    memset(long_one, 'a', sizeof long_one - 1);
    long_one[sizeof long_one - 1] = 0;
    assert_int_equal(zmqx_endpoint_parse(long_one, out, &err), -EINVAL);
    void *ctx = zmqx_ctx_new(1, &err);
    struct zmqx_socket *s, *t;
    assert_int_equal(zmqx_router(ctx, "tcp://localhost:0", 100, &s, &err), 0);
    assert_int_equal(zmqx_router(ctx, zmqx_endpoint(s), 100, &t, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "another port"));
    zmqx_close(s);
    zmqx_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits),         cmocka_unit_test(plain_structs), cmocka_unit_test(damaged),
        cmocka_unit_test(over_inproc),    cmocka_unit_test(over_tcp),      cmocka_unit_test(slow_reader),
        cmocka_unit_test(several_frames), cmocka_unit_test(waiting),       cmocka_unit_test(told),
        cmocka_unit_test(monitor),        cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
