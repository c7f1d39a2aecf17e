/* hash.c: see hash.h. */
#include "common/hash.h"
#include "common/hash_families.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_seeded(const void *bytes, size_t len, uint64_t seed)
{
#if defined(__x86_64__)
    if (len >= HASH_WIDE && __builtin_cpu_supports("avx2"))
        return hash_seeded_avx2(bytes, len, seed);
#endif
    return XXH3_64bits_withSeed(bytes, len, seed);
}
