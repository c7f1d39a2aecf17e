/* forward.c: the forward pass; see forward.h.
 *
 * Per layer:  h = norm(x);  q, k, v = h·W (+ bias), turned;  x += attend(q)·Wo
 *             h = norm(x);  x += (silu(h·Wgate) * (h·Wup))·Wdown
 *
 * Decode multiplies by rows and prefill by tiles (matmul.h), but for short ones. What is done token by token
 * (norms, rotation, silu) is cut into parts of a fixed number of tokens; a token's arithmetic doesn't see its
 * neighbours. The tokens of a pass are one context's, or one each of several: only what belongs to a context
 * (positions, put, attend) looks at whose they are. */
#include "decoder/model/forward.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "common/clock.h"
#include "decoder/kernels/kernels.h"

struct session {
    const struct model *model;
    skv_tier *tier;
    skv_context *ctx;
    struct pool *pool;
    struct session_times times;
    session_loss *on_loss;
    void *on_loss_arg;
    session_watcher *watch;
    void *watch_arg;
    struct matmul_room room;

    /* Scratch for passes of up to `capacity` tokens, carved out of one block. */
    uint32_t capacity;
    float *block;
    float *x;         /* (n, dim): the residual stream */
    float *h;         /* (n, max(dim, n_heads · d_v)): a normed x, or what attention gives */
    float *q, *k, *v; /* (n, heads · head dim) */
    float *gate, *up; /* (n, ff) */
    float *angles;    /* (n, rope_pairs, 2) */

    struct skv_attend_item items[SESSION_BATCH]; /* of one attend */
    skv_context *batch[SESSION_BATCH];
};

/* ---- scratch ---- */

static int scratch_grow(struct session *s, uint32_t n, struct skv_error *err)
{
    if (n <= s->capacity)
        return 0;
    const struct model_params *p = &s->model->params;
    size_t attended = (size_t)p->n_heads * p->d_v;
    const struct {
        float **to;
        size_t floats; /* per token */
    } parts[] = {
        {&s->x, p->dim},
        {&s->h, p->dim > attended ? p->dim : attended},
        {&s->q, (size_t)p->n_heads * p->d_k},
        {&s->k, (size_t)p->n_kv_heads * p->d_k},
        {&s->v, (size_t)p->n_kv_heads * p->d_v},
        {&s->gate, p->ff},
        {&s->up, p->ff},
        {&s->angles, 2 * (size_t)p->rope_pairs},
    };
    size_t total = 0, n_parts = sizeof parts / sizeof *parts;
    for (size_t i = 0; i < n_parts; i++)
        total += (parts[i].floats * n + 15) / 16 * 16;
    free(s->block);
    s->capacity = 0;
    s->block = aligned_alloc(64, total * sizeof *s->block);
    if (!s->block)
        return skv_fail(err, -ENOMEM, "out of memory for a pass of %u tokens (%zu MiB): use a smaller chunk",
                        n, total * sizeof *s->block >> 20);
    size_t at = 0;
    for (size_t i = 0; i < n_parts; i++) {
        *parts[i].to = s->block + at;
        at += (parts[i].floats * n + 15) / 16 * 16;
    }
    s->capacity = n;
    return 0;
}

/* ---- token by token ---- */

struct pass {
    struct session *s;
    enum skv_mode mode;
    uint32_t n;              /* tokens of all contexts, one context's after the other's */
    skv_context *const *ctx; /* (n_ctx), each with as many tokens */
    uint32_t n_ctx;
    const uint32_t *ids;
    const struct layer_weights *layer;
    const float *norm;
};

enum {
    PART_TOKENS = 4,
    FEW_TOKENS = 32, /* of a prefill: spreading tiles would cost more than what is multiplied with them */
    SERIAL_FLOATS =
        1 << 15, /* below so many of the feed-forward part, waking a thread costs more than it saves */
};

static void each_part(struct pass *pass, void (*fn)(void *, unsigned))
{
    bool many = (uint64_t)pass->n * pass->s->model->params.ff >= SERIAL_FLOATS;
    pool_run(many ? pass->s->pool : NULL, (pass->n + PART_TOKENS - 1) / PART_TOKENS, fn, pass);
}

static uint32_t part_end(const struct pass *pass, unsigned part)
{
    uint32_t end = (part + 1) * PART_TOKENS;
    return end < pass->n ? end : pass->n;
}

