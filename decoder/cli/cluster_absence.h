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
        bool owed;            /* it is back, perhaps without its blocks */
        uint64_t incarnation; /* as it was here last; 0: it never was */
    } node[CLUSTER_MAX_NODES];
    size_t gone; /* former members whose copies are perhaps not made again yet */
};

/* A look at the cluster: absences_begin, absences_note for each member, absences_end, which forgets those
 * that are no members any more, but not that they may have had blocks. incarnation: 0 if the node is away;
 * another one than before: it lost its blocks. The note tells whether the node has just gone (-1), come back
 * (1), come back and perhaps lost its blocks, missed before or not (2), or none of these (0). */
void absences_begin(struct absences *);
int absences_note(struct absences *, const char *id, uint64_t incarnation, bool draining, uint64_t now_ns);
void absences_end(struct absences *);
/* All blocks were brought to their places, with every member there. */
void absences_whole(struct absences *);
/* Members and former ones that are not away, and whose copies are perhaps not made again yet. To begin with
 * there are none: whoever looks first has to believe that all copies are there. */
size_t absences_owing(const struct absences *);

enum absence_verdict {
    ABSENCE_NONE,
    ABSENCE_WAIT,     /* some are away, and may be back in time */
    ABSENCE_TOO_MANY, /* as many as there are replicas are away or owing: what only one of those away holds
                         can't be told, so none is taken out */
    ABSENCE_TOO_FEW,  /* one is away for too long, but without it there are fewer nodes than replicas */
    ABSENCE_REMOVE,   /* *id is to be taken out: its copies are made again elsewhere */
};
enum absence_verdict absences_judge(const struct absences *, uint32_t replicas, uint64_t rebuild_after_ns,
                                    uint64_t now_ns, const char **id);

#endif
