/* attend.c: scoutkv.h from the side of an engine, with a made-up model.
 * `attend NODES` (host:port,…) uses those; without them a node runs inside this process.
 *
 * It stores 4,096 random tokens, snapshots them, reopens that as another process would, and decodes the
 * same 16 tokens in three forks: dense, cascade over all pages (the same bits), cascade over 256. */
#include <scoutkv.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 2, HEADS = 4, KV_HEADS = 2, D = 64, PROMPT = 4096, CHUNK = 512, STEPS = 16 };
#define TRY(call) ((call) ? (fprintf(stderr, "attend: %s\n", err.text), exit(1)) : (void)0)

static struct skv_error err;

/* What a model would compute: n rows of numbers that depend on position, layer and kind only. */
static void make(float *x, uint32_t n, uint32_t heads, uint64_t first, uint32_t layer, uint32_t kind)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t state = ((first + i) * LAYERS + layer) * 3 + kind + 1;
        for (uint32_t j = 0; j < heads * D; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            *x++ = (float)(int32_t)(state >> 32) / 2147483648.0f;
        }
    }
}

/* One pass over n new tokens: out (n, HEADS, D) of the last layer. */
static void pass(skv_tier *tier, skv_context *ctx, enum skv_mode mode, uint32_t n, float *out)
{
    static float q[CHUNK * HEADS * D], k[CHUNK * KV_HEADS * D], v[CHUNK * KV_HEADS * D];
    static uint32_t ids[CHUNK];
    uint64_t first = skv_length(ctx);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (uint32_t)(first + i);
    TRY(skv_append(ctx, mode, n, ids, NULL, &err));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        make(q, n, HEADS, first, layer, 0);
        make(k, n, KV_HEADS, first, layer, 1);
        make(v, n, KV_HEADS, first, layer, 2);
        TRY(skv_put(ctx, layer, k, v, &err));
        struct skv_attend_item item = {ctx, q, out};
        skv_attend *attend;
        TRY(skv_attend_begin(tier, layer, &item, 1, &attend, &err));
        /* Pages are on their way: an engine computes here what doesn't need the result. */
        TRY(skv_attend_finish(attend, &err));
    }
}

/* Decodes STEPS tokens in a fork of base: out (STEPS, HEADS, D). */
static void decode(skv_tier *tier, skv_context *base, enum skv_policy policy, uint32_t budget, float *out)
{
    struct skv_select select = {.policy = policy, .budget = budget, .unit = SKV_PAGE};
    struct skv_stats s;
    skv_context *fork;
    uint32_t digest = 0, bits;
    TRY(skv_context_fork(base, &fork, &err));
    TRY(skv_context_configure(fork, &select, 1 << 20, &err));
    for (int i = 0; i < STEPS; i++)
        pass(tier, fork, SKV_DECODE, 1, out + i * HEADS * D);
    skv_context_stats(fork, &s);
    for (int i = 0; i < STEPS * HEADS * D; i++, digest = digest * 16777619 ^ bits)
        memcpy(&bits, out + i, sizeof bits);
    printf("%-8s budget %4u: output %08x, %6.1f KiB fetched a step, of %.0f KiB\n", skv_policy_name(policy),
           budget, digest, (double)s.bytes_fetched / STEPS / 1024, (double)s.context_bytes / 1024);
    skv_context_close(fork);
}

int main(int argc, char **argv)
{
    static float scratch[CHUNK * HEADS * D], dense[STEPS * HEADS * D], all[STEPS * HEADS * D];
    struct skv_layer layer[LAYERS];
    for (int i = 0; i < LAYERS; i++)
        layer[i] = (struct skv_layer){D, D, HEADS, KV_HEADS, 0, 1 / sqrtf(D)};
    struct skv_model model = {LAYERS, layer, "the weights of this example"};
    struct skv_tier_opts nodes = {.nodes = argc > 1 ? argv[1] : NULL, .ram = 64 << 20};
    struct skv_context_opts opts;
    skv_tier *tier;
    skv_context *ctx;
    skv_context_defaults(&opts);
    opts.window = 256;
    TRY(skv_tier_open(&nodes, &tier, &err));
    TRY(skv_context_open(tier, &model, &opts, &ctx, &err));
    for (int i = 0; i < PROMPT; i += CHUNK)
        pass(tier, ctx, SKV_PREFILL, CHUNK, scratch);
    TRY(skv_context_snapshot(ctx, "example", NULL, &err));
    skv_context_close(ctx);
    TRY(skv_context_reopen(tier, &model, &opts, "example", &ctx, &err));
    decode(tier, ctx, SKV_DENSE, 0, dense);
    decode(tier, ctx, SKV_CASCADE, PROMPT, all);
    decode(tier, ctx, SKV_CASCADE, 256, scratch);
    skv_context_close(ctx);
    skv_tier_close(tier);
    int differ = memcmp(dense, all, sizeof dense) != 0;
    printf("cascade over all pages and dense: %s\n", differ ? "DIFFERENT BITS" : "the same bits");
    return differ;
}