static void rms_norm(uint32_t n, float eps, const float *x, const float *weight, float *out)
{
    double lanes[8] = {0}, sum = 0; /* fixed lanes: vectors for the compiler, the same bits everywhere */
    uint32_t whole = n / 8 * 8;
    for (uint32_t i = 0; i < whole; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            lanes[j] += (double)x[i + j] * (double)x[i + j];
    for (uint32_t i = whole; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    for (uint32_t j = 0; j < 8; j++)
        sum += lanes[j];
    float scale = (float)(1 / sqrt(sum / n + (double)eps));
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * scale * weight[i];
}

static void embed_part(void *arg, unsigned part)
{
    const struct pass *p = arg;
    const struct model *m = p->s->model;
    for (uint32_t t = part * PART_TOKENS; t < part_end(p, part); t++)
        matrix_row(&m->embedding, p->ids[t], p->s->x + (size_t)t * m->params.dim);
}

static void norm_part(void *arg, unsigned part)
{
    const struct pass *p = arg;
    const struct model_params *mp = &p->s->model->params;
    for (uint32_t t = part * PART_TOKENS; t < part_end(p, part); t++)
        rms_norm(mp->dim, mp->norm_eps, p->s->x + (size_t)t * mp->dim, p->norm,
                 p->s->h + (size_t)t * mp->dim);
}

static void add_bias(uint32_t n, const float *bias, float *x)
{
    if (bias)
        for (uint32_t i = 0; i < n; i++)
            x[i] += bias[i];
}

static void turn_part(void *arg, unsigned part)
{
    const struct pass *p = arg;
    const struct session *s = p->s;
    const struct model_params *mp = &s->model->params;
    const struct layer_weights *w = p->layer;
    for (uint32_t t = part * PART_TOKENS; t < part_end(p, part); t++) {
        float *q = s->q + (size_t)t * w->q.rows, *k = s->k + (size_t)t * w->k.rows;
        const float *angles = s->angles + (size_t)t * 2 * mp->rope_pairs;
        add_bias(w->q.rows, w->q_bias, q);
        add_bias(w->k.rows, w->k_bias, k);
        add_bias(w->v.rows, w->v_bias, s->v + (size_t)t * w->v.rows);
        rope_apply(mp->rope_order, mp->n_heads, mp->d_k, mp->rope_pairs, angles, q);
        rope_apply(mp->rope_order, mp->n_kv_heads, mp->d_k, mp->rope_pairs, angles, k);
    }
}

static void silu_part(void *arg, unsigned part)
{
    const struct pass *p = arg;
    size_t ff = p->s->model->params.ff, from = part * PART_TOKENS * ff, to = part_end(p, part) * ff;
    kernels_get()->silu(to - from, p->s->gate + from, p->s->up + from);
}

/* ---- layers ---- */

static int multiply(struct pass *p, const struct matmul *w, size_t n_w, const float *x, bool add,
                    struct skv_error *err)
{
    struct session *s = p->s;
    enum activations decode = s->model->activations;
    int rc = p->mode == SKV_DECODE ? matmul_rows(s->pool, &s->room, decode, w, n_w, p->n, x, add)
             : p->n <= FEW_TOKENS  ? matmul_rows(s->pool, &s->room, ACTIVATIONS_EXACT, w, n_w, p->n, x, add)
                                   : matmul_tiles(s->pool, &s->room, w, n_w, p->n, x, add);
    return rc ? skv_fail(err, rc, "out of memory for a product of matrices") : 0;
}

static int put(struct pass *p, uint32_t layer, struct skv_error *err)
{
    const struct session *s = p->s;
    size_t each = p->n / p->n_ctx;
    int rc = 0;
    for (uint32_t i = 0; i < p->n_ctx && rc == 0; i++)
        rc = skv_put(p->ctx[i], layer, s->k + i * each * p->layer->k.rows, s->v + i * each * p->layer->v.rows,
                     err);
    return rc;
}

static int attend(struct pass *p, uint32_t layer, struct skv_error *err)
{
    struct session *s = p->s;
    size_t each = p->n / p->n_ctx;
    for (uint32_t i = 0; i < p->n_ctx; i++)
        s->items[i] = (struct skv_attend_item){.ctx = p->ctx[i],
                                               .q = s->q + i * each * p->layer->q.rows,
                                               .out = s->h + i * each * p->layer->o.cols};
    skv_attend *attend;
    int rc = skv_attend_begin(s->tier, layer, s->items, p->n_ctx, &attend, err);
    return rc ? rc : skv_attend_finish(attend, err);
}

static int attention_block(struct pass *p, uint32_t layer, bool only_store, struct skv_error *err)
{
    struct session *s = p->s;
    const struct layer_weights *w = p->layer = &s->model->layers[layer];
    p->norm = w->attn_norm;
    each_part(p, norm_part);
    const struct matmul qkv[] = {{&w->q, s->q}, {&w->k, s->k}, {&w->v, s->v}};
    int rc = multiply(p, qkv, 3, s->h, false, err);
    if (rc)
        return rc;
    each_part(p, turn_part);
    if (s->watch)
        s->watch(s->watch_arg, layer, p->n, s->q, s->k, s->v);

    uint64_t begin = clock_ns();
    rc = put(p, layer, err);
    if (rc == 0 && !only_store)
        rc = attend(p, layer, err);
    s->times.attention_ns += clock_ns() - begin;
    if (rc || only_store)
        return rc;
    return multiply(p, &(struct matmul){&w->o, s->x}, 1, s->h, true, err);
}

static int feed_forward_block(struct pass *p, struct skv_error *err)
{
    struct session *s = p->s;
    const struct layer_weights *w = p->layer;
    p->norm = w->ffn_norm;
    each_part(p, norm_part);
    const struct matmul both[] = {{&w->gate, s->gate}, {&w->up, s->up}};
    int rc = multiply(p, both, 2, s->h, false, err);
    if (rc)
        return rc;
    each_part(p, silu_part);
    return multiply(p, &(struct matmul){&w->down, s->x}, 1, s->gate, true, err);
}

static int output_block(struct pass *p, float *logits, bool all, struct skv_error *err)
{
    struct session *s = p->s;
    const struct model *m = s->model;
    const struct matmul out = {&m->output, logits};
    p->norm = m->output_norm;
    if (all) {
        each_part(p, norm_part);
        return multiply(p, &out, 1, s->h, false, err);
    }
    rms_norm(m->params.dim, m->params.norm_eps, s->x + (size_t)(p->n - 1) * m->params.dim, p->norm, s->h);
    matmul_rows(s->pool, NULL, ACTIVATIONS_EXACT, &out, 1, 1, s->h, false);
    return 0;
}

/* Once the positions are open. */
static void turns(struct pass *p)
{
    const struct model *m = p->s->model;
    uint32_t each = p->n / p->n_ctx;
    for (uint32_t i = 0; i < p->n_ctx; i++)
        rope_table(p->s->pool, skv_length(p->ctx[i]) - each, each, m->params.rope_pairs, m->rope_freq,
                   p->s->angles + (size_t)i * each * 2 * m->params.rope_pairs);
}

static int forward(struct pass *p, float *logits, bool all, struct skv_error *err)
{
    struct session *s = p->s;
    const struct model *m = s->model;
    uint32_t n_layers = m->params.n_layers;
    each_part(p, embed_part);
    turns(p);
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        bool only_store = !logits && layer == n_layers - 1;
        int rc = attention_block(p, layer, only_store, err);
        if (rc == 0 && !only_store)
            rc = feed_forward_block(p, err);
        if (rc)
            return rc;
    }
    return logits ? output_block(p, logits, all, err) : 0;
}

/* ---- the session ---- */

int session_open(const struct model *model, skv_tier *tier, skv_context *ctx, unsigned threads,
                 struct session **out, struct skv_error *err)
{
    struct session *s = calloc(1, sizeof *s);
    if (!s || !(s->pool = pool_new(threads))) {
        free(s);
        return skv_fail(err, -ENOMEM, "out of memory for a session");
    }
    s->model = model;
    s->tier = tier;
    s->ctx = ctx;
    *out = s;
    return 0;
}

void session_close(struct session *s)
{
    if (!s)
        return;
    pool_free(s->pool);
    matmul_room_free(&s->room);
    free(s->block);
    free(s);
}

void session_use(struct session *s, skv_context *ctx)
{
    s->ctx = ctx;
}

skv_context *session_context(const struct session *s)
{
    return s->ctx;
}

void session_on_loss(struct session *s, session_loss *fn, void *arg)
{
    s->on_loss = fn;
    s->on_loss_arg = arg;
}

void session_watch(struct session *s, session_watcher *fn, void *arg)
{
    s->watch = fn;
    s->watch_arg = arg;
}

/* Has the hook see to what is lost. The passes that it makes itself have none. */
static int see_to_loss(struct session *s, struct skv_error *err)
{
    session_loss *fn = s->on_loss;
    s->on_loss = NULL;
    int rc = fn(s->on_loss_arg, s, err);
    s->on_loss = fn;
    return rc;
}

static int check_id(const struct session *s, uint32_t id, struct skv_error *err)
{
    return id < s->model->params.vocab
               ? 0
               : skv_fail(err, -EINVAL, "token id %u is outside the model's vocabulary of %u", id,
                          s->model->params.vocab);
}

static void count_pass(struct session *s, uint32_t n, uint64_t begin)
{
    s->times.passes++;
    s->times.tokens += n;
    s->times.total_ns += clock_ns() - begin;
}

static int eval_once(struct session *s, enum skv_mode mode, const uint32_t *ids, uint32_t n, float *logits,
                     bool all_positions, struct skv_error *err)
{
    uint64_t begin = clock_ns(), position = skv_length(s->ctx);
    int rc = 0;
    assert(n >= 1);
    for (uint32_t i = 0; i < n && rc == 0; i++)
        rc = check_id(s, ids[i], err);
    if (rc == 0)
        rc = scratch_grow(s, n, err);
    if (rc == 0)
        rc = skv_append(s->ctx, mode, n, ids, NULL, err);
    if (rc)
        return rc;
    struct pass pass = {.s = s, .mode = mode, .n = n, .ctx = &s->ctx, .n_ctx = 1, .ids = ids};
    rc = forward(&pass, logits, all_positions, err);
    if (rc)
        skv_truncate(s->ctx, position, NULL); /* err keeps the first reason */
    count_pass(s, n, begin);
    return rc;
}

int session_eval(struct session *s, enum skv_mode mode, const uint32_t *ids, uint32_t n, float *logits,
                 bool all_positions, struct skv_error *err)
{
    int rc = eval_once(s, mode, ids, n, logits, all_positions, err);
    /* Every layer may find something else missing; more often than that, what is stored does not stay. */
    for (uint32_t i = 0; rc && s->on_loss && skv_lost(s->ctx, NULL, 0) && i <= s->model->params.n_layers;
         i++) {
        rc = see_to_loss(s, err);
        if (rc)
            return rc;
        rc = eval_once(s, mode, ids, n, logits, all_positions, err);
    }
    return rc;
}

/* All together. If it fails, nothing has happened, but for contexts that could not be truncated, whose rc
 * says so. */
static int batch_once(struct session *s, struct session_step *steps, uint32_t n, float *logits)
{
    uint64_t begin = clock_ns();
    uint32_t ids[SESSION_BATCH], opened = 0;
    struct skv_error why; /* whose it is, is not known */
    int rc = scratch_grow(s, n, &why);
    for (; opened < n && rc == 0; opened++) {
        s->batch[opened] = steps[opened].ctx;
        ids[opened] = steps[opened].id;
        rc = check_id(s, ids[opened], &why);
        if (rc == 0)
            rc = skv_append(s->batch[opened], SKV_DECODE, 1, &ids[opened], NULL, &why);
        if (rc)
            break;
    }
    struct pass pass = {.s = s, .mode = SKV_DECODE, .n = n, .ctx = s->batch, .n_ctx = n, .ids = ids};
    if (rc == 0)
        rc = forward(&pass, logits, true, &why);
    for (uint32_t i = 0; i < opened && rc; i++)
        steps[i].rc = skv_truncate(steps[i].ctx, skv_length(steps[i].ctx) - 1, steps[i].err);
    count_pass(s, n, begin);
    return rc;
}

void session_eval_batch(struct session *s, struct session_step *steps, uint32_t n, float *logits)
{
    skv_context *before = s->ctx;
    assert(n >= 1 && n <= SESSION_BATCH && !s->watch);
    for (uint32_t i = 0; i < n; i++)
        steps[i].rc = 0;
    if (n > 1 && batch_once(s, steps, n, logits) == 0)
        return;
    for (uint32_t i = 0; i < n; i++) {
        s->ctx = steps[i].ctx;
        if (steps[i].rc == 0)
            steps[i].rc = session_eval(s, SKV_DECODE, &steps[i].id, 1,
                                       logits + (size_t)i * s->model->params.vocab, false, steps[i].err);
    }
    s->ctx = before;
}

int session_truncate(struct session *s, uint64_t n, struct skv_error *err)
{
    int rc = skv_truncate(s->ctx, n, err);
    if (rc && s->on_loss && skv_lost(s->ctx, NULL, 0)) {
        rc = see_to_loss(s, err);
        if (rc == 0)
            rc = skv_truncate(s->ctx, n, err);
    }
    return rc;
}

int session_prefill(struct session *s, const uint32_t *ids, size_t n, uint32_t chunk,
                    session_progress *progress, void *arg, float *logits, struct skv_error *err)
{
    assert(chunk >= 1);
    for (size_t done = 0; done < n;) {
        uint32_t room = chunk - (uint32_t)(skv_length(s->ctx) % chunk);
        uint32_t take = n - done < room ? (uint32_t)(n - done) : room;
        bool last = done + take == n;
        int rc = session_eval(s, SKV_PREFILL, ids + done, take, last ? logits : NULL, false, err);
        if (rc)
            return rc;
        done += take;
        if (progress && (rc = progress(arg, done, n)) != 0)
            return rc;
    }
    return 0;
}

struct session_times session_times(const struct session *s)
{
    return s->times;
}

void session_times_reset(struct session *s)
{
    s->times = (struct session_times){0};
}
