/* decode.c: exact attention of single queries over whole pages, merged in page order.
 *
 * Every page gives a partial (m, l, o); partials are folded into the running result by rising page number,
 * whatever order they were computed or arrived in. So the set of pages alone decides the bits. Far pages go
 * in sections of SECTION pages a head: the next one is asked for before the last is merged, which bounds
 * memory and keeps the links busy when a policy reads everything.
 *
 * A page that is lost, where the context goes on without, has a partial with l = 0, which is left out.
 *
 * Several queries choose and ask at once, unless the policy goes by what the ones before received: then each
 * waits for its turn, and the result is that of single steps in either case. */
#include "decoder/context/attend.h"
#include "decoder/scout/policy.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SECTION = 1024, PIECES_A_PART = 32 };

/* Partials of n pages of one head: m (n, g), l (n, g), o (n, g, d_v). */
struct partials {
    float *m, *l, *o;
};

struct row;
struct section {
    struct row *row;
    struct want_list wants;
    struct tier_fetch *fetch;
    struct partials *heads; /* per KV head */
    float *memory;
    size_t from; /* into each head's choice */
};

/* A page whose bytes are at hand. */
struct piece {
    struct kv_page page;
    const float *q;
    float *m, *l, *o;
    unsigned n; /* tokens visible */
};

struct row {
    struct decode *d;
    uint64_t t;             /* the query's position */
    float *q;               /* (n_heads, d_k) scaled */
    float *out;             /* (n_heads, d_v) */
    struct choice *choices; /* per KV head */
    size_t n_far;           /* longest choice */
    size_t far_pages;       /* of all heads */
    struct section sections[2];
    size_t started; /* sections asked for */
    struct section local;
    float **far_mass; /* per head: log masses (choice, g) of far pages, for history; or NULL */
    struct gone gone;
    uint64_t first_local, n_local; /* pages */
    struct piece *pieces;
    size_t n_pieces, pieces_cap;
};

struct decode {
    struct item item;
    const struct skv_layer *y;
    unsigned g; /* query heads a KV head */
    size_t page_bytes;
    unsigned n_rows;
    struct row *rows;
    bool in_turn;        /* a query chooses when the one before is done */
    uint64_t arrived_ns; /* computing what arrived */
};

static void compute(const struct decode *d, const struct piece *p, const struct pages_ahead *ahead)
{
    page_attend(d->item.c->tier->k, p->page, ahead, d->g, p->n, p->q, p->m, p->l, p->o);
}

static struct piece piece_of(const struct row *r, const struct section *s, unsigned head, size_t index,
                             struct kv_page page, unsigned n)
{
    const struct decode *d = r->d;
    const struct partials *p = &s->heads[head];
    return (struct piece){.page = page,
                          .q = r->q + (size_t)head * d->g * d->y->d_k,
                          .m = p->m + index * d->g,
                          .l = p->l + index * d->g,
                          .o = p->o + index * d->g * d->y->d_v,
                          .n = n};
}

static struct piece far_piece_of(const struct row *r, const struct section *s, unsigned head, size_t index,
                                 const uint8_t *bytes)
{
    struct kv_page page = {bytes, &r->d->item.c->shape->layouts[r->d->item.layer]};
    return piece_of(r, s, head, index - s->from, page, PAGE_TOKENS);
}

static int section_alloc(struct row *r, struct section *s, size_t n_pages)
{
    const struct decode *d = r->d;
    size_t per_head = n_pages * d->g * (2 + d->y->d_v);
    s->row = r;
    s->heads = calloc(d->y->n_kv_heads, sizeof *s->heads);
    s->memory = malloc((per_head * d->y->n_kv_heads + 1) * sizeof(float));
    if (!s->heads || !s->memory)
        return -ENOMEM;
    for (unsigned h = 0; h < d->y->n_kv_heads; h++) {
        s->heads[h].m = s->memory + h * per_head;
        s->heads[h].l = s->heads[h].m + n_pages * d->g;
        s->heads[h].o = s->heads[h].l + n_pages * d->g;
    }
    return 0;
}

