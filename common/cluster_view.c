/* cluster_view.c: see cluster_view.h. */
#include "common/cluster_view.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double MAX_WEIGHT = 1e6;

/* ---- one node ---- */

static bool id_ok(const char *id)
{
    for (; *id; id++)
        if ((unsigned char)*id <= ' ' || *id == 0x7f || strchr("@#,", *id))
            return false;
    return true;
}

/* Whether text is a number and nothing else. */
static bool number(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return isdigit((unsigned char)*text) && !*end;
}

/* "host:port". NULL, or what is wrong. */
static const char *address_wrong(char *text)
{
    char *colon = strrchr(text, ':'), *end;
    if (!colon || colon == text)
        return "it has no host:port";
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (!isdigit((unsigned char)colon[1]) || *end || port < 1 || port > 65535)
        return "the port must be a number from 1 to 65535";
    bool bracketed = text[0] == '[' && colon[-1] == ']';
    if (!bracketed && memchr(text, ':', (size_t)(colon - text)))
        return "an IPv6 address must stand in brackets, as in [::1]:7401";
    if (colon - text > 255)
        return "the host name is too long";
    for (const char *p = text; p < colon; p++)
        if (!isalnum((unsigned char)*p) && !strchr(bracketed ? "[]:.%" : ".-_", *p))
            return "the host name holds a character that no host name has";
    snprintf(colon, 8, ":%lu", port); /* "07401" is no other address; it is not longer, either */
    return NULL;
}

const char *cluster_node_parse(const char *at, size_t len, struct cluster_node *out)
{
    char all[sizeof out->address + sizeof out->id + 32], *text = all;
    if (len >= sizeof all || memchr(at, 0, len))
        return "it is too long, or not text";
    memcpy(text, at, len);
    text[len] = 0;
    *out = (struct cluster_node){.weight = 1};
    char *id_end = strchr(text, '@');
    if (id_end) {
        *id_end = 0;
        if (id_end == text || id_end >= text + sizeof out->id)
            return "the id before '@' must have 1 to 63 characters";
        if (!id_ok(text))
            return "the id before '@' holds a blank, a comma or a '#'";
        strcpy(out->id, text);
        text = id_end + 1;
    }
    char *star = strchr(text, '*');
    if (star) {
        *star = 0;
        if (!number(star + 1, &out->weight) || !(out->weight > 0) || !(out->weight <= MAX_WEIGHT))
            return "the weight after '*' must be a number above 0";
    }
    const char *wrong = address_wrong(text);
    if (!wrong)
        strcpy(out->address, text);
    return wrong;
}

/* ---- a view ---- */

static int line_fail(size_t line, struct skv_error *err, const char *what)
{
    return skv_fail(err, -EINVAL,
                    "line %zu of the cluster view is not \"epoch NUMBER\" or \"id@host:port[*weight] "
                    "[draining]\": %s",
                    line, what);
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next word of [*at, end): its length, 0 at the end. */
static size_t word(const char **at, const char *end)
{
    while (*at < end && blank(**at))
        (*at)++;
    size_t len = 0;
    while (*at + len < end && !blank((*at)[len]))
        len++;
    return len;
}

static bool is(const char *at, size_t len, const char *what)
{
    return len == strlen(what) && memcmp(at, what, len) == 0;
}

/* What follows the word "epoch". NULL, or what is wrong. */
static const char *parse_epoch(const char *at, const char *end, uint64_t *out)
{
    char text[24], *last;
    size_t len = word(&at, end);
    if (!len || len >= sizeof text || !isdigit((unsigned char)*at))
        return "the epoch is no number";
    memcpy(text, at, len);
    text[len] = 0;
    errno = 0;
    *out = strtoull(text, &last, 10);
    at += len;
    return *last || errno ? "the epoch is no number of 64 bits" : word(&at, end) ? "more follows" : NULL;
}

static const char *parse_node(const char *at, size_t len, const char *end, struct cluster_view *v)
{
    if (v->n == CLUSTER_MAX_NODES)
        return "a cluster has at most 64 memory nodes";
    struct cluster_node *n = &v->node[v->n];
    const char *wrong = cluster_node_parse(at, len, n);
    if (wrong)
        return wrong;
    if (!n->id[0])
        return "the id before '@' is missing (a node's --id)";
    at += len;
    len = word(&at, end);
    n->draining = is(at, len, "draining");
    if (len && !n->draining)
        return "only \"draining\" may follow the address";
    at += len;
    if (word(&at, end))
        return "more follows";
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->node[i].id, n->id) == 0)
            return "its id stands there already; each memory node has its own";
        else if (strcmp(v->node[i].address, n->address) == 0)
            return "its address stands there already";
    v->n++;
    return NULL;
}

