/* scoutkv.h: attention over contexts whose KV cache lives on memory nodes.
 *
 * An engine brings its own q, k and v. For every forward pass over n new tokens of a context:
 *
 *     skv_append(ctx, mode, n, ids, NULL, &err);            // n new positions
 *     for each layer l:
 *         skv_put(ctx, l, k, v, &err);                       // their keys (RoPE applied) and values
 *         skv_attend_begin(tier, l, items, n_items, &a, &err);
 *         …                                                  // compute what doesn't need the result
 *         skv_attend_finish(a, &err);                        // items[].out is filled
 *
 * Tokens come in passes of one (decode: each query picks its own pages) or many (prefill: the pass picks
 * pages together). What was sealed (full blocks of 64 tokens, seal_lag behind the head) is on the tier and
 * only its scout representatives stay; the newest tokens stay local.
 *
 * Threads: a tier and all its contexts belong to one thread at a time. There is no global state; nothing here
 * installs signal handlers, exits, or changes malloc. Functions return 0 or -errno (common/error.h) and fill
 * *err, which may be NULL. After a failed attend the context is intact: call skv_truncate to the length
 * before the pass and repeat it. Floats are IEEE f32 in host memory, row-major, shapes written (outer, …,
 * inner).
 *
 * Bits: with one kernel family (SKV_ISA=portable|avx2 pins it), the same calls give the same bits on any
 * number of nodes, embedded or remote. Decode doesn't depend on the thread count; prefill and the model's
 * matrices may. */
#ifndef SCOUTKV_H
#define SCOUTKV_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SKV_API __attribute__((visibility("default")))

enum { SKV_PAGE = 16, SKV_BLOCK = 64, SKV_FINGERPRINT = 32, SKV_TAG = 32 };

typedef struct skv_tier skv_tier;       /* a client of the memory nodes, and the compute threads */
typedef struct skv_context skv_context; /* the KV state of one token sequence */
typedef struct skv_attend skv_attend;   /* attention under way */

/* How K and V are kept, and travel. In few bits (q8_0: 8.5 a number; q4: keys 6, values 5) it is whole pages
 * that are rounded: as soon as a page is full, attention sees it as it will be on the nodes, so that what
 * comes back from there is what was attended before. The tokens of the newest page, which is not full, are
 * f16. kernels/kv_types.h has the formats. */
enum skv_dtype { SKV_F16 = 1, SKV_F32 = 2, SKV_Q8_0 = 3, SKV_Q4 = 4 };
SKV_API const char *skv_dtype_name(enum skv_dtype); /* "f16" …; NULL: there is none */

/* ---- the model's shape ---- */

struct skv_layer {
    uint32_t d_k, d_v; /* dims of a key and of a value; d_k a multiple of 8 */
    uint32_t
        n_heads; /* query heads held here; a multiple of n_kv_heads (GQA: they share KV heads in order) */
    uint32_t n_kv_heads; /* KV heads held here */
    uint32_t kv_head0;   /* the first of them in the whole model (tensor parallel), else 0 */
    float scale;         /* of q·k before softmax, usually 1/sqrt(d_k) */
};

struct skv_model {
    uint32_t n_layers;
    const struct skv_layer *layers;       /* copied */
    uint8_t fingerprint[SKV_FINGERPRINT]; /* names the weights; equal models must have equal ones */
};

/* ---- the tier ---- */

struct skv_tier_opts {
    const char *nodes;        /* "[id@]host:port[*weight],…" or "@FILE"; NULL: a node inside this process */
    const char *cluster;      /* NULL: "default" */
    uint64_t ns;              /* namespace (tenant) */
    uint64_t ram;             /* of the node inside; 0: 4 GiB */
    const char *const *disks; /* of the node inside: each "DIR:SIZE", a directory that blocks are kept in */
    size_t n_disks;           /* 0: they are in RAM only, and gone with the process */
    uint32_t replicas;        /* nodes that each block is written to; 0: 1 */
    uint32_t timeout_ms;      /* of each request; 0: 5000 */
    uint32_t heartbeat_ms;    /* a node that is silent for two of these is passed over; 0: 250 */
    uint32_t threads;         /* for scout and attention, the caller's included; 0: all cores */
};