static int add_piece(struct row *r, struct piece p)
{
    if (r->n_pieces == r->pieces_cap) {
        size_t cap = r->pieces_cap * 2 + 256;
        struct piece *grown = realloc(r->pieces, cap * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        r->pieces = grown;
        r->pieces_cap = cap;
    }
    r->pieces[r->n_pieces++] = p;
    return 0;
}

static unsigned row_parts(const struct row *r)
{
    return (unsigned)((r->n_pieces + PIECES_A_PART - 1) / PIECES_A_PART);
}

/* The four pieces behind i, as far as there are some before `to`. */
static struct pages_ahead ahead_of(const struct row *r, size_t i, size_t to)
{
    struct pages_ahead a = {.turn = (unsigned)i};
    for (size_t j = 0; j < 4; j++)
        a.page[j] = r->pieces[i + 1 + j < to ? i + 1 + j : i].page.bytes;
    return a;
}

static void compute_part(void *arg, unsigned part)
{
    const struct row *r = arg;
    size_t to = ((size_t)part + 1) * PIECES_A_PART;
    to = to < r->n_pieces ? to : r->n_pieces;
    for (size_t i = (size_t)part * PIECES_A_PART; i < to; i++) {
        struct pages_ahead ahead = ahead_of(r, i, to);
        compute(r->d, &r->pieces[i], &ahead);
    }
}

static void compute_pieces(struct row *r)
{
    pool_run(r->d->item.c->tier->pool, row_parts(r), compute_part, r);
    r->n_pieces = 0;
}

static void on_held(void *arg, unsigned head, size_t index, const uint8_t *bytes)
{
    struct section *s = arg;
    struct row *r = s->row;
    struct piece p = far_piece_of(r, s, head, index, bytes);
    if (add_piece(r, p))
        compute(r->d, &p, NULL); /* no memory for the list: at once then */
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct section *s = arg;
    struct row *r = s->row;
    struct skv_context *c = r->d->item.c;
    uint64_t t0 = clock_ns();
    unsigned head = s->wants.wants[want].head;
    size_t index = s->wants.at[want].index;
    if (rc) {
        gone_add(c, r->d->item.layer, &r->gone, head, r->choices[head].pages[index]);
        s->heads[head].l[(index - s->from) * r->d->g] = 0;
        return;
    }
    struct piece p = far_piece_of(r, s, head, index, bytes);
    compute(r->d, &p, NULL);
    keep_page(c, r->d->item.layer, head, r->choices[head].pages[index], bytes, r->far_pages);
    c->stats.pages_fetched++;
    c->stats.bytes_fetched += r->d->page_bytes;
    if (c->opts.fetched)
        c->opts.fetched(c->opts.fetched_arg, r->d->item.layer, head, r->choices[head].pages[index]);
    r->d->arrived_ns += clock_ns() - t0;
}

static int end_section(struct row *r, struct section *s, struct skv_error *err)
{
    int rc = 0;
    if (s->fetch) {
        struct decode *d = r->d;
        uint64_t t0 = clock_ns(), computing = d->arrived_ns;
        rc = gone_end_fetch(d->item.c, s->fetch, &r->gone, err);
        s->fetch = NULL;
        computing = d->arrived_ns - computing;
        d->item.c->stats.wait_ns += clock_ns() - t0 - computing;
        d->item.c->stats.attend_ns += computing;
    }
    want_list_free(&s->wants);
    return rc;
}

/* Asks for the next section of far pages; what is held of it goes to pieces. */
static int start_section(struct row *r, struct skv_error *err)
{
    struct decode *d = r->d;
    struct skv_context *c = d->item.c;
    struct section *s = &r->sections[r->started % 2];
    if (!s->memory) {
        size_t n = r->n_far < SECTION ? r->n_far : SECTION;
        if (section_alloc(r, s, n))
            return skv_fail(err, -ENOMEM, "out of memory");
    }
    s->from = r->started * SECTION;
    r->started++;
    if (want_pages(c, d->item.layer, r->choices, s->from, s->from + SECTION, on_held, s, &s->wants))
        return skv_fail(err, -ENOMEM, "out of memory");
    if (s->wants.n == 0)
        return 0;
    int rc = tier_fetch_begin(c->tier->tier, &c->shape->layouts[d->item.layer], s->wants.wants, s->wants.n,
                              on_page, s, &s->fetch, err);
    return rc == 0 && c->in_series ? end_section(r, s, err) : rc;
}

/* ---- one query ---- */

static int row_choose(struct row *r, struct skv_error *err)
{
    struct decode *d = r->d;
    struct skv_context *c = d->item.c;
    bool refresh[MAX_HEADS];
    refresh_heads(c, d->item.layer, r->t, r->q, refresh);
    int rc = choose_pages(c, d->item.layer, context_select(c, d->item.layer), d->g, r->q, r->t, refresh,
                          r->choices, err);
    for (unsigned h = 0; h < d->y->n_kv_heads && rc == 0; h++) {
        r->far_pages += r->choices[h].n;
        if (r->choices[h].n > r->n_far)
            r->n_far = r->choices[h].n;
    }
    if (rc || !c->received)
        return rc;
    r->far_mass = calloc(d->y->n_kv_heads, sizeof(float *));
    for (unsigned h = 0; h < d->y->n_kv_heads; h++)
        if (!r->far_mass || !(r->far_mass[h] = malloc((r->choices[h].n * d->g + 1) * sizeof(float))))
            return skv_fail(err, -ENOMEM, "out of memory");
    return 0;
}

static int row_start(struct row *r, struct skv_error *err)
{
    return r->n_far ? start_section(r, err) : 0;
}

static int row_local(struct row *r, struct skv_error *err)
{
    struct decode *d = r->d;
    struct skv_context *c = d->item.c;
    r->first_local = context_sealed_pages(c);
    r->n_local = r->t / PAGE_TOKENS + 1 - r->first_local;
    if (section_alloc(r, &r->local, r->n_local))
        return skv_fail(err, -ENOMEM, "out of memory");
    for (unsigned h = 0; h < d->y->n_kv_heads; h++)
        for (uint64_t p = 0; p < r->n_local; p++) {
            uint64_t page = r->first_local + p, visible = r->t + 1 - page * PAGE_TOKENS;
            unsigned n = visible < PAGE_TOKENS ? (unsigned)visible : PAGE_TOKENS;
            struct kv_page at = context_local_page(c, d->item.layer, h, page, n);
            if (add_piece(r, piece_of(r, &r->local, h, p, at, n)))
                return skv_fail(err, -ENOMEM, "out of memory");
        }
    return 0;
}

/* Folds pages [0, n) of one head's partials, in order. */
static void fold(const struct decode *d, const struct partials *p, size_t n, float *M, float *L, float *O)
{
    const struct kernels *k = d->item.c->tier->k;
    for (size_t i = 0; i < n; i++)
        if (p->l[i * d->g] != 0) /* a page has 1 at least: its largest key's */
            k->merge(d->g, d->y->d_v, M, L, O, p->m + i * d->g, p->l + i * d->g, p->o + i * d->g * d->y->d_v);
}

/* What was not read, by its estimate, last. */
static void fold_tail(const struct decode *d, const struct choice *ch, float *M, float *L, float *O)
{
    const float *m = ch->tail, *l = m + d->g, *o = l + d->g;
    for (unsigned j = 0; ch->tail && j < d->g; j++)
        if (l[j] > 0)
            d->item.c->tier->k->merge(1, d->y->d_v, M + j, L + j, O + (size_t)j * d->y->d_v, m + j, l + j,
                                      o + (size_t)j * d->y->d_v);
}

/* Log masses of pages [0, n) of a head's partials. */
static void keep_masses(const struct decode *d, const struct partials *p, size_t n, float *out)
{
    for (size_t i = 0; i < n * d->g; i++)
        out[i] = p->l[i] != 0 ? p->m[i] + logf(p->l[i]) : -INFINITY;
}

/* The share of the group's attention that a page got. */
static float share_of(unsigned g, const float *mass, const float *M, const float *L)
{
    float sum = 0;
    for (unsigned j = 0; j < g; j++)
        sum += expf(mass[j] - M[j]) / L[j];
    return sum;
}

/* At a refresh, pages that were not read get what they are estimated to; a share next to nothing is none. */
static void note_unread(struct row *r, unsigned head, const float *M, const float *L)
{
    struct skv_context *c = r->d->item.c;
    const struct choice *ch = &r->choices[head];
    size_t i = 0;
    for (uint64_t p = 0; p < context_sealed_pages(c); p++) {
        if (i < ch->n && ch->pages[i] == p) {
            i++;
            continue;
        }
        float share = reestimate_share(ch->all, r->d->g, p, M, L);
        if (share > 1e-6f)
            received_add(c->received, r->d->item.layer, head, p, share);
    }
}

/* The total that shares are of includes, at a refresh, what was not read. */
static int note_received(struct row *r, const float *M, const float *attended, struct skv_error *err)
{
    struct decode *d = r->d;
    struct skv_context *c = d->item.c;
    unsigned g = d->g, layer = d->item.layer;
    float *local = malloc((r->n_local + 1) * g * sizeof *local), *L = local ? local + r->n_local * g : NULL;
    if (!local || received_row(c->received, layer, r->t / PAGE_TOKENS + 1,
                               policy_half_life(context_select(c, layer)), 1, r->q)) {
        free(local);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    for (unsigned h = 0; h < d->y->n_kv_heads; h++, M += g, attended += g) {
        const struct choice *ch = &r->choices[h];
        memcpy(L, attended, g * sizeof *L);
        if (ch->all)
            reestimate_total(ch->all, g, context_sealed_pages(c), ch->pages, ch->n, M, L);
        for (size_t i = 0; i < ch->n; i++)
            received_add(c->received, layer, h, ch->pages[i], share_of(g, r->far_mass[h] + i * g, M, L));
        keep_masses(d, &r->local.heads[h], r->n_local, local);
        for (size_t i = 0; i < r->n_local; i++)
            received_add(c->received, layer, h, r->first_local + i, share_of(g, local + i * g, M, L));
        if (ch->all)
            note_unread(r, h, M, L);
    }
    free(local);
    return 0;
}

/* The share of the true total that the estimate puts into pages not read, for each query head. */
static int count_missed(struct row *r, const float *M, const float *L, struct skv_error *err)
{
    struct skv_context *c = r->d->item.c;
    struct skv_stats *st = &c->stats;
    unsigned g = r->d->g;
    double gone[MAX_HEADS];
    for (unsigned j = 0; j < g; j++)
        gone[j] = -INFINITY;
    for (unsigned h = 0; h < r->d->y->n_kv_heads; h++) {
        const struct choice *ch = &r->choices[h];
        if (r->gone.n &&
            gone_mass(c, r->d->item.layer, &r->gone, h, g, r->q + (size_t)h * g * r->d->y->d_k, gone))
            return skv_fail(err, -ENOMEM, "out of memory");
        for (unsigned j = 0; j < g; j++) {
            double attended = (double)M[h * g + j] + log((double)L[h * g + j]);
            double missed =
                ch->estimated ? exp((double)ch->lse[j] - attended) * (1.0 - (double)ch->share[j]) : 0;
            double share = gone_count(st, attended, missed, gone[j]);
            st->missed_mass += ch->estimated ? share : 0;
            st->missed_n += ch->estimated;
        }
    }
    return 0;
}

static int finish_row(struct row *r, struct skv_error *err)
{
    struct decode *d = r->d;
    struct skv_stats *st = &d->item.c->stats;
    unsigned g = d->g, n_kv = d->y->n_kv_heads, d_v = d->y->d_v;
    size_t rows = (size_t)n_kv * g;
    float *M = malloc(rows * (2 + d_v) * sizeof *M), *L = M ? M + rows : NULL, *O = M ? L + rows : NULL;
    if (!M)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < rows; i++)
        M[i] = -INFINITY;
    memset(L, 0, rows * (1 + d_v) * sizeof *L);

    int rc = 0;
    size_t n_sections = (r->n_far + SECTION - 1) / SECTION;
    for (size_t i = 0; i < n_sections && rc == 0; i++) {
        if (i + 1 < n_sections)
            rc = start_section(r, err);
        if (rc)
            break;
        tier_send(d->item.c->tier->tier);
        uint64_t t0 = clock_ns();
        compute_pieces(r);
        st->attend_ns += clock_ns() - t0;
        struct section *s = &r->sections[i % 2];
        rc = end_section(r, s, err);
        if (rc)
            break;
        t0 = clock_ns();
        for (unsigned h = 0; h < n_kv; h++) {
            size_t n = r->choices[h].n > s->from ? r->choices[h].n - s->from : 0;
            n = n < SECTION ? n : SECTION;
            fold(d, &s->heads[h], n, M + h * g, L + h * g, O + (size_t)h * g * d_v);
            if (r->far_mass)
                keep_masses(d, &s->heads[h], n, r->far_mass[h] + s->from * g);
        }
        uint64_t merging = clock_ns() - t0;
        st->attend_ns += merging;
        st->merge_ns += merging;
    }
    if (rc == 0) {
        uint64_t t0 = clock_ns();
        for (unsigned h = 0; h < n_kv; h++)
            fold(d, &r->local.heads[h], r->n_local, M + h * g, L + h * g, O + (size_t)h * g * d_v);
        st->merge_ns += clock_ns() - t0;
        rc = count_missed(r, M, L, err);
        for (unsigned h = 0; h < n_kv; h++)
            fold_tail(d, &r->choices[h], M + h * g, L + h * g, O + (size_t)h * g * d_v);
        for (size_t i = 0; i < rows; i++)
            for (unsigned j = 0; j < d_v; j++)
                r->out[i * d_v + j] = O[i * d_v + j] / L[i];
        if (rc == 0 && r->far_mass)
            rc = note_received(r, M, L, err);
        st->attend_ns += clock_ns() - t0;
    }
    free(M);
    return rc;
}

/* ---- all of a pass ---- */

static int decode_choose(struct item *it, struct skv_error *err)
{
    struct decode *d = (struct decode *)it;
    int rc = 0;
    for (unsigned i = 0; i < (d->in_turn ? 1 : d->n_rows) && rc == 0; i++)
        rc = row_choose(&d->rows[i], err);
    return rc;
}

static int decode_start(struct item *it, struct skv_error *err)
{
    struct decode *d = (struct decode *)it;
    int rc = 0;
    for (unsigned i = 0; i < (d->in_turn ? 1 : d->n_rows) && rc == 0; i++)
        rc = row_start(&d->rows[i], err);
    return rc;
}

static int decode_local(struct item *it, struct skv_error *err)
{
    struct decode *d = (struct decode *)it;
    int rc = 0;
    for (unsigned i = 0; i < (d->in_turn ? 1 : d->n_rows) && rc == 0; i++)
        rc = row_local(&d->rows[i], err);
    return rc;
}

static unsigned decode_parts(const struct item *it)
{
    const struct decode *d = (const struct decode *)it;
    unsigned n = 0;
    for (unsigned i = 0; i < d->n_rows; i++)
        n += row_parts(&d->rows[i]);
    return n;
}

static void decode_part(struct item *it, unsigned part)
{
    struct decode *d = (struct decode *)it;
    unsigned i = 0;
    for (; part >= row_parts(&d->rows[i]); i++)
        part -= row_parts(&d->rows[i]);
    compute_part(&d->rows[i], part);
}

static int row_whole(struct row *r, struct skv_error *err)
{
    uint64_t t0 = clock_ns();
    int rc = row_choose(r, err);
    r->d->item.c->stats.scout_ns += clock_ns() - t0;
    if (rc == 0)
        rc = row_start(r, err);
    t0 = clock_ns();
    if (rc == 0)
        rc = row_local(r, err);
    if (rc == 0)
        compute_pieces(r);
    r->d->item.c->stats.attend_ns += clock_ns() - t0;
    return rc;
}

static int decode_finish(struct item *it, struct skv_error *err)
{
    struct decode *d = (struct decode *)it;
    int rc = 0;
    bool gone = false;
    for (unsigned i = 0; i < d->n_rows; i++)
        d->rows[i].n_pieces = 0; /* they have been computed */
    for (unsigned i = 0; i < d->n_rows && rc == 0; i++) {
        if (d->in_turn && i)
            rc = row_whole(&d->rows[i], err);
        if (rc == 0)
            rc = finish_row(&d->rows[i], err);
        gone |= d->rows[i].gone.n > 0;
        it->c->stats.pages_lost += d->rows[i].gone.n;
    }
    if (rc == 0 && gone)
        gone_mark(it->c);
    return rc;
}

static void section_free(struct row *r, struct section *s)
{
    end_section(r, s, NULL);
    free(s->heads);
    free(s->memory);
}

static void decode_free(struct item *it)
{
    struct decode *d = (struct decode *)it;
    for (unsigned i = 0; d->rows && i < d->n_rows; i++) {
        struct row *r = &d->rows[i];
        section_free(r, &r->sections[0]);
        section_free(r, &r->sections[1]);
        section_free(r, &r->local);
        for (unsigned h = 0; r->choices && h < d->y->n_kv_heads; h++)
            choice_free(&r->choices[h]);
        for (unsigned h = 0; r->far_mass && h < d->y->n_kv_heads; h++)
            free(r->far_mass[h]);
        free(r->far_mass);
        free(r->choices);
        free(r->pieces);
        gone_free(&r->gone);
        free(r->q);
    }
    free(d->rows);
    free(d);
}

static const struct item_ops decode_ops = {decode_choose, decode_start,  decode_local, decode_parts,
                                           decode_part,   decode_finish, decode_free};

struct item *decode_item(struct skv_context *c, unsigned layer, const float *q, float *out)
{
    struct decode *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    const struct skv_layer *y = &c->shape->layers[layer];
    d->item = (struct item){.ops = &decode_ops, .c = c, .layer = layer, .q = q, .out = out};
    d->y = y;
    d->g = y->n_heads / y->n_kv_heads;
    d->page_bytes = layout_page_bytes(&c->shape->layouts[layer]);
    d->in_turn = skv_policy_history(context_select(c, layer), c->calibration);
    d->rows = calloc(c->pass_n, sizeof *d->rows);
    if (!d->rows)
        goto error;
    for (; d->n_rows < c->pass_n; d->n_rows++) {
        struct row *r = &d->rows[d->n_rows];
        r->d = d;
        r->t = c->pass_from + d->n_rows;
        r->out = out + (size_t)d->n_rows * y->n_heads * y->d_v;
        r->choices = calloc(y->n_kv_heads, sizeof *r->choices);
        r->q = malloc((size_t)y->n_heads * y->d_k * sizeof *r->q);
        if (!r->choices || !r->q) {
            d->n_rows++;
            goto error;
        }
        const float *from = q + (size_t)d->n_rows * y->n_heads * y->d_k;
        for (size_t i = 0; i < (size_t)y->n_heads * y->d_k; i++)
            r->q[i] = from[i] * y->scale;
    }
    return &d->item;
error:
    decode_free(&d->item);
    return NULL;
}
