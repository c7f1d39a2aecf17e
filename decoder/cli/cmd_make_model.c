/* cmd_make_model.c: models that are written, not trained: for the demo, for tests, for measuring speed. */
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/model/counting_model.h"
#include "decoder/model/random_model.h"
#include "decoder/model/recall_model.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What another program would see in the file: proof that it opens, and its figures. */
static int show(const char *path, struct skv_error *err)
{
    struct model *m;
    char size[32];
    size_t bytes;
    int rc = model_open(path, &m, err);
    if (rc)
        return rc;
    const struct model_params *p = &m->params;
    gguf_bytes(m->gguf, &bytes, NULL);
    printf("%s: %s, %s, %u layers, dim %u, %u query and %u KV heads of %u, vocabulary %u, context %u; "
           "KV %zu bytes per token at f16\n",
           path, size_format(size, sizeof size, bytes), model_arch_name(p->arch), p->n_layers, p->dim,
           p->n_heads, p->n_kv_heads, p->d_k, p->vocab, p->train_context,
           (size_t)p->n_layers * p->n_kv_heads * (p->d_k + p->d_v) * 2);
    model_close(m);
    return 0;
}

struct recall_args {
    const char *output;
    struct recall_opts opts;
};
#define AT(member) offsetof(struct recall_args, member)
static const struct opt recall_table[] = {
    {"output", 'o', OPT_STRING, AT(output), "FILE", "where to write the model", .required = true},
    {"seed", 's', OPT_U64, AT(opts.seed), "S", "of the random codes of words and names; any works"},
    {"hard", 0, OPT_FLAG, AT(opts.hard), NULL,
     "give the keys of ordinary words the norm of a fact's, in random directions: what representatives then "
     "miss"},
    {0},
};
#undef AT

static int make_recall(int argc, char **argv)
{
    struct recall_args a = {.opts.seed = 1};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", recall_table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv make-model recall", "-o FILE [--seed S] [--hard]",
        "Writes a small llama model whose weights are constructed so that it recalls facts at any distance: "
        "after\n"
        "\"… The key of Levet is 503118. … The key of Levet is\" it goes on with \" 503118.\" It is an "
        "ordinary GGUF\n"
        "file; other engines load it too. decoder/model/README-recall.md explains the construction.",
        "  scoutkv make-model recall -o recall.gguf\n"
        "  scoutkv run -m recall.gguf --temp 0 -p 'The key of Levet is 503118. The old miller waited. The "
        "key of Levet is'\n"
        "  scoutkv eval recall -m recall.gguf --tokens 65536",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    rc = recall_model_write(a.output, &a.opts, &err);
    if (!rc)
        rc = show(a.output, &err);
    options_free(&mem);
    return rc ? cli_fail(cmd.name, &err) : 0;
}

struct counting_args {
    const char *output;
};
#define AT(member) offsetof(struct counting_args, member)
static const struct opt counting_table[] = {
    {"output", 'o', OPT_STRING, AT(output), "FILE", "where to write the model", .required = true},
    {0},
};
#undef AT

static int make_counting(int argc, char **argv)
{
    struct counting_args a = {0};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", counting_table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv make-model counting", "-o FILE",
        "Writes a small llama model whose weights are constructed so that it counts: after a text and a "
        "question mark\n"
        "it names the text's words in falling order of how often they came. Of 512 words it counts "
        "occurrences exactly,\n"
        "whatever the length; all else is nothing to it. It is an ordinary GGUF file; other engines load it "
        "too.\n"
        "decoder/model/README-counting.md explains the construction.",
        "  scoutkv make-model counting -o counting.gguf\n"
        "  scoutkv run -m counting.gguf --temp 0 -p 'goose pond goose lamp goose pond?'\n"
        "  scoutkv eval tasks -m counting.gguf --tasks common-words,frequent-words",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    rc = counting_model_write(a.output, &err);
    if (!rc)
        rc = show(a.output, &err);
    options_free(&mem);
    return rc ? cli_fail(cmd.name, &err) : 0;
}

