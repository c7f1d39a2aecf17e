/* disk_options.h: --disk DIR:SIZE, as scoutkv-memnode and the node inside scoutkv take it. */
#ifndef MEMNODE_DISK_OPTIONS_H
#define MEMNODE_DISK_OPTIONS_H

#include "common/error.h"
#include "memnode/store/store.h"

struct disk_options {
    struct store_disk disk[STORE_MAX_DISKS]; /* dirs are owned */
    size_t n;
};

/* Parses texts[0..n). 0, or -EINVAL and a sentence that names what is wrong; then nothing is to be freed. */
int disk_options_parse(const char *const *texts, size_t n, struct disk_options *out, struct skv_error *err);
uint64_t disk_options_bytes(const struct disk_options *);
void disk_options_free(struct disk_options *);

#endif
