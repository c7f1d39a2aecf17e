/* hash_seeded is XXH3 of any length at any address, with whatever instructions: what it says is on disks and
 * on wires. */
#include "common/hash.h"
#include "common/hash_families.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <xxhash.h>

static void values_are_those_of_xxh3(void **state)
{
    (void)state;
    static uint8_t bytes[70000];
    uint64_t seed = 12345;
    for (size_t i = 0; i < sizeof bytes; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(seed >> 56);
    }
    for (size_t len = 0; len < 66000; len += len < 1100 ? 1 : 977)
        for (unsigned at = 0; at < 3; at++) {
            const uint8_t *b = bytes + 31 * at;
            assert_true(hash_seeded(b, len, 0) == XXH3_64bits(b, len));
            assert_true(hash_seeded(b, len, seed + len) == XXH3_64bits_withSeed(b, len, seed + len));
        }
}

/* Known from XXH3's own tests: of no bytes with seed 0. */
static void nothing_has_a_value(void **state)
{
    (void)state;
    assert_true(hash_seeded("", 0, 0) == UINT64_C(0x2D06800538D394C2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_are_those_of_xxh3),
                                       cmocka_unit_test(nothing_has_a_value)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
