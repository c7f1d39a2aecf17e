/* prefixes.h: what was prefilled stays on the tier for those who begin alike.
 *
 * Every prompt's whole passes are saved as a context of their own, under a name that follows from the tokens
 * and from all that decides their bits; skv_context_open_prefix then finds them for any prompt that begins
 * so, on any server of the cluster. A beginning that is found again is leased anew, so that it stays for
 * ttl_ms after the last use. */
#ifndef SERVE_PREFIXES_H
#define SERVE_PREFIXES_H

#include "decoder/scoutkv.h"
#include "decoder/serve/api_keys.h"

enum { PREFIX_HASH = 12, PREFIX_SEEN = 1024 };

struct prefixes {
    skv_tier *tier;
    const char *tenant; /* whose they are, in names; empty: those of everybody who has no salt */
    const char *model;  /* what lists call it */
    uint64_t ttl_ms;
    uint8_t key[32]; /* of the hash: model and options */
    struct {
        uint8_t hash[PREFIX_HASH];
        uint64_t leased_ns;
    } seen[PREFIX_SEEN]; /* which this process has leased lately, by their hash */
};

/* opts: with the tenant's salt. The texts are kept by the caller. */
void prefixes_init(struct prefixes *, skv_tier *, const struct skv_model *, const struct skv_context_opts *,
                   const char *tenant, const char *model, uint64_t ttl_ms);
/* Saves the context, which holds the passes of ids (n) and nothing else. */
int prefixes_keep(struct prefixes *, skv_context *, const uint32_t *ids, size_t n, uint64_t now_ns,
                  struct skv_error *);
/* ids (n) were found: leases them anew if that is due; where no saved context ends just there, saves this
 * one. */
int prefixes_found(struct prefixes *, skv_context *, const uint32_t *ids, size_t n, uint64_t now_ns,
                   struct skv_error *);

/* "serve/HASH" or "serve/TENANT/HASH", in hex. */
enum { PREFIX_NAME = 6 + TENANT_NAME_MAX + 1 + 2 * PREFIX_HASH + 1 };
void prefixes_name(const struct prefixes *, const uint32_t *ids, size_t n, char out[PREFIX_NAME]);

#endif
