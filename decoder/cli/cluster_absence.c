#include "decoder/cli/cluster_absence.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

void absences_begin(struct absences *a)
{
    for (size_t i = 0; i < a->n; i++)
        a->node[i].met = false;
}

int absences_note(struct absences *a, const char *id, uint64_t incarnation, bool draining, uint64_t now_ns)
{
    assert(now_ns > 0);
    size_t i = 0;
    while (i < a->n && strcmp(a->node[i].id, id) != 0)
        i++;
    if (i == CLUSTER_MAX_NODES)
        return 0;
    struct absence *n = &a->node[i];
    if (i == a->n) {
        a->n++;
        *n = (struct absence){0};
        snprintf(n->id, sizeof n->id, "%s", id);
    }
    bool here = incarnation != 0, was_here = n->since_ns == 0;
    bool other = n->incarnation ? n->incarnation != incarnation : !was_here;
    n->met = true;
    n->draining = draining;
    if (!here) {
        n->since_ns = was_here ? now_ns : n->since_ns;
        return was_here ? -1 : 0;
    }
    n->since_ns = 0;
    n->incarnation = incarnation;
    n->owed |= other;
    return other ? 2 : was_here ? 0 : 1;
}

void absences_end(struct absences *a)
{
    for (size_t i = 0; i < a->n;)
        if (a->node[i].met)
            i++;
        else {
            a->gone++;
            a->node[i] = a->node[--a->n];
        }
}

void absences_whole(struct absences *a)
{
    a->gone = 0;
    for (size_t i = 0; i < a->n; i++)
        a->node[i].owed = false;
}

size_t absences_owing(const struct absences *a)
{
    size_t owing = a->gone;
    for (size_t i = 0; i < a->n; i++)
        owing += a->node[i].owed && !a->node[i].since_ns;
    return owing;
}

enum absence_verdict absences_judge(const struct absences *a, uint32_t replicas, uint64_t rebuild_after_ns,
                                    uint64_t now_ns, const char **id)
{
    size_t away = 0, stay = 0;
    const struct absence *longest = NULL;
    for (size_t i = 0; i < a->n; i++) {
        const struct absence *n = &a->node[i];
        stay += !n->since_ns && !n->draining;
        away += n->since_ns != 0;
        if (n->since_ns && (!longest || n->since_ns < longest->since_ns))
            longest = n;
    }
    *id = longest ? longest->id : NULL;
    if (!longest)
        return ABSENCE_NONE;
    if (away + absences_owing(a) >= replicas)
        return ABSENCE_TOO_MANY;
    if (now_ns - longest->since_ns < rebuild_after_ns)
        return ABSENCE_WAIT;
    return stay < replicas ? ABSENCE_TOO_FEW : ABSENCE_REMOVE;
}
