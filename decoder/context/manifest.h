/* manifest.h: what is stored under a saved context's name, in memory and as bytes.
 *
 * Bytes: a head of fixed size, then sections {number u32, length u32, bytes}, in any order. A reader that
 * doesn't know a section refuses the manifest, unless its number says that it may be skipped: later versions
 * add what they need without new heads. All numbers little-endian, times in ms since 1970. */
#ifndef CONTEXT_MANIFEST_H
#define CONTEXT_MANIFEST_H

#include "decoder/context/internal.h"

enum {
    MANIFEST_NAME = 200,        /* bytes of a context's name */
    MANIFEST_MODEL = 100,       /* of the model's */
    MANIFEST_ENGINE = 64 << 10, /* of the engine's own state */
    PART_BYTES = 1 << 20,
    PART_ID = 16,
    OWNER_TEXT = MANIFEST_NAME + 20,
};

struct manifest_head {
    char magic[8];
    uint32_t version, flags;
    uint8_t root[CHAIN_BYTES], fingerprint[SKV_FINGERPRINT];
    uint8_t part_id[PART_ID]; /* random: names the parts of this very save, and its leases */
    uint64_t len, sealed;     /* tokens; blocks that were sealed */
    uint64_t indexed;         /* blocks on the tier with their index: at least the sealed ones */
    uint64_t n_passes, token_bytes, state_bytes;
    uint64_t received_bytes; /* of the state: what pages received (received.c), and turn_bytes behind it; 0:
                              * nothing was noted */
    uint64_t created_ms, updated_ms, ttl_ms;
    uint64_t renewed_ms;        /* when it was leased last; it ends ttl_ms later */
    uint64_t sidecars_until_ms; /* parts and index are there until then */
};
static_assert(sizeof(struct manifest_head) == 192, "stored as it is");

enum { MANIFEST_TAGS = 1, MANIFEST_SALTED = 2, MANIFEST_PINNED = 4, MANIFEST_FLAGS = 7 };

struct manifest {
    struct manifest_head head;
    char model[MANIFEST_MODEL + 1], isa[16];
    struct skv_context_opts opts;        /* recipe and protect point below, salt is NULL */
    char *recipe;                        /* or NULL */
    struct skv_calibration *calibration; /* or NULL; what was read: opts names it */
    struct skv_layer *layers;            /* of the model */
    size_t n_layers;
    struct skv_range *protect; /* whole pages, in tokens */
    uint64_t turn_bytes;       /* the state's last: where queries looked (turn.c); 0: nothing refers to it */
    uint64_t local_bytes, rounded_to; /* of a token of the tail; and as in the context */
    void *engine;
    size_t engine_bytes;
    size_t n_parts;
    uint8_t (*parts)[CHAIN_BYTES]; /* hash of each part of the state */
    uint64_t revision;             /* of the object that it was read from; 0: none */
};

/* *out: malloc'd. -EFBIG when it is larger than an object may be. */
int manifest_pack(const struct manifest *, const char *name, uint8_t **out, size_t *n, struct skv_error *);
/* Checks everything that later code relies on. The manifest is to be freed, on failure too. */
int manifest_unpack(struct manifest *, const char *name, const uint8_t *bytes, size_t n, struct skv_error *);
void manifest_free(struct manifest *);
/* Sidecars outlive the manifest's end, so that they need not be put again whenever that moves. */
static inline uint64_t sidecar_ttl(uint64_t ttl_ms)
{
    return 2 * ttl_ms + 60000;
}

static inline uint64_t wall_ms(void) /* since 1970 */
{
    return clock_wall_ns() / NS_PER_MS;
}

/* ---- on the tier ---- */

int manifest_check_name(const char *name, struct skv_error *);
/* -ENOENT when there is none. To be freed, on failure too. */
int manifest_read(struct skv_tier *, const char *name, struct manifest *, struct skv_error *);
/* Replaces revision m->revision (0: must not exist yet): -EEXIST when it is another by now. */
int manifest_write(struct skv_tier *, const char *name, struct manifest *, struct skv_error *);
/* Who the leases of this save belong to. */
void manifest_owner(const struct manifest *, const char *name, char out[OWNER_TEXT]);

/* ---- state: chain, passes, ids, tags, unsealed K/V, history; cut into parts, each an object ---- */

void manifest_part_name(const struct manifest *, size_t part, char name[TIER_NAME_MAX + 1]);
size_t manifest_state_bytes(const struct manifest *);
int manifest_read_state(struct skv_tier *, const struct manifest *, size_t n, uint8_t *state,
                        struct skv_error *); /* its first n bytes */
/* Stores the state's parts under m's part_id and notes their hashes. */
int manifest_write_state(struct skv_tier *, struct manifest *, const uint8_t *state, struct skv_error *);
/* Drops the parts and the leases of this save; what fails is left to its end. */
void manifest_drop_state(struct skv_tier *, const struct manifest *, const char *name);

#endif
