/* sim_file.c: see sim_file.h. */
#include "tests/store/sim_file.h"
#include "tests/store/random.h"
#include "tests/store/sim_disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *sim_must(void *memory)
{
    if (!memory) {
        fputs("sim_disk: out of memory\n", stderr);
        abort();
    }
    return memory;
}

/* ---- chunks ---- */

static size_t chunks_of(uint64_t size)
{
    return (size_t)((size + SIM_CHUNK - 1) / SIM_CHUNK);
}

size_t sim_file_chunks(const struct sim_file *f)
{
    return chunks_of(f->size);
}

static void chunks_read(uint8_t *const *chunks, uint64_t offset, uint8_t *out, size_t len)
{
    while (len) {
        const uint8_t *chunk = chunks[offset / SIM_CHUNK];
        size_t at = offset % SIM_CHUNK, n = SIM_CHUNK - at < len ? SIM_CHUNK - at : len;
        if (chunk)
            memcpy(out, chunk + at, n);
        else
            memset(out, 0, n);
        out += n, offset += n, len -= n;
    }
}

static void chunks_write(uint8_t **chunks, uint64_t offset, const uint8_t *bytes, size_t len)
{
    while (len) {
        uint8_t **chunk = &chunks[offset / SIM_CHUNK];
        size_t at = offset % SIM_CHUNK, n = SIM_CHUNK - at < len ? SIM_CHUNK - at : len;
        if (!*chunk)
            *chunk = sim_must(n == SIM_CHUNK ? malloc(SIM_CHUNK) : calloc(1, SIM_CHUNK));
        memcpy(*chunk + at, bytes, n);
        bytes += n, offset += n, len -= n;
    }
}

/* ---- files ---- */

struct sim_file *sim_file_new(int dir, const char *name, bool keep_before)
{
    struct sim_file *f = sim_must(calloc(1, sizeof *f));
    f->dir = dir;
    strcpy(f->name, name);
    f->keep_before = keep_before;
    f->end = &f->first;
    return f;
}

void sim_file_free(struct sim_file *f)
{
    for (struct pending *p = f->first, *next; p; p = next) {
        next = p->next;
        pending_free(p);
    }
    sim_file_resize(f, 0);
    free(f->medium);
    free(f->before);
    free(f->touched);
    free(f);
}

void sim_file_resize(struct sim_file *f, uint64_t size)
{
    size_t old = chunks_of(f->size), new = chunks_of(size);
    for (size_t i = new; i < old; i++) {
        free(f->medium[i]);
        free(f->before[i]);
    }
    f->medium = sim_must(realloc(f->medium, (new + 1) * sizeof *f->medium));
    f->before = sim_must(realloc(f->before, (new + 1) * sizeof *f->before));
    for (size_t i = old; i < new; i++)
        f->medium[i] = f->before[i] = NULL;
    f->touched = sim_must(realloc(f->touched, size / SIM_SECTOR + 1));
    if (size > f->size)
        memset(f->touched + f->size / SIM_SECTOR, 0, (size - f->size) / SIM_SECTOR + 1);
    f->size = size;
}

void sim_file_touch(struct sim_file *f, uint64_t offset, size_t len, uint8_t how)
{
    for (uint64_t i = offset / SIM_SECTOR; i < (offset + len) / SIM_SECTOR; i++)
        f->touched[i] |= how;
}

/* ---- writes that wait ---- */

static uint8_t *sector_map(size_t len)
{
    return sim_must(calloc(len / SIM_SECTOR, 1));
}

uint8_t *sectors_that_survive(uint64_t *rng, size_t len)
{
    uint8_t *keep = sector_map(len);
    size_t n = len / SIM_SECTOR;
    unsigned percent = (unsigned[]){0, 100, 100, 10, 50, 90}[random_below(rng, 6)];
    bool beginning = random_percent(rng, 20);
    size_t until = beginning ? random_below(rng, n + 1) : 0;
    for (size_t i = 0; i < n; i++)
        keep[i] = beginning ? i < until : percent == 100 || (percent && random_percent(rng, percent));
    return keep;
}

struct pending *pending_new(uint64_t order, uint64_t offset, size_t len)
{
    struct pending *p = sim_must(malloc(sizeof *p + len));
    *p = (struct pending){.order = order, .offset = offset, .len = len};
    return p;
}

void pending_free(struct pending *p)
{
    free(p->gone);
    free(p);
}

void pending_tear(struct pending *p, uint8_t *keep)
{
    for (size_t i = 0; i < p->len / SIM_SECTOR; i++)
        keep[i] = !keep[i];
    p->gone = keep;
}

