/* kernels.c: which family runs. */
#include "decoder/kernels/families.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* clang 14 does not know this name in __builtin_cpu_supports. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static bool runs_here(const struct kernels *k)
{
#if defined(__x86_64__)
    if (k == &kernels_avx2_vnni &&
        !(__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")))
        return false;
    if (k == &kernels_avx2 || k == &kernels_avx2_vnni)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
    return k == &kernels_portable;
}

/* Best first; those of one name give the same bits. */
static const struct kernels *const families[] = {
#if defined(__x86_64__)
    &kernels_avx2_vnni,
    &kernels_avx2,
#endif
    &kernels_portable,
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

const struct kernels *kernels_named(const char *name)
{
    for (unsigned i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i]->name, name) == 0 && runs_here(families[i]))
            return families[i];
    return NULL;
}

static const struct kernels *chosen;

static void choose(void)
{
    const char *isa = getenv("SKV_ISA");
    if (isa && *isa)
        chosen = kernels_named(isa);
    for (unsigned i = 0; i < N_FAMILIES && !chosen; i++)
        if (runs_here(families[i]))
            chosen = families[i];
}

const struct kernels *kernels_get(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    return chosen;
}

int kernels_check(struct skv_error *err)
{
    const char *isa = getenv("SKV_ISA");
    if (!isa || !*isa || kernels_named(isa))
        return 0;
    for (unsigned i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i]->name, isa) == 0)
            return skv_fail(err, -EINVAL, "SKV_ISA=%s: this CPU lacks the instructions; unset it, or use %s",
                            isa, kernels_get()->name);
    return skv_fail(err, -EINVAL,
                    "SKV_ISA=%.40s is unknown; it may be portable or avx2, or unset for the best", isa);
}
