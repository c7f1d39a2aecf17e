/* tier_rebalance.c: rebalance.h on the sockets and the clock of a tier. */
#include "common/clock.h"
#include "decoder/tier/rebalance.h"
#include "decoder/tier/tier_internal.h"

#include <errno.h>

int tier_rebalance(struct tier *t, const struct rebalance_opts *o,
                   bool (*progress)(void *, const struct rebalance_report *), void *arg,
                   struct rebalance_report *out, struct skv_error *err)
{
    enum { WAIT_MS = 20 };
    struct rebalance *r = rebalance_new(tier_client(t), o);
    if (!r)
        return skv_fail(err, -ENOMEM, "out of memory");
    bool go = true;
    for (rebalance_step(r, clock_ns()); !rebalance_done(r); rebalance_step(r, clock_ns())) {
        tier_pump(t, WAIT_MS, NULL);
        if (go && progress && !progress(arg, rebalance_report(r))) {
            rebalance_stop(r); /* what is on its way comes to its end: requests have deadlines */
            go = false;
        }
    }
    *out = *rebalance_report(r);
    rebalance_free(r);
    return go ? 0 : skv_fail(err, -ECANCELED, "the rebalance was interrupted; begin it again to go on");
}
