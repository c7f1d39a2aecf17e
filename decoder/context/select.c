/* select.c: which far pages each KV head reads: asks the policy, and adds the protected ones.
 *
 * Where threads can share the heads evenly, each takes whole heads, one after the other, and works on all of
 * them in the same memory, which stays in its cache. Otherwise whatever a policy scans first is cut into
 * slices; a score doesn't depend on the slice it is in. */
#include "decoder/context/attend.h"
#include "decoder/scout/policy.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)PIECE_BLOCKS == (int)SPAN_BLOCKS, "a policy's piece is a span");

/* One head on its way to its choice. Arrays lie in a scratch, from chooser_open on. */
struct chooser {
    const struct skv_context *c;
    const struct policy *policy;
    struct choice *out;
    bool asks;          /* the policy chooses; else out is complete already */
    bool looks, learns; /* at the query; at this refresh, what pages get of it */
    size_t most;        /* pages that it may choose, with the protected ones */
    int rc;             /* of opening it */
    struct far_view view;
    struct far_piece *pieces;
    float opt[SKV_POLICY_OPTS];
    float *mean_q, *q_rep; /* mean_q: projected too, if representatives are; raw: before */
    float *raw;
    uint32_t *chosen; /* then protected pages */
};

struct choosers {
    struct chooser *heads;
    unsigned n_heads, n_slices;
    atomic_uint next; /* head, where they are taken whole */
};

/* Protected sealed pages as a rising list appended to pages[]; returns how many. */
static size_t protected_pages(const struct skv_context *c, uint32_t *pages)
{
    uint64_t n_pages = context_sealed_pages(c);
    size_t n = 0;
    for (size_t i = 0; i < c->n_protect; i++)
        for (uint64_t p = c->protect[i].from; p < c->protect[i].to && p < n_pages; p++) {
            if (pages)
                pages[n] = (uint32_t)p;
            n++;
        }
    return n;
}

static void merge_sorted(uint32_t *out, const uint32_t *a, size_t na, const uint32_t *b, size_t nb)
{
    size_t i = 0, j = 0;
    while (i < na || j < nb)
        *out++ = j == nb || (i < na && a[i] < b[j]) ? a[i++] : b[j++];
}

static int choice_new(struct choice *ch, size_t cap, unsigned rows)
{
    *ch = (struct choice){0};
    ch->pages = malloc((cap + 1) * sizeof *ch->pages);
    ch->lse = calloc(rows, sizeof *ch->lse);
    ch->share = calloc(rows, sizeof *ch->share);
    return ch->pages && ch->lse && ch->share ? 0 : -ENOMEM;
}

static void view_pieces(struct chooser *h)
{
    const struct skv_context *c = h->c;
    const struct far_view *v = &h->view;
    bool learned = plan_salience(c, v->layer, v->head);
    span_pieces(c->shape, c->spans, c->n_spans, v->layer, v->head, h->pieces);
    for (size_t i = 0; i < c->n_spans && !learned; i++)
        h->pieces[i].salience = NULL;
}

/* What the context remembers, if the policy goes by it; pooled queries repeat the group's means. */
static void view_history(struct chooser *h)
{
    const struct skv_context *c = h->c;
    struct far_view *v = &h->view;
    const struct skv_layer *y = &c->shape->layers[v->layer];
    unsigned g = y->n_heads / y->n_kv_heads;
    if (!c->received)
        return;
    v->received = received_mass(c->received, v->layer, v->head, v->n_pages);
    if (received_mean_query(c->received, v->layer, v->head, h->raw))
        v->mean_q = v->d_rep ? h->mean_q : h->raw;
    for (unsigned r = g; r < v->rows; r++)
        memcpy(h->raw + (size_t)r * y->d_k, h->raw + (size_t)(r % g) * y->d_k, y->d_k * sizeof *h->raw);
    if (v->d_rep && v->mean_q)
        plan_project_queries(c, v->layer, v->head, v->rows, h->raw, h->mean_q);
}

