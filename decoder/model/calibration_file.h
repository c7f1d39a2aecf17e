/* calibration_file.h: a calibration (scoutkv.h) as a GGUF file beside its model.
 *
 *     scoutkv.calibration.version   u32, 2
 *     scoutkv.calibration.model     64 hex digits: fingerprint of the model that was measured
 *     scoutkv.calibration.layers, scoutkv.calibration.kv_heads   u32
 *     scoutkv.calibration.hash      64 hex digits over all that it says
 *     tensors gamma.page, gamma.block, far, alpha, beta   f32 (layers, kv_heads)
 *             held                                        f32 (layers, kv_heads, SKV_KNOTS)
 *             salience                                    f32 (layers, kv_heads, d_k + 2), if there is any
 *             projection                                  f32 (layers, kv_heads, 2, d_rep · d_k), likewise
 */
#ifndef DECODER_MODEL_CALIBRATION_FILE_H
#define DECODER_MODEL_CALIBRATION_FILE_H

#include "decoder/scoutkv.h"

/* path is the old file or the whole new one. */
int calibration_save(const struct skv_calibration *, const char *path, struct skv_error *);
/* *out: to be freed with free(). fingerprint: of the model that it must be of, or NULL. -EINVAL: it is
 * another's, or no calibration; -EPROTONOSUPPORT: another version; -EBADMSG: damaged. */
int calibration_load(const char *path, const uint8_t *fingerprint, struct skv_calibration **out,
                     struct skv_error *);

#endif
