/* histories.c: see histories.h. The plan of a history, and its lives. */
#include "tests/store/history_impl.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the plan ---- */

struct range {
    unsigned low, high;
};

/* Kinds of histories. Layouts: pages that are multiples of 4096 bytes and pages that are not, up to blocks of
 * about 1 MiB, or of more than STORE_READ_PAGES pages. */
static const struct shape {
    const char *name;
    unsigned of_1000;
    struct range keys, disks, lives, steps, ram; /* steps: of all lives; RAM in MiB */
    unsigned burst;                              /* puts at once, at most */
    struct block_layout layouts[6];
} shapes[] = {
    /* nothing is ever evicted from the disks: whatever is missing is lost */
    {"small",
     740,
     {2, 24},
     {1, MODEL_DISKS},
     {2, 6},
     {10, 120},
     {8, 10},
     1,
     {{1, 8, 8, 0, 2},
      {1, 64, 64, 0, 1},
      {2, 3, 1, 5, 1},
      {1, 33, 7, 2, 3},
      {1, 16, 16, 0, 20},
      {2, 32, 32, 0, 1}}},
    /* segments fill and are sealed */
    {"medium",
     155,
     {20, 60},
     {1, MODEL_DISKS},
     {2, 6},
     {60, 200},
     {8, 24},
     1,
     {{1, 64, 64, 0, 8},
      {1, 128, 128, 0, 4},
      {1, 100, 60, 3, 9},
      {2, 128, 100, 0, 4},
      {1, 128, 128, 8, 8},
      {1, 24, 8, 0, 40}}},
    /* segments are emptied and used again and again; RAM is much smaller than what is put */
    {"large",
     100,
     {60, 140},
     {1, 2},
     {1, 3},
     {120, 400},
     {8, 24},
     1,
     {{1, 128, 128, 0, 32},
      {1, 512, 512, 0, 8},
      {1, 576, 512, 0, 6},
      {2, 500, 500, 0, 3},
      {1, 100, 60, 0, 40},
      {1, 64, 64, 0, 64}}},
    /* summaries become long, groups have many members */
    {"many",
     5,
     {800, 1600},
     {1, 1},
     {2, 3},
     {300, 600},
     {8, 24},
     16,
     {{1, 8, 8, 0, 2},
      {1, 64, 64, 0, 1},
      {1, 16, 16, 0, 20},
      {1, 8, 8, 0, 24},
      {1, 16, 16, 0, 6},
      {1, 24, 8, 0, 4}}},
};

static unsigned pick(uint64_t *rng, struct range r)
{
    return (unsigned)random_between(rng, r.low, r.high);
}

static const struct shape *a_shape(uint64_t *rng)
{
    uint64_t n = random_below(rng, 1000);
    const struct shape *shape = shapes;
    for (; n >= shape->of_1000; shape++)
        n -= shape->of_1000;
    return shape;
}

static void plan_faults(struct history *h, uint64_t kind)
{
    uint64_t *rng = &h->rng;
    bool all = kind >= 95;
    if (kind < 45)
        return;
    if (kind < 65 || all)
        h->flips = (unsigned)random_between(rng, 1, 10);
    if ((kind >= 65 && kind < 80) || all) {
        uint32_t rate = (uint32_t[]){1000, 5000, 30000}[random_below(rng, 3)];
        if (random_percent(rng, 50))
            h->faults.read_error = rate;
        if (random_percent(rng, 50))
            h->faults.read_misdirected = rate;
        if (random_percent(rng, 50) || !(h->faults.read_error | h->faults.read_misdirected))
            h->faults.read_stale = rate;
    }
    if (kind >= 80) {
        uint32_t rate = (uint32_t[]){2000, 10000, 50000}[random_below(rng, 3)];
        if (random_percent(rng, 50))
            h->faults.write_error = rate;
        if (random_percent(rng, 30))
            h->faults.write_no_space = rate;
        if (random_percent(rng, 20))
            h->faults.open_error = rate;
        if (random_percent(rng, 50) || !(h->faults.write_error | h->faults.write_no_space))
            h->faults.sync_error = rate;
    }
}

