#include "decoder/cli/text_io.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int read_all(const char *path, char **out, size_t *len, struct skv_error *err)
{
    const char *name = path && strcmp(path, "-") ? path : "standard input";
    FILE *in = name == path ? fopen(path, "rb") : stdin;
    char *text = NULL;
    size_t n = 0, room = 0;
    int rc = 0;
    if (!in)
        return skv_fail(err, -errno, "cannot read %s: %s", name, strerror(errno));
    do {
        if (n + 1 >= room) {
            room = room ? 2 * room : 1 << 16;
            char *grown = realloc(text, room);
            if (!grown) {
                rc = skv_fail(err, -ENOMEM, "out of memory reading %s", name);
                goto out;
            }
            text = grown;
        }
        errno = 0;
        n += fread(text + n, 1, room - n - 1, in);
    } while (!feof(in) && !ferror(in));
    if (ferror(in))
        rc = skv_fail(err, errno ? -errno : -EIO, "cannot read %s: %s", name, strerror(errno ? errno : EIO));
out:
    if (in != stdin)
        fclose(in);
    if (rc) {
        free(text);
        return rc;
    }
    text[n] = 0;
    *out = text;
    *len = n;
    return 0;
}

int parse_ids(const char *text, const char *name, uint32_t n_vocab, uint32_t **ids, size_t *n,
              struct skv_error *err)
{
    size_t most = strlen(text) / 2 + 1, count = 0; /* an id and a space are two characters at least */
    uint32_t *list = malloc(most * sizeof *list);
    if (!list)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (const char *at = text;;) {
        while (isspace((unsigned char)*at))
            at++;
        if (!*at)
            break;
        char *end;
        errno = 0;
        unsigned long long id = strtoull(at, &end, 10);
        int len = (int)strcspn(at, " \t\r\n");
        if (!isdigit((unsigned char)*at) || (*end && !isspace((unsigned char)*end)) || errno ||
            id >= n_vocab) {
            free(list);
            return skv_fail(err, -EINVAL, "%s: '%.*s' (number %zu) is not a token id below %u", name,
                            len > 40 ? 40 : len, at, count + 1, n_vocab);
        }
        list[count++] = (uint32_t)id;
        at = end;
    }
    *ids = list;
    *n = count;
    return 0;
}
