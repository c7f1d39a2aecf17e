/* main.c: the program scoutkv. */
#include "decoder/cli/cli.h"

#include <malloc.h>
#include <signal.h>

static const struct cli_command commands[] = {
    {"run", cmd_run, "continue a prompt with a model"},
    {"serve", cmd_serve, "answer clients of OpenAI's API, many at once, with shared contexts"},
    {"tokenize", cmd_tokenize, "text to token ids"},
    {"logits", cmd_logits, "token ids to logits, for comparing engines"},
    {"trace", cmd_trace, "capture queries, keys and values of a text, to compare policies offline"},
    {"calibrate", cmd_calibrate, "measure a model on text: what the scout should know of its heads"},
    {"make-model", cmd_make_model, "write a model: one that recalls facts, or a random one"},
    {"policies", cmd_policies, "the ways of choosing what a step attends to, explained"},
    {"eval", cmd_eval, "measure answers, time and bytes of several policies over one stored context"},
    {"bench", cmd_bench, "how fast it is, and where the time goes: steps, fetches, disks, traces"},
    {"plan", cmd_plan, "predict what a step costs on other machines, and what would make it cheaper"},
    {"context", cmd_context, "saved contexts: list, show, save, resume, fork, pin, unpin, rm"},
    {"stats", cmd_stats, "counters of memory nodes"},
    {"cluster", cmd_cluster, "the state of a cluster of memory nodes, and moving blocks between them"},
    {"load", cmd_load, "fill memory nodes with blocks derived from a seed"},
    {"check", cmd_check, "verify what `load` was told is stored"},
    {0},
};

static const char head[] =
    "scoutkv decodes long contexts whose KV cache lies on memory nodes: at every step a scout over small\n"
    "representatives picks the few pages worth reading, and attention over them is exact.\n"
    "\n"
    "Usage: scoutkv COMMAND [options]";
static const char tail[] =
    "Without --nodes a memory node runs inside the process. Start others with scoutkv-memnode.\n"
    "Exit codes: 0 done, 1 failed, 2 usage, 3 data lost or wrong, 4 no usable node.";

int main(int argc, char **argv)
{
    /* Pages of the cache and frames of zmq are large: keeping them on the heap, not in fresh mappings, saves
     * a page fault for every 4 KiB received. The library leaves malloc alone; a program may choose. */
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write, told like any other */
    return cli_dispatch(commands, "scoutkv", head, tail, argc, argv);
}
