/* peer_llama.h: llama.cpp decoding the same file, through the npm package node-llama-cpp in a process of its
 * own (deploy/peers --llama DIR installs it). */
#ifndef CLI_PEER_LLAMA_H
#define CLI_PEER_LLAMA_H

#include "common/error.h"

#include <stdint.h>
#include <sys/types.h>

struct peer_llama { /* zero it first */
    pid_t pid;
    int fd;
};

/* Loads the model and evaluates `tokens` tokens. *missing names what is not installed (then 0, and nothing is
 * open), else NULL. */
int peer_llama_open(struct peer_llama *, const char *dir, const char *model, uint32_t tokens, uint32_t steps,
                    uint32_t threads, const char **missing, struct skv_error *);
/* Decodes `steps` tokens behind those, which it then forgets; how long that took. */
int peer_llama_run(struct peer_llama *, double *seconds, struct skv_error *);
void peer_llama_close(struct peer_llama *); /* of all zeroes: does nothing */

#endif
