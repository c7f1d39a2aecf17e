/* cmd_tokenize.c: text in, token ids out. */
#include "decoder/cli/cli.h"
#include "decoder/cli/text_io.h"
#include "decoder/model/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tokenize_args {
    const char *model, *file;
    bool no_bos, special;
};

#define AT(member) offsetof(struct tokenize_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF file; one that holds only a vocabulary will do",
     .required = true},
    {"file", 'f', OPT_STRING, AT(file), "FILE", "text to read, byte for byte; standard input if not given"},
    {"no-bos", 0, OPT_FLAG, AT(no_bos), NULL, "leave out the token that begins a text"},
    {"special", 0, OPT_FLAG, AT(special), NULL, "take names of control tokens in the text for those tokens"},
    {0},
};

static int tokenize(const struct tokenize_args *a, struct skv_error *err)
{
    struct gguf *gguf = NULL;
    struct tokenizer *tok = NULL;
    char *text = NULL;
    uint32_t *ids = NULL;
    size_t len, n;
    int rc = gguf_open(a->model, &gguf, err);
    if (!rc)
        rc = tokenizer_from_gguf(gguf, &tok, err);
    if (!rc)
        rc = read_all(a->file, &text, &len, err);
    if (!rc)
        rc = tokenizer_encode(tok, text, len, !a->no_bos, a->special, &ids, &n, err);
    if (rc)
        goto out;
    for (size_t i = 0; i < n; i++)
        printf("%s%u", i ? " " : "", ids[i]);
    putchar('\n');
    if (fflush(stdout))
        rc = skv_fail(err, -errno, "cannot write: %s", strerror(errno));
out:
    free(ids);
    free(text);
    tokenizer_free(tok);
    gguf_close(gguf);
    return rc;
}

int cmd_tokenize(int argc, char **argv)
{
    struct tokenize_args a = {0};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv tokenize", "-m MODEL [-f FILE] [--no-bos]",
        "Prints the token ids of a text, separated by spaces, as the model's own vocabulary cuts it. Ids are "
        "those\n"
        "of llama.cpp for the same file. The text is taken byte for byte: a last newline is part of it.",
        "  printf 'Once upon a time' | scoutkv tokenize -m stories.gguf\n"
        "  scoutkv tokenize -m stories.gguf -f book.txt > book.ids\n"
        "  scoutkv logits -m stories.gguf --tokens book.ids -o book.f32",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    rc = tokenize(&a, &err);
    options_free(&mem);
    return rc ? cli_fail(cmd.name, &err) : 0;
}
