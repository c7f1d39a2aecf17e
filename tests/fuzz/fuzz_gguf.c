/* fuzz_gguf.c: damaged GGUF files through reader and tokenizer.
 *
 * With libFuzzer:  clang -fsanitize=fuzzer,address -DSKV_LIBFUZZER …   then   ./fuzz_gguf corpus/
 * Built plainly, it has a main of its own that makes seeded mutations of two sample files:
 *   fuzz_gguf [runs [seed]]
 * A failure prints the seed of the run that failed; give it back with runs = 1. */
#include "tests/fuzz/gguf_probe.h"

#include <inttypes.h>
#include <signal.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    probe_bytes(data, size);
    return 0;
}

#ifndef SKV_LIBFUZZER
/* Up to eight edits: flips, runs of a byte, small and huge numbers, and copies from elsewhere in the file. */
static size_t mutate(uint8_t *p, size_t n, uint64_t *rng)
{
    static const uint64_t numbers[] = {0,          1,          7,          0xff,      0x7fffffff,
                                       0xffffffff, 1ull << 32, 1ull << 61, UINT64_MAX};
    for (uint64_t edits = 1 + probe_random(rng) % 8; edits; edits--) {
        size_t at = probe_random(rng) % n, room = n - at, len = 1 + probe_random(rng) % 16;
        len = len < room ? len : room;
        uint64_t number = numbers[probe_random(rng) % (sizeof numbers / sizeof numbers[0])];
        switch (probe_random(rng) % 5) {
        case 0:
            p[at] ^= (uint8_t)(1u << probe_random(rng) % 8);
            break;
        case 1:
            memset(p + at, (int)(probe_random(rng) % 256), len);
            break;
        case 2:
            memcpy(p + at, &number, room < 4 ? room : 4);
            break;
        case 3:
            memcpy(p + at, &number, room < 8 ? room : 8);
            break;
        case 4:
            memmove(p + at, p + probe_random(rng) % (n - len + 1), len);
            break;
        }
    }
    return probe_random(rng) % 8 ? n : probe_random(rng) % (n + 1);
}

static uint64_t current_seed;

static void print_seed(void)
{
    dprintf(2, "fuzz_gguf: failed; to repeat it: fuzz_gguf 1 %" PRIu64 "\n", current_seed);
}

static void on_signal(int number)
{
    print_seed();
    signal(number, SIG_DFL);
    raise(number);
}

/* Sanitizers exit without a signal, but call this where they are linked in. */
void __sanitizer_set_death_callback(void (*)(void)) __attribute__((weak));

int main(int argc, char **argv)
{
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(print_seed);
    signal(SIGABRT, on_signal);
    signal(SIGSEGV, on_signal);
    signal(SIGBUS, on_signal);
    uint64_t runs = argc > 1 ? strtoull(argv[1], NULL, 10) : 3000,
             seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    const char *tmp = getenv("TMPDIR");
    for (int llama = 0; llama < 2; llama++) {
        char path[400];
        snprintf(path, sizeof path, "%s/skv-fuzz-%ld.gguf", tmp ? tmp : "/tmp", (long)getpid());
        struct skv_error err;
        size_t size;
        if (probe_save_sample(path, llama, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        uint8_t *sample = probe_read_file(path, &size), *bytes = malloc(16 << 10);
        unlink(path);
        if (!sample || !bytes || size > 16 << 10)
            return 1;
        fprintf(stderr, "fuzz_gguf: %" PRIu64 " mutations of a %s file from seed %" PRIu64 "\n", runs,
                llama ? "llama" : "gpt2", seed);
        for (uint64_t i = 0; i < runs; i++) {
            uint64_t rng = current_seed = seed + i;
            memcpy(bytes, sample, size);
            size_t n = mutate(bytes, size, &rng);
            LLVMFuzzerTestOneInput(bytes, n);
        }
        free(sample);
        free(bytes);
    }
    return 0;
}
#endif
