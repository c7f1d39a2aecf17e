/* memory.c: see memory.h. One mutex: bufs come back on zmq's threads, but a few thousand times a second at
 * most. */
#include "memnode/memory.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
    SLOT_UNIT = 4096, /* slot sizes are multiples of this: disks want memory aligned so */
    SLOTS_MIN = 8,    /* a span has at least so many: an eighth of it is wasted at worst */
    SPAN_MAX = 4 << 20,
    SPAN_MIN = 256 << 10,
    N_CLASSES = SPAN_MAX / SLOTS_MIN / SLOT_UNIT + 1, /* class c holds slots of c * SLOT_UNIT bytes */
    REPLIES_MIN = 2 << 20,
    REPLIES_MAX = 256 << 20,
    PAGE = 4096,
};

struct slot {
    struct buf buf;
    struct span *span;
    struct slot *next; /* free slots of the span */
};

/* A mapping. A large block is a span of one slot that is in no class. */
struct span {
    struct memory *memory;
    struct span *prev, *next; /* spans of the class that have a free slot */
    uint8_t *bytes;
    size_t size, slot_size;
    struct slot *free;
    unsigned n_slots, n_used;
    struct slot slots[];
};

struct memory {
    pthread_mutex_t lock;
    uint64_t limit[2], used[2]; /* by enum memory_use */
    size_t span_size;
    uint64_t n_bufs; /* handed out and not released */
    bool closed;
    struct span *classes[N_CLASSES];
};

