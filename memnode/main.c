/* main.c: the program scoutkv-memnode: options, signals, one server. */
#include "common/error.h"
#include "common/log.h"
#include "common/options.h"
#include "common/zmqx.h"
#include "memnode/disk_options.h"
#include "memnode/registration.h"
#include "memnode/server.h"
#include "memnode/verify_main.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 63, MAX_NAMESPACES = 1024 };

struct settings {
    const char *etcd, *advertise;
    double weight;
    const char *listen, *id, *cluster, *namespaces, *log_level, *verify;
    uint64_t ram, scrub;
    struct opt_list disk;
    bool json;
};

static const struct opt table[] = {
    {"listen", 0, OPT_STRING, offsetof(struct settings, listen), "ADDR",
     "host:port to listen on; port 0 takes a free one"},
    {"ram", 0, OPT_SIZE, offsetof(struct settings, ram), "SIZE",
     "memory for blocks, objects and replies on their way: 512MiB, 16GiB"},
    {"disk", 0, OPT_LIST, offsetof(struct settings, disk), "DIR:SIZE",
     "a directory that blocks are kept in, and how much of it they may take; one a disk"},
    {"scrub", 0, OPT_SIZE, offsetof(struct settings, scrub), "RATE",
     "bytes a second read again from the disks, to find what has rotted; 0: none"},
    {"id", 0, OPT_STRING, offsetof(struct settings, id), "NAME",
     "this node's name, at most 63 bytes; without it, the address it listens on"},
    {"cluster", 0, OPT_STRING, offsetof(struct settings, cluster), "NAME",
     "only clients of this cluster are served"},
    {"namespaces", 0, OPT_STRING, offsetof(struct settings, namespaces), "LIST",
     "tenants served: numbers separated by commas, or any"},
    {"etcd", 0, OPT_STRING, offsetof(struct settings, etcd), "HOST:PORT,…",
     "etcd that is told of this node: it joins the cluster's view there; clients: --nodes etcd://HOST:PORT"},
    {"advertise", 0, OPT_STRING, offsetof(struct settings, advertise), "HOST:PORT",
     "with --etcd: where clients reach this node, if that is not what it listens on"},
    {"weight", 0, OPT_DOUBLE, offsetof(struct settings, weight), "W",
     "with --etcd: its share of the blocks, beside the others'", .min = 0.001, .max = 1000},
    {"log-level", 0, OPT_CHOICE, offsetof(struct settings, log_level), "LEVEL", "what is written to stderr",
     .choices = "error|warn|info|debug"},
    {"verify", 0, OPT_STRING, offsetof(struct settings, verify), "DIR",
     "instead of serving, read all that a disk's directory holds and report what is damaged"},
    {"json", 0, OPT_FLAG, offsetof(struct settings, json), NULL, "the report of --verify as JSON"},
    {0},
};

static const char about[] =
    "A memory node. It keeps sealed KV blocks in RAM, and with --disk on disks too, and hands out the pages "
    "that\n"
    "decoders ask for. What was acknowledged 'durable' is there after a restart, a crash or a power cut; "
    "what "
    "was\n"
    "acknowledged from RAM is written soon afterwards. Without --disk, what it held is gone when it stops.\n"
    "\n"
    "When clients may connect, it prints 'listening on tcp://HOST:PORT' on stdout. SIGTERM or SIGINT stops "
    "it, after\n"
    "it has written what is not on disk yet. A directory belongs to the node that made it, by its --id, and "
    "to one\n"
    "process at a time. There is no authentication yet: beyond loopback, listen only on a network that you "
    "trust.";
static const char examples[] =
    "  scoutkv-memnode --listen 127.0.0.1:7071 --ram 8GiB --id a &\n"
    "  scoutkv run -m model.gguf -p 'Once upon a time' --nodes 127.0.0.1:7071\n"
    "  scoutkv stats --nodes 127.0.0.1:7071\n"
    "\n"
    "  scoutkv-memnode --ram 8GiB --disk /nvme0/scoutkv:800GiB --disk /nvme1/scoutkv:800GiB --id a\n"
    "  scoutkv-memnode --verify /nvme0/scoutkv";

/* "0,7,12" -> numbers. The count, or -EINVAL. */
static int parse_namespaces(const char *s, uint64_t out[MAX_NAMESPACES])
{
    for (int n = 0; n < MAX_NAMESPACES; s++) {
        char *end;
        errno = 0;
        if (*s < '0' || *s > '9')
            return -EINVAL;
        out[n++] = strtoull(s, &end, 0);
        if (errno || (*end && *end != ','))
            return -EINVAL;
        if (!*end)
            return n;
        s = end;
    }
    return -EINVAL;
}

