/* internal.h: a context's parts, shared by the files of this folder only.
 *
 * Tokens of a context, oldest first:
 *
 *   [ sealed blocks: K/V on the tier, index in spans ][ local blocks: K/V here, unsealed ][ next token
 *     0 … sealed - 1                                    sealed … ceil(len / 64) - 1
 *
 * A block is sealed when it lies seal_lag behind the head. Local blocks are always attended whole, so the
 * boundary is a function of the length alone, and with it every bit of the result. */
#ifndef CONTEXT_INTERNAL_H
#define CONTEXT_INTERNAL_H

#include "common/buf.h"
#include "common/clock.h"
#include "common/identity.h"
#include "common/pool.h"
#include "decoder/context/page.h"
#include "decoder/context/shelf.h"
#include "decoder/kernels/kernels.h"
#include "decoder/scout/calibration.h"
#include "decoder/scout/parts.h"
#include "decoder/scout/reps.h"
#include "decoder/scoutkv.h"
#include "decoder/tier/tier.h"

#include <assert.h>

enum {
    SPAN_BLOCKS = 64,
    SPAN_PAGES = SPAN_BLOCKS * BLOCK_PAGES,
    SPAN_GROUPS = SPAN_PAGES / REPS_LANES,
    SPAN_BLOCK_GROUPS = SPAN_BLOCKS / REPS_LANES,
    SPAN_TOKENS = SPAN_BLOCKS * BLOCK_TOKENS,
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024, /* KV heads held */
};
static_assert(MAX_LAYERS <= MAX_HEADS, "scratch is by layer too");
static_assert((int)SKV_BLOCK == (int)BLOCK_TOKENS && (int)SKV_PAGE == (int)PAGE_TOKENS, "one geometry");

/* Working memory kept between calls: fresh megabytes at each would cost page faults. */
struct scratch {
    void *bytes;
    size_t size;
};

struct skv_tier {
    struct tier *tier;
    struct pool *pool;
    const struct kernels *k;
    uint64_t ns;
    struct scratch scratch[MAX_HEADS]; /* by KV head or thread while choosing, by layer while sealing */
};
/* At least n bytes, 64-aligned, contents undefined; NULL when out of memory. */
void *scratch_take(struct scratch *, size_t n);

/* ---- shape.c: the model's shape and what follows from it; shared by forks ---- */

struct shape {
    unsigned refs;
    unsigned n_layers;
    struct skv_layer *layers;
    struct block_layout *layouts;   /* per layer: of blocks at rest */
    struct block_layout *put;       /* per layer: of blocks as they are put; the same but for few bits */
    bool packed;                    /* they differ */
    size_t *span_at;                /* per layer: where its heads' index begins in a span's data */
    size_t *head_bytes;             /* per layer: of one KV head in there */
    size_t span_bytes;              /* of a span's data */
    size_t *shelf_at;               /* per layer: where its heads' blocks begin on a shelf */
    size_t shelf_bytes;             /* of a shelf's data */
    size_t part_bytes[INDEX_PARTS]; /* of a span's part, all layers and heads */
    size_t token_bytes;             /* K and V of one token at rest, all layers */
    size_t local_bytes;             /* of one token of a local block: as put, and at rest if that differs */
    size_t page_index_bytes; /* index bytes a page, all layers and heads: representative, norm, checksum */
    size_t max_page_bytes;
    enum reps_kind pages; /* representatives of pages */
    unsigned d_rep;       /* their dims, and those of blocks; 0: d_k of the layer */
    uint8_t fingerprint[SKV_FINGERPRINT];
};
int shape_new(const struct skv_model *, const struct skv_context_opts *, struct shape **out,
              struct skv_error *);
static inline unsigned shape_rep_dims(const struct shape *s, unsigned layer)
{
    return s->d_rep ? s->d_rep : s->layers[layer].d_k;
}
/* Bytes of a part of one KV head and span: some are made of keys, some of representatives. */
size_t shape_part_bytes(const struct shape *, enum index_part, unsigned layer);
struct shape *shape_ref(struct shape *);
void shape_unref(struct shape *);

/* ---- span.c: the index of up to 64 sealed blocks: representatives, norms, checksums, chain ---- */

