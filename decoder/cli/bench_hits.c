/* bench_hits.c: see bench_hits.h. */
#include "decoder/cli/bench_hits.h"

#include "common/clock.h"
#include "common/hist.h"
#include "common/zmqx.h"
#include "decoder/cli/interrupt.h"
#include "decoder/tier/client.h"
#include "memnode/server.h"
#include "memnode/store/store.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    LANES = 2,       /* one for PUTs, one for GETs */
    HIT_PAGES = 4,   /* 32 KiB */
    COLD_PAGES = 32, /* 256 KiB */
    WAIT_MS = 20,
    TIMEOUT_S = 60,
};
static const char ENDPOINT[] = "inproc://bench-store";
static const uint64_t PACE_NS = 500000; /* between two hits */

/* ---- a client: the tier's core over sockets of the node's own context ---- */

struct talk {
    struct client *client;
    struct zmqx_socket *lane[LANES];
    struct outgoing pending[LANES];
};

static bool move(struct talk *t)
{
    bool moved = false;
    uint64_t now = clock_ns();
    for (unsigned i = 0; i < LANES; i++) {
        struct zmqx_message m;
        while (zmqx_recv(t->lane[i], &m) == 0) {
            client_receive(t->client, i, m.header.data, m.header.len, m.n_frames, m.payload, now);
            zmqx_message_clear(&m);
            moved = true;
        }
        struct outgoing *out = &t->pending[i];
        while ((out->header || client_next(t->client, i, now, out)) &&
               zmqx_send(t->lane[i], NULL, out->header, &out->payload) == 0) {
            outgoing_clear(out);
            moved = true;
        }
    }
    client_tick(t->client, now);
    return moved;
}

/* Moves what there is to move, else waits for something. */
static void pump(struct talk *t)
{
    if (move(t))
        return;
    struct zmqx_poll_item items[LANES];
    for (unsigned i = 0; i < LANES; i++)
        items[i] = (struct zmqx_poll_item){.socket = t->lane[i], .want_write = t->pending[i].header != NULL};
    zmqx_poll(items, LANES, WAIT_MS);
}

static void talk_close(struct talk *t)
{
    for (unsigned i = 0; i < LANES; i++) {
        outgoing_clear(&t->pending[i]);
        zmqx_close(t->lane[i]);
    }
    client_free(t->client);
    *t = (struct talk){0};
}

static int talk_open(struct talk *t, void *zmq, struct skv_error *err)
{
    static const struct cluster_node node = {.address = "inside this process", .weight = 1};
    struct client_opts opts = {.nodes = &node,
                               .n_nodes = 1,
                               .cluster = "default",
                               .name = "bench",
                               .replicas = 1,
                               .timeout_ns = TIMEOUT_S * NS_PER_S,
                               .heartbeat_ns = TIMEOUT_S * NS_PER_S / 2,
                               .get_window = 8 << 20,
                               .lanes = LANES - 1};
    int rc;
    if (!(t->client = client_new(&opts, clock_ns())))
        return skv_fail(err, -ENOMEM, "out of memory");
    assert(client_n_lanes(t->client) == LANES);
    for (unsigned i = 0; i < LANES; i++)
        if ((rc = zmqx_dealer(zmq, ENDPOINT, PROTO_MAX_PAYLOAD, &t->lane[i], err)))
            return rc;
    while ((rc = client_ready(t->client, err)) == 0)
        pump(t);
    return rc < 0 ? rc : 0;
}

/* ---- one GET of neighbouring pages ---- */

struct get {
    struct block_key key;
    struct tier_want want[COLD_PAGES];
    struct tier_fetch *fetch; /* NULL: none is on its way */
    uint64_t *bytes;          /* counted here as they come */
    int rc;                   /* of the first page that did not */
};

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct get *g = arg;
    (void)want;
    (void)bytes;
    if (rc == 0)
        *g->bytes += BENCH_PAGE;
    else if (g->rc == 0)
        g->rc = rc;
}