struct memory *memory_new(uint64_t ram)
{
    struct memory *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    uint64_t replies = ram / 8 < REPLIES_MIN ? REPLIES_MIN : ram / 8 > REPLIES_MAX ? REPLIES_MAX : ram / 8;
    assert(replies < ram);
    m->limit[MEMORY_REPLIES] = replies;
    m->limit[MEMORY_STORE] = ram - replies;
    for (m->span_size = SPAN_MAX; m->span_size > SPAN_MIN && m->span_size > ram / 64;)
        m->span_size /= 2;
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

static void destroy(struct memory *m)
{
    assert(m->used[MEMORY_STORE] == 0 && m->used[MEMORY_REPLIES] == 0);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void memory_free(struct memory *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->closed = true;
    bool last = m->n_bufs == 0;
    pthread_mutex_unlock(&m->lock);
    if (last)
        destroy(m);
}

/* With the lock held; lets go of it. */
static void buf_gone(struct memory *m)
{
    assert(m->n_bufs > 0);
    bool last = --m->n_bufs == 0 && m->closed;
    pthread_mutex_unlock(&m->lock);
    if (last)
        destroy(m);
}

static bool charge(struct memory *m, enum memory_use use, size_t len)
{
    if (len > m->limit[use] - m->used[use])
        return false;
    m->used[use] += len;
    return true;
}

static void uncharge(struct memory *m, enum memory_use use, size_t len)
{
    assert(m->used[use] >= len);
    m->used[use] -= len;
}

bool memory_charge(struct memory *m, size_t len)
{
    pthread_mutex_lock(&m->lock);
    bool ok = charge(m, MEMORY_STORE, len);
    pthread_mutex_unlock(&m->lock);
    return ok;
}

void memory_uncharge(struct memory *m, size_t len)
{
    pthread_mutex_lock(&m->lock);
    uncharge(m, MEMORY_STORE, len);
    pthread_mutex_unlock(&m->lock);
}

uint64_t memory_used(struct memory *m, enum memory_use use)
{
    pthread_mutex_lock(&m->lock);
    uint64_t used = m->used[use];
    pthread_mutex_unlock(&m->lock);
    return used;
}

uint64_t memory_limit(const struct memory *m, enum memory_use use)
{
    return m->limit[use];
}

/* ---- bufs from the heap ---- */

struct heap_buf {
    struct buf buf; /* its data: the bytes below, or aligned ones of their own */
    struct memory *memory;
    enum memory_use use;
    _Alignas(64) uint8_t bytes[];
};

static void release_heap(struct buf *b)
{
    struct heap_buf *h = (struct heap_buf *)b;
    struct memory *m = h->memory;
    size_t len = b->len;
    enum memory_use use = h->use;
    if (b->data != h->bytes)
        free(b->data);
    free(h);
    pthread_mutex_lock(&m->lock);
    uncharge(m, use, len);
    buf_gone(m);
}

/* align: of the data; 0: whatever comes after the head. */
static struct buf *heap_buf(struct memory *m, enum memory_use use, size_t len, size_t align)
{
    pthread_mutex_lock(&m->lock);
    bool ok = charge(m, use, len);
    m->n_bufs += ok;
    pthread_mutex_unlock(&m->lock);
    if (!ok)
        return NULL;
    struct heap_buf *h = aligned_alloc(64, (sizeof *h + (align ? 0 : len) + 63) / 64 * 64);
    uint8_t *data = h && align ? aligned_alloc(align, (len + align - 1) / align * align)
                    : h        ? h->bytes
                               : NULL;
    if (!data) {
        free(h);
        pthread_mutex_lock(&m->lock);
        uncharge(m, use, len);
        buf_gone(m);
        return NULL;
    }
    atomic_init(&h->buf.refs, 1);
    h->buf.len = len;
    h->buf.data = data;
    h->buf.release = release_heap;
    h->memory = m;
    h->use = use;
    return &h->buf;
}

struct buf *memory_buf(struct memory *m, enum memory_use use, size_t len)
{
    return heap_buf(m, use, len, 0);
}

struct buf *memory_pages(struct memory *m, size_t len)
{
    return heap_buf(m, MEMORY_REPLIES, len, PAGE);
}

/* ---- blocks ---- */

static size_t span_overhead(unsigned n_slots)
{
    return sizeof(struct span) + n_slots * sizeof(struct slot);
}

static void list_add(struct span **head, struct span *s)
{
    s->prev = NULL;
    s->next = *head;
    if (*head)
        (*head)->prev = s;
    *head = s;
}

static void list_remove(struct span **head, struct span *s)
{
    if (s->prev)
        s->prev->next = s->next;
    else
        *head = s->next;
    if (s->next)
        s->next->prev = s->prev;
}

/* With the lock held. NULL when there is no room. */
static struct span *span_new(struct memory *m, size_t size, size_t slot_size)
{
    unsigned n_slots = (unsigned)(size / slot_size);
    size_t cost = size + span_overhead(n_slots);
    if (!charge(m, MEMORY_STORE, cost))
        return NULL;
    struct span *s = malloc(span_overhead(n_slots));
    void *bytes =
        s ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
          : MAP_FAILED;
    if (bytes == MAP_FAILED) {
        free(s);
        uncharge(m, MEMORY_STORE, cost);
        return NULL;
    }
    (void)madvise(bytes, size, MADV_HUGEPAGE); /* fewer faults and TLB misses where the kernel offers it */
    *s = (struct span){.memory = m, .bytes = bytes, .size = size, .slot_size = slot_size, .n_slots = n_slots};
    for (unsigned i = n_slots; i-- > 0;) {
        s->slots[i].span = s;
        s->slots[i].buf.data = s->bytes + i * slot_size;
        s->slots[i].next = s->free;
        s->free = &s->slots[i];
    }
    return s;
}

/* With the lock held. */
static void span_free(struct memory *m, struct span *s)
{
    /* Unmapping may split a mapping and so fail at the system's limit of mappings; then its pages go back at
     * least. */
    if (munmap(s->bytes, s->size))
        (void)madvise(s->bytes, s->size, MADV_DONTNEED);
    uncharge(m, MEMORY_STORE, s->size + span_overhead(s->n_slots));
    free(s);
}

static void release_slot(struct buf *b)
{
    struct slot *slot = (struct slot *)b;
    struct span *s = slot->span;
    struct memory *m = s->memory;
    pthread_mutex_lock(&m->lock);
    bool small = s->slot_size <= m->span_size / SLOTS_MIN;
    struct span **class = small ? &m->classes[s->slot_size / SLOT_UNIT] : NULL;
    if (small && !s->free)
        list_add(class, s);
    slot->next = s->free;
    s->free = slot;
    if (--s->n_used == 0) {
        if (small)
            list_remove(class, s);
        span_free(m, s);
    }
    buf_gone(m);
}

struct buf *memory_block(struct memory *m, size_t len)
{
    size_t slot_size = len == 0 ? SLOT_UNIT : (len + SLOT_UNIT - 1) / SLOT_UNIT * SLOT_UNIT;
    struct slot *slot = NULL;
    pthread_mutex_lock(&m->lock);
    bool small = slot_size <= m->span_size / SLOTS_MIN;
    struct span **class = small ? &m->classes[slot_size / SLOT_UNIT] : NULL;
    struct span *s = small ? *class : NULL;
    if (!s) {
        s = span_new(m, small ? m->span_size : (slot_size + PAGE - 1) / PAGE * PAGE, slot_size);
        if (s && small)
            list_add(class, s);
    }
    if (s) {
        slot = s->free;
        s->free = slot->next;
        s->n_used++;
        m->n_bufs++;
        if (small && !s->free)
            list_remove(class, s);
    }
    pthread_mutex_unlock(&m->lock);
    if (!slot)
        return NULL;
    atomic_init(&slot->buf.refs, 1);
    slot->buf.len = len;
    slot->buf.release = release_slot;
    return &slot->buf;
}
