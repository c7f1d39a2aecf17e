#include "decoder/cli/interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught = number;
}

void interrupt_catch(void)
{
    /* No SA_RESTART: a wait in a system call ends. SA_RESETHAND: the second signal kills. */
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

bool interrupted(void)
{
    return caught;
}

bool interrupt_forgive(void)
{
    if (caught == SIGTERM)
        return false;
    caught = 0;
    interrupt_catch();
    return true;
}
