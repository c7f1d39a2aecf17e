/* etcd.c: see etcd.h. Keys and values travel in base64, 64-bit numbers as strings: so does etcd's gateway. */
#include "common/etcd.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENDPOINTS = 16, ANSWER_MAX = 1 << 20, KEY_MAX = 400 };

struct etcd {
    CURL *curl;
    struct curl_slist *headers;
    char *endpoint[ENDPOINTS]; /* "http://host:port" */
    unsigned n_endpoints, at;  /* at: the one that answered last */
    char *prefix;              /* "/scoutkv/CLUSTER/" */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void curl_once(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- open and close ---- */

static int add_endpoint(struct etcd *e, const char *text, size_t len, struct skv_error *err)
{
    bool scheme =
        (len > 7 && strncmp(text, "http://", 7) == 0) || (len > 8 && strncmp(text, "https://", 8) == 0);
    if (len == 0 || e->n_endpoints == ENDPOINTS || strcspn(text, " \t\"\\") < len)
        return skv_fail(err, -EINVAL, "etcd: expected HOST:PORT,… (at most %d), not '%.100s'", ENDPOINTS,
                        text);
    char *url = malloc(len + 8);
    if (!url)
        return skv_fail(err, -ENOMEM, "out of memory");
    sprintf(url, "%s%.*s", scheme ? "" : "http://", (int)len, text);
    for (size_t n = strlen(url); n && url[n - 1] == '/'; n--)
        url[n - 1] = 0;
    e->endpoint[e->n_endpoints++] = url;
    return 0;
}

struct etcd *etcd_open(const char *endpoints, const char *cluster, struct skv_error *err)
{
    pthread_once(&once, curl_once);
    struct etcd *e = calloc(1, sizeof *e);
    size_t room = strlen(cluster) + 16;
    if (!e || strlen(cluster) > 200 || !(e->prefix = malloc(room)) || !(e->curl = curl_easy_init())) {
        skv_fail(err, -ENOMEM, "out of memory, or the cluster's name is too long for etcd");
        goto error;
    }
    snprintf(e->prefix, room, "/scoutkv/%s/", cluster);
    e->headers = curl_slist_append(NULL, "Content-Type: application/json");
    for (const char *p = endpoints;; p++) {
        size_t len = strcspn(p, ",");
        if (add_endpoint(e, p, len, err))
            goto error;
        p += len;
        if (!*p)
            return e;
    }
error:
    etcd_close(e);
    return NULL;
}

void etcd_close(struct etcd *e)
{
    if (!e)
        return;
    curl_slist_free_all(e->headers);
    curl_easy_cleanup(e->curl);
    for (unsigned i = 0; i < e->n_endpoints; i++)
        free(e->endpoint[i]);
    free(e->prefix);
    free(e);
}

/* ---- one request ---- */

struct answer {
    char *text;
    size_t len;
};

static size_t on_bytes(char *bytes, size_t one, size_t n, void *arg)
{
    struct answer *a = arg;
    char *grown = a->len + n <= ANSWER_MAX ? realloc(a->text, a->len + n + 1) : NULL;
    (void)one;
    if (!grown)
        return 0;
    memcpy(grown + a->len, bytes, n);
    a->text = grown;
    a->len += n;
    a->text[a->len] = 0;
    return n;
}

/* Posts to one endpoint. 0 when it answered with what is JSON and no error. */
static int post_to(struct etcd *e, unsigned i, const char *path, const char *body, json_t **out,
                   struct skv_error *err)
{
    struct answer a = {0};
    char url[400], why[CURL_ERROR_SIZE] = "";
    long status = 0;
    snprintf(url, sizeof url, "%.300s/v3/%s", e->endpoint[i], path);
    curl_easy_reset(e->curl);
    curl_easy_setopt(e->curl, CURLOPT_URL, url);
    curl_easy_setopt(e->curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(e->curl, CURLOPT_HTTPHEADER, e->headers);
    curl_easy_setopt(e->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e->curl, CURLOPT_TIMEOUT_MS, (long)ETCD_TIMEOUT_MS);
    curl_easy_setopt(e->curl, CURLOPT_NOPROXY, "*"); /* its addresses are the cluster's own */
    curl_easy_setopt(e->curl, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(e->curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(e->curl, CURLOPT_WRITEDATA, &a);
    CURLcode code = curl_easy_perform(e->curl);
    curl_easy_getinfo(e->curl, CURLINFO_RESPONSE_CODE, &status);
    int rc = 0;
    if (code != CURLE_OK) {
        rc = skv_fail(err, -EHOSTUNREACH, "etcd at %.200s does not answer: %.200s", e->endpoint[i],
                      why[0] ? why : curl_easy_strerror(code));
    } else if (status >= 500 || status == 0) { /* it has no leader: another endpoint may */
        rc = skv_fail(err, -EHOSTUNREACH, "etcd at %.200s can't serve now: %.200s", e->endpoint[i],
                      a.text ? a.text : "no reason given");
    } else if (status != 200) {
        rc = skv_fail(err, status == 404 ? -ENOENT : -EPROTO, "etcd at %.200s refuses %s (HTTP %ld): %.150s",
                      e->endpoint[i], path, status, a.text ? a.text : "");
    } else if (!(*out = json_loads(a.text ? a.text : "", 0, NULL))) {
        rc = skv_fail(err, -EPROTO, "what answers at %.200s is no etcd: its answer is no JSON",
                      e->endpoint[i]);
    }
    free(a.text);
    return rc;
}

/* Takes body. */
static int post(struct etcd *e, const char *path, json_t *body, json_t **out, struct skv_error *err)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    int rc = text ? -EHOSTUNREACH : skv_fail(err, -ENOMEM, "out of memory");
    for (unsigned k = 0; text && k < e->n_endpoints && rc == -EHOSTUNREACH; k++) {
        rc = post_to(e, e->at, path, text, out, err);
        if (rc == -EHOSTUNREACH)
            e->at = (e->at + 1) % e->n_endpoints;
    }
    free(text);
    json_decref(body);
    return rc;
}

/* ---- base64 and numbers ---- */

static json_t *base64(const void *bytes, size_t len)
{
    size_t room = sodium_base64_encoded_len(len, sodium_base64_VARIANT_ORIGINAL);
    char *text = malloc(room);
    json_t *out = NULL;
    if (text) {
        sodium_bin2base64(text, room, bytes, len, sodium_base64_VARIANT_ORIGINAL);
        out = json_string(text);
    }
    free(text);
    return out;
}

static json_t *key_json(const struct etcd *e, const char *dir, const char *name)
{
    char key[KEY_MAX];
    int len = snprintf(key, sizeof key, "%s%s%s", e->prefix, dir, name);
    return base64(key, (size_t)len);
}

/* A 64-bit number, which JSON has as a string. 0 where there is none. */
static int64_t number(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_string(v) ? strtoll(json_string_value(v), NULL, 10) : (int64_t)json_integer_value(v);
}

/* ---- the view ---- */

static int view_from(const json_t *kv, struct cluster_view *out, struct skv_error *err)
{
    const char *text = json_string_value(json_object_get(kv, "value"));
    size_t len = text ? strlen(text) : 0;
    char *bytes = malloc(len + 1);
    struct skv_error why;
    int rc = 0;
    if (!bytes)
        return skv_fail(err, -ENOMEM, "out of memory");
    if (!text || sodium_base642bin((unsigned char *)bytes, len, text, len, NULL, &len, NULL,
                                   sodium_base64_VARIANT_ORIGINAL))
        rc = skv_fail(err, -EPROTO, "etcd holds no readable view of the cluster");
    else if (cluster_view_parse(bytes, len, out, &why))
        rc = skv_fail(err, -EPROTO, "the view of the cluster in etcd is damaged: %.350s", why.text);
    free(bytes);
    out->epoch = (uint64_t)number(kv, "mod_revision");
    return rc;
}

int etcd_view_get(struct etcd *e, struct cluster_view *out, struct skv_error *err)
{
    json_t *answer;
    int rc = post(e, "kv/range", json_pack("{s:o}", "key", key_json(e, "", "view")), &answer, err);
    if (rc)
        return rc == -ENOENT ? -EPROTO : rc;
    const json_t *kv = json_array_get(json_object_get(answer, "kvs"), 0);
    rc = kv ? view_from(kv, out, err)
            : skv_fail(
                  err, -ENOENT,
                  "etcd knows no memory node under %s: start some with scoutkv-memnode --etcd, and the same "
                  "--cluster",
                  e->prefix);
    json_decref(answer);
    return rc;
}

int etcd_view_put(struct etcd *e, struct cluster_view *v, struct skv_error *err)
{
    char epoch[32];
    json_t *answer;
    struct buf *text = cluster_view_format(v);
    if (!text)
        return skv_fail(err, -ENOMEM, "out of memory");
    snprintf(epoch, sizeof epoch, "%" PRIu64, v->epoch);
    json_t *body =
        json_pack("{s:[{s:s,s:s,s:o,s:s}],s:[{s:{s:o,s:o}}]}", "compare", "target", "MOD", "result", "EQUAL",
                  "key", key_json(e, "", "view"), "mod_revision", epoch, "success", "request_put", "key",
                  key_json(e, "", "view"), "value", base64(text->data, text->len));
    buf_unref(text);
    int rc = post(e, "kv/txn", body, &answer, err);
    if (rc)
        return rc;
    if (json_is_true(json_object_get(answer, "succeeded")))
        v->epoch = (uint64_t)number(json_object_get(answer, "header"), "revision");
    else
        rc = skv_fail(err, -ESTALE, "somebody else has changed the view of the cluster meanwhile: try again");
    json_decref(answer);
    return rc;
}

/* ---- leases ---- */

static json_t *lease_json(int64_t lease)
{
    char id[32];
    snprintf(id, sizeof id, "%" PRId64, lease);
    return json_string(id);
}

int etcd_register(struct etcd *e, const struct cluster_node *node, unsigned ttl_s, int64_t *lease,
                  struct skv_error *err)
{
    json_t *answer;
    char line[400];
    int rc = post(e, "lease/grant", json_pack("{s:o}", "TTL", lease_json(ttl_s)), &answer, err);
    if (rc)
        return rc;
    *lease = number(answer, "ID");
    json_decref(answer);
    if (!*lease)
        return skv_fail(err, -EPROTO, "etcd grants no lease");
    int len = snprintf(line, sizeof line, "%s@%s*%g", node->id, node->address, node->weight);
    rc = post(e, "kv/put",
              json_pack("{s:o,s:o,s:o}", "key", key_json(e, "nodes/", node->id), "value",
                        base64(line, (size_t)len), "lease", lease_json(*lease)),
              &answer, err);
    if (rc == 0)
        json_decref(answer);
    return rc;
}

int etcd_keep_alive(struct etcd *e, int64_t lease, struct skv_error *err)
{
    json_t *answer;
    int rc = post(e, "lease/keepalive", json_pack("{s:o}", "ID", lease_json(lease)), &answer, err);
    if (rc)
        return rc;
    if (number(json_object_get(answer, "result"), "TTL") <= 0)
        rc = skv_fail(err, -ENOENT, "the lease has ended");
    json_decref(answer);
    return rc;
}

int etcd_unregister(struct etcd *e, int64_t lease, struct skv_error *err)
{
    json_t *answer;
    int rc = post(e, "lease/revoke", json_pack("{s:o}", "ID", lease_json(lease)), &answer, err);
    if (rc == 0)
        json_decref(answer);
    return rc;
}
