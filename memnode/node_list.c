/* node_list.c: LIST: which blocks are here. For those who move or count blocks: it looks at a piece of the
 * table, so that hits don't wait for it, and says where to go on. */
#include "memnode/node_impl.h"

#include <string.h>

enum { LIST_BLOCKS = 512 };

/* What one answer names. */
struct page {
    Scoutkv__Listed__Entry entry[LIST_BLOCKS], *entry_at[LIST_BLOCKS];
    Scoutkv__Key key[LIST_BLOCKS];
    size_t n;
    struct store_others others;
};
_Static_assert(LIST_BLOCKS * 80 < PROTO_MAX_HEADER, "an entry takes less than 80 bytes");

static void add_block(struct page *p, const struct block *b)
{
    Scoutkv__Key *key = &p->key[p->n];
    Scoutkv__Listed__Entry *e = p->entry_at[p->n] = &p->entry[p->n];
    p->n++;
    scoutkv__key__init(key);
    key->chain = (ProtobufCBinaryData){CHAIN_BYTES, (uint8_t *)(uintptr_t)b->key.chain}; /* only read */
    key->layer = b->key.layer;
    scoutkv__listed__entry__init(e);
    e->key = key;
    e->version = block_version(&b->layout, b->checksums);
    e->bytes = (uint32_t)layout_block_bytes(&b->layout);
    e->damaged = !block_whole(b);
}

static void answer_list(struct call *c, struct page *p, const struct store_cursor *at, bool more)
{
    Scoutkv__Key after = SCOUTKV__KEY__INIT;
    after.chain = (ProtobufCBinaryData){CHAIN_BYTES, (uint8_t *)(uintptr_t)at->after.chain};
    after.layer = at->after.layer;
    Scoutkv__Listed listed = SCOUTKV__LISTED__INIT;
    listed.n_entries = p->n;
    listed.entries = p->entry_at;
    listed.more = more;
    listed.from = more ? at->from : 0;
    listed.after = more && at->behind ? &after : NULL;
    listed.n_other_namespaces = p->others.n;
    listed.other_namespaces = p->others.ns;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_LISTED;
    h.listed = &listed;
    call_answer(c, &h, NULL);
}

void op_list(struct call *c)
{
    const Scoutkv__List *list = c->message->header->list;
    struct store_cursor at = {.ns = c->lane->ns, .from = list->from, .behind = list->after != NULL};
    struct block *blocks[LIST_BLOCKS];
    struct page p;
    bool more;
    c->node->counters.lists++;
    if (node_starting(c->node)) /* what was not read yet would be missing */
        return call_refuse_starting(c, 0);
    if (list->after && !key_from_wire(list->after, c->lane->ns, &at.after))
        return call_refuse_malformed(c, 0, "a key has a chain of 32 bytes");
    size_t max = list->max && list->max < LIST_BLOCKS ? list->max : LIST_BLOCKS;
    size_t n = store_list(c->node->store, &at, blocks, max, &more, &p.others);
    p.n = 0;
    for (size_t i = 0; i < n; i++)
        add_block(&p, blocks[i]);
    answer_list(c, &p, &at, more);
}
