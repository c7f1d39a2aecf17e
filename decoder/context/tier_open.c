/* tier_open.c: the handle that engines hold: a client of the nodes, compute threads, kernels. */
#include "decoder/context/internal.h"

#include <cblas.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

int skv_tier_open(const struct skv_tier_opts *o, skv_tier **out, struct skv_error *err)
{
    int rc = kernels_check(err);
    if (rc)
        return rc;
    if (sodium_init() < 0)
        return skv_fail(err, -EIO, "libsodium could not start");
    struct skv_tier *t = calloc(1, sizeof *t);
    if (!t)
        return skv_fail(err, -ENOMEM, "out of memory");
    openblas_set_num_threads(
        1); /* chunks are split over our own threads; two pools would fight for the cores */
    t->k = kernels_get();
    t->ns = o->ns;
    t->pool = pool_new(o->threads);
    if (!t->pool) {
        rc = skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    struct tier_opts to = {.nodes = o->nodes,
                           .cluster = o->cluster,
                           .ns = o->ns,
                           .ram = o->ram,
                           .disks = o->disks,
                           .n_disks = o->n_disks,
                           .replicas = o->replicas,
                           .timeout_ms = o->timeout_ms,
                           .heartbeat_ms = o->heartbeat_ms};
    rc = tier_open(&to, &t->tier, err);
    if (rc)
        goto error;
    *out = t;
    return 0;
error:
    skv_tier_close(t);
    return rc;
}

void skv_tier_close(skv_tier *t)
{
    if (!t)
        return;
    if (t->tier)
        tier_close(t->tier);
    pool_free(t->pool);
    for (unsigned i = 0; i < MAX_HEADS; i++)
        free(t->scratch[i].bytes);
    free(t);
}

int skv_tier_reload(skv_tier *t, struct skv_error *err)
{
    return tier_reload(t->tier, err);
}

void skv_tier_stats(const skv_tier *t, struct skv_tier_stats *out)
{
    struct tier_totals n;
    tier_get_totals(t->tier, &n);
    *out = (struct skv_tier_stats){.nodes = tier_n_nodes(t->tier),
                                   .nodes_up = tier_nodes_up(t->tier),
                                   .etcd_lost = n.etcd_lost,
                                   .nodes_suspected = n.suspected,
                                   .nodes_lost = n.lost,
                                   .nodes_reborn = n.reborn,
                                   .pages_hedged = n.hedged,
                                   .bytes_hedged = n.hedge_bytes,
                                   .pages_missed = n.misses,
                                   .pages_bad = n.bad_checksums,
                                   .blocks_short = n.short_puts,
                                   .copies_repaired = n.repaired};
}

void *scratch_take(struct scratch *s, size_t n)
{
    if (n > s->size) {
        free(s->bytes);
        s->size = (n + n / 4 + 63) / 64 * 64; /* contexts grow: not at every step again */
        s->bytes = aligned_alloc(64, s->size);
        if (!s->bytes)
            s->size = 0;
    }
    return s->bytes;
}

const char *skv_isa(void)
{
    return kernels_get()->name;
}
