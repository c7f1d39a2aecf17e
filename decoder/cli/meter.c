#include "decoder/cli/meter.h"
#include "common/clock.h"
#include "common/size.h"

#include <inttypes.h>
#include <string.h>

static const char *const part_name[METER_PARTS] = {"step",      "scout", "wait",
                                                   "attention", "rest",  "without_scout"};

void meter_clear(struct meter *m)
{
    memset(m, 0, sizeof *m);
}

void meter_begin(struct meter *m, const skv_context *ctx)
{
    skv_context_stats(ctx, &m->before);
    m->started = clock_ns();
}

void meter_end(struct meter *m, const skv_context *ctx)
{
    uint64_t step = clock_ns() - m->started;
    const struct skv_stats *b = &m->before;
    struct skv_stats s;
    skv_context_stats(ctx, &s);
    uint64_t scout = s.scout_ns - b->scout_ns, wait = s.wait_ns - b->wait_ns,
             attend = s.attend_ns - b->attend_ns;
    uint64_t known = scout + wait + attend;
    hist_add(&m->part[METER_STEP], step);
    hist_add(&m->part[METER_SCOUT], scout);
    hist_add(&m->part[METER_WAIT], wait);
    hist_add(&m->part[METER_ATTEND], attend);
    hist_add(&m->part[METER_REST], step > known ? step - known : 0);
    hist_add(&m->part[METER_UNSCOUTED], step > scout ? step - scout : 0);
    m->fetched_bytes += s.bytes_fetched - b->bytes_fetched;
    m->scout_bytes += s.scout_bytes - b->scout_bytes;
    m->wanted += s.pages_wanted - b->pages_wanted;
    m->held += s.pages_held - b->pages_held;
    m->refreshes += s.refreshes - b->refreshes;
    m->missed += s.missed_mass - b->missed_mass;
    m->missed_n += s.missed_n - b->missed_n;
}

uint64_t meter_steps(const struct meter *m)
{
    return m->part[METER_STEP].count;
}

double meter_bytes_per_step(const struct meter *m)
{
    return meter_steps(m) ? (double)m->fetched_bytes / (double)meter_steps(m) : 0;
}

double meter_scout_bytes_per_step(const struct meter *m)
{
    return meter_steps(m) ? (double)m->scout_bytes / (double)meter_steps(m) : 0;
}

double meter_mean_ms(const struct meter *m, enum meter_part part)
{
    return hist_mean(&m->part[part]) / 1e6;
}

double meter_ms(const struct meter *m, enum meter_part part, double quantile)
{
    return (double)hist_quantile(&m->part[part], quantile) / 1e6;
}

double meter_longest_ms(const struct meter *m, enum meter_part part)
{
    return (double)m->part[part].max / 1e6;
}

double meter_hit_share(const struct meter *m)
{
    return m->wanted ? (double)m->held / (double)m->wanted : 1;
}

double meter_missed_mass(const struct meter *m)
{
    return m->missed_n > 0 ? m->missed / m->missed_n : 0;
}

void meter_print(const struct meter *m, FILE *out)
{
    char bytes[32];
    if (!meter_steps(m))
        return;
    fprintf(out, "ms per step  p50 %.3g, p99 %.3g:", meter_ms(m, METER_STEP, 0.5),
            meter_ms(m, METER_STEP, 0.99));
    for (int p = METER_SCOUT; p <= METER_REST; p++)
        fprintf(out, "%s %s %.3g/%.3g", p == METER_SCOUT ? "" : ",", part_name[p], meter_ms(m, p, 0.5),
                meter_ms(m, p, 0.99));
    fprintf(out, "\nlongest step %.1f ms", meter_longest_ms(m, METER_STEP));
    fprintf(
        out,
        "\nfetched      %s per step; %.1f %% of the selected pages were held; estimated missed mass %.2g\n",
        size_format(bytes, sizeof bytes, (uint64_t)meter_bytes_per_step(m)), 100 * meter_hit_share(m),
        meter_missed_mass(m));
    if (m->refreshes)
        fprintf(out, "refreshed    %" PRIu64 " times (a step of one KV head in one layer)\n", m->refreshes);
}

json_t *meter_json(const struct meter *m)
{
    json_t *ms = json_object();
    for (int p = 0; p < METER_PARTS; p++)
        json_object_set_new(ms, part_name[p],
                            json_pack("{s:f,s:f,s:f,s:f}", "mean", meter_mean_ms(m, p), "p50",
                                      meter_ms(m, p, 0.5), "p99", meter_ms(m, p, 0.99), "max",
                                      meter_longest_ms(m, p)));
    return json_pack("{s:I,s:o,s:f,s:f,s:f,s:f,s:I}", "steps", (json_int_t)meter_steps(m), "ms", ms,
                     "bytes_per_step", meter_bytes_per_step(m), "scout_bytes_per_step",
                     meter_scout_bytes_per_step(m), "held_share", meter_hit_share(m), "missed_mass",
                     meter_missed_mass(m), "refreshes", (json_int_t)m->refreshes);
}