static int get_begin(struct talk *t, const struct bench_blocks *b, struct get *g, uint32_t number,
                     uint32_t first, uint32_t n, struct skv_error *err)
{
    g->key = bench_key(number);
    g->rc = 0;
    for (uint32_t i = 0; i < n; i++)
        g->want[i] = (struct tier_want){.key = &g->key,
                                        .head = (uint16_t)((first + i) / BLOCK_PAGES),
                                        .page = (uint8_t)((first + i) % BLOCK_PAGES),
                                        .checksum = bench_checksums(b, number)[first + i]};
    return client_fetch_begin(t->client, &b->layout, g->want, n, on_page, g, &g->fetch, err);
}

static bool get_ended(struct talk *t, struct get *g)
{
    if (!client_fetch_done(g->fetch))
        return false;
    client_fetch_free(t->client, g->fetch, NULL);
    g->fetch = NULL;
    return true;
}

/* ---- the load ---- */

struct bench_hits {
    const struct bench_blocks *blocks;
    uint64_t seed, hit_seed; /* the load's, the hits' */
    void *zmq;
    struct server *server;
    struct talk hits, load;
    struct get hit;
    uint32_t next; /* number of the next block that the load puts */
    uint64_t hit_bytes, read_bytes, put_bytes;
    unsigned puts_open;
    struct skv_error put_error;
    pthread_t thread;
    atomic_bool stop;
    cpu_set_t processors; /* that we had before */
};

static void on_put(void *arg, const struct tier_put_result *r)
{
    struct bench_hits *h = arg;
    h->puts_open--;
    if (r->rc == 0)
        h->put_bytes += BENCH_BLOCK;
    else if (!h->put_error.code)
        h->put_error = *r->err;
}

static int put_next(struct talk *t, struct bench_hits *h, uint32_t number, enum tier_ack ack,
                    struct skv_error *err)
{
    struct block_key key = bench_key(number);
    int rc = client_put(t->client, &key, &h->blocks->layout, bench_payload(h->blocks, number),
                        bench_checksums(h->blocks, number), ack, on_put, h, err);
    h->puts_open += rc == 0;
    return rc;
}

/* Pages of a block that was put long ago; some are gone by now, and are answered as such. */
static uint32_t cold_number(struct bench_hits *h)
{
    uint32_t n = h->blocks->n, half = n / 2;
    return (h->next + n - half + (uint32_t)(bench_random(&h->seed) % (half / 2))) % n;
}

/* Ends what is on its way before it returns. */
static void *load_main(void *arg)
{
    struct bench_hits *h = arg;
    struct get cold[BENCH_DEPTH] = {0};
    bool busy = true;
    while (busy || !atomic_load(&h->stop)) {
        bool go = !atomic_load(&h->stop);
        while (go && h->puts_open < BENCH_WINDOW / BENCH_BLOCK &&
               put_next(&h->load, h, h->next, TIER_ACK_DURABLE, NULL) == 0)
            h->next = (h->next + 1) % h->blocks->n;
        busy = h->puts_open > 0;
        for (unsigned i = 0; i < BENCH_DEPTH; i++) {
            cold[i].bytes = &h->read_bytes;
            if (cold[i].fetch)
                get_ended(&h->load, &cold[i]);
            if (!cold[i].fetch && go)
                get_begin(
                    &h->load, h->blocks, &cold[i], cold_number(h),
                    (uint32_t)(bench_random(&h->seed) % (layout_pages(&h->blocks->layout) - COLD_PAGES)),
                    COLD_PAGES, NULL);
            busy |= cold[i].fetch != NULL;
        }
        pump(&h->load);
    }
    return NULL;
}

/* ---- the hits ---- */

static void sleep_until(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR && !interrupted())
        ;
}

/* A hit that is due while the one before it is still on its way begins to wait when it is due, not when it is
 * sent: else a stall would count once, however many it had held up. */
static int ask(struct bench_hits *h, double seconds, struct hist *times, struct skv_error *err)
{
    uint64_t now = clock_ns(), due = now, end = now + (uint64_t)(seconds * 1e9);
    for (; now < end && !interrupted(); due += PACE_NS) {
        if (now < due) {
            sleep_until(due);
            now = clock_ns();
            due = now; /* waking up late is not the node's doing */
        }
        uint32_t number = h->blocks->n + (uint32_t)(bench_random(&h->hit_seed) % BENCH_HOT);
        uint32_t first =
            (uint32_t)(bench_random(&h->hit_seed) % (layout_pages(&h->blocks->layout) - HIT_PAGES));
        int rc = get_begin(&h->hits, h->blocks, &h->hit, number, first, HIT_PAGES, err);
        if (rc)
            return rc;
        while (!get_ended(&h->hits, &h->hit))
            pump(&h->hits);
        if (h->hit.rc)
            return skv_fail(err, h->hit.rc, "a block that was to be in RAM is not there: %s",
                            strerror(-h->hit.rc));
        now = clock_ns();
        hist_add(times, now - due);
    }
    return interrupted() ? skv_fail(err, -EINTR, "interrupted") : 0;
}

