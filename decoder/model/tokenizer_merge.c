/* tokenizer_merge.c: the part that both tokenizers share; see tokenizer_impl.h.
 *
 * DESIGN. A linked list of symbols and a heap of possible merges. Merges are never removed from the heap when
 * a symbol changes: they are recognised as stale when they come up (one of the two is gone, or both together
 * have grown). n symbols propose at most 3n merges, so the whole is O(n log n) even for one word of
 * megabytes. */
#include "decoder/model/tokenizer_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

void tokenizer_merge_begin(struct encoder *e)
{
    e->n_symbols = 0;
    e->n_heap = 0;
}

void tokenizer_merge_free(struct encoder *e)
{
    free(e->symbols);
    free(e->heap);
}

/* Makes room for one more element of an array. */
static int reserve(struct encoder *e, void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return 0;
    size_t grown = *cap ? *cap * 2 : 256;
    void **p = array, *q = realloc(*p, grown * size);
    if (!q)
        return skv_fail(e->err, -ENOMEM, "out of memory while tokenizing");
    *p = q;
    *cap = grown;
    return 0;
}

int tokenizer_merge_add(struct encoder *e, size_t at, size_t len, uint32_t id)
{
    int r = reserve(e, &e->symbols, e->n_symbols, &e->cap_symbols, sizeof *e->symbols);
    if (r)
        return r;
    uint32_t i = (uint32_t)e->n_symbols++;
    e->symbols[i] = (struct symbol){
        .at = (uint32_t)at, .len = (uint32_t)len, .id = id, .prev = i ? i - 1 : NO_SYMBOL, .next = NO_SYMBOL};
    if (i)
        e->symbols[i - 1].next = i;
    return 0;
}

static bool before(const struct merge *a, const struct merge *b)
{
    return a->cost < b->cost || (a->cost == b->cost && a->left < b->left);
}

static int heap_push(struct encoder *e, struct merge m)
{
    int r = reserve(e, &e->heap, e->n_heap, &e->cap_heap, sizeof *e->heap);
    if (r)
        return r;
    size_t i = e->n_heap++;
    for (size_t up; i > 0 && before(&m, &e->heap[up = (i - 1) / 2]); i = up)
        e->heap[i] = e->heap[up];
    e->heap[i] = m;
    return 0;
}

static struct merge heap_pop(struct encoder *e)
{
    assert(e->n_heap > 0);
    struct merge top = e->heap[0], last = e->heap[--e->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < e->n_heap) {
        if (child + 1 < e->n_heap && before(&e->heap[child + 1], &e->heap[child]))
            child++;
        if (!before(&e->heap[child], &last))
            break;
        e->heap[i] = e->heap[child];
        i = child;
    }
    e->heap[i] = last;
    return top;
}

static int propose(struct encoder *e, const char *text, uint32_t left, uint32_t right)
{
    if (left == NO_SYMBOL || right == NO_SYMBOL)
        return 0;
    const struct symbol *l = &e->symbols[left], *r = &e->symbols[right];
    assert(l->at + l->len == r->at);
    struct merge m = {.left = left, .right = right, .len = l->len + r->len};
    return e->tok->rate(e->tok, text, l, r, &m) ? heap_push(e, m) : 0;
}

int tokenizer_merge_run(struct encoder *e, const char *text)
{
    int r = 0;
    for (uint32_t i = 1; r == 0 && i < e->n_symbols; i++)
        r = propose(e, text, i - 1, i);
    while (r == 0 && e->n_heap) {
        struct merge m = heap_pop(e);
        struct symbol *left = &e->symbols[m.left], *right = &e->symbols[m.right];
        if (left->len == 0 || right->len == 0 || left->len + right->len != m.len)
            continue;
        left->len = m.len;
        left->id = m.id;
        left->next = right->next;
        right->len = 0;
        if (left->next != NO_SYMBOL)
            e->symbols[left->next].prev = m.left;
        r = propose(e, text, left->prev, m.left);
        if (r == 0)
            r = propose(e, text, m.left, left->next);
    }
    return r;
}
