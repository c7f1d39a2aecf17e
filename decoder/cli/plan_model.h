/* plan_model.h: what a decode step over memory nodes costs, predicted from measured constants. Pure.
 *
 * A layer's step is the scout (a time for each block, and each candidate block, of each KV head), attention
 * and merging (for each page), a fetch (a time, and bytes by the slower of what a processor handles and what
 * the link and the disks give), and the rest. Of fetch and attention, the share `overlap` of the shorter is
 * hidden by the other. Layers are one after the other. Weights are left out: a step of theirs is added to
 * this. */
#ifndef CLI_PLAN_MODEL_H
#define CLI_PLAN_MODEL_H

#include "decoder/cli/shapes.h"

#include <jansson.h>

/* Of all threads together, at a group of g query heads per KV head, d dims; scan to merge: ns for one KV
 * head. */
struct plan_constants {
    double g, d, threads;
    double scan_ns, candidate_ns; /* of a block, of a candidate block */
    double page_ns, merge_ns;     /* of a page that is attended */
    double fetch_us, fetch_gbps;  /* of a layer's fetch, whatever its size; 10^9 bytes a second */
    double overlap, rest_us;      /* of a layer */
};
extern const struct plan_constants plan_measured; /* built in; where from: plan_model.c */

json_t *plan_constants_json(const struct plan_constants *);
/* From an object with all of its numbers; -EINVAL names one that is missing or no positive number. */
int plan_constants_read(const json_t *, struct plan_constants *out, struct skv_error *);

struct plan {
    const struct model_shape *shape;
    double tokens, budget, window, hits; /* hits: share of selected pages that are cached */
    double nodes, replicas, decoders;    /* decoders share the KV heads evenly */
    double link_gbit;                    /* of each machine; 0: what was measured over loopback, alone */
    double disk_gbps, node_ram;          /* disk 0: nodes have none; ram in bytes */
    double threads;                      /* of a decoder */
    double cache;                        /* bytes of all decoders together; counts as memory only */
    bool lean;                           /* representatives without outliers */
};

enum plan_part { PLAN_SCOUT, PLAN_ATTENTION, PLAN_MERGE, PLAN_FETCH, PLAN_REST, PLAN_PARTS };
extern const char *const plan_part_name[PLAN_PARTS];

struct plan_cost {
    double part_ms[PLAN_PARTS]; /* of one layer; fetch: what is not hidden */
    double layer_ms, step_ms;
    double fetch_bytes; /* of a step, all layers, all decoders */
    double dense_bytes;
    double kv_bytes;                             /* with replicas */
    double node_bytes, from_disk;                /* of one node; share of pages that come from its disk */
    bool fits;                                   /* nodes have room: in RAM, or on disks */
    double rep_bytes, window_bytes, cache_bytes; /* of one decoder */
    enum plan_part bottleneck;
    bool disk_bound; /* the fetch waits for disks more than for links */
};
void plan_predict(const struct plan *, const struct plan_constants *, struct plan_cost *out);

struct plan_change {
    const char *name;
    struct plan plan;
    struct plan_cost cost;
};
enum { PLAN_CHANGES = 8 };
/* Each changes one thing of the plan; those that save most of a step's time first. Returns how many. */
unsigned plan_changes(const struct plan *, const struct plan_constants *,
                      struct plan_change out[PLAN_CHANGES]);

#endif