SKV_API int skv_tier_open(const struct skv_tier_opts *, skv_tier **out, struct skv_error *err);
SKV_API void skv_tier_close(skv_tier *); /* after its contexts */
/* Reads the file of `nodes` = "@FILE" again: "epoch N", then a line "id@host:port[*weight] [draining]" a
 * node. Nodes may come and go between two passes; what is stored stays where it is and is found there.
 * -ESTALE: the nodes know a newer list (a higher epoch) than the file's, and that one is in use already. */
SKV_API int skv_tier_reload(skv_tier *, struct skv_error *err);

/* ---- policies ---- */

enum skv_policy {
    SKV_CASCADE,   /* the scout: pages of the largest estimated attention mass */
    SKV_DENSE,     /* every page */
    SKV_WINDOW,    /* nothing besides window and protected */
    SKV_NORM_ONLY, /* these and all others: see skv_policy_describe, or `scoutkv policies` */
    SKV_ORACLE,
    SKV_RANDOM,
    SKV_SINKS,
    SKV_STRIDED,
    SKV_BIGBIRD,
    SKV_BLOCK_SPARSE,
    SKV_HEAVY_HITTER,
    SKV_TOVA,
    SKV_SALIENCE,
    SKV_QUEST,
    SKV_RETRIEVAL,
    SKV_HIERARCHICAL,
    SKV_POLICIES
};
enum { SKV_POLICY_OPTS = 4, SKV_POLICY_TEXT = 160 };

struct skv_select {
    enum skv_policy policy;
    uint32_t budget; /* tokens per KV head and layer and pass, besides window and protected */
    uint32_t unit;   /* tokens selected together: 16, 32 or 64 */
    float mass; /* stop early once the selected are estimated to hold this share of what is far; 0: use the
                   budget */
    bool tail;  /* cascade: what is not selected is attended too, by estimate: a block as its mean value with
                 * its estimated mass (hierarchical: always, and without this) */
    float opt[SKV_POLICY_OPTS]; /* the policy's own options, in the order of skv_policy_describe; */
    uint32_t given;             /* bit i: opt[i] is given, else it has its default */
    /* Decode: a refresh selects refresh_budget times the budget, and policies that go by what pages received
     * learn, and choose by, what pages that they did not read are estimated to get. It comes at multiples of
     * the position `refresh`, for all KV heads (0: never), */
    uint32_t refresh, refresh_budget;
    float refresh_turn; /* and for a KV head whose query's cosine with those of the last steps is below this,
                         * or that has none to compare with: the first behind a prefill (0: never) */
};

/* Layers [from, to) that select otherwise than the rest. */
struct skv_layer_select {
    uint32_t from, to;
    struct skv_select select;
};
enum { SKV_LAYER_RANGES = 8 };

struct skv_policy_opt {
    const char *name, *about;
    float value, min, max; /* value: if not given */
};
struct skv_policy_info {
    const char *name, *about, *source; /* source: the paper that it is from */
    struct skv_policy_opt opts[SKV_POLICY_OPTS];
    unsigned n_opts;
};
/* 0, or -ENOENT: there are SKV_POLICIES. */
SKV_API int skv_policy_describe(enum skv_policy, struct skv_policy_info *out);
SKV_API const char *skv_policy_name(enum skv_policy);
/* Reads "NAME" or "NAME:option=value:…" into policy, opt and given of *out; the rest stays. */
SKV_API int skv_policy_parse(const char *spec, struct skv_select *out, struct skv_error *err);
/* The text that skv_policy_parse would read. */
SKV_API void skv_policy_format(const struct skv_select *, char out[SKV_POLICY_TEXT]);

/* ---- calibration ----
 *
 * What a measurement on text (`scoutkv calibrate`) says of a model's KV heads. Without one, every spread
 * counts fully and every head has the same budget. */

