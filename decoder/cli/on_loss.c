#include "decoder/cli/on_loss.h"
#include "common/size.h"
#include "decoder/cli/interrupt.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int on_progress(void *arg, size_t done, size_t total)
{
    struct on_loss *l = arg;
    if (done == 0) {
        fprintf(stderr, "%snote: %zu tokens lie in blocks that no memory node has; computing them again\n",
                l->bar.on ? "\r\033[K" : "", total);
        progress_begin(&l->bar, "recompute", "tokens", total);
    }
    progress_update(&l->bar, done);
    return interrupted() ? -EINTR : 0;
}

static int on_lost(void *arg, struct session *s, struct skv_error *err)
{
    struct on_loss *l = arg;
    int rc = recompute_lost(&l->recompute, s, err);
    progress_end(&l->bar);
    return rc;
}

void on_loss_watch(struct on_loss *l, const struct kv_options *kv, struct session *s)
{
    l->kv = kv;
    l->recompute.progress = on_progress;
    l->recompute.arg = l;
    if (!strcmp(kv->on_loss, "recompute"))
        session_on_loss(s, on_lost, l);
}

static double mean_mass(const struct skv_stats *s)
{
    return s->lost_n > 0 ? s->lost_mass / s->lost_n : 0;
}

void on_loss_print(const struct on_loss *l, const struct skv_stats *s, FILE *out)
{
    const struct recompute *r = &l->recompute;
    char time[32];
    if (!strcmp(l->kv->on_loss, "degrade"))
        fprintf(out,
                "lost         %" PRIu64 " pages; %" PRIu64 " of %" PRIu64
                " attention passes went on without; estimated missed mass there %.2g, at most %.2g\n",
                s->pages_lost, s->passes_lost, s->passes, mean_mass(s), s->lost_worst);
    else if (r->losses)
        fprintf(out,
                "lost         recomputed %" PRIu64 " blocks, %" PRIu64 " of them not bit for bit (%" PRIu64
                " tokens in %s), and repeated %" PRIu64 " passes\n",
                r->restored.blocks, r->restored.changed, r->tokens,
                duration_format(time, sizeof time, r->seconds), r->losses);
    else if (!strcmp(l->kv->on_loss, "recompute"))
        fputs("lost         nothing; recomputed 0 blocks\n", out);
}

json_t *on_loss_json(const struct on_loss *l, const struct skv_stats *s)
{
    const struct recompute *r = &l->recompute;
    return json_pack("{s:s, s:I, s:I, s:f, s:f, s:I, s:I, s:I}", "policy", l->kv->on_loss, "pages",
                     (json_int_t)s->pages_lost, "passes", (json_int_t)s->passes_lost, "mass", mean_mass(s),
                     "worst_mass", s->lost_worst, "recomputed_blocks", (json_int_t)r->restored.blocks,
                     "changed_blocks", (json_int_t)r->restored.changed, "recomputed_tokens",
                     (json_int_t)r->tokens);
}

void on_loss_add(struct skv_stats *sum, const skv_context *c)
{
    struct skv_stats s;
    skv_context_stats(c, &s);
    sum->passes += s.passes;
    sum->pages_lost += s.pages_lost;
    sum->passes_lost += s.passes_lost;
    sum->lost_mass += s.lost_mass;
    sum->lost_n += s.lost_n;
    if (s.lost_worst > sum->lost_worst)
        sum->lost_worst = s.lost_worst;
}

void on_loss_hint(const struct kv_options *kv, const struct skv_error *err)
{
    if (strcmp(kv->on_loss, "fail") == 0 && (err->code == -ENODATA || err->code == -EBADMSG))
        fputs("  --on-loss recompute computes lost blocks again, --on-loss degrade goes on without them\n",
              stderr);
}
