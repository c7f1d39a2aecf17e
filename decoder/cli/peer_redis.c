/* peer_redis.c: redis as a peer: redis-server from PATH, reached through libhiredis, which is loaded only
 * when it is asked for: nothing of this program needs it. The structs are those of hiredis 0.14, which Debian
 * 12 has. */
#include "decoder/cli/peer.h"
#include "common/clock.h"
#include "decoder/cli/child.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

static const char SERVER[] = "redis-server", LIBRARY[] = "libhiredis.so.0.14";
enum { KEY = 16, START_MS = 10000, REPLY_STRING = 1, REPLY_ARRAY = 2 };

struct redisContext { /* its beginning */
    int err;
    char errstr[128];
};
struct redisReply {
    int type;
    long long integer;
    size_t len;
    char *str;
    size_t elements;
    struct redisReply **element;
};

struct redis {
    void *library;
    struct redisContext *(*connect)(const char *ip, int port);
    struct redisContext *(*connect_unix)(const char *path);
    int (*set_timeout)(struct redisContext *, struct timeval);
    int (*append)(struct redisContext *, int argc, const char **argv, const size_t *argvlen);
    int (*write)(struct redisContext *, int *done);
    int (*get_reply)(struct redisContext *, void **reply);
    void (*free_reply)(void *reply);
    void (*free)(struct redisContext *);

    struct redisContext *ctx;
    pid_t pid;
    uint32_t per_request;
    size_t bytes;
    struct redisReply *reply; /* that the caller still reads */
    const char **argv;        /* [1 + per_request] */
    size_t *lens;
    char (*keys)[KEY]; /* [per_request] */
};

static bool load(struct redis *r)
{
    static const struct {
        const char *name;
        size_t at;
    } names[] = {{"redisConnect", offsetof(struct redis, connect)},
                 {"redisConnectUnix", offsetof(struct redis, connect_unix)},
                 {"redisSetTimeout", offsetof(struct redis, set_timeout)},
                 {"redisAppendCommandArgv", offsetof(struct redis, append)},
                 {"redisBufferWrite", offsetof(struct redis, write)},
                 {"redisGetReply", offsetof(struct redis, get_reply)},
                 {"freeReplyObject", offsetof(struct redis, free_reply)},
                 {"redisFree", offsetof(struct redis, free)}};
    r->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; r->library && i < sizeof names / sizeof names[0]; i++) {
        void *symbol = dlsym(r->library, names[i].name);
        if (!symbol)
            return false;
        memcpy((char *)r + names[i].at, &symbol, sizeof symbol);
    }
    return r->library != NULL;
}

static int broke(struct redis *r, struct skv_error *err)
{
    return skv_fail(err, -EIO, "redis: %.200s",
                    r->ctx && r->ctx->err ? r->ctx->errstr : "an answer of another kind");
}

/* Hands a command over and sends what can be sent: hiredis alone would wait until an answer is asked for. */
static int send_command(struct redis *r, int argc, struct skv_error *err)
{
    int done = 0;
    return r->append(r->ctx, argc, r->argv, r->lens) || r->write(r->ctx, &done) ? broke(r, err) : 0;
}

static int ask(void *self, const uint32_t *numbers, uint32_t n, struct skv_error *err)
{
    struct redis *r = self;
    r->argv[0] = n == 1 ? "GET" : "MGET";
    r->lens[0] = strlen(r->argv[0]);
    for (uint32_t i = 0; i < n; i++) {
        r->argv[1 + i] = r->keys[i];
        r->lens[1 + i] = (size_t)snprintf(r->keys[i], KEY, "k%09u", numbers[i]);
    }
    return send_command(r, 1 + (int)n, err);
}

static void let_go(struct redis *r)
{
    if (r->reply)
        r->free_reply(r->reply);
    r->reply = NULL;
}