/* Gives every array its place; -ENOMEM. */
static int lay_out(struct chooser *h, struct scratch *scratch)
{
    const struct far_view *v = &h->view;
    size_t sizes[] = {policy_room(h->policy, v), h->c->n_spans * sizeof *h->pieces,
                      (size_t)v->rows * v->d_k * sizeof *h->raw, (h->most + 1) * sizeof *h->chosen,
                      2 * (size_t)v->rows * v->d_rep * sizeof *h->q_rep};
    size_t n = 0, at[5];
    for (unsigned i = 0; i < 5; i++) {
        at[i] = n;
        n += (sizes[i] + 63) / 64 * 64;
    }
    char *base = scratch_take(scratch, n);
    if (!base)
        return -ENOMEM;
    h->view.scratch = base + at[0];
    h->view.pieces = h->pieces = (struct far_piece *)(base + at[1]);
    h->raw = (float *)(base + at[2]);
    h->q_rep = (float *)(base + at[4]);
    h->mean_q = h->q_rep + (size_t)v->rows * v->d_rep;
    h->chosen = (uint32_t *)(base + at[3]);
    return 0;
}

/* Whatever needs no policy is chosen here; otherwise memory is laid out for it. */
static int chooser_begin(struct chooser *h, const struct skv_select *s, bool refresh)
{
    const struct skv_context *c = h->c;
    struct far_view *v = &h->view;
    size_t n_protected = protected_pages(c, NULL), cap;
    bool all = s->policy == SKV_DENSE;
    v->n_pages = context_sealed_pages(c);
    v->n_blocks = c->sealed;
    v->eligible = c->eligible;
    v->unit = s->unit / PAGE_TOKENS;
    if (refresh) {
        struct skv_select broad = refresh_select(c, s);
        v->k = plan_units(c, &broad, v->layer, v->head);
    } else {
        v->k = plan_units(c, s, v->layer, v->head);
    }
    v->mass = s->mass;
    h->asks = (h->policy->score || h->policy->choose) && v->k > 0 && v->n_pages > n_protected;
    cap = all ? v->n_pages : n_protected + (h->asks ? v->k * v->unit : 0);
    if (choice_new(h->out, cap, v->rows))
        return -ENOMEM;
    if (c->mode == SKV_DECODE && (s->tail || h->policy->always_tails) && h->asks) {
        if (!(h->out->tail = calloc((size_t)v->rows * (2 + v->d_v), sizeof *h->out->tail)))
            return -ENOMEM;
        v->tail_m = h->out->tail;
        v->tail_l = v->tail_m + v->rows;
        v->tail_o = v->tail_l + v->rows;
    }
    v->lse = h->out->lse;
    v->share = h->out->share;
    h->looks = policy_reads_representatives(s->policy);
    h->learns = refresh && h->asks && c->received && policy_needs(s, c->calibration) & NEEDS_RECEIVED;
    if (h->learns && !(h->out->all = reestimate_new(v->n_pages, v->rows)))
        return -ENOMEM;
    if (!h->asks) {
        h->out->n = all ? v->n_pages : protected_pages(c, h->out->pages);
        for (size_t p = 0; all && p < v->n_pages; p++)
            h->out->pages[p] = (uint32_t)p;
        return 0;
    }
    h->most = cap + n_protected;
    return 0;
}

/* What the policy sees, laid out in the scratch; sets rc. */
static void chooser_open(struct chooser *h, struct scratch *scratch)
{
    struct far_view *v = &h->view;
    if (!h->asks || (h->rc = lay_out(h, scratch)))
        return;
    view_pieces(h);
    view_history(h);
    if (v->d_rep)
        plan_project_queries(h->c, v->layer, v->head, v->rows, v->q, h->q_rep);
    v->q_rep = h->q_rep;
}

static void open_head(void *arg, unsigned head)
{
    struct chooser *h = &((struct choosers *)arg)->heads[head];
    chooser_open(h, &h->c->tier->scratch[head]);
}

static void scan_slice(void *arg, unsigned part)
{
    const struct choosers *all = arg;
    struct chooser *h = &all->heads[part / all->n_slices];
    if (h->asks && !h->rc)
        h->policy->scan(&h->view, part % all->n_slices);
}

static void take_best(void *arg, unsigned head)
{
    struct chooser *h = &((struct choosers *)arg)->heads[head];
    if (!h->asks || h->rc)
        return;
    if (h->learns)
        reestimate_pages(h->out->all, &h->view, h->looks, received_weight(h->c->received, h->view.layer));
    size_t n = policy_choose(h->policy, &h->view, h->chosen);
    size_t n_protected = protected_pages(h->c, h->chosen + n);
    merge_sorted(h->out->pages, h->chosen, n, h->chosen + n, n_protected);
    h->out->n = n + n_protected;
    h->out->estimated = h->view.estimated;
}

