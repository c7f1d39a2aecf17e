/* serve.c: opens the parts of a server in order, and closes them so that every client gets an answer. */
#include "common/clock.h"
#include "decoder/serve/serve_impl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HTTP_THREADS = 4,
    SPARE_CONNECTIONS = 256, /* besides those of requests: who is told that the queue is full needs one too */
    IDLE_S = 60,             /* of a connection that neither sends nor takes anything */
    TICK_MS = 100,
    FLUSH_MS = 2000, /* for the last bytes of answers when the server stops */
};

/* ---- the socket ---- */

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

static int resolve(const struct serve_opts *o, struct addrinfo **out, struct skv_error *err)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    snprintf(port, sizeof port, "%u", o->port);
    int rc = getaddrinfo(o->host, port, &hints, out);
    if (rc)
        return skv_fail(err, -EINVAL, "cannot listen on %s: %s", o->host, gai_strerror(rc));
    if (!o->api_keys && !is_loopback((*out)->ai_addr)) {
        freeaddrinfo(*out);
        return skv_fail(
            err, -EINVAL,
            "%s is not loopback: anybody who reaches it could use the model; give --api-keys FILE, "
            "with a key a line",
            o->host);
    }
    return 0;
}

static void quiet(void *arg, const char *fmt, va_list ap)
{
    char text[200];
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\n")] = 0;
    log_write(arg, LOG_LEVEL_DEBUG, "http: %s", text);
}

static int listen_on(struct serve *s, struct skv_error *err)
{
    const struct serve_opts *o = &s->opts;
    struct addrinfo *a;
    int rc = resolve(o, &a, err);
    if (rc)
        return rc;
    bool six = a->ai_family == AF_INET6;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
    s->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME |
                                     MHD_USE_ERROR_LOG | (six ? MHD_USE_IPv6 : 0),
                                 0, NULL, NULL, http_request, s, MHD_OPTION_EXTERNAL_LOGGER, quiet,
                                 (void *)(uintptr_t)o->log, MHD_OPTION_SOCK_ADDR, a->ai_addr,
                                 MHD_OPTION_NOTIFY_COMPLETED, http_completed, s, MHD_OPTION_THREAD_POOL_SIZE,
                                 (unsigned)HTTP_THREADS, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)(o->parallel + o->queue + SPARE_CONNECTIONS),
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_END);
    int why = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!s->daemon)
        rc = skv_fail(err, why ? -why : -EIO, "cannot listen on %s port %u: %s", o->host, o->port,
                      strerror(why ? why : EIO));
    freeaddrinfo(a);
    if (rc)
        return rc;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    snprintf(s->url, sizeof s->url, six ? "http://[%s]:%u" : "http://%s:%u", o->host,
             info ? info->port : o->port);
    s->listening = true;
    return 0;
}

/* ---- the server ---- */

/* What is kept for each tenant. */
static int prepare_tenants(struct serve *s, struct skv_error *err)
{
    const struct serve_opts *o = &s->opts;
    size_t n = api_keys_tenants(s->keys);
    s->prefixes = malloc(n * sizeof *s->prefixes);
    if (!s->prefixes)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const struct tenant *t = api_keys_tenant(s->keys, i);
        struct skv_context_opts opts = *o->context;
        opts.salt = tenant_salt(t);
        prefixes_init(&s->prefixes[i], o->tier, o->shape, &opts, t->name, o->saved_model, o->ttl_ms);
    }
    return 0;
}

static void prepare_worker(struct serve *s)
{
    const struct serve_opts *o = &s->opts;
    struct worker *w = &s->worker;
    w->serving = (struct serving){.model = o->model,
                                  .tok = o->tok,
                                  .tier = o->tier,
                                  .shape = o->shape,
                                  .context = o->context,
                                  .chunk = o->chunk,
                                  .limit = o->limit,
                                  .keys = s->keys,
                                  .prefixes = s->prefixes,
                                  .log = o->log};
    w->exchange = w->serving.exchange = &s->exchange;
    w->parallel = o->parallel;
    w->threads = o->threads;
    w->time_limit_ns = o->time_limit_ms * NS_PER_MS;
    w->drain_ns = o->drain_ms * NS_PER_MS;
    w->recompute = o->recompute;
    w->between = o->between;
}

int serve_open(const struct serve_opts *opts, struct serve **out, struct skv_error *err)
{
    struct serve *s = calloc(1, sizeof *s);
    int rc = s ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (rc)
        return rc;
    s->opts = *opts;
    s->started = (int64_t)(clock_wall_ns() / NS_PER_S);
    pthread_mutex_init(&s->lock, NULL);
    rc = exchange_init(&s->exchange, opts->queue, opts->parallel, opts->memory);
    if (rc) {
        free(s);
        return skv_fail(err, rc, "out of memory");
    }
    if (sodium_init() < 0)
        rc = skv_fail(err, -EIO, "libsodium found no source of random numbers");
    if (!rc && opts->api_keys)
        rc = api_keys_read(opts->api_keys, &s->keys, err);
    if (!rc)
        rc = prepare_tenants(s, err);
    if (!rc) {
        prepare_worker(s);
        rc = worker_start(&s->worker, err);
    }
    if (!rc)
        rc = listen_on(s, err);
    if (rc) {
        serve_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

const char *serve_url(const struct serve *s)
{
    return s->url;
}

void serve_run(struct serve *s)
{
    while (!s->opts.stop()) {
        http_watch(s);
        usleep(TICK_MS * 1000);
    }
}

/* No new connections; what waits is refused, what is worked on may end; then what was said last goes out. */
void serve_close(struct serve *s)
{
    if (s->listening) {
        int fd = MHD_quiesce_daemon(s->daemon);
        if (fd != MHD_INVALID_SOCKET)
            close(fd);
    }
    worker_stop(&s->worker);
    for (int ms = 0; s->listening && http_busy(s) && ms < FLUSH_MS; ms += 10)
        usleep(10000);
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    exchange_destroy(&s->exchange);
    pthread_mutex_destroy(&s->lock);
    api_keys_free(s->keys);
    free(s->prefixes);
    free(s);
}
