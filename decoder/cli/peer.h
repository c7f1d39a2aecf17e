/* peer.h: what fetches are compared with: another program that gives out bytes by number, and a client of it.
 *
 * A peer holds n pieces of random bytes. A request asks for some of them; replies come in the order of
 * requests, and `window` requests are on their way. Every byte that comes is looked at, as a fetch does,
 * unless `checked` is false: the hash of each piece is held against what it should be. */
#ifndef CLI_PEER_H
#define CLI_PEER_H

#include "common/error.h"
#include "common/hist.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct peer_pieces {
    size_t bytes; /* of a piece */
    uint32_t n;
    uint8_t *data;    /* [n][bytes] */
    uint64_t *hashes; /* [n] */
};
int peer_pieces_make(struct peer_pieces *, size_t bytes, uint32_t n, struct skv_error *);
void peer_pieces_free(struct peer_pieces *);

/* A connected client. take() waits for the reply to the oldest request; out[0..n) are its pieces, valid until
 * the next call. */
struct peer_ops {
    int (*ask)(void *self, const uint32_t *numbers, uint32_t n, struct skv_error *);
    int (*take)(void *self, const uint8_t **out, uint32_t n, struct skv_error *);
    void (*close)(void *self); /* ends the other side, too */
};
struct peer {
    const struct peer_ops *ops;
    void *self;
    const struct peer_pieces *pieces;
    const pid_t *pids; /* of the other side's processes, for their processor time */
    unsigned n_pids;
};
void peer_close(struct peer *); /* of all zeroes: does nothing */

/* A plain TCP pair over loopback: no protocol but numbers one way and their bytes the other. A process and a
 * connection a lane; requests take turns. */
int peer_tcp_open(struct peer *, const struct peer_pieces *, unsigned lanes, uint32_t per_request,
                  struct skv_error *);

/* A bare libzmq pair: DEALER and ROUTER over TCP, one I/O thread a side, pieces sent without copies
 * (zmq_msg_init_data), a frame each. */
int peer_zmq_open(struct peer *, const struct peer_pieces *, uint32_t per_request, struct skv_error *);

/* Programs that may not be installed: *missing names what is, else NULL; then nothing is open and 0 is
 * returned. dir: a folder that they may use. redis is reached through libhiredis, pipelined, with GET or
 * MGET; memcached through its text protocol. */
int peer_redis_open(struct peer *, const struct peer_pieces *, uint32_t per_request, const char *dir,
                    bool over_unix, const char **missing, struct skv_error *);
int peer_memcached_open(struct peer *, const struct peer_pieces *, uint32_t per_request, const char **missing,
                        struct skv_error *);

struct peer_load {
    uint32_t per_request, window;
    bool checked;
    double warm_up, seconds;
    uint64_t count; /* 0: no limit */
    uint64_t seed;
};
struct peer_result {
    uint64_t requests, bytes; /* that ended while it was measured */
    double seconds;
    uint64_t moved_bytes;      /* from the beginning of the warm-up until the last one was done */
    double client_s, server_s; /* processor time meanwhile */
    struct hist latency;       /* ns */
};
int peer_run(const struct peer *, const struct peer_load *, struct peer_result *out, struct skv_error *);

#endif
