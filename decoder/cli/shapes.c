/* shapes.c: see shapes.h. The figures are from each model's published config.json. */
#include "decoder/cli/shapes.h"

#include <math.h>
#include <string.h>

static const struct model_shape shapes[] = {
    {"llama-3-8b", 32, 32, 8, 128},
    {"llama-3-70b", 80, 64, 8, 128},
    {"qwen2.5-7b", 28, 28, 4, 128},
};

const struct model_shape *shape_named(const char *name)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(shapes[i].name, name))
            return &shapes[i];
    return NULL;
}

struct skv_layer shape_layer(const struct model_shape *s)
{
    return (struct skv_layer){.d_k = s->d,
                              .d_v = s->d,
                              .n_heads = s->heads,
                              .n_kv_heads = s->kv_heads,
                              .scale = 1.0f / sqrtf((float)s->d)};
}

uint64_t shape_token_bytes(const struct model_shape *s)
{
    return (uint64_t)s->layers * s->kv_heads * s->d * 2 * sizeof(uint16_t);
}
