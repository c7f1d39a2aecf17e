/* text_io.h: whole files and lists of token ids, in and out. */
#ifndef CLI_TEXT_IO_H
#define CLI_TEXT_IO_H

#include "common/error.h"

#include <stddef.h>
#include <stdint.h>

/* All bytes of a file, or of stdin for NULL or "-"; *out is malloc'd and NUL-terminated (len doesn't count
 * that). */
int read_all(const char *path, char **out, size_t *len, struct skv_error *);

/* Ids separated by white space, each below n_vocab; *ids is malloc'd. name is used in messages. */
int parse_ids(const char *text, const char *name, uint32_t n_vocab, uint32_t **ids, size_t *n,
              struct skv_error *);

#endif
