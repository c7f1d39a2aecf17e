/* cmd_bench_peers.c: `scoutkv bench peers`: fetches beside what else could bring the same bytes to a process.
 *
 * DESIGN. Everybody holds a set of the same size, is asked for pieces of the same size with as many requests
 * in flight over loopback TCP, and has every byte that comes hashed by the one who asked. All take turns,
 * round by round, and who begins changes; a ratio is of two neighbouring measurements, and what is told is
 * the median over rounds. */
#include "common/progress.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/fetch_load.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/cli/own_nodes.h"
#include "decoder/cli/peer.h"
#include "decoder/cli/peer_iperf.h"
#include "decoder/cli/scratch.h"
#include "decoder/cli/series.h"
#include "decoder/cli/json_out.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPARE_RAM = 512 << 20 };

struct args {
    uint32_t rounds, window, lanes;
    double seconds;
    uint64_t set;
    const char *peers, *sizes;
    bool json;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"rounds", 0, OPT_U32, AT(rounds), "N", "how often each is measured", .min = 1, .max = SERIES_MAX},
    {"seconds", 0, OPT_DOUBLE, AT(seconds), "S", "how long a measurement takes (iperf3: whole seconds)",
     .min = 0.01, .max = 600},
    {"window", 'w', OPT_U32, AT(window), "N", "requests in flight", .min = 1, .max = 128},
    {"lanes", 0, OPT_U32, AT(lanes), "N", "connections that our pages come over; peers have one", .min = 1,
     .max = 3},
    {"set", 0, OPT_SIZE, AT(set), "SIZE", "bytes that each holds, of which requests take any",
     .min = 1 << 20},
    {"peers", 0, OPT_STRING, AT(peers), "LIST",
     "whom to measure beside ours, of tcp,zmq,redis,redis_unix,memcached,iperf3; default: all"},
    {"sizes", 0, OPT_STRING, AT(sizes), "LIST",
     "what to ask for, of 256k,32k_x64,scattered_8k; default: all"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print the object alone, without the table on stderr"},
    {0},
};

/* ---- who, and what ---- */

enum who { OURS, WHOLE, TCP, ZMQ, REDIS, REDIS_UNIX, MEMCACHED, IPERF, WHO };
static const char *const names[WHO] = {"ours",  "blocks of 256 KiB", "tcp",       "zmq",
                                       "redis", "redis_unix",        "memcached", "iperf3"};

static const struct contest {
    const char *name, *about;
    uint64_t size;
    uint32_t batch, pages;
    unsigned who; /* bits */
} contests[] = {
    {"256k", "pieces of 256 KiB, one a request", 256 << 10, 1, 0,
     1 << OURS | 1 << TCP | 1 << ZMQ | 1 << REDIS | 1 << REDIS_UNIX | 1 << MEMCACHED | 1 << IPERF},
    {"32k_x64", "pieces of 32 KiB, 64 a request (MGET)", 32 << 10, 64, 0,
     1 << OURS | 1 << TCP | 1 << ZMQ | 1 << REDIS | 1 << REDIS_UNIX | 1 << MEMCACHED},
    {"scattered_8k",
     "512 pages of 8 KiB scattered over 128 blocks a request, beside the same bytes as whole blocks", 1 << 20,
     128, 4, 1 << OURS | 1 << WHOLE},
};
enum { CONTESTS = sizeof contests / sizeof contests[0] };

struct bench {
    const struct args *args;
    unsigned peers, contests; /* bits: that take part */
    char dir[PATH_MAX];
    struct own_nodes *own;
    struct tier *tier;
    const char *missing[WHO]; /* what is not installed */
    struct series gbps[CONTESTS][WHO];
    struct series cpu[CONTESTS][WHO]; /* seconds a GB, of both sides; not of iperf3 */
    struct fetch_result *got;
    struct peer_result *theirs;
    struct progress bar;
    uint64_t n_measured;
};

/* Of one contest. */
struct place {
    struct fetch_set set, whole;
    struct peer_pieces pieces;
    struct peer peer[WHO];
    struct iperf iperf;
};

static unsigned who_in(const struct bench *b, size_t contest)
{
    return b->contests >> contest & 1 ? contests[contest].who & b->peers : 0;
}

static bool takes_part(const struct bench *b, size_t contest, enum who w)
{
    return who_in(b, contest) >> w & 1;
}

/* ---- the lists of options ---- */

static const char *peer_name(size_t i)
{
    return i < WHO ? names[i] : NULL;
}

static const char *contest_name(size_t i)
{
    return i < CONTESTS ? contests[i].name : NULL;
}

