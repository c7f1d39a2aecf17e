/* random.h: a seeded stream of random numbers (splitmix64), equal on every
 * machine. */
#ifndef TESTS_STORE_RANDOM_H
#define TESTS_STORE_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t random_mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static inline uint64_t random_next(uint64_t *state)
{
    return random_mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}
static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
    return random_next(state) % n;
}
static inline uint64_t random_between(uint64_t *state, uint64_t low, uint64_t high) /* both included */
{
    return low + random_next(state) % (high - low + 1);
}
static inline bool random_chance(uint64_t *state, uint32_t of_a_million)
{
    return of_a_million && random_next(state) % 1000000 < of_a_million;
}
static inline bool random_percent(uint64_t *state, unsigned percent)
{
    return random_next(state) % 100 < percent;
}

#endif