enum { SKV_KNOTS = 10 };

struct skv_calibration_head {
    float gamma_page, gamma_block; /* 0 to 1: how much of a representative's spread counts */
    float far;                     /* share of a query's attention that is far, on average; */
    float held[SKV_KNOTS];         /* and what of it the best 16, 32, 64 … tokens hold, rising */
    float alpha, beta;             /* of cascade's prior, where its options don't say otherwise */
};
struct skv_calibration {
    uint8_t fingerprint[SKV_FINGERPRINT];     /* of the model that was measured */
    uint32_t n_layers, n_kv_heads;            /* of the whole model; equal in all layers */
    const struct skv_calibration_head *heads; /* (n_layers, n_kv_heads) */
    uint32_t d_k;                             /* of what follows; 0: there is nothing of it */
    const float *salience;   /* (n_layers, n_kv_heads, d_k + 2): the log mass that a token will receive is
                              * w·k + w[d_k]·|k| + w[d_k + 1], k its key as it is stored */
    uint32_t d_rep;          /* dims that keys are projected to before they are summarised; 0: they are not */
    const float *projection; /* (n_layers, n_kv_heads, 2, d_rep, d_k): of keys, P, and of queries, R, so that
                              * q·k is about (R q)·(P k) */
};

/* Whether the policy, with these options and this calibration (or NULL), goes by what pages received
 * (skv_context_opts.history). */
SKV_API bool skv_policy_history(const struct skv_select *, const struct skv_calibration *);

/* What is kept of every page for the scout: at d_k = 64, 14 bytes per token and KV head with the five keys
 * that stand out, 2.75 without, which finds less of what is copied from afar. With a calibration that
 * projects keys to fewer dims: eight keys that stand out, or none. */
enum skv_representatives { SKV_REPS_FULL, SKV_REPS_LEAN, SKV_REPRESENTATIVES };

/* How the budget of decode steps is split over layers and KV heads; each gets a page at least, and the sum
 * stays the same. Layers of a policy of their own keep their budget. */
enum skv_schedule {
    SKV_UNIFORM,    /* the same for all */
    SKV_NARROW_LOW, /* a head of the lower half of the layers gets a quarter of one of the upper half */
    SKV_CALIBRATED, /* where the next token holds the most far mass, as calibrated */
    SKV_SCHEDULES
};
SKV_API const char *skv_schedule_name(enum skv_schedule);

/* When no node gives a page that a pass chose: every one was asked and none has it (-ENODATA), no copy passes
 * its checksum (-EBADMSG), or its nodes did not answer by the request's deadline (-EHOSTUNREACH). */
enum skv_on_loss {
    SKV_LOSS_FAIL,    /* the attend fails; see skv_lost for what can be done then */
    SKV_LOSS_DEGRADE, /* the pass goes on without it; skv_stats tells what was missed. Blocks that hold tokens
                       * of such a pass get other names: no other context takes them for what they should be
                       */
};

struct skv_range {
    uint64_t from, to; /* token positions [from, to); widened to whole pages */
};

