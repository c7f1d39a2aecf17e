/* probe_wide.h: what the probes do, in the widest registers; see probe.c. */
#ifndef KERNELS_PROBE_WIDE_H
#define KERNELS_PROBE_WIDE_H

#include <stddef.h>
#include <stdint.h>

/* Streams that a part is read in, and how much of one before the next one's turn: two lines. */
enum { PROBE_STREAMS = 4, PROBE_TURN_WORDS = 16 };

#if defined(__x86_64__)
/* Sums n words, a multiple of PROBE_STREAMS·PROBE_TURN_WORDS. */
uint64_t probe_sum_avx2(const uint64_t *words, size_t n);

/* Chains of fused multiply-adds. Each returns how many operations it did, and stores a result so that they
 * are not optimised away. */
double probe_peak_avx2(uint64_t steps, float *out);
double probe_peak_avx512(uint64_t steps, float *out);
#endif

#endif
