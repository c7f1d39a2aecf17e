#include "decoder/serve/logprobs.h"

#include <assert.h>
#include <math.h>

/* log Σ exp(logit) */
static double log_sum(const float *logits, uint32_t n)
{
    double most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (logits[i] > most)
            most = logits[i];
    for (uint32_t i = 0; i < n; i++)
        if (!isnan(logits[i]))
            sum += exp(logits[i] - most);
    return most + log(sum);
}

/* Inserts a token into a list that is sorted and holds at most room. */
static unsigned insert(struct logprob *top, unsigned n, unsigned room, struct logprob l)
{
    if (n == room && !(l.logprob > top[n - 1].logprob))
        return n;
    unsigned i = n < room ? n : room - 1;
    for (; i > 0 && l.logprob > top[i - 1].logprob; i--)
        top[i] = top[i - 1];
    top[i] = l;
    return n < room ? n + 1 : room;
}

void logprobs_of(const float *logits, uint32_t n, uint32_t id, unsigned n_top, struct token_logprobs *out)
{
    assert(id < n && n_top <= LOGPROBS_TOP);
    double all = log_sum(logits, n);
    out->token = (struct logprob){id, (float)(logits[id] - all)};
    out->n_top = 0;
    for (uint32_t i = 0; i < n && n_top; i++)
        if (!isnan(logits[i]))
            out->n_top = insert(out->top, out->n_top, n_top, (struct logprob){i, (float)(logits[i] - all)});
}