static void plan(struct history *h)
{
    uint64_t *rng = &h->rng;
    const struct shape *shape = a_shape(rng);
    struct block_layout chosen[3];
    unsigned n = (unsigned)random_between(rng, 1, 3);
    for (unsigned i = 0; i < n; i++)
        chosen[i] = shape->layouts[random_below(rng, 6)];
    unsigned n_keys = pick(rng, shape->keys);
    model_init(&h->model, random_next(rng), n_keys, chosen, n);
    h->n_disks = pick(rng, shape->disks);
    for (unsigned i = 0; i < h->n_disks; i++) {
        uint64_t more = random_percent(rng, 20) ? 2 * SEGMENT_MIN : 0;
        snprintf(h->dirs[i], sizeof h->dirs[i], "disk%u", i);
        h->disks[i] = (struct store_disk){h->dirs[i], STORE_DISK_MIN + more};
    }
    h->n_lives = pick(rng, shape->lives);
    h->steps = pick(rng, shape->steps) / h->n_lives;
    h->ram = (uint64_t)pick(rng, shape->ram) << 20;
    h->burst = shape->burst;
    h->scrub_rate = random_percent(rng, 40) ? random_between(rng, 1, 64) << 20 : 0;
    for (unsigned i = 0; i < DISK_NODE; i += 8) {
        uint64_t r = random_next(rng);
        memcpy(h->node + i, &r, 8);
    }
    plan_faults(h, random_below(rng, 100));
    say(h, "%s; %u keys, %u disks, %u lives of %u steps, %" PRIu64 " MiB of RAM", shape->name, n_keys,
        h->n_disks, h->n_lives, h->steps, h->ram >> 20);
    const struct sim_faults *f = &h->faults;
    say(h,
        "flips: %u; of a million reads %u fail, %u are misdirected, %u stale; of writes %u fail, %u find no "
        "space; of "
        "syncs %u fail",
        h->flips, f->read_error, f->read_misdirected, f->read_stale, f->write_error, f->write_no_space,
        f->sync_error);
}

/* ---- a life ---- */

/* Bufs may outlive the store that they came from, but not its memory's last
 * user. */
static void end_memory(struct history *h)
{
    for (unsigned i = 0; i < MAX_HELD; i++)
        drop_held(h, i);
    uint64_t used = h->memory ? memory_used(h->memory, MEMORY_STORE) : 0;
    if (used)
        BROKEN(h, "it is closed, and %" PRIu64 " bytes of the budget are still taken", used);
    else
        memory_free(h->memory); /* which would abort */
    h->memory = NULL;
}

static void add_stats(struct history *h)
{
    struct store_stats s;
    store_stats(h->store, &s);
    h->counts->promoted += s.promoted;
    h->counts->evicted_ram += s.evicted_ram;
    h->counts->evicted_disk += s.evicted_disk;
    h->counts->moved += s.moved_bytes >> 20;
    h->counts->scrubbed += s.scrub_bad_pages;
    for (unsigned i = 0; i < h->n_disks; i++)
        for (unsigned j = 0; j < h->disks[i].size / SEGMENT_MIN; j++) {
            struct segment_head head;
            char name[16];
            snprintf(name, sizeof name, "%06u.seg", j);
            if (sim_peek(h->sim, h->dirs[i], name, 0, &head, sizeof head) && head.epoch != h->epochs[i][j]) {
                h->counts->recycled += h->epochs[i][j] != 0;
                h->epochs[i][j] = head.epoch;
            }
        }
}