struct span {
    unsigned refs; /* shared by forks; written only while there is one holder */
    unsigned n_blocks;
    bool remade; /* holds blocks whose first bits were lost: an index that was stored may name those */
    struct shelf *shelf;        /* has its blocks' representatives, */
    unsigned place;             /* here */
    uint8_t *part[INDEX_PARTS]; /* NULL, or of all n_blocks (parts.h); found again, not saved */
    uint8_t chain[SPAN_BLOCKS][CHAIN_BYTES];
    _Alignas(64) uint8_t data[]; /* per layer and KV head: groups of pages [32], checksums [256] u64, norms
                       [256] f32, scatter [dims of representatives] f32, salience [256] f32 */
};
/* The i-th span of a context, which lies behind `before` (NULL: the first, or unknown). */
struct span *span_new(const struct shape *, const struct span *before, size_t i);
struct span *span_ref(struct span *);
void span_unref(struct span *);
/* The same span with one holder: itself, or a copy (the reference on the old one is given up). NULL: no
 * memory. */
struct span *span_own(const struct shape *, struct span *);
uint8_t *span_groups(const struct shape *, const struct span *, unsigned layer, unsigned head);
size_t span_groups_bytes(const struct shape *, unsigned layer); /* of one KV head's pages; */
size_t span_blocks_bytes(const struct shape *, unsigned layer); /* of its blocks */
float *span_norms(const struct shape *, const struct span *, unsigned layer, unsigned head);
float *span_scatter(const struct shape *, const struct span *, unsigned layer, unsigned head);
float *span_salience(const struct shape *, const struct span *, unsigned layer, unsigned head);
uint8_t *span_block_groups(const struct shape *, const struct span *, unsigned layer, unsigned head);
uint64_t *span_checksums(const struct shape *, const struct span *, unsigned layer, unsigned head);
/* One KV head's part, or NULL. */
void *span_part(const struct shape *, const struct span *, enum index_part, unsigned layer, unsigned head);
/* All of one KV head, as policies see it (scout/policy.h). */
struct far_piece;
void span_piece(const struct shape *, const struct span *, unsigned layer, unsigned head, struct far_piece *);
/* The same of n spans: out (n). */
void span_pieces(const struct shape *, struct span *const *, size_t n, unsigned layer, unsigned head,
                 struct far_piece *out);
/* Makes room for a part in a span that has none; -ENOMEM. */
int span_part_new(const struct shape *, struct span *, enum index_part);
/* Forgets blocks from n on. */
void span_truncate(const struct shape *, struct span *, unsigned n);

/* ---- cache.c: fetched pages, least recently used goes first; protected ones are pinned ---- */

struct cache;
struct cache *cache_new(size_t page_bytes, uint64_t capacity_bytes);
void cache_free(struct cache *);
/* The page's bytes, or NULL; marks it used. Valid until the next cache_put. */
const uint8_t *cache_get(struct cache *, unsigned layer, unsigned head, uint64_t page);
/* Whether it is there, without using it. */
bool cache_holds(const struct cache *, unsigned layer, unsigned head, uint64_t page);
/* Copies a page in. Pinned pages don't count against the capacity and stay. Failing is allowed: it's a cache.
 */
void cache_put(struct cache *, unsigned layer, unsigned head, uint64_t page, const uint8_t *bytes, size_t len,
               bool pinned);
void cache_drop_from(struct cache *, uint64_t page); /* forgets pages from this one on */
uint64_t cache_bytes(const struct cache *);
uint64_t cache_room(const struct cache *); /* capacity in pages */

/* ---- context.c ---- */

/* One block's K/V, per layer; a buf is shared with forks and with the tier's queue, and copied before a write
 * then. */
struct local_block {
    struct buf **put;  /* as they were put */
    struct buf **rest; /* full pages as they are at rest, and are attended to; the same bufs unless packed */
};
/* -ENOMEM: *b is empty. New ones hold zeros. */
int local_block_new(const struct shape *, struct local_block *b);
int local_block_share(const struct shape *, const struct local_block *from, struct local_block *b);
void local_block_free(const struct shape *, struct local_block *);
/* Gives up all but what leaves for the tier, and returns that. */
struct buf **local_block_seal(const struct shape *, struct local_block *);

/* A sealed block whose PUTs are not all acknowledged: its bytes are still here, and read from here. */
struct pending_block {
    struct skv_context *ctx;
    uint64_t block;
    unsigned unanswered;
    bool failed;
    struct buf **kv;
    struct pending_block *next;
    struct pending_put *puts; /* per layer */
};
struct pending_put {
    struct pending_block *block;
    unsigned layer;
};

