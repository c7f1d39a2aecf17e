/* hash.h: XXH3 with the widest instructions that this CPU has. Every page that is written, sent or read is
 * hashed. */
#ifndef COMMON_HASH_H
#define COMMON_HASH_H

#include <stddef.h>
#include <stdint.h>

/* XXH3_64bits_withSeed; with seed 0, XXH3_64bits. */
uint64_t hash_seeded(const void *bytes, size_t len, uint64_t seed);

#endif
