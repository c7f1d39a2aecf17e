/* on_loss.h: --on-loss: what a command does about pages that no memory node has, and what it tells of it. */
#ifndef CLI_ON_LOSS_H
#define CLI_ON_LOSS_H

#include "common/progress.h"
#include "decoder/cli/kv_options.h"
#include "decoder/model/recompute.h"

#include <jansson.h>
#include <stdio.h>

struct on_loss { /* zero it */
    const struct kv_options *kv;
    struct recompute recompute;
    struct progress bar;
};

/* From now on the session does what the option says; *l stays where it is while the session is used. */
void on_loss_watch(struct on_loss *l, const struct kv_options *, struct session *);

/* Lines of a summary; nothing where a loss fails. stats: of the context, since it was opened. */
void on_loss_print(const struct on_loss *, const struct skv_stats *, FILE *);
/* {"policy", "pages", "passes", "mass", "worst_mass", "recomputed_blocks", "changed_blocks",
 * "recomputed_tokens"}; NULL when out of memory. */
json_t *on_loss_json(const struct on_loss *, const struct skv_stats *);
/* Adds what a context lost to a sum over several (fields of losses, and passes, only). */
void on_loss_add(struct skv_stats *sum, const skv_context *);
/* After a failure: says what else could be done, if it was a loss. */
void on_loss_hint(const struct kv_options *, const struct skv_error *);

#endif