struct skv_context_opts {
    struct skv_select decode; /* passes of SKV_DECODE, */
    struct skv_layer_select
        decode_layers[SKV_LAYER_RANGES]; /* but for these layers; the later range counts */
    uint32_t n_decode_layers;
    struct skv_select prefill; /* passes of SKV_PREFILL */
    uint32_t window;           /* newest tokens kept local and always attended, besides the unsealed tail */
    uint32_t
        seal_lag;   /* tokens between the head and what may be sealed; at least the window; 0: the window */
    uint32_t sinks; /* first tokens, always attended */
    const struct skv_range *protect; /* always attended; copied */
    size_t n_protect;
    uint64_t cache_bytes; /* of fetched pages */
    enum skv_dtype dtype; /* of K and V at rest; names blocks: contexts of different ones share none */
    enum skv_on_loss on_loss;
    uint32_t step_deadline_ms; /* a decode step waits for pages until so long after its append, and then an
                                * eighth of it in each layer; what has not come is a loss (-EHOSTUNREACH).
                                * 0: for as long as requests to nodes take */
    bool durable;              /* sealed blocks are acknowledged from disk */
    bool history; /* note the attention mass that pages receive, in prefill too, for policies that go by it; a
                   * decode policy that does turns it on. Of tokens found by skv_context_open_prefix it is not
                   * known */
    bool hints;   /* tell nodes that have disks which blocks will be asked for often: those stay in their RAM,
                   * others go first. Notes history, and changes no bit of what is computed */
    void (*fetched)(
        void *arg, uint32_t layer, uint32_t kv_head,
        uint64_t page); /* or NULL: told of every
                         * page that a decode step had to fetch; for measuring, within skv_attend_finish */
    void *fetched_arg;
    const struct skv_calibration *calibration; /* or NULL; copied. -EINVAL: it is of another model */
    enum skv_schedule schedule;
    enum skv_representatives representatives;
    const uint8_t *salt; /* 32 bytes that make keys unguessable, or NULL */
    const char *recipe; /* what else changes the bits of K and V (prefill chunk, RoPE overrides …), or NULL */
};
/* Defaults: cascade, budget 2048, unit 16; window 1024, 16 sinks, cache 64 MiB, f16, a loss fails, ack from
 * RAM, hints. */
SKV_API void skv_context_defaults(struct skv_context_opts *);

/* ---- contexts ---- */

SKV_API int skv_context_open(skv_tier *, const struct skv_model *, const struct skv_context_opts *,
                             skv_context **out, struct skv_error *err);
SKV_API void skv_context_close(skv_context *);
/* A second context of the same tokens; sealed blocks are shared, the cache starts empty. */
SKV_API int skv_context_fork(skv_context *, skv_context **out, struct skv_error *err);
/* Changes how later decode passes select; the cache is emptied and resized. */
SKV_API int skv_context_configure(skv_context *, const struct skv_select *decode, uint64_t cache_bytes,
                                  struct skv_error *err);
/* Forgets tokens from n on. Blocks that were sealed but lie within seal_lag of n come back from the tier. Of
 * q8_0 and q4 only whole pages come back as they were: where n cuts a page that has left, its tokens are the
 * rounded ones, and what follows has other bits and names than a run that stopped at n. */
SKV_API int skv_truncate(skv_context *, uint64_t n, struct skv_error *err);
/* Waits until every sealed block is acknowledged. */
SKV_API int skv_flush(skv_context *, struct skv_error *err);

/* A new context that begins with the longest stored beginning of ids (n): tokens that some saved context of
 * the same model and options had prefilled, in passes that end at multiples of chunk (a multiple of 64). Its
 * length is such a multiple, 0 where nothing was found. Prefilling the rest, in such passes too, gives the
 * bits of a prefill from 0. Only the rest's logits exist: give all ids but the last to have at least its. */
SKV_API int skv_context_open_prefix(skv_tier *, const struct skv_model *, const struct skv_context_opts *,
                                    const uint32_t *ids, uint64_t n, uint32_t chunk, skv_context **out,
                                    struct skv_error *err);

SKV_API uint64_t skv_length(const skv_context *);
/* Ids of tokens [from, from+n) as appended (0 where tags were given). */
SKV_API int skv_tokens(const skv_context *, uint64_t from, size_t n, uint32_t *ids);

/* ---- a pass ---- */

enum skv_mode {
    SKV_PREFILL, /* n tokens choose pages together, from a few pooled queries */
    SKV_DECODE, /* each token chooses its own pages; several (speculation) are computed as if one by one: bits
                 * don't depend on n as long as no block is sealed between them */
};

/* The first token of the pass that the last token came in (decode: the token itself), and the pass's mode; 0
 * without tokens. Truncated to it and passed again, it gives outputs and logits that were not kept. */
SKV_API uint64_t skv_last_pass(const skv_context *, enum skv_mode *mode);

