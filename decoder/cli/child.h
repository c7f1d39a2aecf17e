/* child.h: processes for the time of a command. They have a group of their own, so that Ctrl-C reaches the
 * command only, and end with it, however that ends. */
#ifndef CLI_CHILD_H
#define CLI_CHILD_H

#include "common/error.h"

#include <stdbool.h>
#include <sys/types.h>

/* As fork(). */
pid_t child_fork(struct skv_error *);
/* Starts a program: one with a '/' in its name as it is, another from PATH. out: its stdout, or -1: nowhere,
 * and its stderr too. Its pid, or -errno. If it can't be run it ends at once. */
pid_t child_start(char *const argv[], int out, struct skv_error *);
/* Sends the signal and waits for the end. */
void child_end(pid_t, int signal);
/* Processor time of a process and all its threads, in seconds; 0 if it is gone. */
double child_cpu_s(pid_t);
/* Whether PATH has such a program. */
bool child_found(const char *program);

/* TCP on 127.0.0.1. A listening socket on a port that was free, whose number is in *port; a port that was
 * free a moment ago; a connection, tried for so long. -errno on failure. */
int loopback_listen(unsigned *port, struct skv_error *);
int loopback_port(struct skv_error *);
int loopback_connect(unsigned port, unsigned for_ms, struct skv_error *);

#endif
