/* probe_peak.h: chains of fused multiply-adds in the widest registers; see probe.c. Each returns how many
 * operations it did, and stores a result so that they are not optimised away. */
#ifndef KERNELS_PROBE_PEAK_H
#define KERNELS_PROBE_PEAK_H

#include <stdint.h>

#if defined(__x86_64__)
double probe_peak_avx2(uint64_t steps, float *out);
double probe_peak_avx512(uint64_t steps, float *out);
#endif

#endif
