/* zmq_poke.c: does to a memory node what no client should, and asks it plain questions; for the integration
 * tests.
 *
 *   zmq_poke HOST:PORT garbage      bytes that are not ZMTP
 *   zmq_poke HOST:PORT halfway      ZMTP's greeting, then nonsense
 *   zmq_poke HOST:PORT oversize     a frame beyond the node's limit
 *   zmq_poke HOST:PORT malformed    a header that is none; prints the refusal
 *   zmq_poke HOST:PORT version      a message of version 99; prints the refusal
 *   zmq_poke HOST:PORT durable      a PUT that wants a disk; prints the refusal
 *   zmq_poke HOST:PORT roundtrip    HELLO, PUT, GET of a block; compares the bytes
 *   zmq_poke HOST:PORT stats        every counter, "name value" a line
 *
 * Exit status 0 when the node did what it should, else 1 and a sentence. */
#include "common/zmqx.h"
#include "tests/unit/node_harness.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <unistd.h>

enum { WAIT_MS = 10000 };

struct lane {
    void *ctx;
    struct zmqx_socket *socket;
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "zmq_poke: %s: %s\n", what, why);
    exit(1);
}

static void lane_open(struct lane *l, const char *endpoint)
{
    struct skv_error err;
    l->ctx = zmqx_ctx_new(1, &err);
    if (!l->ctx || zmqx_dealer(l->ctx, endpoint, PROTO_MAX_PAYLOAD, &l->socket, &err))
        die("connect", err.text);
}

static void lane_close(struct lane *l)
{
    zmqx_close(l->socket);
    zmqx_ctx_free(l->ctx);
}

/* Sends when the connection stands; drops the caller's reference. */
static void lane_send(struct lane *l, struct buf *header, const struct view *payload)
{
    struct zmqx_poll_item item = {.socket = l->socket, .want_write = true};
    int rc;
    while ((rc = zmqx_send(l->socket, NULL, header, payload)) == -EAGAIN)
        if (zmqx_poll(&item, 1, WAIT_MS) <= 0)
            die("send", "nobody listens there");
    if (rc)
        die("send", strerror(-rc));
    buf_unref(header);
}

/* Waits for one answer of the wanted kind; clear it. */
static void lane_receive(struct lane *l, int kind, struct message *out)
{
    struct zmqx_poll_item item = {.socket = l->socket};
    struct zmqx_message m;
    struct skv_error err;
    uint64_t id;
    if (zmqx_poll(&item, 1, WAIT_MS) <= 0 || zmqx_recv(l->socket, &m))
        die("receive", "no answer");
    if (message_parse(out, m.header.data, m.header.len, m.n_frames, m.payload, &id, &err))
        die("answer", err.text);
    zmqx_message_clear(&m);
    if ((int)out->header->body_case != kind)
        die("answer", out->header->body_case == SCOUTKV__HEADER__BODY_REFUSED ? out->header->refused->text
                                                                              : "another kind");
}

static void refusal(struct lane *l, struct buf *header, const struct view *payload)
{
    struct message a;
    lane_send(l, header, payload);
    lane_receive(l, SCOUTKV__HEADER__BODY_REFUSED, &a);
    printf("%s\n", a.header->refused->text);
    message_clear(&a);
}

static void hello(struct lane *l, struct h_block *b)
{
    struct message a;
    lane_send(l, h_sample(0, b, 1), NULL);
    lane_receive(l, SCOUTKV__HEADER__BODY_HELLO_ACK, &a);
    message_clear(&a);
}

static void raw_bytes(const char *endpoint, const void *bytes, size_t len)
{
    char host[ZMQX_ENDPOINT];
    snprintf(host, sizeof host, "%s", endpoint + strlen("tcp://"));
    char *colon = strrchr(host, ':');
    *colon = 0;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1 || connect(fd, (struct sockaddr *)&a, sizeof a))
        die("connect", strerror(errno));
    if (write(fd, bytes, len) != (ssize_t)len)
        die("write", strerror(errno));
    usleep(300000); /* the node looks at the bytes before it sees the end */
    close(fd);
}

static void durable(struct lane *l, struct h_block *b, const struct view *payload)
{
    Scoutkv__Put put = h_put_of(b);
    put.ack = SCOUTKV__ACK__DURABLE;
    H_HEADER(header, PUT, put, &put);
    header.version = PROTO_VERSION_MAX;
    hello(l, b);
    refusal(l, header_pack(&header), payload);
}

static void roundtrip(struct lane *l, struct h_block *b, const struct view *payload)
{
    struct message a;
    hello(l, b);
    lane_send(l, h_sample(1, b, 2), payload);
    lane_receive(l, SCOUTKV__HEADER__BODY_PUT_ACK, &a);
    message_clear(&a);
    lane_send(l, h_sample(2, b, 3), NULL);
    lane_receive(l, SCOUTKV__HEADER__BODY_PAGES, &a);
    if (a.payload.len != payload->len || memcmp(a.payload.data, payload->data, payload->len) != 0)
        die("GET", "other bytes than were put");
    message_clear(&a);
}

static void stats(struct lane *l, struct h_block *b)
{
    struct message a;
    hello(l, b);
    lane_send(l, h_sample(10, b, 2), NULL);
    lane_receive(l, SCOUTKV__HEADER__BODY_STATS_ACK, &a);
    for (size_t i = 0; i < a.header->stats_ack->n_counters; i++)
        printf("%s %" PRIu64 "\n", a.header->stats_ack->counters[i]->name,
               a.header->stats_ack->counters[i]->value);
    message_clear(&a);
}

int main(int argc, char **argv)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: node\r\n\r\n";
    static const uint8_t nonsense[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'O', 'P', 'E'};
    char endpoint[ZMQX_ENDPOINT];
    struct skv_error err;
    if (argc != 3 || zmqx_endpoint_parse(argv[1], endpoint, &err))
        die("usage", "zmq_poke HOST:PORT WHAT");
    const char *what = argv[2];
    struct lane l;
    struct h_block b;
    h_block(&b, 0, 1);
    struct view payload = {b.payload->data, b.payload->len, b.payload};
    lane_open(&l, endpoint);
    if (strcmp(what, "garbage") == 0)
        raw_bytes(endpoint, http, sizeof http - 1);
    else if (strcmp(what, "halfway") == 0)
        raw_bytes(endpoint, nonsense, sizeof nonsense);
    else if (strcmp(what, "oversize") == 0) {
        struct buf *big = buf_new(PROTO_MAX_PAYLOAD + 1);
        memset(big->data, 0, big->len);
        lane_send(&l, big, NULL);
        for (int i = 0; i < 100 && zmqx_events(l.socket).disconnected == 0; i++)
            usleep(100000);
        if (zmqx_events(l.socket).disconnected == 0)
            die("oversize", "the node did not hang up");
    } else if (strcmp(what, "malformed") == 0)
        refusal(&l, buf_copy("\xff\xff\xff", 3), NULL);
    else if (strcmp(what, "version") == 0)
        refusal(&l, buf_copy("\x08\x63\x10\x05", 4), NULL);
    else if (strcmp(what, "durable") == 0)
        durable(&l, &b, &payload);
    else if (strcmp(what, "roundtrip") == 0)
        roundtrip(&l, &b, &payload);
    else if (strcmp(what, "stats") == 0)
        stats(&l, &b);
    else
        die("usage", "see the head of zmq_poke.c");
    lane_close(&l);
    h_block_free(&b);
    return 0;
}
