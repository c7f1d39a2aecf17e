/* message.c: see message.h. */
#include "proto/message.h"

#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

void message_clear(struct message *m)
{
    if (m->header)
        scoutkv__header__free_unpacked(m->header, NULL);
    buf_unref(m->payload.owner);
    *m = (struct message){0};
}

int message_parse(struct message *out, const void *frame0, size_t len0, unsigned n_frames,
                  struct view payload, uint64_t *id, struct skv_error *err)
{
    *out = (struct message){0};
    *id = 0;
    if (n_frames < 1 || n_frames > 1 + PROTO_MAX_FRAMES)
        return skv_fail(err, -EBADMSG,
                        "a message has a header frame and at most %d payload frames, not %u frames",
                        PROTO_MAX_FRAMES, n_frames);
    if (len0 > PROTO_MAX_HEADER)
        return skv_fail(err, -EBADMSG, "the header is %zu bytes long, more than the limit of %d", len0,
                        PROTO_MAX_HEADER);
    if (view_len(&payload) > PROTO_MAX_PAYLOAD)
        return skv_fail(err, -EBADMSG, "the payload is %zu bytes long, more than the limit of %d",
                        view_len(&payload), PROTO_MAX_PAYLOAD);
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, len0, frame0);
    if (!h)
        return skv_fail(err, -EBADMSG, "the header of %zu bytes is not a scoutkv header", len0);
    *id = h->id;
    /* Before the body: one from another version may be a kind of message that is unknown here. */
    if (h->version < PROTO_VERSION_MIN || h->version > PROTO_VERSION_MAX) {
        uint32_t version = h->version;
        scoutkv__header__free_unpacked(h, NULL);
        return skv_fail(
            err, -EPROTONOSUPPORT,
            "the message is of protocol version %u, but this end speaks %d to %d; use the same release on "
            "both ends",
            version, PROTO_VERSION_MIN, PROTO_VERSION_MAX);
    }
    if (h->body_case == SCOUTKV__HEADER__BODY__NOT_SET) {
        scoutkv__header__free_unpacked(h, NULL);
        return skv_fail(err, -EBADMSG, "the header has no body of a known kind");
    }
    if (n_frames > 2 && h->body_case != SCOUTKV__HEADER__BODY_PAGES) {
        scoutkv__header__free_unpacked(h, NULL);
        return skv_fail(err, -EBADMSG,
                        "only pages have several payload frames, and this message of %u frames has no pages",
                        n_frames);
    }
    out->header = h;
    out->payload = payload;
    if (payload.owner)
        buf_ref(payload.owner);
    return 0;
}

struct buf *header_pack(const Scoutkv__Header *h)
{
    struct buf *b = buf_new(scoutkv__header__get_packed_size(h));
    if (b)
        scoutkv__header__pack(h, b->data);
    return b;
}

bool key_from_wire(const Scoutkv__Key *k, uint64_t ns, struct block_key *out)
{
    if (!k || k->chain.len != CHAIN_BYTES || k->layer >= LAYER_RESERVED)
        return false;
    *out = (struct block_key){.ns = ns, .layer = k->layer};
    memcpy(out->chain, k->chain.data, CHAIN_BYTES);
    return true;
}

bool layout_from_wire(const Scoutkv__Layout *l, struct block_layout *out)
{
    if (!l || l->dtype > UINT8_MAX || l->d_k > UINT16_MAX || l->d_v > UINT16_MAX || l->head0 > UINT16_MAX ||
        l->n_heads > UINT16_MAX || l->head0 + l->n_heads > UINT16_MAX)
        return false;
    *out = (struct block_layout){.dtype = (uint8_t)l->dtype,
                                 .d_k = (uint16_t)l->d_k,
                                 .d_v = (uint16_t)l->d_v,
                                 .head0 = (uint16_t)l->head0,
                                 .n_heads = (uint16_t)l->n_heads};
    return layout_valid(out);
}

uint64_t object_checksum(Scoutkv__ObjectKind kind, const char *name, const void *bytes, size_t len)
{
    return XXH3_64bits_withSeed(bytes, len, XXH3_64bits_withSeed(name, strlen(name), (uint64_t)kind));
}

uint64_t view_checksum(const void *text, size_t len)
{
    return XXH3_64bits(text, len);
}
