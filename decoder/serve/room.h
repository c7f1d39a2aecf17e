/* room.h: how many bytes a request takes of the memory that requests may hold: window, representatives and
 * cache of a context of its length. */
#ifndef SERVE_ROOM_H
#define SERVE_ROOM_H

#include "decoder/scoutkv.h"

/* Tokens of an answer that room is kept for where nobody said how long it may get, and how many more each
 * time that these are used up. */
enum { ROOM_ANSWER = 4096, ROOM_MORE = 1024 };

/* UINT64_MAX if there can be no such context. */
uint64_t room_bytes(const struct skv_model *, const struct skv_context_opts *, uint32_t chunk,
                    uint64_t tokens);

#endif