static void close_life(struct history *h)
{
    for (unsigned i = 0; i < h->model.n_keys; i++)
        if (h->model.keys[i].pinned) {
            struct block *b = find(h, i);
            if (b)
                b->leases = NULL;
        }
    add_stats(h);
    h->closing = true;
    if (random_percent(&h->rng, 50))
        forget_acks(h);
    store_close(h->store);
    h->store = NULL;
    for (struct ack *a = h->acks; a; a = a->next) {
        if (!a->finished)
            BROKEN(h, "key %u: store_close forgot somebody who waits", a->key);
        a->finished = true;
    }
    for (struct reading *r = h->readings; r; r = r->next) {
        if (!r->finished)
            BROKEN(h, "key %u: store_close forgot a read", r->key);
        r->finished = true;
    }
    free_finished(h);
    h->closing = false;
    end_memory(h);
    sim_io(h->sim)->ops->close(sim_io(h->sim));
}

/* Some super block of these disks was hit: that a store refuses to open is
 * right. */
static bool super_touched(const struct history *h)
{
    unsigned how = 0;
    for (unsigned i = 0; i < h->n_disks; i++)
        how |= sim_touched(h->sim, h->dirs[i], "store", 0, SIM_SECTOR);
    return how & SIM_FLIPPED;
}

static uint64_t all_faults(const struct sim_counts *c)
{
    return c->read_faults + c->write_faults + c->sync_faults + c->open_faults;
}

/* False when the history ends here. h->store may be NULL then, or the machine
 * died: there is another life. */
static bool open_life(struct history *h)
{
    for (unsigned tries = 0;; tries++) {
        static const struct sim_faults none;
        static struct log log = {.name = "store", .level = LOG_LEVEL_DEBUG};
        log.out = stderr;
        struct skv_error err = {0};
        struct sim_counts before = *sim_counts(h->sim);
        h->memory = memory_new(h->ram);
        assert(h->memory);
        h->node[0]++; /* counts for new directories only */
        sim_set_faults(h->sim, tries < 2 ? &h->faults : &none);
        struct store_opts opts = {.memory = h->memory,
                                  .io = sim_io(h->sim),
                                  .disks = h->disks,
                                  .n_disks = h->n_disks,
                                  .name = "node",
                                  .node = h->node,
                                  .scrub_rate = h->scrub_rate,
                                  .log = h->verbose ? &log : NULL};
        h->counts->lives++;
        h->at_open = before;
        h->evicted = 0;
        h->serving = h->full = false;
        h->store = store_open(&opts, &err);
        if (h->store) {
            sim_set_faults(h->sim, &h->faults);
            return true;
        }
        bool died = sim_dead(h->sim);
        end_memory(h);
        sim_io(h->sim)->ops->close(sim_io(h->sim));
        say(h, "it does not open: %s", err.text);
        if (died)
            continue;
        if (super_touched(h)) {
            h->counts->gone++;
            return false;
        }
        if (!err.text[0] || all_faults(sim_counts(h->sim)) == all_faults(&before)) {
            LOST(h, "it refuses to open, and nothing is wrong: %s", err.text);
            return false;
        }
    }
}

/* What a new life knows of the last one: what was promised. */
static void forget(struct history *h)
{
    for (unsigned i = 0; i < h->model.n_keys; i++) {
        struct model_key *k = &h->model.keys[i];
        k->held = -1;
        k->instance++;
        k->pinned = k->sound = k->put_here = k->on_disk = false;
        if (!k->obliged) {
            k->touched = 0;
            k->at.segment = k->was.segment = NO_SEGMENT;
        }
    }
}

static void end_life(struct history *h)
{
    uint64_t how = random_below(&h->rng, 100);
    if (!alive(h)) {
        h->counts->power_losses++;
        say(h, "it died");
    } else if (how < 50) {
        sim_power_loss(h->sim);
        h->counts->power_losses++;
        say(h, "power loss");
    } else if (how < 70) {
        sim_kill(h->sim);
        h->counts->kills++;
        say(h, "killed");
    } else {
        if (how < 90)
            wait_flushed(h);
        h->counts->ends++;
        say(h, "end%s", how < 90 ? ", flushed" : "");
    }
    close_life(h);
}

