/* model.c: see model.h. */
#include "tests/store/model.h"
#include "tests/store/random.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void model_init(struct model *m, uint64_t seed, unsigned n_keys, const struct block_layout *layouts,
                unsigned n_layouts)
{
    size_t room = 0;
    *m = (struct model){.seed = seed, .n_keys = n_keys, .n_layouts = n_layouts};
    m->keys = calloc(n_keys, sizeof *m->keys);
    m->layouts = calloc(n_layouts, sizeof *m->layouts);
    assert(m->keys && m->layouts);
    for (unsigned i = 0; i < n_layouts; i++) {
        m->layouts[i] = layouts[i];
        if (layout_block_bytes(&layouts[i]) > room)
            room = layout_block_bytes(&layouts[i]);
    }
    m->scratch = malloc(room);
    assert(m->scratch);
    for (unsigned i = 0; i < n_keys; i++) {
        struct model_key *k = &m->keys[i];
        uint64_t rng = seed + i;
        k->key.ns = random_below(&rng, 2);
        k->key.layer = (uint32_t)random_below(&rng, 3);
        for (size_t j = 0; j < CHAIN_BYTES; j += 8) {
            uint64_t r = random_next(&rng);
            memcpy(k->key.chain + j, &r, 8);
        }
        k->held = -1;
        k->at.segment = k->was.segment = NO_SEGMENT;
    }
}

void model_free(struct model *m)
{
    for (unsigned i = 0; i < m->n_keys; i++)
        for (int j = 0; j < m->keys[i].n_versions; j++)
            free(m->keys[i].version[j].checksums);
    free(m->keys);
    free(m->layouts);
    free(m->scratch);
}

/* Word i of a payload; cheap, and no two 8 bytes of a history are alike. */
static uint64_t base_of(const struct model *m, unsigned key, int version)
{
    return random_mix(m->seed ^ random_mix(key * UINT64_C(1000003) + (uint64_t)version));
}
static inline uint64_t word(uint64_t base, uint64_t i)
{
    uint64_t z = (base + i) * UINT64_C(0x9e3779b97f4a7c15);
    return z ^ z >> 32;
}

const uint8_t *model_payload(struct model *m, unsigned key, int version)
{
    size_t n = layout_block_bytes(&m->keys[key].version[version].layout) / 8;
    uint64_t base = base_of(m, key, version);
    for (size_t i = 0; i < n; i++) {
        uint64_t w = word(base, i);
        memcpy(m->scratch + 8 * i, &w, 8);
    }
    return m->scratch;
}

bool model_same(const struct model *m, unsigned key, int version, size_t at, const void *bytes, size_t len)
{
    uint64_t base = base_of(m, key, version), differ = 0;
    assert(at % 8 == 0 && len % 8 == 0);
    for (size_t i = 0; i < len; i += 8) {
        uint64_t w;
        memcpy(&w, (const uint8_t *)bytes + i, 8);
        differ |= w ^ word(base, (at + i) / 8);
    }
    return !differ;
}

int model_version(struct model *m, unsigned key, uint64_t *rng)
{
    struct model_key *k = &m->keys[key];
    if (k->n_versions == MODEL_VERSIONS || (k->n_versions && random_percent(rng, 30)))
        return (int)random_below(rng, (uint64_t)k->n_versions);
    int number = k->n_versions++;
    struct version *v = &k->version[number];
    v->layout = m->layouts[random_below(rng, m->n_layouts)];
    v->checksums = malloc(layout_pages(&v->layout) * sizeof *v->checksums);
    assert(v->checksums);
    block_checksums(&k->key, &v->layout, model_payload(m, key, number), v->checksums);
    return number;
}

int model_identify(const struct model *m, unsigned key, const struct block *b)
{
    const struct model_key *k = &m->keys[key];
    if (k->held >= 0 && block_has(b, &k->version[k->held].layout, k->version[k->held].checksums))
        return k->held;
    for (int i = 0; i < k->n_versions; i++)
        if (block_has(b, &k->version[i].layout, k->version[i].checksums))
            return i;
    return -1;
}