int bench_hits_run(struct bench_hits *h, bool loaded, double seconds, struct hit_times *out,
                   struct skv_error *err)
{
    struct hist *times = calloc(1, sizeof *times);
    if (!times)
        return skv_fail(err, -ENOMEM, "out of memory");
    uint64_t begin = clock_ns();
    h->read_bytes = h->put_bytes = 0;
    atomic_store(&h->stop, false);
    int rc = loaded ? pthread_create(&h->thread, NULL, load_main, h) : 0;
    if (rc) {
        free(times);
        return skv_fail(err, -rc, "cannot start a thread: %s", strerror(rc));
    }
    rc = ask(h, seconds, times, err);
    if (loaded) {
        atomic_store(&h->stop, true);
        pthread_join(h->thread, NULL);
        if (!rc && h->put_error.code) {
            *err = h->put_error;
            rc = err->code;
        }
    }
    double ns = (double)(clock_ns() - begin);
    *out = (struct hit_times){.n = times->count,
                              .p50_us = (double)hist_quantile(times, 0.5) / 1e3,
                              .p99_us = (double)hist_quantile(times, 0.99) / 1e3,
                              .read_gbps = (double)h->read_bytes / ns,
                              .put_gbps = (double)h->put_bytes / ns};
    free(times);
    return rc;
}

/* ---- beginning and end ---- */

/* These are put once, and asked for so often that they stay in RAM. */
static int put_hot(struct bench_hits *h, struct skv_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < BENCH_HOT && !rc; i++)
        rc = put_next(&h->hits, h, h->blocks->n + i, TIER_ACK_DURABLE, err);
    while (h->puts_open)
        pump(&h->hits);
    if (!rc && h->put_error.code) {
        *err = h->put_error;
        rc = err->code;
    }
    return rc;
}

/* This thread has the n-th of our processors to itself, as far as we go. Where there is one only, all stay
 * where they are. */
static void stay_on(const struct bench_hits *h, int n)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &h->processors) && n-- == 0) {
            CPU_SET(i, &one);
            (void)sched_setaffinity(0, sizeof one, &one);
            return;
        }
}

int bench_hits_open(const struct bench_blocks *blocks, const char *dir, uint64_t size, uint64_t ram,
                    uint32_t next, struct bench_hits **out, struct skv_error *err)
{
    struct bench_hits *h = calloc(1, sizeof *h);
    *out = h;
    if (!h)
        return skv_fail(err, -ENOMEM, "out of memory");
    struct store_disk disk = {dir, size};
    struct node_opts opts = {.id = "bench", .ram = ram, .disks = &disk, .n_disks = 1};
    h->blocks = blocks;
    h->next = next;
    h->seed = h->hit_seed = clock_ns();
    h->hit.bytes = &h->hit_bytes;
    sched_getaffinity(0, sizeof h->processors, &h->processors);
    stay_on(h, 0); /* threads inherit it */
    if (!(h->zmq = zmqx_ctx_new(1, err)) || !(h->server = server_start(h->zmq, ENDPOINT, &opts, err)))
        return err->code;
    stay_on(h, 1);
    int rc = talk_open(&h->hits, h->zmq, err);
    if (!rc)
        rc = talk_open(&h->load, h->zmq, err);
    return rc ? rc : put_hot(h, err);
}

void bench_hits_close(struct bench_hits *h)
{
    if (!h)
        return;
    if (h->hit.fetch)
        client_fetch_free(h->hits.client, h->hit.fetch, NULL);
    talk_close(&h->hits);
    talk_close(&h->load);
    server_stop(h->server);
    zmqx_ctx_free(h->zmq);
    (void)sched_setaffinity(0, sizeof h->processors, &h->processors);
    free(h);
}