/* Death waits somewhere on the way. */
static void arm(struct history *h, uint64_t most)
{
    uint64_t after = random_below(&h->rng, most);
    if (random_percent(&h->rng, 75))
        sim_power_loss_after(h->sim, after);
    else
        sim_kill_after(h->sim, after);
}

/* False when the history ends here. */
static bool life(struct history *h)
{
    bool armed = random_percent(&h->rng, 35);
    if (armed)
        arm(h, random_percent(&h->rng, 50) ? 20 : 4 + h->steps);
    sim_set_pace(h->sim, (unsigned[]){100, 100, 60, 20, 3}[random_below(&h->rng, 5)]);
    for (unsigned i = 0; i < h->n_disks; i++) /* now and then it is given more */
        if (random_percent(&h->rng, 3) && h->disks[i].size < MAX_SEGMENTS * (uint64_t)SEGMENT_MIN)
            h->disks[i].size += SEGMENT_MIN;
    if (!open_life(h))
        return false;
    forget(h);
    if (random_percent(&h->rng, 70) && wait_serving(h))
        get_all(h);
    for (unsigned i = 0; i < h->steps && alive(h); i++)
        any_op(h);
    if (alive(h) && random_percent(&h->rng, 30) && wait_serving(h))
        get_all(h);
    if (h->flips && random_percent(&h->rng, 50)) /* while nobody looks */
        flip_some(h);
    end_life(h);
    return !h->failed;
}

/* The last one: disks that err no more, and everything is looked at. */
static bool judgement(struct history *h)
{
    h->faults = (struct sim_faults){0};
    h->flips = 0;
    sim_set_pace(h->sim, 100);
    if (!open_life(h))
        return false;
    forget(h);
    if (wait_serving(h))
        get_all(h);
    wait_flushed(h);
    close_life(h);
    return !h->failed;
}

/* Offline, what was never damaged verifies; but what a crash tore may have been moved as it was. */
static void verify(struct history *h, bool clean, bool torn)
{
    for (unsigned i = 0; i < h->n_disks && !h->failed; i++) {
        struct verify_report r = {0};
        struct skv_error err = {0};
        int rc = store_verify(sim_io(h->sim), h->dirs[i], &r, NULL, NULL, &err);
        sim_io(h->sim)->ops->close(sim_io(h->sim));
        if (rc)
            BROKEN(h, "store_verify fails: %s", err.text);
        else if (clean && ((r.bad_pages && !torn) || r.bad_records || r.bad_segments))
            BROKEN(h,
                   "store_verify finds %" PRIu64 " bad pages, %" PRIu64 " records and %" PRIu64
                   " segments where no fault was",
                   r.bad_pages, r.bad_records, r.bad_segments);
    }
}

bool history_run(uint64_t seed, bool verbose, struct history_counts *counts)
{
    struct history h = {.seed = seed, .rng = seed, .verbose = verbose, .counts = counts, .now = NS_PER_S};
    random_next(&h.rng);
    plan(&h);
    h.sim = sim_new(random_next(&h.rng));
    if (h.faults.read_stale)
        sim_keep_stale(h.sim);
    bool faulty = h.flips || h.faults.read_error || h.faults.read_misdirected || h.faults.read_stale ||
                  h.faults.write_error || h.faults.write_no_space || h.faults.sync_error;
    bool on = true;
    uint64_t deaths = counts->power_losses + counts->kills;
    for (unsigned i = 0; on && i < h.n_lives; i++)
        on = life(&h);
    on = on && judgement(&h);
    if (on && random_percent(&h.rng, 10))
        verify(&h, !faulty, counts->power_losses + counts->kills > deaths);
    const struct sim_counts *c = sim_counts(h.sim);
    counts->flips += c->flips;
    counts->read_faults += c->read_faults;
    counts->write_faults += c->write_faults;
    counts->sync_faults += c->sync_faults;
    sim_free(h.sim);
    model_free(&h.model);
    return !h.failed;
}
