#include "decoder/serve/scheduler.h"

#include <assert.h>

void scheduler_init(struct scheduler *s, unsigned n_slots)
{
    assert(n_slots >= 1 && n_slots <= SCHEDULER_SLOTS);
    *s = (struct scheduler){.n_slots = n_slots};
}

int scheduler_add(struct scheduler *s)
{
    for (unsigned i = 0; i < s->n_slots; i++)
        if (s->slot[i].phase == SLOT_FREE) {
            s->slot[i] = (struct scheduler_slot){SLOT_PREFILL, false};
            s->n_used++;
            return (int)i;
        }
    return -1;
}

void scheduler_remove(struct scheduler *s, unsigned slot)
{
    assert(slot < s->n_slots && s->slot[slot].phase != SLOT_FREE);
    s->slot[slot] = (struct scheduler_slot){SLOT_FREE, false};
    s->n_used--;
}

void scheduler_decode(struct scheduler *s, unsigned slot)
{
    assert(slot < s->n_slots && s->slot[slot].phase == SLOT_PREFILL);
    s->slot[slot].phase = SLOT_DECODE;
}

void scheduler_hold(struct scheduler *s, unsigned slot, bool held)
{
    assert(slot < s->n_slots && s->slot[slot].phase != SLOT_FREE);
    s->slot[slot].held = held;
}

static bool ready(const struct scheduler *s, unsigned slot, enum scheduler_phase phase)
{
    return s->slot[slot].phase == phase && !s->slot[slot].held;
}

static bool any(const struct scheduler *s, enum scheduler_phase phase)
{
    for (unsigned i = 0; i < s->n_slots; i++)
        if (ready(s, i, phase))
            return true;
    return false;
}

/* The next slot behind the last one that has a prompt. */
static unsigned next_prefill(const struct scheduler *s)
{
    unsigned slot = s->last;
    do
        slot = (slot + 1) % s->n_slots;
    while (!ready(s, slot, SLOT_PREFILL));
    return slot;
}

void scheduler_next(const struct scheduler *s, struct scheduler_step *step)
{
    bool prefill = any(s, SLOT_PREFILL), decode = any(s, SLOT_DECODE);
    step->n = 0;
    step->kind = !prefill && !decode                                     ? STEP_NONE
                 : prefill && (!decode || s->prefill_ns <= s->decode_ns) ? STEP_PREFILL
                                                                         : STEP_DECODE;
    if (step->kind == STEP_PREFILL)
        step->slot[step->n++] = next_prefill(s);
    if (step->kind == STEP_DECODE)
        for (unsigned i = 0; i < s->n_slots; i++)
            if (ready(s, i, SLOT_DECODE))
                step->slot[step->n++] = i;
}

void scheduler_ran(struct scheduler *s, const struct scheduler_step *step, uint64_t ns)
{
    if (step->kind == STEP_PREFILL)
        s->last = step->slot[0];
    if (!any(s, SLOT_PREFILL) || !any(s, SLOT_DECODE)) {
        s->prefill_ns = s->decode_ns = 0; /* nobody waits for anybody */
        return;
    }
    *(step->kind == STEP_PREFILL ? &s->prefill_ns : &s->decode_ns) += ns;
}
