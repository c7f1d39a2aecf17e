/* ops.h: one thing that a client asks for. */
#ifndef TESTS_SIM_OPS_H
#define TESTS_SIM_OPS_H

#include "tests/sim/cluster.h"

enum op_kind { OP_PUT, OP_FETCH, OP_HAVE, OP_HINT, OP_DROP, OP_PIN, OP_UNPIN };
enum { OP_KEYS = 8 }; /* of one op; a fetch of all has one a key */

struct op {
    struct op *next;
    struct sim_client *client;
    enum op_kind kind;
    uint64_t number, began;      /* event */
    uint64_t since, stalled_for; /* by the client's clock */
    bool done, must;             /* must: it may not fail, as there are no faults */
    bool safe;                   /* likewise, as nothing happens to a node that holds it */
    struct sim_key *key[OP_KEYS];
    unsigned n_keys;
    /* PUT */
    int version;
    bool durable;
    /* FETCH */
    struct tier_fetch *fetch;
    struct tier_want *wants;
    uint8_t *answered, *of;                  /* of each want: once; which key */
    int wanted[OP_KEYS];                     /* version of each key */
    struct promise held[OP_KEYS][MAX_NODES]; /* that hold that version, as promised when it began */
    size_t n_wants, n_answered;
    uint64_t give_up; /* it is freed then, done or not; true time */
    int first_failure;
    /* calls */
    unsigned node, slot, owner; /* slot: its number with the client */
};

#endif
