/* run_loop.c: tokens drawn and stepped, one after the other, until something ends them. */
#include "common/clock.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/reload.h"
#include "decoder/cli/run.h"

#include <errno.h>
#include <stdlib.h>

static int keep_id(struct run *r, uint32_t id, struct skv_error *err)
{
    if (r->n_ids == r->ids_room) {
        size_t room = r->ids_room ? 2 * r->ids_room : 256;
        uint32_t *grown = realloc(r->ids, room * sizeof *grown);
        if (!grown)
            return skv_fail(err, -ENOMEM, "out of memory");
        r->ids = grown;
        r->ids_room = room;
    }
    r->ids[r->n_ids++] = id;
    return 0;
}

static int step(struct run *r, uint32_t id, struct skv_error *err)
{
    meter_begin(&r->meter, r->ctx);
    int rc = session_eval(r->session, SKV_DECODE, &id, 1, r->logits, false, err);
    if (!rc)
        meter_end(&r->meter, r->ctx);
    return rc;
}

/* Sets r->ended when the token just drawn was the last. */
static int take(struct run *r, uint32_t id, struct skv_error *err)
{
    if (tokenizer_is_eog(r->engine.tok, id)) {
        r->ended = "end";
        return 0;
    }
    struct gguf_str piece = tokenizer_piece(r->engine.tok, id, false);
    int rc = keep_id(r, id, err);
    if (!rc)
        rc = emit_push(&r->emit, piece.data, piece.len, err);
    if (r->emit.s.stopped)
        r->ended = "stop";
    else if (r->args->n_predict >= 0 && r->n_ids >= (uint64_t)r->args->n_predict)
        r->ended = "length";
    else if (skv_length(r->ctx) >= r->limit)
        r->ended = "context";
    return rc;
}

int run_generate(struct run *r, struct skv_error *err)
{
    uint32_t n_vocab = r->engine.model->params.vocab, id;
    uint64_t start = clock_ns();
    int rc = 0;
    r->first = skv_length(r->ctx);
    r->ended = r->args->n_predict == 0 ? "length" : NULL;
    while (!rc && !r->ended) {
        reload_nodes(r->engine.tier);
        if (r->args->ignore_eos)
            tokenizer_forbid_eog(r->engine.tok, n_vocab, r->logits);
        rc = sample_next(&r->sampler, r->logits, n_vocab, &id, err);
        if (!rc)
            rc = take(r, id, err);
        if (!rc && interrupted() && !r->ended)
            r->ended = "interrupted";
        if (!rc && !r->ended)
            rc = step(r, id, err);
        if (rc == -EINTR && interrupted()) {
            r->ended = "interrupted"; /* the pass was undone: the context is that of the token before */
            rc = 0;
        }
    }
    r->decode_s = (double)(clock_ns() - start) * 1e-9;
    int end = emit_end(&r->emit, err);
    return rc ? rc : end;
}