struct random_args {
    const char *output, *arch, *type;
    struct random_model_opts opts;
    double rope_base;
};
#define AT(member) offsetof(struct random_args, member)
static const struct opt random_table[] = {
    {"output", 'o', OPT_STRING, AT(output), "FILE", "where to write the model", .required = true},
    {"arch", 0, OPT_CHOICE, AT(arch), NULL, "architecture", .choices = "llama|qwen2"},
    {"type", 0, OPT_STRING, AT(type), "TYPE", "format of the matrices: " GGML_SUPPORTED},
    {"layers", 0, OPT_U32, AT(opts.n_layers), "N", "layers", .min = 1, .max = 1024},
    {"dim", 0, OPT_U32, AT(opts.dim), "N", "width of the model", .min = 8, .max = 65536},
    {"heads", 0, OPT_U32, AT(opts.n_heads), "N", "query heads", .min = 1, .max = 1024},
    {"kv-heads", 0, OPT_U32, AT(opts.n_kv_heads), "N", "KV heads; divides the query heads", .min = 1,
     .max = 1024},
    {"ff", 0, OPT_U32, AT(opts.ff), "N", "width of the feed-forward part", .min = 8, .max = 1 << 20},
    {"vocab", 0, OPT_U32, AT(opts.vocab), "N", "vocabulary", .min = 300, .max = 1 << 20},
    {"context", 0, OPT_U32, AT(opts.context), "TOKENS", "length that the file claims", .min = 1},
    {"rope-base", 0, OPT_DOUBLE, AT(rope_base), "X", "base of the rotary embedding", .min = 1},
    {"tied", 0, OPT_FLAG, AT(opts.tied), NULL, "use the embedding as the output matrix too"},
    {"seed", 's', OPT_U64, AT(opts.seed), "S", "of all weights: the same options write the same bytes"},
    {0},
};
#undef AT

static int make_random(int argc, char **argv)
{
    struct random_args a = {.type = "F16", .arch = "llama"};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", random_table, &a}, {0}};
    const struct opt_command cmd = {"scoutkv make-model random", "-o FILE [options]",
                                    "Writes a model with random weights and a plain vocabulary, of any size, "
                                    "for tests and for measuring speed.\n"
                                    "What it says means nothing.",
                                    "  scoutkv make-model random -o small.gguf\n"
                                    "  scoutkv make-model random -o 8b.gguf --type Q4_0 --layers 32 --dim "
                                    "4096 --heads 32 --kv-heads 8 --ff 14336 \\\n"
                                    "      --vocab 128256 --context 1048576 --rope-base 500000\n"
                                    "  scoutkv run -m small.gguf -p x -n 100",
                                    groups};
    random_model_defaults(&a.opts);
    a.rope_base = a.opts.rope_base;
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    uint32_t type;
    if (ggml_type_by_name(a.type, &type)) {
        rc = options_mistake(&cmd, "type: '%s' is not one of " GGML_SUPPORTED, a.type);
        options_free(&mem);
        return rc;
    }
    a.opts.type = (enum ggml_type)type;
    a.opts.arch = strcmp(a.arch, "qwen2") ? MODEL_LLAMA : MODEL_QWEN2;
    a.opts.rope_base = (float)a.rope_base;
    rc = random_model_write(a.output, &a.opts, &err);
    if (!rc)
        rc = show(a.output, &err);
    options_free(&mem);
    return rc ? cli_fail(cmd.name, &err) : 0;
}

int cmd_make_model(int argc, char **argv)
{
    static const struct cli_command kinds[] = {
        {"recall", make_recall, "a model that recalls facts at any distance, by construction"},
        {"counting", make_counting, "a model that counts words at any distance, by construction"},
        {"random", make_random, "a model with random weights, of any size"},
        {0},
    };
    return cli_dispatch(kinds, "scoutkv make-model", "Usage: scoutkv make-model KIND -o FILE [options]", "",
                        argc, argv);
}
