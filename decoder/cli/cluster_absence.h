/* cluster_absence.h: which nodes of a cluster are away, since when, and when that changes placement. Without
 * I/O: it is told who was seen, and when. */
#ifndef CLI_CLUSTER_ABSENCE_H
#define CLI_CLUSTER_ABSENCE_H

#include "common/cluster_view.h"

struct absences { /* all zero: nobody was looked for yet */
    size_t n;
    struct absence {
        char id[64];
        uint64_t since_ns; /* when it was first missed; 0: it is here */
        bool draining, met;
    } node[CLUSTER_MAX_NODES];
};

/* A look at the cluster: absences_begin, absences_note for each member, absences_end, which forgets those
 * that are no members any more. The note tells whether the node has just gone (-1), come back (1), or
 * neither. */
void absences_begin(struct absences *);
int absences_note(struct absences *, const char *id, bool here, bool draining, uint64_t now_ns);
void absences_end(struct absences *);

enum absence_verdict {
    ABSENCE_NONE,
    ABSENCE_WAIT,     /* some are away, and may be back in time */
    ABSENCE_TOO_MANY, /* as many as there are replicas: what only they hold can't be told, so none is taken
                         out */
    ABSENCE_TOO_FEW,  /* one is away for too long, but without it there are fewer nodes than replicas */
    ABSENCE_REMOVE,   /* *id is to be taken out: its copies are made again elsewhere */
};
enum absence_verdict absences_judge(const struct absences *, uint32_t replicas, uint64_t rebuild_after_ns,
                                    uint64_t now_ns, const char **id);

#endif
