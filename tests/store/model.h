/* model.h: what a history knows about its blocks: every version ever put under
 * a key, and what the store promised. Payloads are made from (seed, key,
 * version), so none is kept. */
#ifndef TESTS_STORE_MODEL_H
#define TESTS_STORE_MODEL_H

#include "common/identity.h"
#include "memnode/store/store.h"
#include "tests/store/sim_disk.h"

enum { MODEL_VERSIONS = 16, MODEL_DISKS = 3 };

struct version {
    struct block_layout layout;
    uint64_t *checksums;
};

struct place {
    uint32_t disk, segment, offset; /* as in struct block */
};

struct model_key {
    struct block_key key;
    struct version version[MODEL_VERSIONS]; /* those that were put, some time */
    int n_versions;

    int held;          /* the version that the store's entry names; -1: none is there */
    uint64_t instance; /* grows when the entry becomes another one */
    bool pinned;
    bool sound;    /* it has a record or a buf of this life, or an acknowledgement:
                      its pages are readable */
    bool put_here; /* in this life; an entry that was found may be called damaged where the store is not sure
                    */
    bool on_disk;  /* when it was last looked at */
    bool obliged;  /* acknowledged as durable, neither removed nor evicted since:
                      it must be found, and… */
    int obliged_version;  /* …this one */
    unsigned touched;     /* SIM_…: what faults did to any of its records since it was
                             obliged or put */
    struct place at, was; /* its record, and the one before; segment NO_SEGMENT: none */
    size_t record;        /* bytes */
};

struct model {
    uint64_t seed;
    struct model_key *keys;
    unsigned n_keys;
    struct block_layout *layouts;
    unsigned n_layouts;
    uint8_t *scratch; /* room for a payload of any layout */
};

/* Keys and layouts from the seed. n_layouts are given by the caller, and
 * copied. */
void model_init(struct model *, uint64_t seed, unsigned n_keys, const struct block_layout *,
                unsigned n_layouts);
void model_free(struct model *);

/* Another version of a key: a new one while there is room and the seed (rng)
 * says so, else one from before.
 */
int model_version(struct model *, unsigned key, uint64_t *rng);
/* Its payload, in scratch. */
const uint8_t *model_payload(struct model *, unsigned key, int version);
/* Whether these are bytes [at, at + len) of it; both multiples of 8. */
bool model_same(const struct model *, unsigned key, int version, size_t at, const void *bytes, size_t len);
/* The version that an entry names. -1: none that was ever put. */
int model_identify(const struct model *, unsigned key, const struct block *);

#endif