/* A prefill pass, or neighbouring decode steps: tokens from `from` to the next run, or to the end. */
struct pass_run {
    uint64_t from;
    uint64_t n;                /* tokens that the prefill pass had; 0: decode steps */
    uint8_t name[CHAIN_BYTES]; /* of the prefill pass: hash of its tokens, though some may be truncated; of
                                * any pass that went on without lost pages: another */
};

/* A block whose bytes of this layer no node could give. */
struct lost_block {
    uint64_t block;
    uint32_t layer;
};
struct lost {
    struct lost_block *at; /* sorted and without doubles after lost_sort */
    size_t n, cap;
};

/* Which of the stored indexes of the same tokens a context can use. */
enum { INDEX_TAG = CALIBRATION_TAG + 8 };
struct index_kind {
    bool durable;
    char tag[INDEX_TAG]; /* of calibration and representatives: those of others are other bytes */
};

struct skv_context {
    struct skv_tier *tier;
    struct shape *shape;
    struct skv_context_opts opts;        /* pointers inside are NULL: what they named was copied or hashed */
    char *recipe;                        /* or NULL */
    struct skv_calibration *calibration; /* or NULL; opts names it too */
    struct index_kind index;
    uint32_t *head_units; /* of opts.decode, by plan_units; NULL: all alike */
    bool salted;
    uint8_t root[CHAIN_BYTES];

    char *saved_as; /* name whose leases it renews, or NULL */
    uint64_t renew_at, renew_every_ns;

    uint64_t len, sealed; /* tokens; blocks */
    uint64_t rounded_to;  /* packed: local tokens before this came back from the tier, and `put` is rounded */
    uint32_t needs;       /* of the policies: bits of parts, and NEEDS_… */
    struct received *received; /* or NULL */
    struct turn *turn;         /* or NULL: nothing goes by it */
    struct hints *hints;       /* or NULL: none are told */
    uint32_t *ids;             /* per token */
    uint8_t *tags;             /* per token, 32 bytes; NULL while the engine gives ids */
    uint64_t tokens_cap;
    struct pass_run *passes; /* what the tokens came in, oldest first */
    size_t n_passes, passes_cap;

    struct span **spans;
    size_t n_spans, spans_cap;
    struct local_block *local; /* local[i] is block sealed + i */
    size_t n_local, local_cap;
    struct pending_block *pending; /* oldest first */
    struct skv_error put_error;    /* first PUT that failed; code 0 if none */

    struct cache *cache;
    struct skv_range *protect; /* in pages, sorted, disjoint */
    size_t n_protect;
    uint64_t *eligible; /* bitmap of sealed pages that are not protected */
    size_t eligible_words;

    uint64_t pass_from; /* first token of the last append */
    uint64_t pass_ns;   /* when that was */
    uint32_t pass_n;
    enum skv_mode mode;
    uint8_t *layer_put; /* per layer: put in this pass */

    bool in_series;   /* decode computes nothing while pages travel */
    struct lost lost; /* of the last failure */
    struct skv_stats stats;
};

/* What decode steps select in a layer. */

/* ---- recipe.c ---- */

/* -EINVAL with a sentence; which: "decode" or "prefill". */
int recipe_check_select(const struct skv_select *, const char *which, struct skv_error *);
int recipe_check_layers(const struct skv_context_opts *, unsigned n_layers, struct skv_error *);
/* How decode steps of a layer select. */
const struct skv_select *context_select(const struct skv_context *, unsigned layer);
/* The policy's options, if any is not what it is by itself. */
void hash_policy_opts(struct identity *, const struct skv_select *);
/* c->root: everything that decides the bits of K and V besides the tokens (design: "recipe"). */
void recipe_hash_root(struct skv_context *);

static inline uint64_t context_sealed_pages(const struct skv_context *c)
{
    return c->sealed * BLOCK_PAGES;
}
static inline struct span *context_span(const struct skv_context *c, uint64_t block)
{
    return c->spans[block / SPAN_BLOCKS];
}
static inline const uint8_t *context_chain(const struct skv_context *c, uint64_t block)
{
    return context_span(c, block)->chain[block % SPAN_BLOCKS];
}
bool context_page_protected(const struct skv_context *, uint64_t page);
/* Bytes at rest of a full page that is local or pending, else NULL. */
const uint8_t *context_held_page(const struct skv_context *, unsigned layer, unsigned head, uint64_t page);
/* A local page with n tokens: a full one as it will be at rest, the newest as it was put. */
struct kv_page context_local_page(const struct skv_context *, unsigned layer, unsigned head, uint64_t page,
                                  uint64_t n);
