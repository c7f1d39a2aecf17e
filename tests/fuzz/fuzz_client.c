/* fuzz_client.c: a client core, two node cores, and a network that does what the input says.
 *
 * The input is a list of small orders: write a block, begin a fetch, let time pass, break a lane, flip a bit
 * of the next answer, cut it, send it twice, or hand the client bytes of the input as if a node had sent
 * them. Then the network is left in peace. However ill it was: no crash, every page is answered once, and no
 * wrong byte is handed out.
 *
 * With libFuzzer:  clang -fsanitize=fuzzer,address -DSKV_LIBFUZZER …   then   ./fuzz_client corpus/
 * Built plainly, it makes seeded inputs itself:   fuzz_client [runs [seed]]
 * A failure prints the seed of the run that failed; give it back with runs = 1. */
#include "tests/unit/tier_world.h"

#include <inttypes.h>
#include <signal.h>
#include <unistd.h>

enum { BLOCKS = 8, HEADS = 2, PER_BLOCK = HEADS * BLOCK_PAGES, WANTS = BLOCKS * PER_BLOCK, FETCHES = 16 };
static const struct block_layout layout = {.dtype = 1, .d_k = 4, .d_v = 4, .n_heads = HEADS};

static struct world_block blocks[BLOCKS];
static struct tier_want wants[WANTS];

struct read_back {
    struct tier_fetch *fetch;
    size_t n;
    uint8_t seen[WANTS];
};

/* What befalls the next answers. */
struct harm {
    uint64_t flip_header, flip_payload, cut; /* 0: nothing; else where, modulo the length */
    bool twice, swallow;
};

static void check(bool holds, const char *what)
{
    if (!holds) {
        dprintf(2, "fuzz_client: %s\n", what);
        abort();
    }
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct read_back *r = arg;
    size_t len = layout_page_bytes(&layout);
    check(want < r->n && !r->seen[want]++, "a page was answered twice");
    check((rc == 0) == (bytes != NULL), "bytes without success, or the reverse");
    check(rc == 0 || rc == -ENODATA || rc == -EBADMSG || rc == -EHOSTUNREACH, "an unknown failure");
    check(rc || !memcmp(bytes, blocks[want / PER_BLOCK].payload->data + want % PER_BLOCK * len, len),
          "wrong bytes");
}

static struct buf *altered(const uint8_t *data, size_t len, uint64_t flip)
{
    struct buf *b = buf_copy(data, len);
    if (flip && len)
        b->data[flip / 8 % len] ^= (uint8_t)(1u << flip % 8);
    return b;
}

static bool tamper(struct world *w, struct world_message *m)
{
    struct harm *h = w->tamper_arg, now = *h;
    if (!m->to_client)
        return true;
    *h = (struct harm){0};
    if (now.flip_header || now.cut) {
        struct buf *b = altered(m->header->data, now.cut ? now.cut % (m->header->len + 1) : m->header->len,
                                now.flip_header);
        buf_unref(m->header);
        m->header = b;
    }
    if (now.flip_payload && m->payload.len) {
        struct buf *all = view_copy(&m->payload), *b = altered(all->data, all->len, now.flip_payload);
        buf_unref(all);
        buf_unref(m->payload.owner);
        m->payload = (struct view){b->data, b->len, b};
    }
    if (now.twice)
        world_deliver(w, m);
    return !now.swallow;
}

struct input {
    const uint8_t *at, *end;
};
static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t v = 0;
    for (; bytes && in->at < in->end; bytes--)
        v = v << 8 | *in->at++;
    return v;
}

