/* node_asserts.h: what the node's tests expect of answers, on top of node_harness.h. */
#ifndef TESTS_NODE_ASSERTS_H
#define TESTS_NODE_ASSERTS_H

#include "tests/unit/node_harness.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define REASON(x) SCOUTKV__REFUSED__REASON__##x
enum { MIB = 1 << 20 };

static inline void refused(const Scoutkv__Header *a, Scoutkv__Refused__Reason reason, const char *part)
{
    assert_non_null(a);
    if (a->body_case != SCOUTKV__HEADER__BODY_REFUSED)
        fail_msg("not refused, but answered with %d", (int)a->body_case);
    if (a->refused->reason != reason || !strstr(a->refused->text, part))
        fail_msg("refused with reason %d and '%s'; wanted %d and '%s'", (int)a->refused->reason,
                 a->refused->text, (int)reason, part);
}

static inline void put_is(const Scoutkv__Header *a, Scoutkv__PutAck__Result result)
{
    assert_non_null(a);
    if (a->body_case == SCOUTKV__HEADER__BODY_REFUSED)
        fail_msg("refused: %s", a->refused->text);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_PUT_ACK);
    assert_int_equal(a->put_ack->result, result);
}
#define STORED SCOUTKV__PUT_ACK__RESULT__STORED
#define SAME SCOUTKV__PUT_ACK__RESULT__SAME
#define EXISTS SCOUTKV__PUT_ACK__RESULT__EXISTS

static inline void done_is(const Scoutkv__Header *a, uint32_t count)
{
    assert_non_null(a);
    if (a->body_case == SCOUTKV__HEADER__BODY_REFUSED)
        fail_msg("refused: %s", a->refused->text);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_DONE);
    assert_int_equal(a->done->count, count);
}

/* op: Have, Hint, Drop, Pin, Unpin. */
static inline const Scoutkv__Header *ask_keys(struct harness *h, uint8_t peer, char op, const char *owner,
                                              uint32_t ttl_ms, struct h_block **blocks, size_t n)
{
    Scoutkv__Key *keys[8];
    float keep[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    Scoutkv__Header header = SCOUTKV__HEADER__INIT;
    Scoutkv__Have have = SCOUTKV__HAVE__INIT;
    Scoutkv__Hint hint = SCOUTKV__HINT__INIT;
    Scoutkv__Drop drop = SCOUTKV__DROP__INIT;
    Scoutkv__Pin pin = SCOUTKV__PIN__INIT;
    Scoutkv__Unpin unpin = SCOUTKV__UNPIN__INIT;
    for (size_t i = 0; i < n; i++)
        keys[i] = &blocks[i]->wire_key;
    have.n_keys = hint.n_keys = drop.n_keys = pin.n_keys = unpin.n_keys = n;
    have.keys = hint.keys = drop.keys = pin.keys = unpin.keys = keys;
    hint.n_keep = n;
    hint.keep = keep;
    pin.owner = unpin.owner = (char *)(uintptr_t)(owner ? owner : "");
    pin.ttl_ms = ttl_ms;
    switch (op) {
    case 'H':
        header.body_case = SCOUTKV__HEADER__BODY_HAVE;
        header.have = &have;
        break;
    case 'K':
        header.body_case = SCOUTKV__HEADER__BODY_HINT;
        header.hint = &hint;
        break;
    case 'D':
        header.body_case = SCOUTKV__HEADER__BODY_DROP;
        header.drop = &drop;
        break;
    case 'P':
        header.body_case = SCOUTKV__HEADER__BODY_PIN;
        header.pin = &pin;
        break;
    case 'U':
        header.body_case = SCOUTKV__HEADER__BODY_UNPIN;
        header.unpin = &unpin;
        break;
    }
    return h_ask(h, peer, &header, NULL);
}

static inline void put_many(struct harness *h, struct h_block *blocks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        h_block(&blocks[i], 0, (uint32_t)i);
        put_is(h_put(h, H_BULK, &blocks[i]), STORED);
    }
}

static inline void free_many(struct h_block *blocks, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h_block_free(&blocks[i]);
}

#endif
