/* trace.c: what a person reads: who, what, when. */
#include "tests/sim/cluster.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

static void line(const struct cluster *k, const char *fmt, va_list ap)
{
    fprintf(stderr, "%11.6f  ", (double)k->now / 1e9);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
}

void say(struct cluster *k, const char *fmt, ...)
{
    va_list ap;
    if (!k->verbose)
        return;
    va_start(ap, fmt);
    line(k, fmt, ap);
    va_end(ap);
}

void blame(struct cluster *k, uint64_t *counter, const char *fmt, ...)
{
    va_list ap;
    ++*counter;
    if (!k->failed) { /* what follows from it says little */
        fprintf(stderr, "seed %" PRIu64 ", at ", k->seed);
        va_start(ap, fmt);
        line(k, fmt, ap);
        va_end(ap);
        fprintf(stderr, "  to repeat it: make check-cluster SEED=%" PRIu64 " N=1\n", k->seed);
    }
    k->failed = true;
}

/* ---- messages ---- */

struct text {
    char at[400];
    size_t len;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->at + t->len, sizeof t->at - t->len, fmt, ap);
    va_end(ap);
    t->len += n > 0 ? (size_t)n : 0;
    if (t->len >= sizeof t->at)
        t->len = sizeof t->at - 1;
}

static void add_key(struct cluster *k, struct text *t, const Scoutkv__Key *wire)
{
    const struct sim_key *key = model_key(k, wire);
    if (key)
        add(t, " k%u", key->number);
    else
        add(t, " (strange key)");
}

static void add_keys(struct cluster *k, struct text *t, Scoutkv__Key **keys, size_t n)
{
    for (size_t i = 0; i < n; i++)
        add_key(k, t, keys[i]);
}

static void add_version(struct cluster *k, struct text *t, const Scoutkv__Key *wire,
                        const uint64_t *checksums, size_t n)
{
    const struct sim_key *key = model_key(k, wire);
    int version = key ? model_version(key, checksums, n) : -1;
    if (version >= 0)
        add(t, ".v%d", version);
}

static void add_get(struct cluster *k, struct text *t, const Scoutkv__Get *g)
{
    size_t pages = 0;
    add(t, "GET");
    for (size_t i = 0; i < g->n_wants; i++) {
        pages += g->wants[i]->n_checksums;
        if (i < 8)
            add_key(k, t, g->wants[i]->key);
    }
    add(t, "%s (%zu pages)", g->n_wants > 8 ? " …" : "", pages);
}

static void add_body(struct cluster *k, struct text *t, const Scoutkv__Header *h)
{
    static const char *const results[] = {"STORED", "SAME", "EXISTS"};
    switch (h->body_case) {
    case SCOUTKV__HEADER__BODY_HELLO:
        add(t, "HELLO%s", h->hello->bulk ? " (bulk)" : "");
        break;
    case SCOUTKV__HEADER__BODY_HELLO_ACK:
        add(t, "HelloAck from %s", h->hello_ack->node);
        break;
    case SCOUTKV__HEADER__BODY_PUT:
        add(t, "PUT %s", h->put->ack == SCOUTKV__ACK__DURABLE ? "durable" : "ram");
        add_key(k, t, h->put->key);
        add_version(k, t, h->put->key, h->put->checksums, h->put->n_checksums);
        break;
    case SCOUTKV__HEADER__BODY_PUT_ACK:
        add(t, "PutAck %s", (unsigned)h->put_ack->result < 3 ? results[h->put_ack->result] : "?");
        break;
    case SCOUTKV__HEADER__BODY_GET:
        add_get(k, t, h->get);
        break;
    case SCOUTKV__HEADER__BODY_PAGES:
        add(t, "Pages: %zu found, %zu missed%s", h->pages->n_found, h->pages->n_missed,
            h->pages->last ? ", last" : "");
        break;
    case SCOUTKV__HEADER__BODY_HAVE:
        add(t, "HAVE");
        add_keys(k, t, h->have->keys, h->have->n_keys);
        break;
    case SCOUTKV__HEADER__BODY_HINT:
        add(t, "HINT");
        add_keys(k, t, h->hint->keys, h->hint->n_keys);
        break;
    case SCOUTKV__HEADER__BODY_DROP:
        add(t, "DROP");
        add_keys(k, t, h->drop->keys, h->drop->n_keys);
        break;
    case SCOUTKV__HEADER__BODY_PIN:
        add(t, "PIN for %s, %u ms:", h->pin->owner, h->pin->ttl_ms);
        add_keys(k, t, h->pin->keys, h->pin->n_keys);
        break;
    case SCOUTKV__HEADER__BODY_UNPIN:
        add(t, "UNPIN for %s:", h->unpin->owner);
        add_keys(k, t, h->unpin->keys, h->unpin->n_keys);
        break;
    case SCOUTKV__HEADER__BODY_HAVE_ACK:
        add(t, "HaveAck");
        for (size_t i = 0; i < h->have_ack->present.len; i++)
            add(t, " %d", h->have_ack->present.data[i]);
        break;
    case SCOUTKV__HEADER__BODY_DONE:
        add(t, "Done(%u)", h->done->count);
        break;
    case SCOUTKV__HEADER__BODY_REFUSED:
        add(t, "Refused(%s): %.200s",
            protobuf_c_enum_descriptor_get_value(&scoutkv__refused__reason__descriptor,
                                                 (int)h->refused->reason)
                ->name,
            h->refused->text);
        break;
    case SCOUTKV__HEADER__BODY_DESCRIBE:
        add(t, "DESCRIBE");
        add_key(k, t, h->describe->key);
        break;
    case SCOUTKV__HEADER__BODY_DESCRIBED:
        add(t, "Described: %s", h->described->found ? "found" : "not here");
        break;
    case SCOUTKV__HEADER__BODY_PING:
        add(t, "PING");
        break;
    case SCOUTKV__HEADER__BODY_PONG:
        add(t, "Pong");
        break;
    default:
        add(t, "message of kind %d", (int)h->body_case);
    }
}

void say_message(struct cluster *k, const struct flight *f, const char *what)
{
    if (!k->verbose)
        return;
    const struct conn *c = f->conn;
    struct text t = {.len = 0};
    char client[20], node[20];
    snprintf(client, sizeof client, "c%u.%u", c->client + 1, c->lane % (1 + k->plan.lanes));
    snprintf(node, sizeof node, "n%u", c->node + 1);
    Scoutkv__Header *h = f->header ? scoutkv__header__unpack(NULL, f->header->len, f->header->data) : NULL;
    if (h) {
        add(&t, "#%" PRIu64 " ", h->id >> 16);
        add_body(k, &t, h);
        scoutkv__header__free_unpacked(h, NULL);
    } else {
        add(&t, "the connection was closed");
    }
    say(k, "%s → %s  %s%s%s", f->way == TO_NODE ? client : node, f->way == TO_NODE ? node : client, t.at,
        *what ? "  ✗ " : "", what);
}
