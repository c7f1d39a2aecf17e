#include "decoder/serve/room.h"

uint64_t room_bytes(const struct skv_model *m, const struct skv_context_opts *o, uint32_t chunk,
                    uint64_t tokens)
{
    struct skv_room r;
    if (skv_context_room(m, o, tokens, chunk, &r, NULL))
        return UINT64_MAX;
    return r.window_bytes + r.representative_bytes + r.cache_bytes;
}