static bool is_loopback(const char *endpoint)
{
    return strncmp(endpoint, "tcp://127.", 10) == 0 || strncmp(endpoint, "tcp://[::1]:", 12) == 0 ||
           strncmp(endpoint, "ipc://", 6) == 0;
}

static void warn_of(const struct node_opts *o, const char *endpoint, const struct log *log)
{
    if (!is_loopback(endpoint))
        log_write(log, LOG_LEVEL_WARN,
                  "%s is reachable from other machines and there is no authentication yet: whoever can "
                  "connect can read "
                  "and write blocks",
                  endpoint);
    double machine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (machine > 0 && (double)o->ram > machine)
        log_write(log, LOG_LEVEL_WARN, "--ram is %.1f GiB but this machine has %.1f GiB",
                  (double)o->ram / (1 << 30), machine / (1 << 30));
}

/* Where SIGTERM and SIGINT end up: an eventfd, -1 until it is made. A handler, not a signalfd: that would
 * need the signals blocked in every thread, and the runtime of a sanitizer starts one before main. */
static int stop_fd = -1;

static void on_stop(int number)
{
    uint64_t one = 1;
    int saved = errno;
    (void)number;
    ssize_t written = write(stop_fd, &one, sizeof one); /* can't fail: the counter is far from its limit */
    (void)written;
    errno = saved;
}

static int catch_signals(void)
{
    struct sigaction act = {.sa_handler = on_stop};
    sigemptyset(&act.sa_mask);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file beyond ulimit -f is an error like others */
    stop_fd = eventfd(0, EFD_CLOEXEC);
    if (stop_fd < 0 || sigaction(SIGTERM, &act, NULL) || sigaction(SIGINT, &act, NULL))
        return -errno;
    return 0;
}

/* "800.00 GiB on 1 disk" */
static void disks_text(const struct node_opts *o, const struct disk_options *disks, char out[64])
{
    if (o->n_disks)
        snprintf(out, 64, "%.2f GiB on %zu disk%s", (double)disk_options_bytes(disks) / (1 << 30), o->n_disks,
                 o->n_disks > 1 ? "s" : "");
    else
        snprintf(out, 64, "no disk");
}

/* Tells etcd where this node is, once it serves. */
static int start_registration(const struct settings *s, const char *endpoint, const struct node_opts *opts,
                              const struct log *log, struct registration **out, struct skv_error *err)
{
    struct cluster_node node = {.weight = s->weight};
    const char *address = s->advertise ? s->advertise : endpoint + strlen("tcp://");
    char text[400];
    if (!s->etcd)
        return 0;
    bool reachable =
        s->advertise || (strncmp(endpoint, "tcp://", 6) == 0 && !strstr(endpoint, "//0.0.0.0:") &&
                         !strstr(endpoint, "//[::]:") && !strstr(endpoint, "//*:"));
    snprintf(text, sizeof text, "%.63s@%.263s", opts->id, address);
    const char *wrong = reachable ? cluster_node_parse(text, strlen(text), &node)
                                  : "clients can't connect to every address at once";
    if (wrong)
        return skv_fail(err, -EINVAL, "'%s' is nothing to tell etcd: %s; give --advertise HOST:PORT", address,
                        wrong);
    node.weight = s->weight;
    *out = registration_start(s->etcd, opts->cluster, &node, log, err);
    return *out ? 0 : err->code;
}

/* Listens, opens the disks, says so, and serves until a signal. */
static int serve(const struct settings *s, const char *listen, struct node_opts *opts,
                 const struct disk_options *disks, struct log *log, struct skv_error *err)
{
    struct registration *registration = NULL;
    struct zmqx_socket *listener = NULL;
    struct server *server = NULL;
    char text[64];
    int rc = catch_signals();
    void *ctx = NULL;
    if (rc) {
        skv_fail(err, rc, "cannot wait for signals: %s", strerror(-rc));
        goto done;
    }
    if (!(ctx = zmqx_ctx_new(1, err))) {
        rc = err->code;
        goto done;
    }
    if ((rc = zmqx_router(ctx, listen, PROTO_MAX_PAYLOAD, &listener, err)))
        goto done;
    const char *endpoint = zmqx_endpoint(listener);
    if (!opts->id)
        opts->id = strncmp(endpoint, "tcp://", 6) == 0 ? endpoint + 6 : endpoint;
    log->name = opts->id;
    warn_of(opts, endpoint, log);
    if (!(server = server_new(listener, opts, err))) {
        rc = err->code;
        goto done;
    }
    disks_text(opts, disks, text);
    log_write(log, LOG_LEVEL_INFO, "serving cluster '%s' on %s with %.2f GiB of RAM and %s", opts->cluster,
              endpoint, (double)opts->ram / (1 << 30), text);
    if ((rc = start_registration(s, endpoint, opts, log, &registration, err)))
        goto done;
    printf("listening on %s\n", endpoint);
    fflush(stdout);
    if ((rc = server_run(server, stop_fd, err)) == 0)
        log_write(log, LOG_LEVEL_INFO, "stopped");
done:
    registration_stop(registration);
    server_free(server);
    zmqx_close(listener);
    zmqx_ctx_free(ctx);
    return rc;
}

