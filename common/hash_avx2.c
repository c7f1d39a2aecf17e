/* hash_avx2.c: see hash.h. The same values: XXH3 has one definition, whatever the instructions. */
#include "common/hash_families.h"

#if defined(__x86_64__)
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_seeded_avx2(const void *bytes, size_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, len, seed);
}
#endif
