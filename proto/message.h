/* message.h: one message between client and node: a protobuf header and raw payload.
 *
 * The only code that knows bytes on the wire. Sans-I/O cores take and give struct message; shells turn it
 * into zmq frames. */
#ifndef PROTO_MESSAGE_H
#define PROTO_MESSAGE_H

#include "common/buf.h"
#include "common/error.h"
#include "common/identity.h"
#include "scoutkv.pb-c.h"

enum {
    PROTO_VERSION_MIN = 1,
    PROTO_VERSION_MAX = 1,
    PROTO_MAX_HEADER = 256 << 10, /* bytes of frame 0 */
    PROTO_MAX_PAYLOAD = 4 << 20,  /* bytes of frame 1 (a block, or a reply's pages) */
    PROTO_REPLY_BYTES = 1 << 20,  /* a node closes a Pages message at about this size */
    PROTO_MAX_OBJECT = 1 << 20,
    PROTO_MAX_FRAMES = 16, /* payload frames, of Pages only; else there is one at most */
};

/* A received or outgoing message. Payload is a block, pages (in one frame or several) or an object. */
struct message {
    Scoutkv__Header *header; /* owned; free with message_clear */
    struct view payload;     /* owner holds one reference, or NULL and len 0 when there is none */
};

/* Frees the header and drops the payload's reference. */
void message_clear(struct message *);

/* Parses frame 0 (n_frames - 1 further frames were received; several payload frames are malformed but for
 * pages).
 * -EBADMSG with a sentence when it is malformed, -EPROTONOSUPPORT when it is of another version (then *id is
 * still set where it could be read, so that the refusal can name the request). Takes a reference on
 * payload.owner. */
int message_parse(struct message *out, const void *frame0, size_t len0, unsigned n_frames,
                  struct view payload, uint64_t *id, struct skv_error *err);

/* Packs a header into a new buf of one reference; NULL when out of memory. */
struct buf *header_pack(const Scoutkv__Header *);

/* Wire form <-> plain structs. A Key or Layout of wrong size or range: false. */
bool key_from_wire(const Scoutkv__Key *, uint64_t ns, struct block_key *out);
bool layout_from_wire(const Scoutkv__Layout *, struct block_layout *out);

/* The checksum of ViewPut and View: XXH3 of the text. One wrong digit in it would be another cluster. */
uint64_t view_checksum(const void *text, size_t len);
/* The checksum of ObjectPut and Object: XXH3 of the bytes, seeded with kind and name. */
uint64_t object_checksum(Scoutkv__ObjectKind kind, const char *name, const void *bytes, size_t len);

#endif
