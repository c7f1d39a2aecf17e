/* attend.h: attention under way: choosing (select.c, want.c), one query at a time (decode.c), a chunk
 * (prefill.c). */
#ifndef CONTEXT_ATTEND_H
#define CONTEXT_ATTEND_H

#include "decoder/context/internal.h"

/* What one KV head reads besides local pages: sealed page numbers, rising; selected and protected together.
 */
struct choice {
    uint32_t *pages;
    size_t n;
    /* For cascade: each row's estimated log mass of all far pages, and the chosen pages' share of it. */
    bool estimated;
    float *lse, *share;     /* rows */
    float *tail;            /* m (rows), l (rows), o (rows, d_v) of what is not read, by estimate; or NULL */
    struct reestimate *all; /* at a refresh that history learns from; else NULL */
};
/* Each KV head of a layer chooses for its own `rows` scaled queries together: q (n_kv_heads, rows, d_k), out
 * (n_kv_heads), to be freed also after a failure. refresh: which of the heads do (n_kv_heads), or NULL.
 * Counts the representatives read. */
int choose_pages(struct skv_context *, unsigned layer, const struct skv_select *, unsigned rows,
                 const float *q, uint64_t position, const bool *refresh, struct choice *out,
                 struct skv_error *);
/* Fetches every far page and computes its true log mass for each row: out[head] (rows, ld). */
int true_masses(struct skv_context *, unsigned layer, unsigned rows, const float *q, size_t ld, float **out,
                struct skv_error *);
void choice_free(struct choice *);

/* ---- refresh.c: which KV heads look broader, and what that teaches ---- */

/* Which heads of a layer do for the query of token t: q (n_kv_heads, g, d_k). Counts them. Tokens in turn. */
void refresh_heads(struct skv_context *, unsigned layer, uint64_t t, const float *q, bool *out);
/* What a refresh selects instead of s. */
struct skv_select refresh_select(const struct skv_context *, const struct skv_select *s);

/* What every sealed page is estimated to get of a query, read or not. */
struct far_view;
struct reestimate {
    size_t ld;
    float *share; /* (rows, ld) of the far mass */
    float *lse;   /* (rows) log of that */
    float
        *received; /* (n_pages) what policies go by that don't look at the query: with this query's shares */
    float memory[];
};
/* NULL: no memory. */
struct reestimate *reestimate_new(size_t n_pages, unsigned rows);
/* Fills it from representatives; the view then shows a policy that does not look at the query what pages get
 * of it as received already. weight: of a share in what the view has as received. */
void reestimate_pages(struct reestimate *, struct far_view *, bool looks, float weight);
/* Adds, for each row, what it puts into sealed pages that were not read to the mass that was attended to (M,
 * L): L. pages (n) rising. */
void reestimate_total(const struct reestimate *, unsigned rows, size_t n_pages, const uint32_t *pages,
                      size_t n, const float *M, float *L);
/* The share of the group's attention that an unread page is estimated to get, of totals (M, L). */
float reestimate_share(const struct reestimate *, unsigned rows, size_t page, const float *M, const float *L);

/* Wants for far[head][from … to) of each head that are neither cached nor pending, in block order; what is
 * held is told by on_held. Wants and keys are malloc'd. */
struct want_list {
    struct tier_want *wants;
    struct block_key *keys;
    struct want_at {
        uint32_t index; /* into the head's choice */
    } * at;
    size_t n;
};
int want_pages(struct skv_context *, unsigned layer, const struct choice *heads, size_t from, size_t to,
               void (*on_held)(void *arg, unsigned head, size_t index, const uint8_t *bytes), void *arg,
               struct want_list *out);
void want_list_free(struct want_list *);
/* Keeps a fetched page: pinned when protected, else if the cache is worth filling with a choice of this size.
 */
void keep_page(struct skv_context *, unsigned layer, unsigned head, uint32_t page, const uint8_t *bytes,
               size_t pass_pages);

/* Pages that one query (or chunk) chose and that no node gave; loss.c. */
struct gone {
    struct gone_page {
        uint32_t head, page;
    } * at;
    size_t n, cap;
    bool no_memory; /* not all are listed */
};
void gone_add(struct skv_context *, unsigned layer, struct gone *, unsigned head, uint32_t page);
void gone_free(struct gone *);
/* Ends the fetch, in a decode step by its deadline; succeeds in spite of lost pages if the context degrades.
 */
int gone_end_fetch(struct skv_context *, struct tier_fetch *, const struct gone *, struct skv_error *);
/* Estimated log mass of this head's gone pages for each scaled query row: q (rows, d_k), lse (rows),
 * -INFINITY where there are none. 0 or -ENOMEM. */
int gone_mass(const struct skv_context *, unsigned layer, const struct gone *, unsigned head, unsigned rows,
              const float *q, double *lse);
/* Counts a query of one head: attended and gone are log masses; missed, what else was not read, is relative
 * to what was attended. Returns the share of everything that was not read. */
double gone_count(struct skv_stats *, double attended, double missed, double gone);
/* Once a pass in which pages were gone: marks the tokens that it made. */
void gone_mark(struct skv_context *);

struct item; /* one context's part of an attend */
struct item_ops {
    int (*choose)(struct item *, struct skv_error *); /* select pages of all heads */
    int (*start)(struct item *, struct skv_error *);  /* ask for what is missing */
    int (*local)(struct item *, struct skv_error *);  /* compute what is held, or leave it in parts: */
    unsigned (*parts)(const struct item *);           /* so many (NULL: none), */
    void (*part)(struct item *, unsigned);            /* which threads compute */
    int (*finish)(struct item *, struct skv_error *); /* wait, merge, write out */
    void (*free)(struct item *);                      /* also after a failure; ends fetches under way */
};
struct item {
    const struct item_ops *ops;
    struct skv_context *c;
    unsigned layer;
    const float *q; /* (n, n_heads, d_k) unscaled */
    float *out;     /* (n, n_heads, d_v) */
};
struct item *decode_item(struct skv_context *, unsigned layer, const float *q, float *out);
struct item *prefill_item(struct skv_context *, unsigned layer, const float *q, float *out);

#endif
