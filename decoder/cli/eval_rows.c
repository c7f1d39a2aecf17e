#include "decoder/cli/eval_rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int add_policy(const char *spec, const struct skv_select *base, struct eval_choices *out,
                      struct skv_error *err)
{
    struct eval_choice c = {.select = {.budget = base->budget,
                                       .unit = base->unit,
                                       .mass = base->mass,
                                       .refresh = base->refresh,
                                       .refresh_budget = base->refresh_budget,
                                       .refresh_turn = base->refresh_turn}};
    int rc = skv_policy_parse(spec, &c.select, err);
    if (rc)
        return rc;
    c.select.tail = base->tail && c.select.policy == SKV_CASCADE;
    skv_policy_format(&c.select, c.name);
    struct eval_choice *grown = realloc(out->at, (out->n + 1) * sizeof *grown);
    if (!grown)
        return skv_fail(err, -ENOMEM, "out of memory");
    out->at = grown;
    out->at[out->n++] = c;
    return 0;
}

static int add_all(const struct skv_select *base, struct eval_choices *out, struct skv_error *err)
{
    int rc = 0;
    for (int i = 0; i < SKV_POLICIES && !rc; i++)
        rc = add_policy(skv_policy_name((enum skv_policy)i), base, out, err);
    return rc;
}

int eval_policies(const char *list, const struct skv_select *base, struct eval_choices *out,
                  struct skv_error *err)
{
    if (!*list)
        return skv_fail(err, -EINVAL, "policies: the list is empty");
    while (*list) {
        char spec[SKV_POLICY_TEXT];
        size_t len = strcspn(list, ",");
        if (len >= sizeof spec)
            return skv_fail(err, -EINVAL, "policies: '%.40s…' is longer than any policy", list);
        snprintf(spec, sizeof spec, "%.*s", (int)len, list);
        int rc = strcmp(spec, "all") ? add_policy(spec, base, out, err) : add_all(base, out, err);
        if (rc)
            return rc;
        list += len + (list[len] == ',');
    }
    return 0;
}

bool eval_takes_budget(const struct skv_select *s)
{
    return s->policy != SKV_DENSE && s->policy != SKV_WINDOW;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* One of the list, in tokens; 0: it is none. */
static double budget_of(const char *text, size_t len, uint64_t tokens)
{
    char word[32], *end;
    if (len == 0 || len >= sizeof word || strspn(text, "0123456789.") < len - (text[len - 1] == '%'))
        return 0;
    snprintf(word, sizeof word, "%.*s", (int)len, text);
    double value = strtod(word, &end);
    if (!strcmp(end, "%"))
        return value <= 100 ? value / 100 * (double)tokens : 0;
    return *end || strchr(word, '.') ? 0 : value;
}

int eval_budgets(const char *list, uint64_t tokens, uint32_t unit, uint32_t **budgets, size_t *n,
                 struct skv_error *err)
{
    uint32_t *b = malloc((strlen(list) / 2 + 1) * sizeof *b); /* a digit and a comma each */
    size_t count = 0, kept = 0;
    if (!b)
        return skv_fail(err, -ENOMEM, "out of memory");
    while (*list) {
        size_t len = strcspn(list, ",");
        double value = budget_of(list, len, tokens);
        if (value <= 0 || value > 1 << 30) {
            free(b);
            return skv_fail(
                err, -EINVAL,
                "budgets: '%.*s' is neither a number of tokens nor a percentage, as in 64,256,10%%",
                len > 40 ? 40 : (int)len, list);
        }
        uint32_t rounded = (uint32_t)value / unit * unit;
        b[count++] = rounded ? rounded : unit;
        list += len + (list[len] == ',');
    }
    qsort(b, count, sizeof *b, by_number);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || b[i] != b[i - 1])
            b[kept++] = b[i];
    *budgets = b;
    *n = kept;
    return kept ? 0 : skv_fail(err, -EINVAL, "budgets: the list is empty");
}

uint64_t eval_cache(const struct skv_select *s, uint64_t token_bytes)
{
    return eval_takes_budget(s) ? 2 * s->budget * token_bytes : 0;
}

int eval_fork(struct session *session, skv_context *base, const struct skv_select *select,
              uint64_t cache_bytes, skv_context **fork, struct skv_error *err)
{
    int rc = skv_context_fork(base, fork, err);
    if (rc)
        return rc;
    rc = skv_context_configure(*fork, select, cache_bytes, err);
    if (rc) {
        skv_context_close(*fork);
        *fork = NULL;
        return rc;
    }
    session_use(session, *fork);
    return 0;
}
