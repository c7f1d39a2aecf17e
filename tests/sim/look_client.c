/* look_client.c: see look.h. */
#include "decoder/tier/client_internal.h"
#include "tests/sim/look.h"

const char *look_client_busy(struct client *c)
{
    for (unsigned i = 0; i < c->n_lanes; i++) {
        const struct lane *l = &c->lanes[i];
        if (!c->nodes[l->node].member)
            continue;
        if (!c->nodes[l->node].up || !l->greeted)
            return "a node is not up";
        if (l->asked || l->gets)
            return "bytes are asked for";
        if (l->credit != l->credit_limit)
            return "credit for PUTs is out";
        if (l->calls)
            return "a call is queued";
    }
    if (c->put_backlog || c->puts_open)
        return "a PUT is open";
    if (client_repairs_open(c))
        return "a block lacks a copy";
    if (c->fetches || c->n_doomed)
        return "a fetch is open";
    for (uint32_t i = 0; i < c->n_slots; i++) {
        enum request_kind kind = c->slots[i]->kind;
        if (kind == REQUEST_GET || kind == REQUEST_PUT || kind == REQUEST_CALL)
            return "a request is on its way";
    }
    return NULL;
}
