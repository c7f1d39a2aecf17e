/* reload.h: SIGHUP asks a long command to read --nodes @FILE again; it does so between two passes and says on
 * stderr what came of it. The handler is the program's: the library has none. */
#ifndef CLI_RELOAD_H
#define CLI_RELOAD_H

#include "decoder/scoutkv.h"
#include "decoder/tier/tier.h"

/* Of --nodes; without @FILE there is nothing to read, and SIGHUP ends the program as ever. */
void reload_catch(const char *nodes);
/* Reads it again if that was asked for since the last time. A file that is of no use changes nothing. */
void reload_nodes(skv_tier *);
void reload_tier_nodes(struct tier *);

#endif