/* The bits of the names in a list; *bits stays as it is if there is none. */
static int parse_list(const char *option, const char *text, const char *(*name)(size_t), unsigned *bits,
                      struct skv_error *err)
{
    char *list = text ? strdup(text) : NULL, *rest = NULL;
    int rc = text && !list ? skv_fail(err, -ENOMEM, "out of memory") : 0;
    unsigned found = 0;
    for (char *item = list ? strtok_r(list, ",", &rest) : NULL; item && !rc;
         item = strtok_r(NULL, ",", &rest)) {
        size_t i = 0;
        while (name(i) && (strcmp(name(i), item) || !(*bits >> i & 1)))
            i++;
        if (name(i))
            found |= 1u << i;
        else
            rc = skv_fail(err, -EINVAL, "%s: there is no '%s'; --help tells what there is", option, item);
    }
    if (text && !rc)
        *bits = found;
    free(list);
    return rc;
}

/* Our own take part in any case, and so do our whole blocks where pages are asked for. */
static int parse_lists(struct bench *b, struct skv_error *err)
{
    unsigned ours = 1 << OURS | 1 << WHOLE;
    b->peers = ((1u << WHO) - 1) & ~ours;
    b->contests = (1u << CONTESTS) - 1;
    int rc = parse_list("peers", b->args->peers, peer_name, &b->peers, err);
    if (!rc)
        rc = parse_list("sizes", b->args->sizes, contest_name, &b->contests, err);
    b->peers |= ours;
    return rc || b->contests ? rc : skv_fail(err, -EINVAL, "sizes: none is given");
}

/* ---- beginning and end ---- */

static int put(struct bench *b, struct fetch_set *set, uint64_t size, struct skv_error *err)
{
    struct block_layout l;
    int rc = load_layout(size, &l, err);
    return rc ? rc : fetch_set_put(set, b->tier, &l, 0, b->args->set, 1, false, err);
}

static int open_peer(struct bench *b, struct place *p, const struct contest *c, enum who w,
                     struct skv_error *err)
{
    struct peer *peer = &p->peer[w];
    const char **missing = &b->missing[w];
    switch (w) {
    case TCP:
        return peer_tcp_open(peer, &p->pieces, 1, c->batch, err);
    case ZMQ:
        return peer_zmq_open(peer, &p->pieces, c->batch, err);
    case REDIS:
    case REDIS_UNIX:
        return peer_redis_open(peer, &p->pieces, c->batch, b->dir, w == REDIS_UNIX, missing, err);
    case MEMCACHED:
        return peer_memcached_open(peer, &p->pieces, c->batch, missing, err);
    case IPERF:
        return iperf_open(&p->iperf, missing, err);
    case WHOLE:
        return put(b, &p->whole, 256 << 10, err);
    default:
        return put(b, &p->set, c->size, err);
    }
}

static int open_place(struct bench *b, struct place *p, size_t contest, struct skv_error *err)
{
    const struct contest *c = &contests[contest];
    uint64_t n = b->args->set / c->size;
    int rc = peer_pieces_make(&p->pieces, c->size, (uint32_t)(n ? n : 1), err);
    for (enum who w = 0; w < WHO && !rc; w++)
        if (takes_part(b, contest, w))
            rc = open_peer(b, p, c, w, err);
    return rc;
}

static void close_place(struct bench *b, struct place *p)
{
    for (enum who w = 0; w < WHO; w++)
        peer_close(&p->peer[w]);
    iperf_close(&p->iperf);
    peer_pieces_free(&p->pieces);
    (void)fetch_set_drop(&p->set, b->tier, NULL);
    (void)fetch_set_drop(&p->whole, b->tier, NULL);
    fetch_set_free(&p->set);
    fetch_set_free(&p->whole);
}

/* ---- measuring ---- */

struct measured {
    double gbps, cpu; /* cpu: 0 where it is not known */
};

static struct measured measured(uint64_t bytes, double seconds, double cpu_s, uint64_t moved)
{
    return (struct measured){(double)bytes / seconds / 1e9, cpu_s / ((double)moved / 1e9)};
}

static int fetch(struct bench *b, const struct fetch_set *set, uint32_t batch, uint32_t pages,
                 struct measured *m, struct skv_error *err)
{
    struct fetch_load_opts o = {.batch = batch,
                                .pages = pages,
                                .window = b->args->window,
                                .seconds = b->args->seconds,
                                .warm_up = b->args->seconds / 5,
                                .seed = b->n_measured + 1};
    double node = own_nodes_cpu_s(b->own);
    int rc = fetch_load_run(b->tier, set, &o, b->got, err);
    if (!rc)
        *m = measured(b->got->bytes, b->got->seconds, b->got->cpu_s + own_nodes_cpu_s(b->own) - node,
                      b->got->moved_bytes);
    return rc;
}

