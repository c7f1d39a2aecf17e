/* stream.c: see stream.h. Chunk number k of the file lies in slot k % SLOTS while it is of use. */
#include "memnode/store/stream.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 2 << 20, SLOTS = 4 };
static_assert((int)STREAM_MOST < (int)CHUNK, "what is asked for lies in two chunks at most");

struct slot {
    struct io_request request; /* first: done gets it back */
    struct iovec iov;
    uint8_t *data;
    uint64_t chunk;
    bool busy;
};

struct stream {
    struct io *io;
    int file;
    uint64_t end;
    uint64_t next;           /* the first chunk that was not asked for yet */
    uint8_t *memory, *joint; /* joint: bytes that lie across two chunks, put together */
    struct slot slot[SLOTS];
};

struct stream *stream_new(struct io *io)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->io = io;
    s->memory = aligned_alloc(IO_ALIGN, (size_t)SLOTS * CHUNK + STREAM_MOST);
    if (!s->memory) {
        free(s);
        return NULL;
    }
    s->joint = s->memory + (size_t)SLOTS * CHUNK;
    for (int i = 0; i < SLOTS; i++)
        s->slot[i].data = s->memory + (size_t)i * CHUNK;
    return s;
}

static void on_read(struct io_request *r)
{
    ((struct slot *)r)->busy = false;
}
static_assert(offsetof(struct slot, request) == 0, "on_read's cast");

static void wait_for(struct stream *s, const struct slot *slot)
{
    while (slot->busy)
        s->io->ops->reap(s->io, true);
}

static void begin_read(struct stream *s, struct slot *slot, uint64_t offset, uint8_t *into, size_t len)
{
    assert(!slot->busy && offset % IO_ALIGN == 0 && len % IO_ALIGN == 0);
    slot->busy = true;
    slot->iov = (struct iovec){into, len};
    slot->request = (struct io_request){
        .op = IO_READ, .file = s->file, .offset = offset, .iov = &slot->iov, .n_iov = 1, .done = on_read};
    s->io->ops->submit(s->io, &slot->request);
}

static size_t chunk_bytes(const struct stream *s, uint64_t chunk)
{
    uint64_t left = s->end - chunk * CHUNK;
    return left < CHUNK ? (size_t)left : CHUNK;
}

/* A chunk of which something can't be read: each part by itself. */
static void salvage(struct stream *s, struct slot *slot)
{
    uint64_t begin = slot->chunk * CHUNK;
    for (size_t at = 0; at < chunk_bytes(s, slot->chunk); at += IO_ALIGN) {
        begin_read(s, slot, begin + at, slot->data + at, IO_ALIGN);
        s->io->ops->flush(s->io);
        wait_for(s, slot);
        if (slot->request.result)
            memset(slot->data + at, 0, IO_ALIGN);
    }
    slot->request.result = 0;
}

static void read_ahead(struct stream *s, uint64_t first)
{
    bool queued = false;
    if (s->next < first)
        s->next = first;
    for (; s->next < first + SLOTS && s->next * CHUNK < s->end; s->next++, queued = true) {
        struct slot *slot = &s->slot[s->next % SLOTS];
        wait_for(s, slot); /* with a chunk that was passed over */
        slot->chunk = s->next;
        begin_read(s, slot, s->next * CHUNK, slot->data, chunk_bytes(s, s->next));
    }
    if (queued)
        s->io->ops->flush(s->io);
}

static const uint8_t *chunk_data(struct stream *s, uint64_t chunk)
{
    struct slot *slot = &s->slot[chunk % SLOTS];
    wait_for(s, slot);
    assert(slot->chunk == chunk);
    if (slot->request.result)
        salvage(s, slot);
    return slot->data;
}

void stream_start(struct stream *s, int file, uint64_t end)
{
    for (int i = 0; i < SLOTS; i++)
        wait_for(s, &s->slot[i]);
    s->file = file;
    s->end = end;
    s->next = 0;
}

const uint8_t *stream_get(struct stream *s, uint64_t offset, size_t len)
{
    assert(len > 0 && len <= STREAM_MOST && offset + len <= s->end);
    uint64_t first = offset / CHUNK, last = (offset + len - 1) / CHUNK;
    read_ahead(s, first);
    const uint8_t *data = chunk_data(s, first) + offset % CHUNK;
    if (first == last)
        return data;
    size_t part = (size_t)(last * CHUNK - offset);
    memcpy(s->joint, data, part);
    memcpy(s->joint + part, chunk_data(s, last), len - part);
    return s->joint;
}

const uint8_t *stream_page(struct stream *s, int file, uint64_t offset)
{
    struct slot *slot = &s->slot[0];
    stream_start(s, file, 0);
    begin_read(s, slot, offset, slot->data, IO_ALIGN);
    s->io->ops->flush(s->io);
    wait_for(s, slot);
    return slot->request.result ? NULL : slot->data;
}

void stream_free(struct stream *s)
{
    if (!s)
        return;
    for (int i = 0; i < SLOTS; i++)
        wait_for(s, &s->slot[i]);
    free(s->memory);
    free(s);
}