void pending_overlay(const struct pending *p, uint64_t offset, uint8_t *out, size_t len)
{
    uint64_t from = p->offset > offset ? p->offset : offset;
    uint64_t to = p->offset + p->len < offset + len ? p->offset + p->len : offset + len;
    for (uint64_t at = from, end; at < to; at = end) {
        end = p->gone ? (at / SIM_SECTOR + 1) * SIM_SECTOR : to;
        if (end > to)
            end = to;
        if (!p->gone || !p->gone[(at - p->offset) / SIM_SECTOR])
            memcpy(out + (at - offset), p->bytes + (at - p->offset), (size_t)(end - at));
    }
}

void sim_file_add(struct sim_file *f, struct pending *p)
{
    *f->end = p;
    f->end = &p->next;
}

void sim_file_read(const struct sim_file *f, uint64_t offset, uint8_t *out, size_t len)
{
    chunks_read(f->medium, offset, out, len);
    for (const struct pending *p = f->first; p; p = p->next)
        pending_overlay(p, offset, out, len);
}

void sim_file_read_medium(const struct sim_file *f, uint64_t offset, uint8_t *out, size_t len)
{
    chunks_read(f->medium, offset, out, len);
}

void sim_file_read_before(const struct sim_file *f, uint64_t offset, uint8_t *out, size_t len)
{
    chunks_read(f->before, offset, out, len);
}

/* ---- to the medium ---- */

/* A run of sectors reaches it. */
static void settle(struct sim_file *f, uint64_t offset, const uint8_t *bytes, size_t len)
{
    uint8_t old[SIM_SECTOR];
    for (size_t i = 0; f->keep_before && i < len; i += SIM_SECTOR) {
        chunks_read(f->medium, offset + i, old, SIM_SECTOR);
        chunks_write(f->before, offset + i, old, SIM_SECTOR);
    }
    chunks_write(f->medium, offset, bytes, len);
    memset(f->touched + offset / SIM_SECTOR, 0, len / SIM_SECTOR);
}

/* Those sectors of p that `keep` says (NULL: all) and that are there, in runs. */
static void settle_part(struct sim_file *f, const struct pending *p, const uint8_t *keep)
{
    size_t n = p->len / SIM_SECTOR;
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && (!p->gone || !p->gone[end]) && (!keep || keep[end]); end++)
            ;
        if (end > i)
            settle(f, p->offset + i * SIM_SECTOR, p->bytes + i * SIM_SECTOR, (end - i) * SIM_SECTOR);
        else
            end++;
    }
}

/* What of earlier writes (doomed ones: others are on the medium by now) p overwrote is not theirs any more.
 */
static void overwritten(struct sim_file *f, const struct pending *p)
{
    for (struct pending *q = f->first; q && q->order < p->order; q = q->next) {
        uint64_t from = p->offset > q->offset ? p->offset : q->offset;
        uint64_t to = p->offset + p->len < q->offset + q->len ? p->offset + p->len : q->offset + q->len;
        for (uint64_t at = from; at < to; at += SIM_SECTOR) {
            if (p->gone && p->gone[(at - p->offset) / SIM_SECTOR])
                continue;
            if (!q->gone)
                q->gone = sector_map(q->len);
            q->gone[(at - q->offset) / SIM_SECTOR] = 1;
        }
    }
}

static void settle_torn(struct sim_file *f, const struct pending *p, uint64_t *rng)
{
    uint8_t *keep = sectors_that_survive(rng, p->len);
    settle_part(f, p, keep);
    free(keep);
}

/* Takes the write at *at out of the line. */
static void pending_drop(struct pending **at)
{
    struct pending *p = *at;
    *at = p->next;
    pending_free(p);
}

void sim_file_synced(struct sim_file *f, uint64_t upto)
{
    struct pending **at = &f->first;
    while (*at)
        if ((*at)->doomed || (*at)->order > upto) {
            at = &(*at)->next;
        } else {
            settle_part(f, *at, NULL);
            overwritten(f, *at);
            pending_drop(at);
        }
    f->end = at;
}

void sim_file_sync_failed(struct sim_file *f, uint64_t upto, uint64_t *rng)
{
    bool at_once = random_percent(rng, 50);
    struct pending **at = &f->first;
    while (*at)
        if ((*at)->order <= upto && at_once) {
            settle_torn(f, *at, rng);
            pending_drop(at);
        } else {
            (*at)->doomed |= (*at)->order <= upto;
            at = &(*at)->next;
        }
    f->end = at;
}

void sim_file_power_loss(struct sim_file *f, uint64_t *rng)
{
    while (f->first) {
        settle_torn(f, f->first, rng);
        pending_drop(&f->first);
    }
    f->end = &f->first;
}