/* Opens n new positions. ids (n) name them for the block's identity; engines without ids pass NULL and a
 * 32-byte tag per block that begins or ends in these tokens is derived from `tags` (n, SKV_TAG). Every layer
 * must then be put once. */
SKV_API int skv_append(skv_context *, enum skv_mode, uint32_t n, const uint32_t *ids, const uint8_t *tags,
                       struct skv_error *err);
/* k (n, n_kv_heads, d_k), v (n, n_kv_heads, d_v) of the positions of the last append. */
SKV_API int skv_put(skv_context *, uint32_t layer, const float *k, const float *v, struct skv_error *err);

struct skv_attend_item {
    skv_context *ctx;
    const float *q; /* (n, n_heads, d_k), n of the last append; RoPE applied, not scaled; kept until finish */
    float *out;     /* (n, n_heads, d_v), written by finish */
};
/* Scouts, asks the nodes for the pages not held, and computes what is local meanwhile. The contexts of one
 * batch differ. */
SKV_API int skv_attend_begin(skv_tier *, uint32_t layer, const struct skv_attend_item *, size_t n_items,
                             skv_attend **out, struct skv_error *err);
/* Waits for the pages and merges. Frees the handle, also on failure. -ENODATA: pages lost; -EBADMSG: no copy
 * passes its checksum; -EHOSTUNREACH: a node is gone. */
SKV_API int skv_attend_finish(skv_attend *, struct skv_error *err);

/* ---- saved contexts ----
 *
 * A saved context has a name (1 to 200 bytes) on the nodes, outlives the process that made it, and can be
 * opened by any other. It ends after its time to live. Until then its blocks are leased: nodes don't evict
 * them. A context that was opened from it, or saved, renews both while it is appended to; when nobody has it
 * open any more, it ends by itself. */

enum { SKV_NAME_MAX = 200, SKV_MODEL_NAME_MAX = 100, SKV_ENGINE_MAX = 64 << 10 };
#define SKV_TTL_MS (UINT64_C(7) * 24 * 3600 * 1000)      /* if not given: a week */
#define SKV_TTL_MAX_MS (UINT64_C(49) * 24 * 3600 * 1000) /* longest lease */

struct skv_save_opts {
    uint64_t ttl_ms;     /* 0: SKV_TTL_MS */
    const char *model;   /* what people call the model, for lists; or NULL */
    const void *engine;  /* the engine's own state (of its sampler …), given back as it is */
    size_t engine_bytes; /* at most SKV_ENGINE_MAX */
};
/* Stores everything that is needed to go on (waits for what is on its way), in place of what had this name.
 * It is there whole or not at all. opts may be NULL. */
SKV_API int skv_context_snapshot(skv_context *, const char *name, const struct skv_save_opts *opts,
                                 struct skv_error *err);
/* Goes on with a saved context: every bit is as if it had never stopped. opts: NULL for those it was saved
 * with (with a salt they must be given); else the ones that decide the bits of K and V must be the same
 * (-EINVAL says which are not), as must the model and the calibration's gammas; how later decode steps
 * select, and the cache, may differ; durable must not be asked of one saved without. -ENOENT: there is none
 * of that name; -ENODATA: parts of it are gone. */
SKV_API int skv_context_reopen(skv_tier *, const struct skv_model *, const struct skv_context_opts *opts,
                               const char *name, skv_context **out, struct skv_error *err);

