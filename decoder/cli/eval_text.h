/* eval_text.h: `scoutkv eval text`, shared by its two files: measuring (eval_text.c) and telling
 * (eval_text_report.c). */
#ifndef CLI_EVAL_TEXT_H
#define CLI_EVAL_TEXT_H

#include "decoder/cli/eval_rows.h"
#include "decoder/cli/eval_stats.h"
#include "decoder/cli/meter.h"
#include "decoder/cli/text_pieces.h"

enum { TEXT_TYPES = 4 };

struct text_row {
    struct eval_choice choice;
    enum skv_dtype type;             /* of its K and V */
    char label[SKV_POLICY_TEXT + 8]; /* policy, and type if it is not that of the first row */
    bool budgeted;                   /* choice.select.budget tells it from others of its policy */
    bool history;                    /* its base notes what pages received */
    uint64_t cache;                  /* bytes */
    double *nats;                    /* [texts]: mean of -log p(token) over the scored ones */
    double *text_kl;                 /* [texts]: mean KL(dense ‖ row) */
    float *kl;                       /* [texts * score], sorted once all are there */
    uint64_t scored, agreed;         /* tokens; those where the likeliest token is dense's */
    double held_bytes, held_tokens;  /* representatives; sealed tokens they speak for: summed over texts */
    struct meter meter;
};

struct text_result {
    const char *model, *file;
    uint64_t seed, score;
    double from;
    const struct kv_options *kv;
    const struct skv_context_opts *opts;
    enum skv_dtype type[TEXT_TYPES]; /* of K and V, the first row's first */
    uint64_t token_bytes[TEXT_TYPES];
    unsigned n_types;
    uint32_t head_layers; /* KV heads of all layers */
    struct text_pieces pieces;
    struct text_row *row; /* dense first */
    size_t n_rows;
    uint64_t context_kv_bytes;
    double seconds;
    struct skv_stats lost; /* summed over all contexts */
    const struct on_loss *on_loss;
    const skv_tier *tier;
};

/* Compared with dense, over texts. */
struct text_figures {
    double perplexity, ratio; /* exp of the mean nats; of their mean difference to dense's */
    struct estimate nats;     /* paired differences to dense: .min and .max are texts */
    struct estimate kl;       /* over texts; .mean is the mean over all tokens */
    double kl_p99, agreement; /* over tokens */
    double held_per_token;    /* bytes of representatives per sealed token, layer and KV head */
};
struct text_figures text_figures(const struct text_result *, const struct text_row *);

void text_print(const struct text_result *);
int text_write_json(const struct text_result *, const char *path, struct skv_error *);
int text_write_svg(const struct text_result *, const char *path, struct skv_error *);

#endif