static void choose_whole(void *arg, unsigned worker)
{
    struct choosers *all = arg;
    struct scratch *scratch = &all->heads[0].c->tier->scratch[worker];
    for (unsigned head; (head = atomic_fetch_add(&all->next, 1)) < all->n_heads;) {
        chooser_open(&all->heads[head], scratch);
        for (unsigned i = 0; i < all->n_slices; i++)
            scan_slice(all, head * all->n_slices + i);
        take_best(all, head);
    }
}

static int choose_all(struct choosers *all, struct pool *pool)
{
    const unsigned n = all->n_heads, threads = pool_threads(pool);
    int rc = 0;
    all->n_slices = policy_slices(all->heads[0].policy, &all->heads[0].view);
    if (n % threads == 0 || n >= 4 * threads) {
        pool_run(pool, threads, choose_whole, all);
    } else {
        pool_run(pool, n, open_head, all);
        pool_run(pool, n * all->n_slices, scan_slice, all);
        pool_run(pool, n, take_best, all);
    }
    for (unsigned h = 0; h < n && rc == 0; h++)
        rc = all->heads[h].rc;
    return rc;
}

/* The true masses for all heads, if the policy wants them: *memory holds them. */
static int view_truth(struct skv_context *c, struct chooser *heads, unsigned n, const float *q,
                      float **memory, struct skv_error *err)
{
    const struct far_view *v = &heads[0].view;
    size_t ld = (v->n_pages + 63) / 64 * 64, a_head = v->rows * ld;
    if (!(heads[0].policy->needs & NEEDS_TRUTH) || !heads[0].asks)
        return 0;
    float **out = malloc(n * sizeof(float *));
    *memory = malloc(n * a_head * sizeof(float) + 1);
    int rc = out && *memory ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    for (unsigned h = 0; h < n && rc == 0; h++)
        out[h] = *memory + h * a_head;
    if (rc == 0)
        rc = true_masses(c, v->layer, v->rows, q, ld, out, err);
    for (unsigned h = 0; h < n && rc == 0; h++) {
        heads[h].view.truth = out[h];
        heads[h].view.truth_ld = ld;
    }
    free(out);
    return rc;
}

int choose_pages(struct skv_context *c, unsigned layer, const struct skv_select *s, unsigned rows,
                 const float *q, uint64_t position, const bool *refresh, struct choice *out,
                 struct skv_error *err)
{
    unsigned n_heads = c->shape->layouts[layer].n_heads;
    const struct skv_layer *y = &c->shape->layers[layer];
    const struct policy *policy = policy_get(s->policy);
    float *truth = NULL;
    struct choosers all = {.heads = calloc(n_heads, sizeof *all.heads), .n_heads = n_heads};
    int rc = all.heads ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    bool any = false;
    for (unsigned h = 0; h < n_heads && rc == 0; h++) {
        all.heads[h] = (struct chooser){.c = c, .policy = policy, .out = &out[h]};
        plan_opts(c, s, layer, h, all.heads[h].opt);
        all.heads[h].view = (struct far_view){.layer = layer,
                                              .head = h,
                                              .d_k = y->d_k,
                                              .d_rep = c->shape->d_rep,
                                              .d_v = y->d_v,
                                              .rows = rows,
                                              .q = q + (size_t)h * rows * y->d_k,
                                              .position = position,
                                              .opt = all.heads[h].opt};
        if (chooser_begin(&all.heads[h], s, refresh && refresh[h]))
            rc = skv_fail(err, -ENOMEM, "out of memory");
        any |= all.heads[h].asks;
    }
    if (rc == 0)
        rc = view_truth(c, all.heads, n_heads, q, &truth, err);
    if (rc == 0 && any && choose_all(&all, c->tier->pool))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    for (unsigned h = 0; h < n_heads && rc == 0; h++)
        c->stats.scout_bytes += all.heads[h].view.bytes;
    free(all.heads);
    free(truth);
    return rc;
}

void choice_free(struct choice *ch)
{
    free(ch->pages);
    free(ch->lse);
    free(ch->share);
    free(ch->tail);
    free(ch->all);
}
