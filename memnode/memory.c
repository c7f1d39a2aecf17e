/* memory.c: see memory.h. One mutex: bufs come back on zmq's threads, but a few thousand times a second at
 * most. */
#include "memnode/memory.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
    SLOT_UNIT = 4096, /* slot sizes are multiples of this: disks want memory aligned so */
    SLOTS_MIN = 8,    /* a span has at least so many: an eighth of it is wasted at worst */
    SPAN_MAX = 4 << 20,
    SPAN_MIN = 256 << 10,
    N_CLASSES = SPAN_MAX / SLOTS_MIN / SLOT_UNIT + 1, /* class c holds slots of c * SLOT_UNIT bytes */
    REPLIES_MIN = 2 << 20,
    REPLIES_MAX = 256 << 20,
    PAGE = 4096,
    KEPT = 64, /* mappings kept for the next span, at most */
    KEPT_MAX = 64 << 20,
    KEPT_SHARE = 16, /* of the budget */
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

struct mapping {
    uint8_t *bytes;
    size_t size;
};

struct memory {
    pthread_mutex_t lock;
    uint64_t limit[2], used[2]; /* by enum memory_use */
    size_t span_size;
    uint64_t n_bufs; /* handed out and not released */
    bool closed;
    struct mapping kept[KEPT]; /* the latest last; they count as used */
    unsigned n_kept;
    size_t kept_bytes;
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

/* Unmapping may split a mapping and so fail at the system's limit of mappings; then its pages go back at
 * least. */
static void unmap(struct mapping x)
{
    if (munmap(x.bytes, x.size))
        (void)madvise(x.bytes, x.size, MADV_DONTNEED);
}

/* With the lock held. */
static void unkeep(struct memory *m, unsigned i)
{
    m->kept_bytes -= m->kept[i].size;
    m->used[MEMORY_STORE] -= m->kept[i].size;
    memmove(&m->kept[i], &m->kept[i + 1], (--m->n_kept - i) * sizeof *m->kept);
}

/* With the lock held: the oldest goes back to the system. */
static void kept_drop(struct memory *m)
{
    struct mapping x = m->kept[0];
    unkeep(m, 0);
    unmap(x);
}

static void destroy(struct memory *m)
{
    while (m->n_kept)
        kept_drop(m);
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
    while (use == MEMORY_STORE && m->n_kept && len > m->limit[use] - m->used[use])
        kept_drop(m);
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
    uint64_t used = m->used[use] - (use == MEMORY_STORE ? m->kept_bytes : 0);
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
    h->buf.n_rest = 0;
    h->buf.rest = NULL;
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

/* A mapping, preferably one whose pages the system need not clear again. With the lock held; charged. */
static uint8_t *map(struct memory *m, size_t size)
{
    for (unsigned i = m->n_kept; i-- > 0;)
        if (m->kept[i].size == size) {
            uint8_t *bytes = m->kept[i].bytes;
            unkeep(m, i);
            m->used[MEMORY_STORE] += size;
            return bytes;
        }
    if (!charge(m, MEMORY_STORE, size))
        return NULL;
    void *bytes =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes == MAP_FAILED) {
        uncharge(m, MEMORY_STORE, size);
        return NULL;
    }
    (void)madvise(bytes, size, MADV_HUGEPAGE); /* fewer faults and TLB misses where the kernel offers it */
    return bytes;
}

/* With the lock held. A node that writes blocks through to its disks takes and returns them all the time. */
static void keep(struct memory *m, struct mapping x)
{
    uint64_t most = m->limit[MEMORY_STORE] / KEPT_SHARE;
    if (x.size > (most < KEPT_MAX ? most : KEPT_MAX)) {
        uncharge(m, MEMORY_STORE, x.size);
        unmap(x);
        return;
    }
    m->kept[m->n_kept++] = x;
    m->kept_bytes += x.size;
    while (m->n_kept == KEPT || m->kept_bytes > (most < KEPT_MAX ? most : KEPT_MAX))
        kept_drop(m);
}

/* With the lock held. NULL when there is no room. */
static struct span *span_new(struct memory *m, size_t size, size_t slot_size)
{
    unsigned n_slots = (unsigned)(size / slot_size);
    if (!charge(m, MEMORY_STORE, span_overhead(n_slots)))
        return NULL;
    struct span *s = malloc(span_overhead(n_slots));
    uint8_t *bytes = s ? map(m, size) : NULL;
    if (!bytes) {
        free(s);
        uncharge(m, MEMORY_STORE, span_overhead(n_slots));
        return NULL;
    }
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
    uncharge(m, MEMORY_STORE, span_overhead(s->n_slots));
    keep(m, (struct mapping){s->bytes, s->size});
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
    slot->buf.n_rest = 0;
    slot->buf.rest = NULL;
    slot->buf.len = len;
    slot->buf.release = release_slot;
    return &slot->buf;
}

/* ---- copying ---- */

void memory_stream(void *to, const void *from, size_t len)
{
#ifdef __SSE2__
    enum { LINE = 64 }; /* whole lines, or the processor reads what is about to be overwritten */
    __m128i *d = to;
    const __m128i *s = from;
    for (; (uintptr_t)d % LINE == 0 && len >= LINE; d += 4, s += 4, len -= LINE) {
        __m128i a = _mm_loadu_si128(s), b = _mm_loadu_si128(s + 1), c = _mm_loadu_si128(s + 2),
                e = _mm_loadu_si128(s + 3);
        _mm_stream_si128(d, a);
        _mm_stream_si128(d + 1, b);
        _mm_stream_si128(d + 2, c);
        _mm_stream_si128(d + 3, e);
    }
    _mm_sfence();
    to = d;
    from = s;
#endif
    memcpy(to, from, len);
}
