#include "decoder/cli/reload.h"

#include <signal.h>
#include <stdio.h>

static volatile sig_atomic_t asked;

static void on_hangup(int number)
{
    (void)number;
    asked = 1;
}

void reload_catch(const char *nodes)
{
    if (!nodes || nodes[0] != '@')
        return;
    struct sigaction act = {.sa_handler = on_hangup, .sa_flags = SA_RESTART};
    sigemptyset(&act.sa_mask);
    sigaction(SIGHUP, &act, NULL);
}

static bool take(void)
{
    bool was = asked;
    asked = 0;
    return was;
}

static void tell(int rc, uint64_t n_nodes, const struct skv_error *err)
{
    if (rc)
        fprintf(stderr, "scoutkv: going on with the memory nodes as they were: %s\n", err->text);
    else
        fprintf(stderr, "scoutkv: the list of memory nodes was read again: %llu %s\n",
                (unsigned long long)n_nodes, n_nodes == 1 ? "node" : "nodes");
}

void reload_nodes(skv_tier *t)
{
    struct skv_error err;
    struct skv_tier_stats s;
    if (!take())
        return;
    int rc = skv_tier_reload(t, &err);
    skv_tier_stats(t, &s);
    tell(rc, s.nodes, &err);
}

void reload_tier_nodes(struct tier *t)
{
    struct skv_error err;
    if (!take())
        return;
    int rc = tier_reload(t, &err);
    tell(rc, tier_n_nodes(t), &err);
}
