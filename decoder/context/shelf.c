/* shelf.c: see shelf.h. */
#include "decoder/context/shelf.h"
#include "decoder/context/internal.h"

#include <assert.h>
#include <sys/mman.h>

struct shelf *shelf_take(const struct shape *s, struct shelf *beside, unsigned place)
{
    assert(place < SHELF_SPANS);
    struct shelf *f = beside;
    if (!f || f->taken >> place & 1) {
        size_t bytes = sizeof *f + s->shelf_bytes;
        f = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (f == MAP_FAILED)
            return NULL;
        f->bytes = bytes;
    }
    f->refs++;
    f->taken |= 1u << place;
    return f;
}

void shelf_give(struct shelf *f, unsigned place)
{
    if (!f)
        return;
    f->taken &= ~(1u << place);
    if (--f->refs == 0)
        munmap(f, f->bytes);
}

uint8_t *shelf_groups(const struct shape *s, struct shelf *f, unsigned place, unsigned layer, unsigned head)
{
    return f->data + s->shelf_at[layer] + ((size_t)head * SHELF_SPANS + place) * span_blocks_bytes(s, layer);
}
