/* kv_options.h: the options about memory nodes and the KV cache, the same for every command that runs a
 * model. */
#ifndef CLI_KV_OPTIONS_H
#define CLI_KV_OPTIONS_H

#include "common/options.h"
#include "decoder/model/matmul.h"
#include "decoder/scoutkv.h"

struct kv_options {
    /* the tier */
    const char *nodes, *cluster;
    uint64_t ns, ram;
    struct opt_list disk; /* of the node inside this process */
    uint32_t replicas, heartbeat_ms, timeout_ms, step_deadline_ms, threads;
    /* contexts */
    const char *representatives, *policy, *prefill, *kv_type, *activations, *ack, *hints, *on_loss;
    uint32_t budget, refresh, refresh_budget, select, window, seal_lag, sinks, prefill_budget, chunk;
    double mass, refresh_turn;
    bool tail;
    const char *calib, *schedule; /* or NULL */
    struct opt_list layer_policy;
    double alpha, beta; /* below 0: not given */
    uint64_t cache;
    struct opt_list protect;
};

/* Option groups for a struct kv_options; the policy's is for commands that follow one policy only, that of
 * losses for those that tell what became of them (on_loss.h). */
extern const struct opt kv_policy_table[], kv_loss_table[], kv_cache_table[], kv_node_table[];

/* The defaults of scoutkv.h. */
void kv_options_defaults(struct kv_options *);

/* A growing list of ranges to protect; range is malloc'd. */
struct kv_ranges {
    struct skv_range *range;
    size_t n;
};
int kv_ranges_add(struct kv_ranges *, uint64_t from, uint64_t to, struct skv_error *);

/* -EINVAL (usage) says which of the options about nodes cannot be. Part of kv_context_opts. */
int kv_node_check(const struct kv_options *, struct skv_error *);
/* --policy, --alpha and --beta, into what decode steps select. Part of kv_context_opts. */
int kv_policy(const struct kv_options *, struct skv_select *out, struct skv_error *);
/* --layer-policy: added to *out; as out->decode, which is complete, but for their policies. Part of it too.
 */
int kv_layers(const struct kv_options *, struct skv_context_opts *out, struct skv_error *);

/* Says, once, that the policy `salience` goes by less than it could. */
void kv_say_salience(const struct skv_select *, const struct skv_calibration *);

enum skv_representatives kv_representatives(const struct kv_options *);
/* false: no type has this name. */
bool kv_dtype_named(const char *name, size_t len, enum skv_dtype *type);
enum skv_dtype kv_dtype(const struct kv_options *); /* --kv-type */
enum activations kv_activations(const struct kv_options *);

/* --schedule, or what --calib means without it. Part of it too. */
int kv_schedule(const struct kv_options *, enum skv_schedule *out, struct skv_error *);

/* What the options mean for scoutkv.h, but for the calibration, which takes the model (engine.h). -EINVAL
 * (usage) says which option cannot be. --protect ranges are added to `ranges`, which the result points at;
 * recipe (of the prefill chunk and the model's sums) is written into the caller's buffer. */
int kv_context_opts(const struct kv_options *, struct kv_ranges *ranges, char recipe[32],
                    struct skv_context_opts *out, struct skv_error *);
/* The same, only to find mistakes before anything is opened. */
int kv_check(const struct kv_options *, struct skv_error *);
/* Takes the chunk and --activations from such a recipe; false: it is of another engine, or of other sums. */
bool kv_recipe_read(const char *recipe, uint32_t *chunk, const char **activations);
/* What the context does; the engine sees to `recompute`. */
enum skv_on_loss kv_on_loss(const struct kv_options *);
void kv_tier_opts(const struct kv_options *, struct skv_tier_opts *out);

#endif
