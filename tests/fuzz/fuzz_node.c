/* fuzz_node.c: damaged conversations with a memory node's core.
 *
 * With libFuzzer:  clang -fsanitize=fuzzer,address -DSKV_LIBFUZZER …   then   ./fuzz_node corpus/
 * Its input is a list of messages: a lane, a number of frames, a length of two bytes, and that much of frame
 * 0. Built plainly, it has a main of its own that damages messages of every kind, from seeds: fuzz_node [runs
 * [seed]] A failure prints the seed of the run that failed; give it back with runs = 1. Every
 * second run has a disk, which is slow, fails, and is read anew by another node now and then. */
#include "memnode/store/store.h"
#include "tests/store/sim_disk.h"
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

static struct buf *durable_put(struct h_block *b, uint64_t id)
{
    Scoutkv__Put put = h_put_of(b);
    put.ack = SCOUTKV__ACK__DURABLE;
    H_HEADER(header, PUT, put, &put);
    header.version = PROTO_VERSION_MAX;
    header.id = id;
    return header_pack(&header);
}

/* A message about one of a few blocks, most often with a few bytes changed; gentle: most often without. */
static void one_message(struct harness *h, struct h_block *blocks, uint64_t *rng, bool gentle)
{
    struct h_block *b = &blocks[next_random(rng) % 4];
    struct view payload = {b->payload->data, b->payload->len, b->payload};
    unsigned kind = (unsigned)(next_random(rng) % (next_random(rng) % 4 ? 13 : H_KINDS));
    struct buf *s = h_sample(kind, b, next_random(rng));
    if (kind == 1 && next_random(rng) % 2) {
        buf_unref(s);
        s = durable_put(b, next_random(rng));
    }
    bool whole = gentle && next_random(rng) % 8;
    for (uint64_t n = whole ? 0 : next_random(rng) % 4; n; n--)
        s->data[next_random(rng) % s->len] ^= (uint8_t)(1u << next_random(rng) % 8);
    size_t len = whole || next_random(rng) % 8 ? s->len : next_random(rng) % (s->len + 1);
    if (!whole && next_random(rng) % 8 == 0)
        payload.len = next_random(rng) % (payload.len + 1);
    h_bytes(h, (uint8_t)(1 + next_random(rng) % 4), s->data, len,
            next_random(rng) % 16 ? 2 : (unsigned)(next_random(rng) % 5), payload);
    buf_unref(s);
}

static const struct store_disk disk = {"d", STORE_DISK_MIN};

static struct harness *with_disk(struct sim *sim, uint64_t now)
{
    struct harness *h = h_new(
        &(struct node_opts){.id = "n1", .ram = 8 << 20, .disks = &disk, .n_disks = 1, .io = sim_io(sim)});
    h->now += now;
    h_hello(h, H_BULK, 0, true);
    h_hello(h, H_READ, 0, false);
    return h;
}

static struct harness *restart(struct harness *h, struct sim *sim, uint64_t *rng)
{
    uint64_t now = h->now;
    if (next_random(rng) % 2)
        sim_power_loss(sim);
    h_free(h);
    sim_io(sim)->ops->close(sim_io(sim));
    sim_set_faults(sim, &(struct sim_faults){0}); /* what can't be opened is no node */
    return with_disk(sim, now);
}

/* Slow, and fast again; seldom, failing. */
static void disk_mood(struct sim *sim, uint64_t *rng)
{
    static const unsigned paces[] = {0, 5, 50, 100};
    sim_set_pace(sim, paces[next_random(rng) % 4]);
    struct sim_faults faults = {0};
    if (next_random(rng) % 8 == 0)
        faults.read_error = faults.read_misdirected = 200000;
    if (next_random(rng) % 32 == 0)
        faults.write_error = faults.sync_error = 100000;
    sim_set_faults(sim, &faults);
}

/* What it has in flight comes back; what it holds is known. */
static void disk_settles(struct harness *h, struct sim *sim)
{
    sim_set_pace(sim, 100);
    for (int i = 0; i < 200; i++)
        node_run(h->node, h->now += 10 * NS_PER_MS);
}

static void run(uint64_t seed)
{
    uint64_t rng = seed;
    struct sim *sim = seed % 2 ? NULL : sim_new(seed);
    struct harness *h = sim ? with_disk(sim, 0) : h_ready(8 << 20);
    struct h_block blocks[4];
    for (uint32_t i = 0; i < 4; i++)
        h_block(&blocks[i], 0, i);
    for (uint64_t n = 20 + next_random(&rng) % 200; n; n--) {
        one_message(h, blocks, &rng, sim != NULL);
        if (next_random(&rng) % 16 == 0) /* peers stall, and go */
            h->room = next_random(&rng) % 2 ? h->n_sent : H_MAX_SENT;
        h->send_rc = next_random(&rng) % 64 ? 0 : -EHOSTUNREACH;
        if (sim && next_random(&rng) % 8 == 0)
            disk_mood(sim, &rng);
        if (sim && next_random(&rng) % 64 == 0) {
            h = restart(h, sim, &rng);
            if (next_random(&rng) % 4)
                disk_settles(h, sim);
        }
        for (uint64_t turns = sim ? next_random(&rng) % 8 : 0; turns; turns--)
            node_run(h->node, h->now += NS_PER_MS);
        node_run(h->node, h->now += next_random(&rng) % NS_PER_S);
        if (next_random(&rng) % 8 == 0)
            node_tick(h->node, h->now);
        if (h->n_sent > 64 && h->room == H_MAX_SENT)
            h_clear(h);
    }
    if (sim)
        disk_settles(h, sim);
    must_live(h);
    h_free(h);
    if (sim) {
        sim_io(sim)->ops->close(sim_io(sim));
        sim_free(sim);
    }
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
