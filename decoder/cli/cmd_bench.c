/* cmd_bench.c: `scoutkv bench`: the list of benches. */
#include "decoder/cli/cli.h"

int cmd_bench(int argc, char **argv)
{
    static const struct cli_command benches[] = {
        {"step", cmd_bench_step,
         "a decode step of known models' shapes over memory nodes, beside dense attention"},
        {"decode", cmd_bench_decode, "dense decoding at a short context, beside what memory can do"},
        {"fetch", cmd_bench_fetch, "how fast blocks and pages come from memory nodes, beside plain TCP"},
        {"store", cmd_bench_store, "the disk engine of a memory node, beside fio"},
        {"hints", cmd_bench_hints,
         "RAM hits of nodes that hold a part in RAM: with hints from the contexts, without"},
        {"peers", cmd_bench_peers, "fetches beside redis, memcached, bare libzmq and others"},
        {"serve", cmd_bench_serve,
         "many streams at once of one server, beside one, and beside what the machine allows"},
        {"kernels", cmd_bench_kernels, "the kernels of a step, beside what memory and processor can do"},
        {"trace", cmd_bench_trace, "recorded requests against the nodes as a prefix cache: hit rate, times"},
        {"compare", cmd_bench_compare, "which ratios of two runs differ by more than their noise"},
        {0},
    };
    return cli_dispatch(benches, "scoutkv bench", "Usage: scoutkv bench WHAT [options]", "", argc, argv);
}
