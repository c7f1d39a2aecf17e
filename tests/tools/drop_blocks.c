/* drop_blocks.c: destroys every replica of some blocks of a stored context; for the integration tests.
 *
 *   drop_blocks FROM TO -m MODEL --resume NAME --nodes LIST
 *
 * Blocks [FROM, TO) of 64 tokens are dropped in all layers on all nodes, whoever leased them; indexes and
 * manifests stay. Prints how many blocks the context has sealed. */
#include "decoder/cli/engine.h"
#include "decoder/context/internal.h"

#include <inttypes.h>
#include <stdlib.h>

struct args {
    const char *model, *resume;
    struct kv_options kv;
};
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, offsetof(struct args, model), "FILE", "GGUF model", .required = true},
    {"resume", 0, OPT_STRING, offsetof(struct args, resume), "NAME", "the snapshot", .required = true},
    {0},
};

/* Leased blocks are not dropped. */
static int unpin_all(skv_tier *t, struct skv_error *err)
{
    char **names;
    size_t n;
    int rc = skv_saved_list(t, &names, &n, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++) {
        if (!rc)
            rc = skv_saved_unpin(t, names[i], err);
        free(names[i]);
    }
    free(names);
    return rc;
}

static int drop(skv_context *c, uint64_t from, uint64_t to, struct skv_error *err)
{
    int rc = 0;
    for (uint64_t b = from; b < to && b < c->sealed; b++)
        for (unsigned l = 0; l < c->shape->n_layers && rc == 0; l++) {
            struct block_key key;
            context_block_key(c, l, b, &key);
            rc = tier_drop(c->tier->tier, &key, 1, err);
        }
    return rc;
}

int main(int argc, char **argv)
{
    struct args a = {0};
    struct opt_memory mem = {0};
    struct engine e = {0};
    struct skv_error err = {0};
    skv_context *c = NULL;
    kv_options_defaults(&a.kv);
    const struct opt_group groups[] = {{"Options", table, &a}, {"Nodes", kv_node_table, &a.kv}, {0}};
    const struct opt_command cmd = {"drop_blocks", "FROM TO -m MODEL --resume NAME", "", "", groups};
    if (argc < 3)
        return 2;
    uint64_t from = strtoull(argv[1], NULL, 10), to = strtoull(argv[2], NULL, 10);
    argv[2] = argv[0];
    int rc = options_start(&cmd, argc - 2, argv + 2, &mem);
    if (rc >= 0)
        return rc;
    rc = engine_open(&e, a.model, &a.kv, &err);
    if (!rc)
        rc = engine_connect(&e, &err);
    if (!rc)
        rc = skv_context_reopen(e.tier, &e.shape, NULL, a.resume, &c, &err);
    if (!rc)
        rc = unpin_all(e.tier, &err);
    if (!rc)
        rc = drop(c, from, to, &err);
    if (rc)
        fprintf(stderr, "drop_blocks: %s\n", err.text);
    else
        printf("%" PRIu64 "\n", c->sealed);
    skv_context_close(c);
    engine_close(&e);
    options_free(&mem);
    return rc != 0;
}