static int take(void *self, const uint8_t **out, uint32_t n, struct skv_error *err)
{
    struct redis *r = self;
    void *reply = NULL;
    let_go(r);
    if (r->get_reply(r->ctx, &reply) || !(r->reply = reply))
        return broke(r, err);
    struct redisReply *one = r->reply, **all = n == 1 ? &one : r->reply->element;
    if (n > 1 && (r->reply->type != REPLY_ARRAY || r->reply->elements != n))
        return broke(r, err);
    for (uint32_t i = 0; i < n; i++) {
        if (all[i]->type != REPLY_STRING || all[i]->len != r->bytes)
            return broke(r, err);
        out[i] = (const uint8_t *)all[i]->str;
    }
    return 0;
}

static void shut(void *self)
{
    struct redis *r = self;
    let_go(r);
    if (r->ctx)
        r->free(r->ctx);
    if (r->pid > 0)
        child_end(r->pid, SIGKILL);
    if (r->library)
        dlclose(r->library);
    free(r->argv);
    free(r->lens);
    free(r->keys);
    free(r);
}

/* ---- beginning ---- */

static int start(struct redis *r, const char *dir, bool over_unix, struct skv_error *err)
{
    char port[16], path[PATH_MAX];
    int number = loopback_port(err);
    if (number < 0)
        return number;
    snprintf(port, sizeof port, "%d", number);
    if (snprintf(path, sizeof path, "%s/redis", dir) >= (int)sizeof path)
        return skv_fail(err, -ENAMETOOLONG, "the name of the directory is too long");
    char *argv[] = {(char *)SERVER, "--bind", "127.0.0.1",    "--port", port,    "--unixsocket", path,
                    "--save",       "",       "--appendonly", "no",     "--dir", (char *)dir,    NULL};
    if ((r->pid = child_start(argv, -1, err)) < 0)
        return (int)r->pid;
    for (uint64_t until = clock_ns() + START_MS * NS_PER_MS; !r->ctx;) {
        r->ctx = over_unix ? r->connect_unix(path) : r->connect("127.0.0.1", number);
        if (r->ctx && !r->ctx->err)
            break;
        if (!r->ctx || clock_ns() > until)
            return broke(r, err);
        r->free(r->ctx);
        r->ctx = NULL;
        nanosleep(&(struct timespec){.tv_nsec = 10 * (long)NS_PER_MS}, NULL);
    }
    return r->set_timeout(r->ctx, (struct timeval){.tv_sec = START_MS / 1000}) ? broke(r, err) : 0;
}

static int fill(struct redis *r, const struct peer_pieces *p, struct skv_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < p->n && !rc; i++) {
        void *reply = NULL;
        r->argv[0] = "SET";
        r->argv[1] = r->keys[0];
        r->argv[2] = (const char *)p->data + i * p->bytes;
        r->lens[0] = 3;
        r->lens[1] = (size_t)snprintf(r->keys[0], KEY, "k%09u", i);
        r->lens[2] = p->bytes;
        rc = send_command(r, 3, err);
        if (!rc && (r->get_reply(r->ctx, &reply) || !reply))
            rc = broke(r, err);
        if (reply)
            r->free_reply(reply);
    }
    return rc;
}

int peer_redis_open(struct peer *out, const struct peer_pieces *p, uint32_t per_request, const char *dir,
                    bool over_unix, const char **missing, struct skv_error *err)
{
    static const struct peer_ops ops = {ask, take, shut};
    struct redis *r = calloc(1, sizeof *r);
    if (!r)
        return skv_fail(err, -ENOMEM, "out of memory");
    *missing = !child_found(SERVER) ? SERVER : !load(r) ? LIBRARY : NULL;
    r->per_request = per_request;
    r->bytes = p->bytes;
    r->argv = calloc(per_request + 2, sizeof *r->argv);
    r->lens = calloc(per_request + 2, sizeof *r->lens);
    r->keys = calloc(per_request, sizeof *r->keys);
    int rc = r->argv && r->lens && r->keys ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (!rc && !*missing)
        rc = start(r, dir, over_unix, err);
    if (!rc && !*missing)
        rc = fill(r, p, err);
    if (rc || *missing) {
        shut(r);
        return rc;
    }
    *out = (struct peer){.ops = &ops, .self = r, .pieces = p, .pids = &r->pid, .n_pids = 1};
    return 0;
}