static int ask_peer(struct bench *b, const struct peer *p, uint32_t per_request, struct measured *m,
                    struct skv_error *err)
{
    struct peer_load l = {.per_request = per_request,
                          .window = b->args->window,
                          .checked = true,
                          .seconds = b->args->seconds,
                          .warm_up = b->args->seconds / 5,
                          .seed = b->n_measured + 1};
    int rc = peer_run(p, &l, b->theirs, err);
    if (!rc)
        *m = measured(b->theirs->bytes, b->theirs->seconds, b->theirs->client_s + b->theirs->server_s,
                      b->theirs->moved_bytes);
    return rc;
}

static int measure_one(struct bench *b, struct place *p, size_t contest, enum who w, struct skv_error *err)
{
    const struct contest *c = &contests[contest];
    struct measured m = {0};
    if (!takes_part(b, contest, w) || b->missing[w])
        return 0;
    int rc = w == OURS    ? fetch(b, &p->set, c->batch, c->pages, &m, err)
             : w == WHOLE ? fetch(b, &p->whole, c->batch * c->pages / 32, 0, &m, err)
             : w == IPERF ? iperf_run(&p->iperf, c->size, b->args->seconds, &m.gbps, err)
                          : ask_peer(b, &p->peer[w], c->batch, &m, err);
    series_note(&b->gbps[contest][w], m.gbps);
    if (m.cpu > 0)
        series_note(&b->cpu[contest][w], m.cpu);
    progress_update(&b->bar, ++b->n_measured);
    return rc ? rc : interrupted() ? skv_fail(err, -EINTR, "interrupted") : 0;
}

static int hold(struct bench *b, size_t contest, struct skv_error *err)
{
    struct place p = {0};
    int rc = open_place(b, &p, contest, err);
    for (uint32_t round = 0; round < b->args->rounds && !rc; round++)
        for (unsigned i = 0; i < WHO && !rc; i++)
            rc = measure_one(b, &p, contest, (enum who)((i + round) % WHO), err);
    close_place(b, &p);
    return rc;
}

static int measure(struct bench *b, struct skv_error *err)
{
    uint64_t n = 0;
    int rc = 0;
    for (size_t i = 0; i < CONTESTS; i++)
        n += (uint64_t)__builtin_popcount(who_in(b, i)) * b->args->rounds;
    progress_begin(&b->bar, "measure", "measurements", n);
    for (size_t i = 0; i < CONTESTS && !rc; i++)
        rc = who_in(b, i) ? hold(b, i, err) : 0;
    progress_end(&b->bar);
    return rc;
}

/* ---- telling ---- */

/* "zmq_256k"; what is compared with itself has the contest's name. */
static void ratio_name(char out[64], size_t contest, enum who w)
{
    if (w == WHOLE)
        snprintf(out, 64, "%s", contests[contest].name);
    else
        snprintf(out, 64, "%s_%s", names[w], contests[contest].name);
}

static void print_row(const struct bench *b, size_t contest, enum who w)
{
    const struct series *s = &b->gbps[contest][w];
    struct middle m = series_middle(s), r = series_ratio(&b->gbps[contest][OURS], s),
                  cpu = series_middle(&b->cpu[contest][w]);
    char share[48] = "", each[16] = "-";
    if (b->missing[w]) {
        fprintf(stderr, "%-20s absent: %s is not installed (deploy/peers installs it)\n", names[w],
                b->missing[w]);
        return;
    }
    if (w != OURS)
        snprintf(share, sizeof share, "%6.2f (%.2f … %.2f)", r.median, r.low, r.high);
    if (b->cpu[contest][w].n)
        snprintf(each, sizeof each, "%.2f", cpu.median);
    fprintf(stderr, "%-20s %6.3f (%.3f … %.3f)   %*s %9s\n", names[w], m.median, m.low, m.high,
            w == OURS ? 20 : 22, share, each); /* "…" has three bytes */
}

static void print_table(const struct bench *b)
{
    fprintf(stderr,
            "loopback TCP, %" PRIu32 " requests in flight, every byte hashed; sets of %" PRIu64
            " MiB; median (lowest … highest) of %" PRIu32 " rounds of %g s, in turns\n",
            b->args->window, b->args->set >> 20, b->args->rounds, b->args->seconds);
    for (size_t i = 0; i < CONTESTS; i++) {
        if (!who_in(b, i))
            continue;
        fprintf(stderr, "\n%s\n%-20s %-24s %-20s %s\n", contests[i].about, "", "  GB/s", "  ours / it",
                "CPU s/GB, both sides");
        for (enum who w = 0; w < WHO; w++)
            if (takes_part(b, i, w))
                print_row(b, i, w);
    }
}

