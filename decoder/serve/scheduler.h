/* scheduler.h: whose turn it is. A state machine without I/O: it is told what became of its last step and how
 * long that took, and says what to do next.
 *
 * Sequences are in slots. A new one is prefilling: its prompt goes in by chunks, one a step. Then it is
 * decoding: a step of decode takes every decoding sequence one token further, as one batch. Chunks are dear
 * and steps are cheap, so when there are both, each kind gets as much *time* as the other: a long prompt
 * slows streams down by half (and by a chunk at a time), never more, and streams slow a prompt down by half.
 * Prompts take turns, a chunk each, so a short one is not behind a long one. */
#ifndef SERVE_SCHEDULER_H
#define SERVE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

enum { SCHEDULER_SLOTS = 256 };

enum scheduler_phase { SLOT_FREE, SLOT_PREFILL, SLOT_DECODE };
struct scheduler_slot {
    enum scheduler_phase phase;
    bool held;
};
struct scheduler { /* scheduler_init makes it */
    unsigned n_slots, n_used;
    struct scheduler_slot slot[SCHEDULER_SLOTS];
    unsigned last;                  /* the slot of the last chunk */
    uint64_t prefill_ns, decode_ns; /* spent since both kinds have been there */
};

enum scheduler_kind { STEP_NONE, STEP_PREFILL, STEP_DECODE };
struct scheduler_step {
    enum scheduler_kind kind;
    unsigned n; /* prefill: 1 */
    unsigned slot[SCHEDULER_SLOTS];
};

void scheduler_init(struct scheduler *, unsigned n_slots); /* 1 to SCHEDULER_SLOTS */
/* A slot for a new sequence, or -1: all are taken. */
int scheduler_add(struct scheduler *);
void scheduler_remove(struct scheduler *, unsigned slot);
void scheduler_decode(struct scheduler *, unsigned slot); /* its prompt is in */
/* Held: its client reads more slowly than it is written for; it gets no turn. */
void scheduler_hold(struct scheduler *, unsigned slot, bool held);

/* STEP_NONE: nobody has anything to do. */
void scheduler_next(const struct scheduler *, struct scheduler_step *);
void scheduler_ran(struct scheduler *, const struct scheduler_step *, uint64_t ns);

#endif
