#include "decoder/cli/context_show.h"
#include "common/clock.h"
#include "common/size.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- times ---- */

static uint64_t now_ms(void)
{
    return clock_wall_ns() / NS_PER_MS;
}

static uint64_t left_ms(const struct skv_saved *m, uint64_t now)
{
    uint64_t end = m->renewed_ms + m->ttl_ms;
    return end > now ? end - now : 0;
}

/* "3d 4h", "2h 05m", "12m 40s". */
static const char *span_text(char *buf, size_t size, uint64_t ms)
{
    uint64_t s = ms / 1000;
    if (s >= 86400)
        snprintf(buf, size, "%" PRIu64 "d %" PRIu64 "h", s / 86400, s % 86400 / 3600);
    else if (s >= 3600)
        snprintf(buf, size, "%" PRIu64 "h %02" PRIu64 "m", s / 3600, s % 3600 / 60);
    else
        snprintf(buf, size, "%" PRIu64 "m %02" PRIu64 "s", s / 60, s % 60);
    return buf;
}

static const char *date_text(char *buf, size_t size, uint64_t ms)
{
    time_t t = (time_t)(ms / 1000);
    struct tm tm;
    if (!gmtime_r(&t, &tm) || !strftime(buf, size, "%Y-%m-%d %H:%M:%S UTC", &tm))
        snprintf(buf, size, "?");
    return buf;
}

static uint64_t age_ms(const struct skv_saved *m, uint64_t now)
{
    return now > m->updated_ms ? now - m->updated_ms : 0; /* the saver's clock may be ahead of ours */
}

/* ---- JSON ---- */

static json_t *select_json(const struct skv_select *s)
{
    char policy[SKV_POLICY_TEXT];
    skv_policy_format(s, policy);
    return json_pack("{s:s, s:I, s:I, s:f}", "policy", policy, "budget", (json_int_t)s->budget, "select",
                     (json_int_t)s->unit, "mass", (double)s->mass);
}

static json_t *options_json(const struct skv_context_opts *o)
{
    json_t *ranges = json_array();
    for (size_t i = 0; i < o->n_protect; i++)
        json_array_append_new(
            ranges, json_pack("[I, I]", (json_int_t)o->protect[i].from, (json_int_t)o->protect[i].to));
    return json_pack("{s:o, s:o, s:I, s:I, s:I, s:o, s:I, s:s, s:s, s:s, s:s, s:s, s:b}", "decode",
                     select_json(&o->decode), "prefill", select_json(&o->prefill), "window",
                     (json_int_t)o->window, "seal_lag", (json_int_t)o->seal_lag, "sinks",
                     (json_int_t)o->sinks, "protected", ranges, "cache_bytes", (json_int_t)o->cache_bytes,
                     "kv_type", skv_dtype_name(o->dtype), "ack", o->durable ? "durable" : "ram", "recipe",
                     o->recipe ? o->recipe : "", "schedule", skv_schedule_name(o->schedule),
                     "representatives", o->representatives == SKV_REPS_LEAN ? "lean" : "full", "calibrated",
                     o->calibration != NULL);
}

static json_t *saved_json(const struct skv_saved *m, uint64_t now)
{
    char hex[2 * SKV_FINGERPRINT + 1];
    for (size_t i = 0; i < SKV_FINGERPRINT; i++)
        snprintf(hex + 2 * i, 3, "%02x", m->fingerprint[i]);
    json_t *o =
        json_pack("{s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "name", m->name, "tokens",
                  (json_int_t)m->tokens, "model", m->model, "fingerprint", hex, "bytes", (json_int_t)m->bytes,
                  "created_ms", (json_int_t)m->created_ms, "updated_ms", (json_int_t)m->updated_ms, "ttl_ms",
                  (json_int_t)m->ttl_ms, "left_ms", (json_int_t)left_ms(m, now), "pinned", m->pinned);
    return o ? o : json_pack("{s:s}", "name", "(not UTF-8)");
}

static int print_json(json_t *o, struct skv_error *err)
{
    int bad = !o || json_dumpf(o, stdout, JSON_INDENT(2)) || putchar('\n') == EOF || fflush(stdout);
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write the JSON output") : 0;
}

/* ---- list ---- */

static void print_row(const struct skv_saved *m, uint64_t now)
{
    char tokens[32], age[32], left[32], size[32];
    printf("%-24s %12s  %-24s %10s %10s %10s  %s\n", m->name, count_format(tokens, sizeof tokens, m->tokens),
           m->model[0] ? m->model : "-", size_format(size, sizeof size, m->bytes),
           span_text(age, sizeof age, age_ms(m, now)), span_text(left, sizeof left, left_ms(m, now)),
           m->pinned ? "yes" : "no");
}

