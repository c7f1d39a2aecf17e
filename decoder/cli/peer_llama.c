/* peer_llama.c: see peer_llama.h. The process is node with the script below, in a file for the while (the
 * package starts itself again to try its programs, which a script from the command line can't); it connects
 * to a port of ours, says "ready", and for every line it gets decodes once and answers with the seconds. */
#include "decoder/cli/peer_llama.h"
#include "decoder/cli/child.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START_MS = 300000, STEP_MS = 300000, TICK_MS = 200 };

static const char script[] =
    "import net from 'node:net';\n"
    "import {pathToFileURL} from 'node:url';\n"
    "import {createInterface} from 'node:readline';\n"
    "const [dir, modelPath, ...numbers] = process.argv.slice(2);\n"
    "const [tokens, steps, threads, port] = numbers.map(Number);\n"
    "const {getLlama, LlamaLogLevel} = await import(pathToFileURL(dir + "
    "'/node_modules/node-llama-cpp/dist/index.js'));\n"
    "const llama = await getLlama({gpu: false, build: 'never', logLevel: LlamaLogLevel.error});\n"
    "const model = await llama.loadModel({modelPath});\n"
    "const context = await model.createContext({contextSize: tokens + steps + 16, threads});\n"
    "const sequence = context.getSequence();\n"
    "const ids = Array.from({length: tokens}, (_, i) => 3 + i * 7919 % 250);\n"
    "await sequence.evaluateWithoutGeneratingNewTokens(ids);\n"
    "const socket = net.connect(port, '127.0.0.1');\n"
    "socket.write('ready\\n');\n"
    "for await (const line of createInterface({input: socket})) {\n"
    "    const start = performance.now();\n"
    "    let n = 0;\n"
    "    for await (const id of sequence.evaluate([5], {temperature: 0, yieldEogToken: true}))\n"
    "        if (++n == steps) break;\n"
    "    const seconds = (performance.now() - start) / 1000;\n"
    "    await sequence.eraseContextTokenRanges([{start: tokens, end: sequence.nextTokenIndex}]);\n"
    "    socket.write((n == steps ? seconds : 'ended early') + '\\n');\n"
    "}\n"
    "process.exit(0);\n";

/* path receives its name. */
static int write_script(char path[PATH_MAX], struct skv_error *err)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(path, PATH_MAX, "%s/scoutkv-llama-XXXXXX.mjs", tmp && *tmp ? tmp : "/tmp");
    int fd = mkstemps(path, 4);
    if (fd < 0 || write(fd, script, sizeof script - 1) != (ssize_t)(sizeof script - 1)) {
        int code = errno ? -errno : -EIO;
        if (fd >= 0)
            close(fd);
        return skv_fail(err, code, "cannot write %s: %s", path, strerror(-code));
    }
    close(fd);
    return 0;
}

static bool wait_for(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) > 0;
}

static int read_line(struct peer_llama *p, char line[64], int ms, struct skv_error *err)
{
    for (size_t n = 0; n < 63; n++) {
        if (!wait_for(p->fd, ms) || recv(p->fd, line + n, 1, 0) != 1)
            return skv_fail(err, -EIO, "llama.cpp went away or doesn't answer");
        if (line[n] == '\n') {
            line[n] = '\0';
            return 0;
        }
    }
    return skv_fail(err, -EIO, "llama.cpp answered with a line that is too long");
}

/* Its connection, or the end of the process: it says on its stderr why, which nobody reads. */
static int await(struct peer_llama *p, int listener, struct skv_error *err)
{
    for (int ms = 0; ms < START_MS; ms += TICK_MS) {
        if (wait_for(listener, TICK_MS)) {
            p->fd = accept(listener, NULL, NULL);
            return p->fd < 0 ? skv_fail(err, -errno, "accept: %s", strerror(errno)) : 0;
        }
        if (waitpid(p->pid, NULL, WNOHANG) == p->pid) {
            p->pid = 0;
            return skv_fail(err, -EIO,
                            "llama.cpp (node-llama-cpp) could not be started, or not load the model");
        }
    }
    return skv_fail(err, -ETIMEDOUT, "llama.cpp did not load the model in %d s", START_MS / 1000);
}

int peer_llama_open(struct peer_llama *p, const char *dir, const char *model, uint32_t tokens, uint32_t steps,
                    uint32_t threads, const char **missing, struct skv_error *err)
{
    char package[PATH_MAX], path[PATH_MAX], root[PATH_MAX], file[PATH_MAX], numbers[4][16], line[64];
    unsigned port;
    snprintf(package, sizeof package, "%s/node_modules/node-llama-cpp/dist/index.js", dir);
    *missing = !child_found("node") ? "node" : access(package, R_OK) ? "node-llama-cpp" : NULL;
    if (*missing)
        return 0;
    if (!realpath(dir, root) || !realpath(model, file))
        return skv_fail(err, -errno, "%s: %s", model, strerror(errno));
    int listener = loopback_listen(&port, err);
    if (listener < 0)
        return listener;
    const unsigned values[] = {tokens, steps, threads, port};
    for (unsigned i = 0; i < 4; i++)
        snprintf(numbers[i], sizeof numbers[i], "%u", values[i]);
    char *argv[] = {"node", path, root, file, numbers[0], numbers[1], numbers[2], numbers[3], NULL};
    int rc = write_script(path, err);
    if (rc == 0)
        p->pid = child_start(argv, -1, err);
    if (rc == 0)
        rc = p->pid < 0 ? (int)p->pid : await(p, listener, err);
    unlink(path);
    close(listener);
    if (rc == 0)
        rc = read_line(p, line, START_MS, err);
    if (rc)
        peer_llama_close(p);
    return rc;
}

int peer_llama_run(struct peer_llama *p, double *seconds, struct skv_error *err)
{
    char line[64], *end;
    if (send(p->fd, "go\n", 3, MSG_NOSIGNAL) != 3)
        return skv_fail(err, -EIO, "llama.cpp went away");
    int rc = read_line(p, line, STEP_MS, err);
    if (rc)
        return rc;
    *seconds = strtod(line, &end);
    return *end || *seconds <= 0 ? skv_fail(err, -EIO, "llama.cpp %s", line) : 0;
}

void peer_llama_close(struct peer_llama *p)
{
    if (p->fd > 0)
        close(p->fd);
    if (p->pid > 0)
        child_end(p->pid, SIGKILL);
    *p = (struct peer_llama){0};
}
