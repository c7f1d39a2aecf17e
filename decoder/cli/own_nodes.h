/* own_nodes.h: memory nodes as processes of their own, for the time of a command that measures them.
 *
 * They run the scoutkv-memnode that lies beside this program, else the one in PATH; listen on loopback ports
 * that were free; and end with this process, however that ends. */
#ifndef CLI_OWN_NODES_H
#define CLI_OWN_NODES_H

#include "common/error.h"

#include <stdint.h>

struct own_nodes;

struct own_nodes_opts {
    unsigned n;
    uint64_t ram;     /* of each */
    const char *disk; /* a directory, in which they get folders that go with them; NULL: no disks */
    uint64_t disk_size;
    const char *cluster;
};

enum { OWN_NODES_MAX = 64 };

int own_nodes_start(const struct own_nodes_opts *, struct own_nodes **out, struct skv_error *);
const char *own_nodes_list(const struct own_nodes *); /* for tier_opts.nodes */
double own_nodes_cpu_s(const struct own_nodes *);     /* processor time that they have taken */
void own_nodes_stop(struct own_nodes *);              /* NULL is allowed */

#endif
