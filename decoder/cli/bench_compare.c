/* bench_compare.c: see bench_compare.h. Members of lists are matched by what names them (`name`, or `way`,
 * and `tokens`, `hits`, `threads`, `size`), not by their place: a run may have more of them than another. */
#include "decoder/cli/bench_compare.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char SPREAD[] = "_spread";
static const char *const naming[] = {"name", "way", "tokens", "hits", "threads", "size"};

/* "default 65536 0.9", or "" where nothing names it. */
static void name_of(const json_t *member, char out[COMPARE_PATH])
{
    size_t len = 0;
    out[0] = 0;
    for (size_t i = 0; i < sizeof naming / sizeof *naming; i++) {
        const json_t *x = json_object_get(member, naming[i]);
        char text[96] = "";
        if (json_is_string(x))
            snprintf(text, sizeof text, "%s", json_string_value(x));
        else if (json_is_number(x))
            snprintf(text, sizeof text, "%g", json_number_value(x));
        if (*text && len < COMPARE_PATH - 1)
            len += (size_t)snprintf(out + len, COMPARE_PATH - len, "%s%s", len ? " " : "", text);
    }
}

static const json_t *same_member(const json_t *list, size_t index, const char *name)
{
    for (size_t i = 0; *name && i < json_array_size(list); i++) {
        char other[COMPARE_PATH];
        name_of(json_array_get(list, i), other);
        if (!strcmp(name, other))
            return json_array_get(list, i);
    }
    return *name ? NULL : json_array_get(list, index);
}

static bool is_ratio(const char *name)
{
    return strstr(name, "share") || strstr(name, "_over_") || strstr(name, "_of_");
}

static bool read_spread(const json_t *o, const char *name, double *low, double *high)
{
    char key[COMPARE_PATH];
    snprintf(key, sizeof key, "%s%s", name, SPREAD);
    const json_t *both = json_object_get(o, key);
    if (json_array_size(both) != 2)
        return false;
    *low = json_number_value(json_array_get(both, 0));
    *high = json_number_value(json_array_get(both, 1));
    return true;
}

static int add(struct comparison *c, const json_t *a, const json_t *b, const char *path, const char *name)
{
    struct compared x = {.ratio = is_ratio(name)};
    const json_t *in_a = json_object_get(a, name), *in_b = json_object_get(b, name);
    if (!json_is_number(in_a) || !read_spread(a, name, &x.a_low, &x.a_high))
        return 0;
    if (!json_is_number(in_b) || !read_spread(b, name, &x.b_low, &x.b_high)) {
        c->only_one++;
        return 0;
    }
    if (c->n == c->room) {
        size_t room = c->room * 2 + 64;
        struct compared *grown = realloc(c->at, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        c->at = grown;
        c->room = room;
    }
    snprintf(x.path, sizeof x.path, "%.150s%s%.90s", path, *path ? "." : "", name);
    x.a = json_number_value(in_a);
    x.b = json_number_value(in_b);
    x.changed = x.a_low > x.b_high || x.b_low > x.a_high;
    c->at[c->n++] = x;
    return 0;
}

static int walk(struct comparison *c, const json_t *a, const json_t *b, const char *path)
{
    const char *key;
    json_t *value;
    char below[COMPARE_PATH];
    int rc = 0;
    json_object_foreach((json_t *)a, key, value)
    {
        const json_t *other = json_object_get(b, key);
        snprintf(below, sizeof below, "%.180s%s%.70s", path, *path ? "." : "", key);
        if (json_is_number(value) && !rc)
            rc = add(c, a, b, path, key);
        else if (json_is_object(value) && !rc)
            rc = walk(c, value, other, below);
        for (size_t i = 0; json_is_array(value) && i < json_array_size(value) && !rc; i++) {
            char name[COMPARE_PATH], member[COMPARE_PATH];
            const json_t *x = json_array_get(value, i);
            if (!json_is_object(x))
                continue;
            name_of(x, name);
            if (*name)
                snprintf(member, sizeof member, "%.150s[%.100s]", below, name);
            else
                snprintf(member, sizeof member, "%.150s[%zu]", below, i);
            rc = walk(c, x, same_member(other, i, name), member);
        }
    }
    return rc;
}

int compare_runs(const json_t *a, const json_t *b, struct comparison *out)
{
    *out = (struct comparison){0};
    return walk(out, a, b, "");
}

void comparison_free(struct comparison *c)
{
    free(c->at);
}
