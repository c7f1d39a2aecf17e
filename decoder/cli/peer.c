/* peer.c: see peer.h. */
#include "decoder/cli/peer.h"
#include "common/clock.h"
#include "common/hash.h"
#include "decoder/cli/child.h"
#include "decoder/cli/fetch_load.h"
#include "decoder/cli/interrupt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- pieces ---- */

int peer_pieces_make(struct peer_pieces *p, size_t bytes, uint32_t n, struct skv_error *err)
{
    uint64_t state = clock_ns();
    *p = (struct peer_pieces){
        .bytes = bytes, .n = n, .data = malloc(bytes * n), .hashes = malloc(n * sizeof *p->hashes)};
    if (!p->data || !p->hashes)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t at = 0; at + 8 <= bytes * n; at += 8) {
        uint64_t word = next_random(&state);
        memcpy(p->data + at, &word, 8);
    }
    for (uint32_t i = 0; i < n; i++)
        p->hashes[i] = hash_seeded(p->data + i * bytes, bytes, 0);
    return 0;
}

void peer_pieces_free(struct peer_pieces *p)
{
    free(p->data);
    free(p->hashes);
    *p = (struct peer_pieces){0};
}

void peer_close(struct peer *p)
{
    if (p->ops)
        p->ops->close(p->self);
    *p = (struct peer){0};
}

/* ---- a run ---- */

static double servers_cpu_s(const struct peer *p)
{
    double sum = 0;
    for (unsigned i = 0; i < p->n_pids; i++)
        sum += child_cpu_s(p->pids[i]);
    return sum;
}

struct run {
    const struct peer *peer;
    const struct peer_load *load;
    uint32_t *numbers; /* [window][per_request], a ring */
    uint64_t *begun;   /* [window] */
    const uint8_t **piece;
    uint64_t asked, taken, random;
};

static int ask(struct run *r, struct skv_error *err)
{
    uint32_t slot = (uint32_t)(r->asked % r->load->window), n = r->load->per_request;
    uint32_t *numbers = r->numbers + (size_t)slot * n;
    for (uint32_t i = 0; i < n; i++)
        numbers[i] = (uint32_t)((next_random(&r->random) >> 32) * r->peer->pieces->n >> 32);
    r->begun[slot] = clock_ns();
    r->asked++;
    return r->peer->ops->ask(r->peer->self, numbers, n, err);
}

/* *ns: how long it took. */
static int take(struct run *r, uint64_t *ns, struct skv_error *err)
{
    const struct peer_pieces *p = r->peer->pieces;
    uint32_t slot = (uint32_t)(r->taken % r->load->window), n = r->load->per_request;
    const uint32_t *numbers = r->numbers + (size_t)slot * n;
    int rc = r->peer->ops->take(r->peer->self, r->piece, n, err);
    for (uint32_t i = 0; i < n && !rc && r->load->checked; i++)
        if (hash_seeded(r->piece[i], p->bytes, 0) != p->hashes[numbers[i]])
            rc = skv_fail(err, -EBADMSG, "a peer gave other bytes than it was given");
    *ns = clock_ns() - r->begun[slot];
    r->taken++;
    return rc;
}

static int run(struct run *r, struct peer_result *out, struct skv_error *err)
{
    const struct peer_load *l = r->load;
    uint64_t bytes = l->per_request * r->peer->pieces->bytes, ns;
    uint64_t from = clock_ns() + (uint64_t)(l->warm_up * 1e9), until = from + (uint64_t)(l->seconds * 1e9);
    bool measuring = false, ended = false;
    int rc = 0;
    while (!rc && (!ended || r->taken < r->asked)) {
        while (!rc && !ended && r->asked - r->taken < l->window)
            rc = ask(r, err);
        if (rc || (rc = take(r, &ns, err)))
            break;
        out->moved_bytes += bytes;
        uint64_t now = clock_ns();
        if (measuring && !ended) {
            out->requests++;
            out->bytes += bytes;
            hist_add(&out->latency, ns);
        }
        if (!measuring && now >= from) {
            measuring = true;
            from = now;
        } else if (measuring && !ended && (now >= until || (l->count && out->requests >= l->count))) {
            ended = true;
            out->seconds = (double)(now - from) / 1e9;
        }
        if (interrupted())
            rc = skv_fail(err, -EINTR, "interrupted");
    }
    return rc;
}

int peer_run(const struct peer *p, const struct peer_load *l, struct peer_result *out, struct skv_error *err)
{
    size_t numbers = (size_t)l->window * l->per_request;
    struct run r = {.peer = p,
                    .load = l,
                    .numbers = malloc(numbers * sizeof *r.numbers),
                    .begun = malloc(l->window * sizeof *r.begun),
                    .piece = malloc(l->per_request * sizeof *r.piece),
                    .random = l->seed};
    double client = process_cpu_s(), server = servers_cpu_s(p);
    memset(out, 0, sizeof *out);
    int rc = r.numbers && r.begun && r.piece ? run(&r, out, err) : skv_fail(err, -ENOMEM, "out of memory");
    out->client_s = process_cpu_s() - client;
    out->server_s = servers_cpu_s(p) - server;
    free(r.numbers);
    free(r.begun);
    free(r.piece);
    return rc;
}
