/* many.h: the main program of a simulation: many runs, each from a seed of its own, in as many processes as
 * there are cores. A process that dies (an assertion, a sanitizer) is one run that failed; the others go on.
 */
#ifndef TESTS_STORE_MANY_H
#define TESTS_STORE_MANY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MANY_COUNTS = 64 };

struct many {
    const char *name;             /* of the program */
    const char *target;           /* of make, which repeats a run: "check-store" */
    const char *unit;             /* "histories" */
    const char *about, *examples; /* for --help */
    unsigned seconds;             /* that one run may take; a sanitizer is slow */
    struct many_count {
        const char *name, *what;
    } counts[MANY_COUNTS]; /* sums over runs mean something */
    /* Adds to the counts. Says what was wrong on stderr, with the seed, and all that happens if verbose.
     * False if something was. */
    bool (*run)(uint64_t seed, bool verbose, uint64_t *counts);
    /* Prints the last line. */
    void (*end)(uint64_t done, uint64_t failed, const uint64_t *counts);
};

int many_main(const struct many *, int argc, char **argv); /* the exit code */

#endif
