/* history.h: one life story of a cluster, from a seed: memory nodes and clients under a network, clocks and
 * disks that err, held against what was promised. */
#ifndef TESTS_SIM_HISTORY_H
#define TESTS_SIM_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

/* The table of what is counted; sums over histories mean something. */
#define CLUSTER_COUNTS(X)                                                           \
    X(faults, "injected, of all the kinds below")                                   \
    X(lost, "acknowledged blocks that could not be read")                           \
    X(wrong, "other bytes than the checksum names, or versions that nobody wrote")  \
    X(broken, "other promises of tier.h, client.h and node.h that were broken")     \
    X(kills, "node processes killed")                                               \
    X(power_losses, "machines, some in the middle of their disk's work")            \
    X(stops, "orderly ends of nodes")                                               \
    X(emptied, "nodes that came back without their blocks")                         \
    X(freezes, "nodes stopped for a while")                                         \
    X(partitions, "between a client and a node, of both ways or one")               \
    X(breaks, "connections")                                                        \
    X(stalls, "clients that looked at nothing for a while")                         \
    X(crashes, "clients")                                                           \
    X(views, "nodes added, drained and removed")                                    \
    X(stale, "writes by an older view than the node's")                             \
    X(impostors, "other nodes at a node's address")                                 \
    X(slow, "links made slow for a while")                                          \
    X(drops, "messages")                                                            \
    X(duplicates, "messages")                                                       \
    X(reorders, "messages within their lane")                                       \
    X(flips, "bits of payloads")                                                    \
    X(disk_faults, "writes and syncs that failed")                                  \
    X(messages, "delivered")                                                        \
    X(puts, "blocks")                                                               \
    X(acks, "of those, acknowledged")                                               \
    X(other_version, "of those, with the bytes of another writer")                  \
    X(fetches, "")                                                                  \
    X(pages, "fetched and compared")                                                \
    X(misses, "pages that no node had")                                             \
    X(unreachable, "pages whose nodes were away, or full of faults")                \
    X(calls, "HAVE, HINT, DROP, PIN, UNPIN")                                        \
    X(failed_calls, "of those, and PUTs")                                           \
    X(probes, "acknowledged blocks that had to be readable when faults had ceased") \
    X(gone, "acknowledged blocks whose holders had all died")                       \
    X(leases, "compared with what a node holds")                                    \
    X(seconds, "simulated")

struct cluster_counts {
#define FIELD(name, what) uint64_t name;
    CLUSTER_COUNTS(FIELD)
#undef FIELD
};

/* Adds to the counts. Prints what was lost, wrong or broken to stderr, each line with the seed; everything
 * that happens if verbose. False if something was. */
bool cluster_run(uint64_t seed, bool verbose, struct cluster_counts *);

#endif
