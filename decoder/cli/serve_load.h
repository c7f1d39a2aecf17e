/* serve_load.h: streams of completions asked of a server at once, with the time of every piece of text. */
#ifndef CLI_SERVE_LOAD_H
#define CLI_SERVE_LOAD_H

#include "common/error.h"
#include "common/hist.h"

#include <stddef.h>
#include <stdint.h>

struct serve_load_opts {
    const char *url; /* of the server */
    uint32_t prompt, tokens, vocab;
    uint64_t seed; /* of prompts and draws: stream i asks the same whatever the others are */
};

struct serve_stream {
    uint64_t begun_ns; /* when it was asked; clock_ns() */
    uint64_t *at;      /* (n) when pieces of text came */
    size_t n, room;
    uint64_t tokens; /* as the server counts */
    char *text;
    size_t len, text_room;
};

/* All n at once, until all have ended; each is freed with serve_stream_free, also after a failure. */
int serve_load_run(const struct serve_load_opts *, struct serve_stream *, unsigned n, struct skv_error *);
void serve_stream_free(struct serve_stream *);

/* What is told of a run. Speed and gaps are of the time in which all streams had begun and none had ended. */
struct serve_speed {
    double tokens_per_s; /* pieces of text; NAN: there was no such time */
    double first_p50_ms, first_max_ms;
    struct hist gaps; /* ns between pieces of a stream */
};
void serve_speed_of(const struct serve_stream *, unsigned n, struct serve_speed *);

#endif
