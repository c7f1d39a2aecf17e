/* own_server.h: `scoutkv serve` as a process of its own, for the time of a command that measures it; on a
 * loopback port that was free. It ends with this process, however that ends. */
#ifndef CLI_OWN_SERVER_H
#define CLI_OWN_SERVER_H

#include "common/error.h"

struct own_server;

/* args: of serve, ended by NULL; without --port. */
int own_server_start(char *const args[], struct own_server **out, struct skv_error *);
const char *own_server_url(const struct own_server *); /* "http://127.0.0.1:…" */
void own_server_stop(struct own_server *);             /* NULL is allowed */

#endif
