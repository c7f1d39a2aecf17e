#include "decoder/cli/series.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void series_note(struct series *s, double x)
{
    assert(s->n < SERIES_MAX);
    s->at[s->n++] = x;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct middle series_middle(const struct series *s)
{
    struct series sorted = *s;
    if (s->n == 0)
        return (struct middle){NAN, NAN, NAN};
    qsort(sorted.at, s->n, sizeof *sorted.at, by_size);
    return (struct middle){(sorted.at[(s->n - 1) / 2] + sorted.at[s->n / 2]) / 2, sorted.at[0],
                           sorted.at[s->n - 1]};
}

struct middle series_ratio(const struct series *a, const struct series *b)
{
    struct series r = {.n = 0};
    for (uint32_t i = 0; i < a->n && i < b->n; i++)
        series_note(&r, b->at[i] > 0 ? a->at[i] / b->at[i] : 0);
    return series_middle(&r);
}

json_t *series_number(double x)
{
    return isnan(x) ? json_null() : json_real(x);
}

void series_set(json_t *o, const char *name, struct middle m)
{
    char spread[64];
    json_t *both = json_array();
    json_object_set_new(o, name, series_number(m.median));
    json_array_append_new(both, series_number(m.low));
    json_array_append_new(both, series_number(m.high));
    snprintf(spread, sizeof spread, "%s_spread", name);
    json_object_set_new(o, spread, both);
}
