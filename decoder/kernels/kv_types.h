/* kv_types.h: pages of keys and values in few bits.
 *
 * A page is 16 tokens of one KV head and stands alone: its scales lie in it. All numbers little-endian.
 *
 *   q8_0   keys:   codes i8 (16, d_k), scales f16 (16, G(d_k))
 *          values: codes i8 (16, d_v), scales f16 (16, G(d_v))
 *          x = scale · code, code -127 … 127; 32 dims of a token share a scale, G(d) = ceil(d / 32)
 *   q4     keys:   least f16 (d_k), step f16 (d_k), codes u4 (16, d_k)
 *          values: least f16 (16, G(d_v)), step f16 (16, G(d_v)), codes u4 (16, d_v)
 *          x = least + step · code; of keys, the 16 tokens of a dim share least and step, because keys have
 *          dims that are large in every token; of values, 32 dims of a token do
 *          two codes a byte, the even dim in the low half; a row of codes begins with a byte
 *
 * Exact to half a step: a scale or step is the least f16 that reaches the largest of its numbers, so nothing
 * is clipped. It is at most (1 + 2^-10) times amax / 127, or (max - min) / 15, and 2^-24 at least: less than
 * that is lost of denormals. Zeros stay zeros in q8_0; in q4 least and, to within a step's rounding, largest
 * do. A group that holds an infinity or NaN becomes NaN as a whole: what is broken stays visibly broken.
 *
 * Code and scale have 8 and 11 bits, so their product is exact in f32 and only q4's addition rounds: every
 * CPU gets the same numbers, with fused multiply-add or without. Packing is plain C for the same reason. */
#ifndef KERNELS_KV_TYPES_H
#define KERNELS_KV_TYPES_H

#include <stdint.h>

/* k (16, d_k) and v (16, d_v), each of which an f16 holds exactly, into a page. */
void kv_pack_q8_0(unsigned d_k, unsigned d_v, const float *k, const float *v, uint8_t *page);
void kv_pack_q4(unsigned d_k, unsigned d_v, const float *k, const float *v, uint8_t *page);

#endif
