/* serve_impl.h: what the HTTP side's files share. Nobody else includes it. */
#ifndef SERVE_SERVE_IMPL_H
#define SERVE_SERVE_IMPL_H

#include "decoder/serve/api_keys.h"
#include "decoder/serve/serve.h"
#include "decoder/serve/worker.h"

#include <microhttpd.h>

struct serve {
    struct serve_opts opts;
    char url[300];
    int64_t started;           /* seconds since 1970 */
    struct api_keys *keys;     /* or NULL */
    struct prefixes *prefixes; /* the worker's, one a tenant */
    struct MHD_Daemon *daemon;
    bool listening;
    struct exchange exchange;
    struct worker worker;

    pthread_mutex_t lock; /* of the list */
    struct call *calls;   /* that have a ticket */
};

/* A request on its way in, and its answer on its way out: a connection's, of one MHD thread at a time. */
struct call {
    struct serve *serve;
    struct MHD_Connection *connection;
    const struct route *route;
    const char *path_rest; /* of a route that ends with a slash */
    size_t tenant;         /* whose key it came with */
    char *body;
    size_t len, room, dropped;
    struct ticket *ticket;     /* or NULL; from when it was queued */
    struct call *next, **link; /* the list's */
};

/* ---- http.c ---- */

enum MHD_Result http_request(void *serve, struct MHD_Connection *, const char *url, const char *method,
                             const char *version, const char *upload, size_t *upload_size, void **call);
void http_completed(void *serve, struct MHD_Connection *, void **call, enum MHD_RequestTerminationCode);
/* Looks whether clients are gone, and sees to comments in silent streams. */
void http_watch(struct serve *);
bool http_busy(struct serve *); /* answers are still on their way */

/* body (malloc'd; NULL: out of memory) is taken over. */
enum MHD_Result http_json(struct call *, int status, char *body);
enum MHD_Result http_error(struct call *, const struct api_error *, uint64_t retry_after_s,
                           const char *allow);
/* From now on the call's answer is the ticket's; its reference is taken over. */
enum MHD_Result http_ticket(struct call *, struct ticket *);

/* ---- routes.c ---- */

struct route {
    const char *path; /* ending with a slash: any that begin so */
    bool post, open;  /* else GET; open: without a key */
    enum MHD_Result (*answer)(struct call *);
};
/* NULL fills *e and, for a wrong method, *allow. */
const struct route *route_find(const char *url, const char *method, const char **rest, const char **allow,
                               struct api_error *e);

#endif