struct skv_saved {
    char name[SKV_NAME_MAX + 1], model[SKV_MODEL_NAME_MAX + 1];
    uint8_t fingerprint[SKV_FINGERPRINT];
    uint64_t tokens, bytes;          /* bytes: K and V of all tokens and layers */
    uint64_t created_ms, updated_ms; /* since 1970: when a context of this name was first and last saved */
    uint64_t renewed_ms, ttl_ms;     /* it ends ttl_ms after renewed_ms */
    bool pinned;                     /* its blocks are leased until then */
    bool salted;
    struct skv_context_opts opts; /* salt: NULL */
    const void *engine;
    size_t engine_bytes;
    uint64_t blocks;         /* of 64 tokens and one layer: on the nodes, not in the unsealed tail */
    uint64_t blocks_present; /* of these; only by skv_saved_check */
};
/* *out: to be freed with skv_saved_free. */
SKV_API int skv_saved_read(skv_tier *, const char *name, struct skv_saved **out, struct skv_error *err);
/* Asks the nodes for all its blocks besides, and counts those they have. */
SKV_API int skv_saved_check(skv_tier *, const char *name, struct skv_saved **out, struct skv_error *err);
SKV_API void skv_saved_free(struct skv_saved *);
/* All names, sorted; free() each and the array. */
SKV_API int skv_saved_list(skv_tier *, char ***names, size_t *n, struct skv_error *err);
/* A second name for the same tokens: blocks are shared, and leased for each. -EEXIST: `to` is taken. */
SKV_API int skv_saved_fork(skv_tier *, const char *from, const char *to, uint64_t ttl_ms,
                           struct skv_error *err);
/* Leases its blocks for ttl_ms from now (0: its own time to live), and lets it live as long. -ENODATA: some
 * are gone. */
SKV_API int skv_saved_pin(skv_tier *, const char *name, uint64_t ttl_ms, struct skv_error *err);
/* Ends the leases: its blocks may be evicted. Its name stays until the end of its time to live. */
SKV_API int skv_saved_unpin(skv_tier *, const char *name, struct skv_error *err);
/* Forgets the name and ends its leases. Blocks stay as long as others lease them or nodes have room. */
SKV_API int skv_saved_remove(skv_tier *, const char *name, struct skv_error *err);
/* ---- loss ----
 *
 * An attend or a truncate that failed because pages are lost tells which blocks they belong to. Only the
 * engine can compute them again: it forks the context, truncates the fork to the beginning of the pass that a
 * lost block's first token came in (or of an earlier one: skv_repeat_from), repeats the passes from there,
 * and gives the bytes back after each:
 *
 *     while (skv_lost(ctx, &range, 1)) {
 *         skv_context_fork(ctx, &f, &err);
 *         skv_repeat_from(ctx, range.from, &pass, &err);
 *         skv_truncate(f, pass.from, &err);
 *         for (; pass.from < range.to; skv_pass_of(ctx, pass.to, &pass, &err)) {
 *             …                                              // the pass, on f: append, put, attend
 *             skv_restore(ctx, f, &restored, &err);
 *         }
 *         skv_context_close(f);
 *     }
 *
 * The fork needs far pages too. If it fails for the same reason, skv_mark_lost(ctx) what skv_lost(f) says,
 * and go on: an earlier block comes first then. */

/* Token ranges of lost blocks, rising; at most max are written, and how many there are is returned. What the
 * last failed attend or truncate found, and what was added; the next attend forgets it. */
SKV_API size_t skv_lost(skv_context *, struct skv_range *out, size_t max);
/* Asks the nodes which blocks they hold (all layers, not only those a pass happened to choose), and adds what
 * none has. */
SKV_API int skv_find_lost(skv_context *, struct skv_error *err);
/* Adds the sealed blocks of these tokens, all layers. */
SKV_API int skv_mark_lost(skv_context *, struct skv_range, struct skv_error *err);

struct skv_pass {
    uint64_t from, to; /* tokens; less than were appended if the pass was truncated since */
    enum skv_mode mode;
};
/* The pass that token t came in; of decode, the step of t alone. */
SKV_API int skv_pass_of(const skv_context *, uint64_t t, struct skv_pass *out, struct skv_error *err);
/* The pass to begin with so that repeating gives token t its bits again: that of t, or of q8_0 and q4 the
 * last one not behind it that begins with a page. */
SKV_API int skv_repeat_from(const skv_context *, uint64_t t, struct skv_pass *out, struct skv_error *err);