static int print_json(const struct bench *b, struct skv_error *err)
{
    json_t *ratios = json_object(), *spreads = json_object(), *gbps = json_object(), *cpu = json_object(),
           *absent = json_object();
    char name[64], key[80];
    for (size_t i = 0; i < CONTESTS; i++)
        for (enum who w = 0; w < WHO; w++) {
            if (!takes_part(b, i, w))
                continue;
            struct middle r = series_ratio(&b->gbps[i][OURS], &b->gbps[i][w]);
            ratio_name(name, i, w);
            snprintf(key, sizeof key, w == WHOLE ? "whole_%s" : "%s", name);
            series_set(gbps, key, series_middle(&b->gbps[i][w]));
            series_set(cpu, key, series_middle(&b->cpu[i][w]));
            if (w == OURS)
                continue;
            json_object_set_new(ratios, name, series_number(r.median));
            json_object_set_new(spreads, name,
                                json_pack("[o, o]", series_number(r.low), series_number(r.high)));
            if (b->missing[w])
                json_object_set_new(absent, names[w], json_string(b->missing[w]));
        }
    json_t *o =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:f, s:I, s:I, s:I}", "ratios", ratios, "spreads", spreads,
                  "gbps", gbps, "cpu_s_per_gb", cpu, "absent", absent, "rounds", (json_int_t)b->args->rounds,
                  "seconds", b->args->seconds, "window", (json_int_t)b->args->window, "lanes",
                  (json_int_t)b->args->lanes, "set_bytes", (json_int_t)b->args->set);
    return json_out(o, err);
}

/* ---- the command ---- */

static int bench(struct bench *b, struct skv_error *err)
{
    const char *tmp = getenv("TMPDIR");
    struct own_nodes_opts nodes = {.n = 1, .ram = 3 * b->args->set + SPARE_RAM, .cluster = "default"};
    b->got = malloc(sizeof *b->got);
    b->theirs = malloc(sizeof *b->theirs);
    if (!b->got || !b->theirs)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = scratch_make(tmp && *tmp ? tmp : "/tmp", b->dir, err);
    if (!rc)
        rc = own_nodes_start(&nodes, &b->own, err);
    if (rc)
        return rc;
    struct tier_opts o = {.nodes = own_nodes_list(b->own), .lanes = b->args->lanes};
    rc = tier_open(&o, &b->tier, err);
    if (!rc)
        rc = measure(b, err);
    if (rc)
        return rc;
    if (!b->args->json)
        print_table(b);
    return print_json(b, err);
}

static void close_bench(struct bench *b)
{
    tier_close(b->tier);
    own_nodes_stop(b->own);
    scratch_remove(b->dir);
    free(b->got);
    free(b->theirs);
    free(b);
}

static const char about[] = "Compares fetches from a memory node with what else could bring the same bytes "
                            "to a process, in one run: a plain TCP pair, a\n"
                            "bare libzmq pair that copies nothing, redis (through hiredis, pipelined, over "
                            "TCP and a unix socket), memcached, and\n"
                            "iperf3 (one stream, which nobody looks at). Everybody holds a set of the same "
                            "size, has as many requests of the same\n"
                            "size in flight, and has every byte that comes hashed. All run beside each other "
                            "for the while, and take turns.\n"
                            "The servers are started here, on free ports, and end with it; those that are "
                            "not installed are said to be absent:\n"
                            "deploy/peers installs them. Disks are compared by `scoutkv bench store`.\n"
                            "One object goes to stdout, whose \"ratios\" are ours / theirs, medians of "
                            "rounds; a table for people to stderr.";

int cmd_bench_peers(int argc, char **argv)
{
    struct args a = {.rounds = 7, .window = 8, .lanes = 1, .seconds = 0.5, .set = 128 << 20};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {"scoutkv bench peers", "[options]", about,
                                    "  deploy/peers && scoutkv bench peers > peers.json\n"
                                    "  scoutkv bench peers --lanes 2 --rounds 15\n"
                                    "  scoutkv bench peers --peers zmq,tcp --sizes 256k",
                                    groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    if (parse_lists(b, &err)) {
        close_bench(b);
        options_free(&mem);
        return options_mistake(&cmd, "%s", err.text);
    }
    interrupt_catch();
    rc = bench(b, &err);
    rc = interrupted() ? EXIT_INTERRUPTED : rc ? cli_fail(cmd.name, &err) : 0;
    close_bench(b);
    options_free(&mem);
    return rc;
}
