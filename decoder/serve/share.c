#include "decoder/serve/share.h"

/* It is prefilling what will be kept. */
static bool leads(const struct sequence *s)
{
    return s->ticket && s->ctx && s->keep_at;
}

/* Tokens in whole chunks that both prompts begin with, and that the leader will keep. */
static size_t common(const struct sequence *s, const struct sequence *leader, uint32_t chunk)
{
    const struct ticket *a = s->ticket, *b = leader->ticket;
    size_t most = a->n_ids - 1 < leader->keep_at ? a->n_ids - 1 : leader->keep_at, n = 0;
    if (a->tenant != b->tenant)
        return 0; /* what one of them keeps, the other doesn't find */
    while (n < most && a->ids[n] == b->ids[n])
        n++;
    return n / chunk * chunk;
}

bool share_find(const struct sequence *all, unsigned n, unsigned slot, uint32_t chunk, struct share *out)
{
    const struct sequence *s = &all[slot];
    size_t most = 0;
    for (unsigned i = 0; i < n; i++) {
        if (i == slot || !leads(&all[i]))
            continue;
        size_t saved = common(s, &all[i], chunk);
        if (saved <= s->found || saved - s->found < all[i].keep_at - all[i].done || saved <= most)
            continue;
        most = saved;
        *out = (struct share){i, all[i].begun_ns};
    }
    return most > 0;
}

bool share_lasts(const struct sequence *all, const struct share *s)
{
    const struct sequence *leader = &all[s->leader];
    return leads(leader) && leader->begun_ns == s->leader_begun_ns;
}