struct skv_restored {
    uint64_t blocks;  /* stored again */
    uint64_t changed; /* of these, not bit for bit: the context, and forks that share them, name the new
                       * version from now on */
};
/* Stores every lost block of the context that `made` (a fork of it) holds whole and local, and takes it from
 * the list; waits for the acknowledgements. *sum is added to. What prefill or dense decode made comes out bit
 * for bit if its passes are the same; the pages that cascade chose in the past may be others now. */
SKV_API int skv_restore(skv_context *, const skv_context *made, struct skv_restored *sum,
                        struct skv_error *err);

/* ---- figures ---- */

struct skv_stats {
    uint64_t passes, tokens;               /* of attention (one layer each pass) summed over layers / n */
    uint64_t scout_ns, wait_ns, attend_ns; /* time in scout, waiting for pages, attention */
    uint64_t merge_ns;                     /* of attend_ns: folding what pages gave together, in decode */
    uint64_t scout_bytes;                  /* representatives read by the scout */
    uint64_t pages_wanted, pages_held;     /* selected pages; of these in the cache or pinned */
    uint64_t pages_fetched, bytes_fetched;
    uint64_t refreshes; /* queries of a KV head that selected the larger budget of skv_select.refresh */
    double missed_mass, missed_n; /* sum of the estimated missed share, and how many were estimated */
    /* SKV_LOSS_DEGRADE: pages that were attended without, passes (of one layer) with such pages; the
     * estimated share of the attention mass that these pages had, summed over the lost_n queries (of one
     * head) that chose them, and the largest */
    uint64_t pages_lost, passes_lost;
    double lost_mass, lost_n, lost_worst;
    uint64_t window_bytes, representative_bytes, cache_bytes; /* held now: window and tail, representatives
                                                               * with checksums, cached and protected pages */
    uint64_t context_bytes;                                   /* K and V of the whole context */
    uint64_t blocks_sealed, blocks_adopted;                   /* adopted: another writer's bits stay */
    uint64_t blocks_hinted; /* times that nodes were told what a block (of one layer) is worth keeping */
};
SKV_API void skv_context_stats(const skv_context *, struct skv_stats *);
/* What a context of so many tokens, which came in passes of up to `pass` (1: decoded), holds in this process
 * at most, by the names that skv_stats has; computed from the shape alone, by any thread. */
struct skv_room {
    uint64_t window_bytes, representative_bytes, cache_bytes;
};
SKV_API int skv_context_room(const struct skv_model *, const struct skv_context_opts *, uint64_t tokens,
                             uint32_t pass, struct skv_room *out, struct skv_error *err);
/* Zeroes the running sums (not what is held). */
SKV_API void skv_context_stats_reset(skv_context *);

/* For measuring what overlap is worth: decode steps wait for the pages that they asked for before they
 * compute anything, instead of meanwhile. wait_ns is then how long a fetch takes. A fork does not inherit it.
 */
SKV_API void skv_context_in_series(skv_context *, bool);

/* What the memory nodes did, since the tier was opened. */
struct skv_tier_stats {
    uint32_t nodes, nodes_up;
    uint64_t etcd_lost;               /* times that etcd stopped answering: the last view stayed */
    uint64_t nodes_suspected;         /* times that one was passed over as silent, */
    uint64_t nodes_lost;              /* given up (its connection broke, or a request missed its deadline), */
    uint64_t nodes_reborn;            /* and back without what it held */
    uint64_t pages_hedged;            /* asked of a second node as the first was slow or silent; */
    uint64_t bytes_hedged;            /* what came for nothing because of it */
    uint64_t pages_missed, pages_bad; /* answers that a node lacks a page, or that failed their checksum */
    uint64_t blocks_short;            /* written to fewer nodes than `replicas`; */
    uint64_t copies_repaired;         /* copies that were made good since */
};
SKV_API void skv_tier_stats(const skv_tier *, struct skv_tier_stats *);
/* Name of the kernel family in use: "portable", "avx2". */
SKV_API const char *skv_isa(void);

#ifdef __cplusplus
}
#endif
#endif