int cluster_view_parse(const char *text, size_t len, struct cluster_view *v, struct skv_error *err)
{
    bool epoch = false;
    size_t line = 1;
    const char *stop = text + len;
    *v = (struct cluster_view){0};
    if (len > CLUSTER_VIEW_TEXT)
        return skv_fail(err, -EINVAL, "a cluster view of %zu bytes is longer than the limit of %d", len,
                        CLUSTER_VIEW_TEXT);
    for (const char *at = text; at < stop; line++) {
        const char *newline = memchr(at, '\n', (size_t)(stop - at)), *next = newline ? newline + 1 : stop;
        const char *end = newline ? newline : stop, *comment = memchr(at, '#', (size_t)(end - at));
        end = comment ? comment : end;
        size_t first = word(&at, end);
        const char *wrong = NULL;
        if (is(at, first, "epoch")) {
            wrong = epoch || v->n ? "the epoch stands once, before the nodes"
                                  : parse_epoch(at + first, end, &v->epoch);
            epoch = true;
        } else if (first) {
            wrong = parse_node(at, first, end, v);
        }
        if (wrong)
            return line_fail(line, err, wrong);
        at = next;
    }
    if (!v->n)
        return skv_fail(err, -EINVAL,
                        "the cluster view names no memory node: write one a line, as in n1@10.0.0.1:7401");
    return 0;
}

int cluster_view_load(const char *path, struct cluster_view *out, struct skv_error *err)
{
    struct skv_error why;
    int rc = 0;
    char *text = malloc(CLUSTER_VIEW_TEXT + 1);
    if (!text)
        return skv_fail(err, -ENOMEM, "out of memory");
    FILE *f = fopen(path, "re");
    size_t len = f ? fread(text, 1, CLUSTER_VIEW_TEXT + 1, f) : 0;
    if (!f || ferror(f)) {
        rc = errno ? -errno : -EIO;
        skv_fail(err, rc, "cannot read the cluster view %.300s: %s", path, strerror(-rc));
        goto out;
    }
    if ((rc = cluster_view_parse(text, len, out, &why)))
        skv_fail(err, rc, "%.180s: %.300s", path, why.text);
out:
    free(text);
    if (f)
        fclose(f);
    return rc;
}

/* The shortest text that is the same number again. */
static void format_weight(char *out, size_t size, double w)
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, w);
        if (strtod(out, NULL) == w)
            return;
    }
}

struct buf *cluster_view_format(const struct cluster_view *v)
{
    char weight[32];
    struct buf *b = buf_new(32 + v->n * (sizeof v->node[0].id + sizeof v->node[0].address + 48));
    if (!b)
        return NULL;
    char *at = (char *)b->data;
    at += sprintf(at, "epoch %" PRIu64 "\n", v->epoch);
    for (size_t i = 0; i < v->n; i++) {
        const struct cluster_node *n = &v->node[i];
        at += sprintf(at, "%s@%s", n->id, n->address);
        format_weight(weight, sizeof weight, n->weight);
        at += n->weight == 1 ? 0 : sprintf(at, "*%s", weight);
        at += sprintf(at, "%s\n", n->draining ? " draining" : "");
    }
    b->len = (size_t)(at - (char *)b->data);
    return b;
}

/* ---- comparing ---- */

const struct cluster_node *cluster_view_find(const struct cluster_view *v, const char *id)
{
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->node[i].id, id) == 0)
            return &v->node[i];
    return NULL;
}

bool cluster_view_equal(const struct cluster_view *a, const struct cluster_view *b)
{
    if (a->epoch != b->epoch || a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct cluster_node *x = &a->node[i], *y = cluster_view_find(b, x->id);
        if (!y || strcmp(x->address, y->address) != 0 || x->weight != y->weight || x->draining != y->draining)
            return false;
    }
    return true;
}
