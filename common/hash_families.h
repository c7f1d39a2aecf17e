/* hash_families.h: between hash.c and the file that is compiled for other instructions. */
#ifndef COMMON_HASH_FAMILIES_H
#define COMMON_HASH_FAMILIES_H

#include <stddef.h>
#include <stdint.h>

enum { HASH_WIDE = 256 }; /* below, XXH3 has no use for vectors */

#if defined(__x86_64__)
uint64_t hash_seeded_avx2(const void *bytes, size_t len, uint64_t seed);
#endif

#endif
