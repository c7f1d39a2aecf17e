/* three_nodes.h: three memory nodes for a whole test program: start_three and stop_three are its group's
 * setup and teardown. */
#ifndef TESTS_THREE_NODES_H
#define TESTS_THREE_NODES_H

#include "tests/unit/nodes.h"

static struct nodes three;

static inline int start_three(void **s)
{
    (void)s;
    return nodes_start(&three, 3, "256MiB");
}

static inline int stop_three(void **s)
{
    (void)s;
    nodes_stop(&three);
    return 0;
}

#endif
