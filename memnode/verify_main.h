/* verify_main.h: `scoutkv-memnode --verify DIR`. */
#ifndef MEMNODE_VERIFY_MAIN_H
#define MEMNODE_VERIFY_MAIN_H

#include <stdbool.h>

/* Reads everything that a --disk directory holds and reports on stdout, for people or as one JSON object;
 * changes nothing. The program's exit code: 0 all right, 1 damage was found; when it could not look (in use
 * by a running node, no store, another version), the sentence goes to stderr and the code is skv_exit_code's,
 * with 2 for its 1. */
int verify_run(const char *dir, bool json);

#endif
