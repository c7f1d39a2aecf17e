/* cmd_bench_compare.c: `scoutkv bench compare`: which figures of two runs differ by more than their noise. */
#include "decoder/cli/bench_compare.h"
#include "decoder/cli/cli.h"

#include <errno.h>
#include <stdio.h>

struct args {
    struct opt_list files;
    bool all;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"all", 0, OPT_FLAG, AT(all), NULL,
     "also figures that are no ratios: on a shared machine they differ from hour to hour"},
    {0},
};

static int load(const char *path, json_t **out, struct skv_error *err)
{
    json_error_t why;
    *out = json_load_file(path, 0, &why);
    if (!*out)
        return skv_fail(err, -EIO, "cannot read %s: %s (line %d)", path, why.text, why.line);
    return json_is_object(*out) ? 0 : skv_fail(err, -EINVAL, "%s: expected an object", path);
}

static int tell(const struct comparison *c, bool all, struct skv_error *err)
{
    size_t looked = 0, changed = 0;
    for (size_t i = 0; i < c->n; i++) {
        const struct compared *x = &c->at[i];
        if (!x->ratio && !all)
            continue;
        looked++;
        if (!x->changed)
            continue;
        changed++;
        printf("%s: %.4g (%.4g … %.4g) -> %.4g (%.4g … %.4g), %+.0f %%\n", x->path, x->a, x->a_low, x->a_high,
               x->b, x->b_low, x->b_high, 100 * (x->b / x->a - 1));
    }
    if (looked == 0)
        return skv_fail(err, -EINVAL,
                        "they have no figure in common that has a spread: are they of the same bench?");
    printf("%zu of %zu figures changed beyond the noise", changed, looked);
    if (c->only_one)
        printf("; %zu are in the first alone", c->only_one);
    printf("\n");
    return fflush(stdout) ? skv_fail(err, -errno, "cannot write") : (int)(changed > 0);
}

int cmd_bench_compare(int argc, char **argv)
{
    struct args a = {0};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {.name = "scoutkv bench compare",
                                    .synopsis = "BEFORE AFTER [options]",
                                    .about = "Compares what two runs of benches printed with --json, or of "
                                             "make bench-smoke, figure by figure: "
                                             "one has changed if\n"
                                             "the rounds of both runs have nothing in common, from lowest to "
                                             "highest. Of runs with more rounds "
                                             "less is noise. Ends\n"
                                             "with 1 if something changed, whether for better or worse.",
                                    .examples = "  make bench-smoke && cp build/bench.json before.json\n"
                                                "  scoutkv bench compare before.json build/bench.json",
                                    .groups = groups,
                                    .operands = &a.files,
                                    .n_operands = 2};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    json_t *before = NULL, *after = NULL;
    struct comparison c = {0};
    rc = load(a.files.item[0], &before, &err);
    if (!rc)
        rc = load(a.files.item[1], &after, &err);
    if (!rc && compare_runs(before, after, &c))
        rc = skv_fail(&err, -ENOMEM, "out of memory");
    if (!rc)
        rc = tell(&c, a.all, &err);
    if (rc < 0)
        rc = cli_fail(cmd.name, &err);
    comparison_free(&c);
    json_decref(before);
    json_decref(after);
    options_free(&mem);
    return rc;
}
