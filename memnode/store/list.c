/* list.c: all blocks, a page at a time, in an order that neither comings and goings nor a growing table
 * disturb.
 *
 * A table of 2^k buckets holds in bucket i what has i in the lowest k bits of its hash. Read with its bits
 * reversed, a hash is a position; the buckets then follow each other as intervals of positions, and growing
 * only halves each interval. So a walk remembers a position (and, within it, a key), no bucket. */
#include "memnode/store/store_impl.h"

enum { BUCKETS_AT_ONCE = 2048 };

static uint64_t bucket_of(const struct store *s, uint64_t position)
{
    uint64_t bucket = 0;
    for (size_t bit = 1; bit < s->n_buckets; bit <<= 1, position <<= 1)
        bucket |= position >> 63 ? bit : 0;
    return bucket;
}

/* The last position in the bucket of this one. */
static uint64_t bucket_end(const struct store *s, uint64_t position)
{
    return position | (UINT64_MAX >> __builtin_ctzll(s->n_buckets));
}

static bool is_behind(const struct store_cursor *c, const struct block *b)
{
    return c->behind ? key_compare(&b->key, &c->after) > 0 : key_position(&b->key) >= c->from;
}

static void note_other(struct store_others *o, uint64_t ns)
{
    for (size_t i = 0; i < o->n; i++)
        if (o->ns[i] == ns)
            return;
    if (o->n < STORE_OTHERS)
        o->ns[o->n++] = ns;
}

/* Puts the bucket's first `room` blocks behind the cursor into out, in order. *left: there are others. */
static size_t list_bucket(const struct store *s, const struct store_cursor *c, struct block **out,
                          size_t room, bool *left, struct store_others *others)
{
    size_t n = 0;
    *left = false;
    for (struct block *b = s->buckets[bucket_of(s, c->from)]; b; b = b->next) {
        size_t at = n;
        if (b->key.ns != c->ns) {
            note_other(others, b->key.ns);
            continue;
        }
        if (!is_behind(c, b))
            continue;
        while (at && key_compare(&b->key, &out[at - 1]->key) < 0)
            at--;
        *left = *left || n == room;
        if (at == room)
            continue;
        n += n < room;
        memmove(&out[at + 1], &out[at], (n - 1 - at) * sizeof *out);
        out[at] = b;
    }
    return n;
}

size_t store_list(const struct store *s, struct store_cursor *c, struct block **out, size_t max, bool *more,
                  struct store_others *others)
{
    size_t n = 0;
    others->n = 0;
    if (c->behind)
        c->from = key_position(&c->after);
    for (unsigned i = 0; i < BUCKETS_AT_ONCE && n < max; i++) {
        bool left;
        uint64_t end = bucket_end(s, c->from);
        n += list_bucket(s, c, out + n, max - n, &left, others);
        if (left) {
            c->behind = true;
            c->after = out[n - 1]->key;
            *more = true;
            return n;
        }
        c->behind = false;
        c->from = end + 1;
        if (!c->from) {
            *more = false;
            return n;
        }
    }
    *more = true;
    return n;
}