void context_block_key(const struct skv_context *, unsigned layer, uint64_t block, struct block_key *out);
int context_grow_tokens(struct skv_context *, uint64_t n);
/* Appends one empty local block. */
int context_grow_local(struct skv_context *);
void context_set_eligible(struct skv_context *);
/* Gives a context without spans empty ones for n_blocks. */
int context_make_spans(struct skv_context *, uint64_t n_blocks);
int context_pass_complete(const struct skv_context *, struct skv_error *);
/* A context without tokens; recipe and options are checked and hashed. */
int context_new(struct skv_tier *, struct shape *, const struct skv_context_opts *, struct skv_context **,
                struct skv_error *);

/* ---- plan.c: what a calibration and a schedule mean for a context ---- */

/* Copies the calibration that opts names, and refuses one of another model. */
struct index_kind index_kind_of(const struct skv_context_opts *);
int plan_calibration(struct skv_context *, const struct skv_context_opts *, struct skv_error *);
/* Splits the budget of opts.decode; again whenever that changes. */
int plan_budget(struct skv_context *, struct skv_error *);
/* Units that a head selects of `s`, which is one of the context's selections. */
uint32_t plan_units(const struct skv_context *, const struct skv_select *s, unsigned layer, unsigned head);
/* 1 without a calibration. */
float plan_gamma(const struct skv_context *, enum reps_kind, unsigned layer, unsigned head);
/* What keys of a head are projected with before they are summarised (calibration_projection), or NULL; out
 * (rows, d_rep): queries (rows, d_k) for what came of it. */
const float *plan_projection(const struct skv_context *, unsigned layer, unsigned head);
void plan_project_queries(const struct skv_context *, unsigned layer, unsigned head, size_t rows,
                          const float *q, float *out);
/* Weights of learned salience, or NULL; and a policy's options for a head: a calibration's prior is for
 * decode steps. */
const float *plan_salience(const struct skv_context *, unsigned layer, unsigned head);
void plan_opts(const struct skv_context *, const struct skv_select *, unsigned layer, unsigned head,
               float opt[SKV_POLICY_OPTS]);
/* Adds what of them decides the bits that prefill, or a decode step, computes; nothing where there is
 * nothing. */
void plan_hash_prefill(const struct skv_context *, struct identity *);
void plan_hash_decode(const struct skv_context *, struct identity *);

/* ---- passes.c ---- */

int passes_reserve(struct skv_context *, size_t n); /* room for n runs in all */
/* A pass at the end: when its tokens are there, but before len grows, with room for it. */
void passes_add(struct skv_context *, enum skv_mode, uint32_t n);
void passes_degrade(struct skv_context *); /* the last pass went on without lost pages */
/* Tokens from `from` on, the last ones, are rounded ones that a run to here would not have. With room for
 * one. */
void passes_round(struct skv_context *, uint64_t from);
void passes_truncate(struct skv_context *, uint64_t n);
/* Adds what tokens [from, to) came in; true if some were decoded. */
bool passes_hash(const struct skv_context *, struct identity *, uint64_t from, uint64_t to);
/* Others may begin with the tokens up to this pass's end, which lies within a span of the first `blocks`;
 * next: where the next pass begins, or the context ends. */
bool pass_ends_within_span(const struct pass_run *, uint64_t next, uint64_t blocks);
uint64_t passes_prefilled(const struct skv_context *); /* tokens before the first decoded one */

/* ---- seal.c ---- */

/* The chain of a full block, behind the one before it (the root for the first). */
void chain_block(const struct skv_context *, uint64_t block, const uint8_t *prev, uint8_t *out);
/* Blocks that are sealed at this length. */
uint64_t seal_target(const struct skv_context *, uint64_t len);
/* Seals what lies seal_lag behind the head: index, checksums, PUT. */
int seal_behind_head(struct skv_context *, struct skv_error *);
/* Seals blocks up to `target`, which are full. */
int seal_to(struct skv_context *, uint64_t target, struct skv_error *);
/* Waits for acknowledgements; PUTs again what failed before. */
int seal_flush(struct skv_context *, struct skv_error *);
void seal_forget_pending(struct skv_context *);
/* Computes the index of one layer of a sealed block from its bytes (per layer), in place. -ENOMEM. */
int seal_index(struct skv_context *, uint64_t block, unsigned layer, struct buf *const *kv);

/* ---- received.c: what pages received, for policies that go by it ---- */