/* One that was removed since it was listed is left out; one that can't be read is told on stderr. */
static int list_one(skv_tier *t, const char *name, uint64_t now, json_t *array, struct skv_error *err)
{
    struct skv_saved *m;
    int rc = skv_saved_read(t, name, &m, err);
    if (rc == -ENOENT)
        return 0;
    if (rc == -EBADMSG || rc == -EPROTONOSUPPORT) {
        fprintf(stderr, "scoutkv context list: %s\n", err->text);
        return 0;
    }
    if (rc)
        return rc;
    if (array)
        json_array_append_new(array, saved_json(m, now));
    else
        print_row(m, now);
    skv_saved_free(m);
    return 0;
}

int context_list(skv_tier *t, bool json, struct skv_error *err)
{
    char **names;
    size_t n;
    json_t *array = json ? json_array() : NULL;
    int rc = skv_saved_list(t, &names, &n, err);
    if (rc) {
        json_decref(array);
        return rc;
    }
    if (!json)
        printf("%-24s %12s  %-24s %10s %10s %10s  %s\n", "NAME", "TOKENS", "MODEL", "SIZE", "AGE", "LEFT",
               "PINNED");
    for (size_t i = 0; i < n; i++) {
        if (!rc)
            rc = list_one(t, names[i], now_ms(), array, err);
        free(names[i]);
    }
    free(names);
    if (json && !rc)
        return print_json(json_pack("{s:o}", "contexts", array), err);
    json_decref(array);
    return rc || !fflush(stdout) ? rc : skv_fail(err, -EIO, "cannot write: %s", strerror(errno));
}

/* ---- show ---- */

static void print_select(const char *what, const struct skv_select *s)
{
    char policy[SKV_POLICY_TEXT];
    skv_policy_format(s, policy);
    printf("%-12s %s, budget %u, selection of %u", what, policy, s->budget, s->unit);
    if (s->mass > 0.0f)
        printf(", until %g of the mass", (double)s->mass);
    putchar('\n');
}

static void print_all(const struct skv_saved *m, uint64_t now)
{
    const struct skv_context_opts *o = &m->opts;
    char a[48], b[48];
    printf("name         %s\ntokens       %s, %s of keys and values as %s\n", m->name,
           count_format(a, sizeof a, m->tokens), size_format(b, sizeof b, m->bytes),
           skv_dtype_name(o->dtype));
    printf("model        %s, fingerprint ", m->model[0] ? m->model : "-");
    for (size_t i = 0; i < 8; i++)
        printf("%02x", m->fingerprint[i]);
    printf("…\nsaved        %s", date_text(a, sizeof a, m->updated_ms));
    printf("; first %s\n", date_text(a, sizeof a, m->created_ms));
    printf("stays        %s", span_text(a, sizeof a, left_ms(m, now)));
    printf(" of %s; blocks are %s\n", span_text(a, sizeof a, m->ttl_ms), m->pinned ? "leased" : "not leased");
    printf("blocks       %" PRIu64 " of %" PRIu64 " on the nodes\n", m->blocks_present, m->blocks);
    print_select("decode", &o->decode);
    print_select("prefill", &o->prefill);
    printf("schedule     %s, %s; %s representatives\n", skv_schedule_name(o->schedule),
           o->calibration ? "with its calibration" : "not calibrated",
           o->representatives == SKV_REPS_LEAN ? "lean" : "full");
    printf("window       %u tokens, sealed %u behind the head; %u sinks\nprotected   ", o->window,
           o->seal_lag, o->sinks);
    for (size_t i = 0; i < o->n_protect; i++)
        printf(" %" PRIu64 ":%" PRIu64, o->protect[i].from, o->protect[i].to);
    printf("%s\nrecipe       %s%s\n", o->n_protect ? "" : " nothing", o->recipe ? o->recipe : "-",
           m->salted ? ", salted" : "");
}

int context_show(skv_tier *t, const char *name, bool json, struct skv_error *err)
{
    struct skv_saved *m;
    int rc = skv_saved_check(t, name, &m, err);
    if (rc)
        return rc;
    if (json) {
        json_t *o = saved_json(m, now_ms());
        json_object_set_new(o, "blocks", json_integer((json_int_t)m->blocks));
        json_object_set_new(o, "blocks_present", json_integer((json_int_t)m->blocks_present));
        json_object_set_new(o, "options", options_json(&m->opts));
        rc = print_json(o, err);
    } else {
        print_all(m, now_ms());
        if (fflush(stdout))
            rc = skv_fail(err, -EIO, "cannot write: %s", strerror(errno));
    }
    if (rc == 0 && m->blocks_present < m->blocks)
        rc = skv_fail(err, -ENODATA, "%" PRIu64 " of the %" PRIu64 " blocks of \"%s\" are gone",
                      m->blocks - m->blocks_present, m->blocks, name);
    skv_saved_free(m);
    return rc;
}
