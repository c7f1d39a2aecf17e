#include "decoder/serve/batch.h"

void batch_step(struct serving *w, struct sequence *const *s, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (sequence_step(w, s[i]) == 0)
            sequence_draw(w, s[i]);
}