struct received;
struct received *received_new(const struct shape *);
struct received *received_copy(const struct shape *, const struct received *);
void received_free(struct received *);
/* At an append of tokens from `from`: what the pass before added stays. one_row: the pass counts as one
 * query. */
void received_begin(struct received *, uint64_t from, bool one_row);
/* A query of this layer, or an observed part of a pass that stands for n_tokens: fades what is older and adds
 * to the mean. q (heads, g, d_k) scaled. -ENOMEM. */
int received_row(struct received *, unsigned layer, uint64_t n_pages, float half_life, uint64_t n_tokens,
                 const float *q);
/* Of that query's attention, summed over its query heads (times n_tokens), what a page got. */
void received_add(struct received *, unsigned layer, unsigned head, uint64_t page, float share);
/* Takes back what tokens from n on added in the last pass, and forgets their pages. */
void received_truncate(struct received *, uint64_t n);
uint64_t received_bytes(const struct received *);
/* All of it as bytes: how many (out may be NULL). */
size_t received_save(const struct received *, uint8_t *out);
/* NULL: the bytes make no sense for this shape and length, or no memory. */
struct received *received_load(const struct shape *, uint64_t len, const uint8_t *bytes, size_t n);
/* (n_pages) masses, or NULL while there are none. */
const float *received_mass(const struct received *, unsigned layer, unsigned head, uint64_t n_pages);
/* q (g, d_k); false while there is none. */
bool received_mean_query(const struct received *, unsigned layer, unsigned head, float *q);
/* What a share added now weighs in these masses. */
float received_weight(const struct received *, unsigned layer);

/* ---- turn.c: where the queries of the last decode steps looked ---- */

struct turn;
struct turn *turn_new(const struct shape *);
struct turn *turn_copy(const struct shape *, const struct turn *);
void turn_free(struct turn *);
/* At an append of n tokens from `from`. -ENOMEM: it is as before. */
int turn_begin(struct turn *, uint64_t from, uint32_t n, bool prefill);
/* The cosine between the query q (g, d_k) of a token of the last pass and its reference, -1 without one; what
 * follows refers to q too. Tokens in turn, any number of times. */
float turn_step(struct turn *, unsigned layer, unsigned head, uint64_t token, const float *q);
/* Takes back what tokens from n on of the last pass did; further back there is no reference. */
void turn_truncate(struct turn *, uint64_t n);
/* All of it as bytes: how many (out may be NULL). */
size_t turn_save(const struct turn *, uint8_t *out);
/* NULL: the bytes make no sense for this shape and length, or no memory. */
struct turn *turn_load(const struct shape *, uint64_t len, const uint8_t *bytes, size_t n);

/* ---- prior.c, hints.c ---- */

/* How often each sealed block of a layer is expected to be attended to, whatever the queries, as a multiple
 * of the average block: out (sealed). alpha: how much of it is salience, the rest is what was received, which
 * c must note. -ENOMEM. */
int prior_of_blocks(struct skv_context *c, unsigned layer, float alpha, float *out);

struct hints;
struct hints *hints_new(const struct skv_context *); /* NULL: no memory */
struct hints *hints_copy(const struct skv_context *to, const struct hints *from);
void hints_free(struct hints *);
/* Blocks from n on are others now. */
void hints_truncate(struct hints *, uint64_t n_blocks);
/* At an append of n tokens: tells the nodes what has changed, if it is time. */
void hints_tell(struct skv_context *, uint64_t n_tokens);

/* ---- parts.c ---- */

/* Makes what the policies of c need and its spans lack; reads sealed blocks from the tier for that. */
int parts_require(struct skv_context *, struct skv_error *);
/* Adds a sealed block's keys and values to the parts that its span has: k (64, d_k), v (64, d_v). */
void parts_add(const struct shape *, const struct span *, unsigned layer, unsigned head, unsigned in_span,
               const float *k, const float *v);

/* ---- loss.c ---- */

void lost_add(struct skv_context *, uint64_t block, unsigned layer);
void lost_sort(struct lost *);

/* ---- saved.c ---- */

/* Renews the leases of the name that c was saved as or resumed from when it is time. */
void saved_keep(struct skv_context *c);
/* Makes c the one that renews them; ttl_ms: their length. */
int saved_adopt(struct skv_context *c, const char *name, uint64_t ttl_ms);

/* ---- attend.c and its two halves ---- */

struct pass; /* one item of an attend under way */

#endif
