/* fuzz_node.c: damaged conversations with a memory node's core.
 *
 * With libFuzzer:  clang -fsanitize=fuzzer,address -DSKV_LIBFUZZER …   then   ./fuzz_node corpus/
 * Its input is a list of messages: a lane, a number of frames, a length of two bytes, and that much of frame
 * 0. Built plainly, it has a main of its own that damages messages of every kind, from seeds: fuzz_node [runs
 * [seed]] A failure prints the seed of the run that failed; give it back with runs = 1. */
#include "tests/unit/node_harness.h"

#include <inttypes.h>
#include <signal.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* After whatever happened, a newcomer is served. */
static void must_live(struct harness *h)
{
    h->room = H_MAX_SENT;
    h->send_rc = 0;
    h_clear(h);
    h->now += 40 * NS_PER_S; /* whoever does not read has been forgotten */
    node_tick(h->node, h->now);
    while (node_run(h->node, h->now) == NODE_BUSY)
        h_clear(h);
    h_clear(h);
    if (h_counter(h, "ram_store_used") > h_counter(h, "ram_store_limit"))
        h_die("the budget was exceeded");
    h_clear(h);
    if (h_counter(h, "ram_replies_used") != 0)
        h_die("replies that nobody holds still count");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct harness *h = h_ready(8 << 20);
    struct h_block b;
    h_block(&b, 0, 1);
    struct view payload = {b.payload->data, b.payload->len, b.payload};
    while (size >= 4) {
        size_t len = data[2] | (size_t)data[3] << 8;
        len = len < size - 4 ? len : size - 4;
        h->room = h->n_sent + (data[0] & 0x80 ? 0 : 8);
        h_bytes(h, data[0] & 3, data + 4, len, data[1] & 3, payload);
        node_run(h->node, h->now += NS_PER_MS);
        if (h->n_sent > H_MAX_SENT / 2)
            h_clear(h);
        data += 4 + len;
        size -= 4 + len;
    }
    must_live(h);
    h_free(h);
    h_block_free(&b);
    return 0;
}

#ifndef SKV_LIBFUZZER
static uint64_t current_seed;

static void on_signal(int number)
{
    dprintf(2, "fuzz_node: failed; to repeat it: fuzz_node 1 %" PRIu64 "\n", current_seed);
    signal(number, SIG_DFL);
    raise(number);
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* A message about one of a few blocks, most often with a few bytes changed. */
static void one_message(struct harness *h, struct h_block *blocks, uint64_t *rng)
{
    struct h_block *b = &blocks[next_random(rng) % 4];
    struct view payload = {b->payload->data, b->payload->len, b->payload};
    unsigned kind = (unsigned)(next_random(rng) % (next_random(rng) % 4 ? 13 : H_KINDS));
    struct buf *s = h_sample(kind, b, next_random(rng));
    for (uint64_t n = next_random(rng) % 4; n; n--)
        s->data[next_random(rng) % s->len] ^= (uint8_t)(1u << next_random(rng) % 8);
    size_t len = next_random(rng) % 8 ? s->len : next_random(rng) % (s->len + 1);
    if (next_random(rng) % 8 == 0)
        payload.len = next_random(rng) % (payload.len + 1);
    h_bytes(h, (uint8_t)(1 + next_random(rng) % 4), s->data, len,
            next_random(rng) % 16 ? 2 : (unsigned)(next_random(rng) % 5), payload);
    buf_unref(s);
}

static void run(uint64_t seed)
{
    uint64_t rng = seed;
    struct harness *h = h_ready(8 << 20);
    struct h_block blocks[4];
    for (uint32_t i = 0; i < 4; i++)
        h_block(&blocks[i], 0, i);
    for (uint64_t n = 20 + next_random(&rng) % 200; n; n--) {
        one_message(h, blocks, &rng);
        if (next_random(&rng) % 16 == 0) /* peers stall, and go */
            h->room = next_random(&rng) % 2 ? h->n_sent : H_MAX_SENT;
        h->send_rc = next_random(&rng) % 64 ? 0 : -EHOSTUNREACH;
        node_run(h->node, h->now += next_random(&rng) % NS_PER_S);
        if (next_random(&rng) % 8 == 0)
            node_tick(h->node, h->now);
        if (h->n_sent > 64 && h->room == H_MAX_SENT)
            h_clear(h);
    }
    must_live(h);
    h_free(h);
    for (int i = 0; i < 4; i++)
        h_block_free(&blocks[i]);
}

int main(int argc, char **argv)
{
    uint64_t runs = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000,
             seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    signal(SIGABRT, on_signal);
    signal(SIGSEGV, on_signal);
    for (uint64_t i = 0; i < runs; i++) {
        current_seed = seed + i;
        run(current_seed);
    }
    printf("fuzz_node: %" PRIu64 " conversations from seed %" PRIu64 ", no failure\n", runs, seed);
    return 0;
}
#endif
