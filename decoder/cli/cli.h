/* cli.h: the subcommands of scoutkv. Each takes its own argv (argv[0] is the subcommand) and returns the
 * program's exit code: 0 done, 1 failed, 2 usage, 3 data lost or wrong, 4 no usable node. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "common/error.h"
#include "common/options.h"

int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_calibrate(int argc, char **argv);
int cmd_make_model(int argc, char **argv);
int cmd_policies(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int eval_mass(int argc, char **argv);
int cmd_eval_text(int argc, char **argv);
int cmd_eval_tasks(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_bench_step(int argc, char **argv);
int cmd_bench_compare(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_bench_decode(int argc, char **argv);
int cmd_bench_store(int argc, char **argv);
int cmd_bench_trace(int argc, char **argv);
int cmd_bench_hints(int argc, char **argv);
int cmd_bench_fetch(int argc, char **argv);
int cmd_bench_peers(int argc, char **argv);
int cmd_bench_kernels(int argc, char **argv);
int cmd_bench_serve(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_cluster(int argc, char **argv);
int cmd_cluster_status(int argc, char **argv);
int cmd_cluster_watch(int argc, char **argv);
int cmd_cluster_add(int argc, char **argv);
int cmd_cluster_drain(int argc, char **argv);
int cmd_cluster_remove(int argc, char **argv);
int cmd_load(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_context(int argc, char **argv);

struct cli_command {
    const char *name; /* NULL ends a table */
    int (*main)(int argc, char **argv);
    const char *about; /* one line for the list */
};
/* Runs the command that argv[1] names, or shows the list. path: the words so far ("scoutkv", "scoutkv eval");
 * head and tail: what the list says before and after. */
int cli_dispatch(const struct cli_command *, const char *path, const char *head, const char *tail, int argc,
                 char **argv);

/* Says what failed on stderr, returns the exit code that belongs to it. */
int cli_fail(const char *command, const struct skv_error *err);

#endif