/* A disk's directory belongs to a name, and with port 0 the name would be another one every time. */
static bool name_lasts(const struct settings *s, const char *endpoint)
{
    const char *port = strrchr(endpoint, ':');
    bool any = port && (strcmp(port, ":0") == 0 || strcmp(port, ":*") == 0);
    return s->id || s->disk.n == 0 || !any;
}

int main(int argc, char **argv)
{
    struct settings s = {.weight = 1,
                         .listen = "127.0.0.1:7071",
                         .ram = UINT64_C(4) << 30,
                         .scrub = 8 << 20,
                         .cluster = "default",
                         .namespaces = "any",
                         .log_level = "info"};
    const struct opt_group groups[] = {{"Options", table, &s}, {0}};
    const struct opt_command cmd = {"scoutkv-memnode", "[options]", about, examples, groups};
    struct opt_memory memory = {0};
    /* Frames of up to 4 MiB come and go by the thousand: keep them on the heap, where freed ones are used
     * again, instead of mapping and faulting in each. */
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 128 << 20);
    int rc = options_start(&cmd, argc, argv, &memory);
    if (rc >= 0)
        return rc;

    uint64_t namespaces[MAX_NAMESPACES];
    char endpoint[ZMQX_ENDPOINT];
    struct skv_error err = {0};
    struct log log = {.out = stderr, .name = "memnode"};
    struct disk_options disks = {0};
    struct node_opts opts = {
        .id = s.id, .cluster = s.cluster, .ram = s.ram, .scrub_rate = s.scrub, .log = &log};
    log_level_parse(s.log_level, &log.level);
    int n = strcmp(s.namespaces, "any") == 0 ? 0 : parse_namespaces(s.namespaces, namespaces);
    if (n < 0)
        rc = options_mistake(&cmd, "--namespaces '%s': write numbers separated by commas, or any",
                             s.namespaces);
    else if (s.ram < NODE_RAM_MIN)
        rc = options_mistake(&cmd, "--ram is too little: a memory node needs at least %d MiB",
                             NODE_RAM_MIN >> 20);
    else if (s.verify && (s.disk.n || s.id))
        rc = options_mistake(&cmd,
                             "--verify looks at a directory and serves nothing: leave out --disk and --id");
    else if (s.json && !s.verify)
        rc = options_mistake(&cmd,
                             "--json is for --verify; `scoutkv stats --json` asks a node for its counters");
    else if (s.verify)
        rc = verify_run(s.verify, s.json);
    else if (disk_options_parse(s.disk.item, s.disk.n, &disks, &err))
        rc = options_mistake(&cmd, "--disk %s", err.text);
    else if (zmqx_endpoint_parse(s.listen, endpoint, &err))
        rc = options_mistake(&cmd, "--listen: %s", err.text);
    else if (s.id && (!s.id[0] || strlen(s.id) > NAME_MAX_BYTES))
        rc = options_mistake(&cmd, "--id is a name of 1 to %d bytes", NAME_MAX_BYTES);
    else if (!name_lasts(&s, endpoint))
        rc =
            options_mistake(&cmd, "--disk needs an --id when --listen takes any free port: what a disk holds "
                                  "belongs to a node of one name");
    else {
        opts.ns = n ? namespaces : NULL;
        opts.n_ns = (size_t)n;
        opts.disks = disks.disk;
        opts.n_disks = disks.n;
        int code = serve(&s, endpoint, &opts, &disks, &log, &err);
        if (code)
            fprintf(stderr, "scoutkv-memnode: %s\n", err.text);
        rc = skv_exit_code(code);
    }
    disk_options_free(&disks);
    options_free(&memory);
    return rc;
}