static void order(struct world *w, struct harm *h, struct read_back *reads, unsigned *n_reads,
                  struct input *in)
{
    struct skv_error err;
    unsigned what = (unsigned)take(in, 1) % 12, n_lanes = client_n_lanes(w->client);
    uint64_t arg = take(in, 2);
    struct world_block *b = &blocks[arg % BLOCKS];
    switch (what) {
    case 0:
        if (client_ready(w->client, NULL) > 0)
            client_put(w->client, &b->key, &layout, b->payload, b->checksums, TIER_ACK_RAM, NULL, NULL, &err);
        break;
    case 1:
        if (client_ready(w->client, NULL) > 0 && *n_reads < FETCHES) {
            struct read_back *r = &reads[*n_reads];
            r->n = arg % (WANTS + 1);
            check(client_fetch_begin(w->client, &layout, wants, r->n, on_page, r, &r->fetch, &err) == 0,
                  err.text);
            ++*n_reads;
        }
        break;
    case 2:
        w->now += arg * NS_PER_MS;
        break;
    case 3:
        client_lane_lost(w->client, (unsigned)arg % n_lanes, "broken", w->now);
        break;
    case 4:
        h->flip_header = arg;
        break;
    case 5:
        h->flip_payload = arg;
        break;
    case 6:
        h->cut = arg;
        break;
    case 7:
        h->twice = arg & 1;
        h->swallow = arg & 2;
        break;
    case 8: {
        size_t len = (size_t)take(in, 1), have = (size_t)(in->end - in->at);
        len = len < have ? len : have;
        struct buf *bytes = buf_copy(in->at, len); /* exact size: reading beyond it is seen */
        client_receive(w->client, (unsigned)arg % n_lanes, bytes->data, len, 1 + (arg >> 8) % 3,
                       (struct view){bytes->data, len, bytes}, w->now);
        buf_unref(bytes);
        in->at += len;
        break;
    }
    default:
        for (uint64_t i = 0; i <= arg % 16; i++)
            world_step(w);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct harm harm = {0};
    struct world w = {.get_window = 2048, .put_credit = 16 << 10, .tamper = tamper, .tamper_arg = &harm};
    struct read_back reads[FETCHES] = {0};
    unsigned n_reads = 0;
    struct skv_error err;
    if (!blocks[0].payload)
        for (unsigned b = 0; b < BLOCKS; b++) {
            world_block_make(&blocks[b], &layout, b);
            for (unsigned p = 0; p < PER_BLOCK; p++)
                wants[b * PER_BLOCK + p] =
                    (struct tier_want){&blocks[b].key, (uint16_t)(p / BLOCK_PAGES),
                                       (uint8_t)(p % BLOCK_PAGES), blocks[b].checksums[p]};
        }
    unsigned how = take(&in, 1);
    w.replicas = 1 + (how >> 1 & 1);
    world_open(&w, 1, 2, 1);
    w.delay_ns = NS_PER_MS;
    if (how & 1) /* else HELLOs are harmed too */
        world_greet(&w, &err);
    while (in.at < in.end)
        order(&w, &harm, reads, &n_reads, &in);
    harm = (struct harm){0};
    uint64_t limit = w.now + 60 * NS_PER_S;
    for (unsigned i = 0; i < n_reads; i++) {
        while (!client_fetch_done(reads[i].fetch) && w.now < limit)
            world_step(&w);
        check(client_fetch_done(reads[i].fetch), "a fetch never ended");
        int rc = client_fetch_free(w.client, reads[i].fetch, &err);
        check(rc == 0 || strlen(err.text) > 20, "a failure without a sentence");
    }
    while (client_puts_open(w.client) && w.now < limit)
        world_step(&w);
    check(client_puts_open(w.client) == 0, "a PUT never ended");
    world_close(&w);
    return 0;
}

#ifndef SKV_LIBFUZZER
static uint64_t current_seed;

static void on_signal(int number)
{
    dprintf(2, "fuzz_client: failed; to repeat it: fuzz_client 1 %" PRIu64 "\n", current_seed);
    signal(number, SIG_DFL);
    raise(number);
}

int main(int argc, char **argv)
{
    uint64_t runs = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000,
             seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    signal(SIGABRT, on_signal);
    for (uint64_t i = 0; i < runs; i++) {
        uint8_t data[400];
        struct world random = {.rng = current_seed = seed + i};
        size_t n = 50 + world_random(&random) % 350;
        for (size_t j = 0; j < n; j++)
            data[j] = (uint8_t)world_random(&random);
        LLVMFuzzerTestOneInput(data, n);
    }
    printf("fuzz_client: %" PRIu64 " runs from seed %" PRIu64 ", no failure\n", runs, seed);
    return 0;
}
#endif
