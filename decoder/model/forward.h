/* forward.h: tokens in, logits out: a model evaluated over a context whose KV lies on the tier.
 *
 * A session is the model's side of a pass: it computes q, k and v, hands k and v to the context (scoutkv.h),
 * asks it to attend, and does the rest. It owns its threads and its scratch memory, borrows model, tier and
 * context, and belongs to one thread at a time. Passes over any context of the same model may go through one
 * session.
 *
 * Bits. SKV_DECODE: a token's logits don't depend on how many tokens the pass has, nor on the sequences that
 * are decoded with it, nor on threads. SKV_PREFILL: they don't depend on threads, but on where passes begin
 * and end; session_prefill cuts at absolute positions. */
#ifndef DECODER_MODEL_FORWARD_H
#define DECODER_MODEL_FORWARD_H

#include "decoder/model/model.h"

struct session_times {
    uint64_t passes, tokens;
    uint64_t total_ns,
        attention_ns; /* attention: all that happens inside skv_ calls (its stats split it further) */
};

struct session;

/* threads: the caller's included; 0: all cores. OpenBLAS must use one thread a call, as skv_tier_open sees
 * to: ours do the splitting. */
int session_open(const struct model *, skv_tier *, skv_context *, unsigned threads, struct session **out,
                 struct skv_error *err);
void session_close(struct session *); /* NULL is allowed; closes neither model, tier nor context */

/* Goes on with another context of the same tier and model (a fork, say). */
void session_use(struct session *, skv_context *);
skv_context *session_context(const struct session *);

/* One pass over n tokens, appended to the context. logits may be NULL; else it receives (vocab) after the
 * last token, or (n, vocab) with all_positions. On failure the context is as long as before and the pass may
 * be repeated. Without logits the last layer only stores its keys and values: nobody would read what it
 * attends to. */
int session_eval(struct session *, enum skv_mode, const uint32_t *ids, uint32_t n, float *logits,
                 bool all_positions, struct skv_error *err);

/* One token of one sequence in a step of several. */
struct session_step {
    skv_context *ctx; /* another one in each */
    uint32_t id;
    int rc; /* set: 0, or -errno with *err filled */
    struct skv_error *err;
};
enum { SESSION_BATCH = 256 };

/* A decode step of up to SESSION_BATCH contexts of the session's model and tier: weights are read once for
 * all, and what all lack of a layer is fetched at once. logits (n, vocab); each has the bits of session_eval
 * of that token alone. If anything fails, every sequence goes by itself, so that it has its own result (and,
 * if blocks were lost, the hook below); a context that failed is as long as before. Nobody watches. */
void session_eval_batch(struct session *, struct session_step *, uint32_t n, float *logits);

/* skv_truncate, with the hook below. */
int session_truncate(struct session *, uint64_t n, struct skv_error *err);

/* Called when a pass (or a truncate) failed because blocks are lost, with the context as long as before; it
 * may use the session. 0: the pass is repeated, else it fails with what is returned and err, which holds the
 * reason of the loss before. recompute.h has one. NULL: none. */
typedef int session_loss(void *arg, struct session *, struct skv_error *err);
void session_on_loss(struct session *, session_loss *, void *arg);

/* Called in every layer of a pass before its k and v are put: q (n, n_heads, d_k) and k (n, n_kv_heads, d_k)
 * turned, v (n, n_kv_heads, d_v), of the positions that the pass opened; valid during the call. For looking
 * only. A pass that is repeated after a loss calls again. NULL: none. */
typedef void session_watcher(void *arg, uint32_t layer, uint32_t n, const float *q, const float *k,
                             const float *v);
void session_watch(struct session *, session_watcher *, void *arg);

/* SKV_PREFILL over n tokens in passes that end at multiples of chunk (positions in the context), so that a
 * prefill stopped and resumed at such a multiple has the bits of a straight one. logits (vocab, after the
 * last token) may be NULL. progress (may be NULL) is called after each pass; what it returns, if not 0, ends
 * the prefill and is returned, and the context keeps what is done. */
typedef int session_progress(void *arg, size_t done, size_t total);
int session_prefill(struct session *, const uint32_t *ids, size_t n, uint32_t chunk,
                    session_progress *progress, void *arg, float *logits, struct skv_error *err);

struct session_times session_times(const struct session *);
void session_times_reset(struct session *);

#endif
