/* Tokenizers: llama.cpp's vectors on real vocabularies, a plain reference on random ones, special tokens,
 * pre-tokenizers, bytes that are no text, and UTF-8 in a stream. */
#include "decoder/model/tokenizer.h"
#include "decoder/model/utf8.h"
#include "tests/fuzz/gguf_probe.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>
#include <cmocka.h>

static char path[400];

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/skv-tokenizer-%ld.gguf", tmp ? tmp : "/tmp", (long)getpid());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static void must(int r, const struct skv_error *err)
{
    if (r)
        fail_msg("%d: %s", r, err->text);
}

static const char *data_dir(void)
{
    const char *dir = getenv("SCOUTKV_TEST_DATA");
    if (!dir) {
        print_message("SKIPPED: real vocabularies; set SCOUTKV_TEST_DATA to the folder of test data\n");
        skip();
    }
    return dir;
}

static struct tokenizer *open_tokenizer(const char *file)
{
    struct skv_error err;
    struct gguf *g;
    struct tokenizer *t;
    must(gguf_open(file, &g, &err), &err);
    must(tokenizer_from_gguf(g, &t, &err), &err);
    gguf_close(g);
    return t;
}

static struct tokenizer *open_data(const char *dir, const char *name)
{
    char *file;
    assert_true(asprintf(&file, "%s/%s", dir, name) > 0);
    struct tokenizer *t = open_tokenizer(file);
    free(file);
    return t;
}

static char *read_data(const char *dir, const char *name, const char *suffix, size_t *size)
{
    char *file;
    assert_true(asprintf(&file, "%s/%s%s", dir, name, suffix) > 0);
    char *bytes = probe_read_file(file, size);
    if (!bytes)
        fail_msg("cannot read %s", file);
    free(file);
    return bytes;
}

/* Ids as " 1 2 3"; the caller frees. */
static char *ids_text(const struct tokenizer *t, const char *text, size_t len, bool special)
{
    struct skv_error err;
    uint32_t *ids;
    size_t n, w = 0;
    must(tokenizer_encode(t, text, len, false, special, &ids, &n, &err), &err);
    char *out = malloc(12 * n + 1);
    assert_non_null(out);
    out[0] = 0;
    for (size_t i = 0; i < n; i++)
        w += (size_t)sprintf(out + w, " %u", ids[i]);
    free(ids);
    return out;
}

static void expect_ids(const struct tokenizer *t, const char *text, size_t len, bool special,
                       const char *want)
{
    char *got = ids_text(t, text, len, special);
    if (strcmp(got, want) != 0)
        fail_msg("\"%.*s\": got%s, wanted%s", (int)len, text, got, want);
    free(got);
}
#define EXPECT(t, text, special, want) expect_ids(t, text, sizeof text - 1, special, want)

/* ---- real vocabularies ---- */

static void vectors_of(const char *name)
{
    const char *dir = data_dir(), separator[] = "\n__ggml_vocab_test__\n";
    struct tokenizer *t = open_data(dir, name);
    size_t in_size, out_size;
    char *in = read_data(dir, name, ".inp", &in_size), *out = read_data(dir, name, ".out", &out_size);
    int n = 0;
    char *line = out;
    for (char *at = in, *end; (end = strstr(at, separator)); at = end + strlen(separator), n++) {
        char *stop = strchr(line, '\n');
        assert_non_null(stop);
        *stop = 0;
        expect_ids(t, at, (size_t)(end - at), false, line);
        line = stop + 1;
    }
    assert_true(n > 40 && *line == 0);
    print_message("%s: %d vectors match\n", name, n);
    free(in);
    free(out);
    tokenizer_free(t);
}

static void vectors_llama(void **state)
{
    (void)state;
    vectors_of("vocab/ggml-vocab-llama-spm.gguf");
}

static void vectors_gpt2(void **state)
{
    (void)state;
    vectors_of("vocab/ggml-vocab-gpt-2.gguf");
}

static void golden_tokens(void **state)
{
    (void)state;
    static const char *const models[] = {"stories260K", "rand-llama-F16", "rand-qwen2-Q8_0"};
    const char *dir = data_dir();
    size_t size, n, n_ids;
    char *story = read_data(dir, "golden/story.txt", "", &size), name[100];
    for (size_t m = 0; m < 3; m++) {
        snprintf(name, sizeof name, "%s.gguf", models[m]);
        struct tokenizer *t = open_data(dir, name);
        snprintf(name, sizeof name, "golden/%s.tokens.txt", models[m]);
        char *golden = read_data(dir, name, "", &n), *end;
        uint32_t *ids;
        struct skv_error err;
        must(tokenizer_encode(t, story, size, true, true, &ids, &n_ids, &err), &err);
        size_t i = 0;
        for (char *p = golden;; p = end, i++) {
            unsigned long want = strtoul(p, &end, 10);
            if (p == end)
                break;
            if (i >= n_ids || ids[i] != want)
                fail_msg("%s: token %zu is not %lu", models[m], i, want);
        }
        assert_true(i >= 64 && tokenizer_adds_bos(t) && tokenizer_is_eog(t, 2) && !tokenizer_is_eog(t, 1));
        free(ids);
        free(golden);
        tokenizer_free(t);
    }
    free(story);
}

/* Every text comes back from its pieces (after the space that "llama" puts first). */
static void expect_round_trip(const struct tokenizer *t, const char *text, size_t len, bool prefixed)
{
    struct skv_error err;
    uint32_t *ids;
    size_t n, at = 0;
    must(tokenizer_encode(t, text, len, false, false, &ids, &n, &err), &err);
    for (size_t i = 0; i < n; i++) {
        struct gguf_str p = tokenizer_piece(t, ids[i], false);
        if (i == 0 && prefixed) {
            assert_true(p.len && p.data[0] == ' ');
            p.data++;
            p.len--;
        }
        if (p.len > len - at || memcmp(text + at, p.data, p.len) != 0)
            fail_msg("the text comes back changed at byte %zu", at);
        at += p.len;
    }
    assert_int_equal(at, len);
    free(ids);
}

static void real_round_trips(void **state)
{
    (void)state;
    static const char *const names[] = {"vocab/ggml-vocab-gpt-2.gguf", "vocab/ggml-vocab-llama-spm.gguf"};
    const char *dir = data_dir();
    size_t size, n_noise = 60000;
    char *book = read_data(dir, "text/war-and-peace.txt", "", &size), *noise = malloc(n_noise);
    for (int llama = 0; llama < 2; llama++) {
        struct tokenizer *t = open_data(dir, names[llama]);
        expect_round_trip(t, book, size < 400000 ? size : 400000, llama);
        uint64_t rng = 5;
        for (size_t i = 0; i < n_noise; i++)
            noise[i] = (char)probe_random(&rng);
        expect_round_trip(t, noise, n_noise, llama);
        for (size_t i = 0; i < n_noise; i++) /* valid and broken characters mixed */
            noise[i] = "a \xf0\x9f\x98\x80\xe2\x82\xff\n"[probe_random(&rng) % 10];
        expect_round_trip(t, noise, n_noise, llama);
        memset(noise, 'a', n_noise); /* one long word */
        expect_round_trip(t, noise, n_noise, llama);
        memset(noise, '!', n_noise);
        expect_round_trip(t, noise, n_noise, llama);
        tokenizer_free(t);
    }
    free(book);
    free(noise);
}

/* ---- llama, on vocabularies made here ---- */

static struct tokenizer *make_llama(const struct probe_vocab *v, bool space_prefix)
{
    struct skv_error err;
    struct gguf_writer *w = gguf_writer_new();
    probe_put_vocab(w, v, true);
    gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", space_prefix);
    must(gguf_writer_save(w, path, &err), &err);
    gguf_writer_free(w);
    return open_tokenizer(path);
}

/* What the tokenizer should find, in the plainest way: among all neighbours that form a piece, merge those of
 * the highest score, leftmost first, until none is left. ASCII only. Returns " 1 2 3"; the caller frees. */
static char *merge_plainly(const struct probe_vocab *v, const char *text, size_t len)
{
    size_t n = len, *end = malloc((len + 1) * sizeof *end), at, w = 0;
    for (size_t i = 0; i < n; i++)
        end[i] = i + 1;
    char *out = malloc(12 * len + 1), piece[64];
    assert_true(end && out);
    for (;;) {
        size_t best = n;
        float best_score = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            at = i ? end[i - 1] : 0;
            for (uint32_t id = 259; id < v->n; id++)
                if (v->text[id].len == end[i + 1] - at &&
                    memcmp(v->text[id].data, text + at, end[i + 1] - at) == 0 &&
                    (best == n || v->score[id] > best_score)) {
                    best = i;
                    best_score = v->score[id];
                }
        }
        if (best == n)
            break;
        memmove(end + best, end + best + 1, (--n - best) * sizeof *end);
    }
    out[0] = 0;
    for (size_t i = 0; i < n; i++) {
        at = i ? end[i - 1] : 0;
        uint32_t id = 259;
        snprintf(piece, sizeof piece, "%.*s", (int)(end[i] - at), text + at);
        while (id < v->n && !gguf_str_is(v->text[id], piece))
            id++;
        w += (size_t)sprintf(out + w, " %u", id < v->n ? id : 3u + (unsigned char)text[at]);
    }
    free(end);
    return out;
}

static void llama_equals_plain_merging(void **state)
{
    (void)state;
    uint64_t rng = 11;
    for (int round = 0; round < 60; round++) {
        static char pieces[80][8];
        struct probe_vocab v;
        probe_vocab_init(&v, true);
        for (size_t i = 0; i < 80; i++) { /* few letters, so that many pieces overlap; many equal scores */
            size_t len = i < 4 ? 1 : 2 + probe_random(&rng) % 4, letters = 2 + (size_t)round % 5;
            for (size_t k = 0; k < len; k++)
                pieces[i][k] = (char)('a' + (i < 4 ? i : probe_random(&rng) % letters));
            pieces[i][len] = 0;
            bool new = true;
            for (uint32_t id = 259; id < v.n; id++)
                new &= !gguf_str_is(v.text[id], pieces[i]);
            if (new)
                probe_add(&v, pieces[i], -(float)(probe_random(&rng) % 30), 1);
        }
        struct tokenizer *t = make_llama(&v, false);
        char text[200];
        for (size_t i = 0; i < sizeof text; i++)
            text[i] = (char)('a' + probe_random(&rng) % 6);
        char *want = merge_plainly(&v, text, sizeof text);
        expect_ids(t, text, sizeof text, false, want);
        free(want);
        tokenizer_free(t);
    }
}

static void llama_special_tokens(void **state)
{
    (void)state;
    struct probe_vocab v;
    probe_vocab_init(&v, true);
    uint32_t space = probe_add(&v, "\xe2\x96\x81", -1, 1); /* 259 */
    probe_add(&v, "ab", -2, 1);                            /* 260 */
    probe_add(&v, "<x>", 0, 3);                            /* 261 */
    probe_add(&v, "<x><y>", 0, 3);                         /* 262 */
    probe_add(&v, "<u>", 0, 4);                            /* 263 */
    probe_add(&v, "<y>zz", 0, 3);                          /* 264 */
    probe_add(&v, "<|im_end|>", 0, 3);                     /* 265 */
    struct tokenizer *t = make_llama(&v, true);
    assert_int_equal(space, 259);
    EXPECT(t, "", true, "");
    EXPECT(t, "ab", true, " 259 260");
    EXPECT(t, " ab", true, " 259 259 260");
    EXPECT(t,
           "\xe2\x96\x81"
           "ab",
           true, " 259 259 260");                /* the mark is a space */
    EXPECT(t, "\xc3\xa4", true, " 259 198 167"); /* no piece: its bytes */
    EXPECT(t, "<x>ab", true, " 261 259 260");    /* a space goes before text after a special token, too */
    EXPECT(t, "<x>ab", false, " 259 63 123 65 260");
    EXPECT(t, "ab<u>", false, " 259 260 263"); /* user-defined: always */
    EXPECT(t, "<x><y>", true, " 262");         /* the longest */
    EXPECT(t, "<x><y>zz", true, " 262 259 125 125");
    EXPECT(t, "<x<x>", true, " 259 63 123 261");
    EXPECT(t, "</s><s>", true, " 2 1");
    EXPECT(t, "<unk>", true, " 0");
    struct skv_error err;
    uint32_t *ids;
    size_t n;
    must(tokenizer_encode(t, "ab", 2, true, true, &ids, &n, &err), &err);
    assert_true(n == 3 && ids[0] == 1);
    free(ids);
    assert_true(tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2 && tokenizer_eot(t) == 265);
    assert_true(tokenizer_is_eog(t, 2) && tokenizer_is_eog(t, 265) && !tokenizer_is_eog(t, 261));
    assert_true(!tokenizer_is_eog(t, 5000) && tokenizer_n_vocab(t) == 266);
    float logits[266] = {0};
    tokenizer_forbid_eog(t, 266, logits);
    for (uint32_t id = 0; id < 266; id++)
        assert_true((logits[id] < 0) == tokenizer_is_eog(t, id));
    assert_int_equal(tokenizer_piece(t, 261, false).len, 0);
    assert_true(gguf_str_is(tokenizer_piece(t, 261, true), "<x>"));
    assert_true(gguf_str_is(tokenizer_piece(t, 263, false), "<u>"));
    assert_true(gguf_str_is(tokenizer_piece(t, 3 + 'q', false), "q"));
    assert_int_equal(tokenizer_piece(t, 5000, true).len, 0);
    tokenizer_free(t);
}

/* ---- gpt2, on vocabularies made here ---- */

static int load_gpt2(const char *pre, const struct gguf_str *pairs, uint64_t n, struct tokenizer **t,
                     struct skv_error *err)
{
    struct probe_vocab v;
    probe_vocab_init(&v, false);
    probe_add(&v, "12", 0, 1);                       /* 256 */
    probe_add(&v, "123", 0, 1);                      /* 257 */
    probe_add(&v, "!\xc4\x8a", 0, 1);                /* 258: "!\n" */
    probe_add(&v, "\xc4\xa0\xc4\xa0", 0, 1);         /* 259: two spaces */
    probe_add(&v, "ab", 0, 1);                       /* 260 */
    probe_add(&v, "abc", 0, 1);                      /* 261 */
    probe_add(&v, "\xc3\xa1\xc5\x82\xc4\xb0", 0, 1); /* 262: E1 A0 8E, U+180E */
    probe_add(&v, "'S", 0, 1);                       /* 263 */
    probe_add(&v, "\xc3\xa1\xc5\x82", 0, 1);         /* 264: E1 A0 */
    probe_add(&v, "xyz", 0, 1);                      /* 265, which no merge makes */
    probe_add(&v, "<|end|>", 0, 3);                  /* 266 */
    struct gguf_writer *w = gguf_writer_new();
    struct gguf *g;
    probe_put_vocab(w, &v, false);
    if (pre)
        gguf_put_string(w, "tokenizer.ggml.pre", pre);
    gguf_put_string_array(w, "tokenizer.ggml.merges", n, pairs);
    must(gguf_writer_save(w, path, err), err);
    gguf_writer_free(w);
    must(gguf_open(path, &g, err), err);
    int r = tokenizer_from_gguf(g, t, err);
    gguf_close(g);
    return r;
}

static const struct gguf_str merges[] = {
    {"1 2", 3},  {"12 3", 4}, {"! \xc4\x8a", 4},        {"\xc4\xa0 \xc4\xa0", 5},        {"a b", 3},
    {"ab c", 4}, {"' S", 3},  {"\xc3\xa1 \xc5\x82", 5}, {"\xc3\xa1\xc5\x82 \xc4\xb0", 7}};
#define N_MERGES (sizeof merges / sizeof merges[0])

static void gpt2_words(void **state)
{
    (void)state;
    struct skv_error err;
    struct tokenizer *t;
    static const char *const names[] = {NULL, "default", "gpt-2"};
    for (int i = 0; i < 3; i++) {
        must(load_gpt2(names[i], merges, N_MERGES, &t, &err), &err);
        EXPECT(t, "123123", false, " 257 257");  /* one word */
        EXPECT(t, "!\n", false, " 33 10");       /* a newline is no punctuation */
        EXPECT(t, "   x", false, " 259 32 120"); /* the last space goes with the word */
        EXPECT(t, "I'S", false, " 73 39 83");    /* only 's is a word */
        EXPECT(t, "abc", false, " 261");
        EXPECT(t, "xyz", false, " 120 121 122");
        EXPECT(t, "  \xe1\xa0\x8e", false, " 32 32 262"); /* U+180E is no white space in Unicode today */
        EXPECT(t, "  \xc2\xa0", false, " 259 194 160");   /* U+00A0 is */
        EXPECT(t,
               "a\xff\xfe"
               "ab",
               false, " 97 255 254 260"); /* bytes that are no text */
        EXPECT(t, "a<|end|>b", true, " 97 266 98");
        EXPECT(t, "<|end|>", false, " 60 124 101 110 100 124 62");
        assert_true(!tokenizer_adds_bos(t) && tokenizer_bos(t) == TOKENIZER_NONE);
        assert_true(tokenizer_eot(t) == 266 && tokenizer_is_eog(t, 266));
        assert_true(gguf_str_is(tokenizer_piece(t, 259, false), "  "));
        tokenizer_free(t);
    }
}

static void llama3_and_qwen2_words(void **state)
{
    (void)state;
    struct skv_error err;
    struct tokenizer *t;
    must(load_gpt2("llama-bpe", merges, N_MERGES, &t, &err), &err);
    EXPECT(t, "1231212", false, " 257 256 49 50"); /* three digits at a time */
    EXPECT(t, "!\n", false, " 258");               /* newlines go with punctuation */
    EXPECT(t, "\n\n!ab", false, " 10 10 33 260");
    EXPECT(t, "   x", false, " 259 32 120");
    EXPECT(t, "I'S", false, " 73 263");
    EXPECT(t, "xyz", false, " 265"); /* a whole word that is a token */
    EXPECT(t, " \xd0\xb0", false, " 32 208 176");
    assert_true(tokenizer_adds_bos(t));
    tokenizer_free(t);
    must(load_gpt2("qwen2", merges, N_MERGES, &t, &err), &err);
    EXPECT(t, "1231", false, " 49 50 51 49"); /* each digit alone */
    EXPECT(t, "!\n", false, " 258");
    EXPECT(t, "xyz", false, " 120 121 122");
    assert_false(tokenizer_adds_bos(t));
    tokenizer_free(t);
}

/* ---- refusals ---- */

static void refused(int r, int code, const struct skv_error *err, const char *words)
{
    if (r != code || !strstr(err->text, words))
        fail_msg("wanted %d with \"%s\", got %d with \"%s\"", code, words, r, err->text);
}

/* Loads the vocabulary with one more key in the file. */
static int load_with(const struct probe_vocab *v, bool llama, const char *key, uint32_t value,
                     struct skv_error *err)
{
    struct gguf_writer *w = gguf_writer_new();
    struct gguf *g;
    struct tokenizer *t;
    probe_put_vocab(w, v, llama);
    if (key)
        gguf_put_u32(w, key, value);
    must(gguf_writer_save(w, path, err), err);
    gguf_writer_free(w);
    must(gguf_open(path, &g, err), err);
    int r = tokenizer_from_gguf(g, &t, err);
    gguf_close(g);
    tokenizer_free(t);
    return r;
}

static void refusals_name_what_is_wrong(void **state)
{
    (void)state;
    struct skv_error err;
    struct tokenizer *t = NULL;
    static const struct gguf_str bad_merge[] = {{"a c", 3}}, no_pair[] = {{"abc", 3}};
    refused(load_gpt2("tekken", merges, N_MERGES, &t, &err), -ENOTSUP, &err,
            "pre-tokenizer \"tekken\" is not supported");
    refused(load_gpt2("gpt-2", bad_merge, 1, &t, &err), -EINVAL, &err, "merge 0");
    refused(load_gpt2("gpt-2", no_pair, 1, &t, &err), -EINVAL, &err, "merge 0");
    struct probe_vocab v;
    probe_vocab_init(&v, true);
    must(load_with(&v, true, NULL, 0, &err), &err);
    refused(load_with(&v, true, "tokenizer.ggml.bos_token_id", 259, &err), -EINVAL, &err,
            "bos_token_id is 259");
    must(load_with(&v, true, "tokenizer.ggml.bos_token_id", UINT32_MAX, &err), &err);
    must(load_with(&v, true, "tokenizer.ggml.unknown_token_id", 0, &err), &err);
    refused(load_with(&v, true, "tokenizer.ggml.add_bos_token", 1, &err), -EINVAL, &err, "add_bos_token");
    v.n = 258; /* byte FF is missing: fine as long as there is an unknown token */
    must(load_with(&v, true, NULL, 0, &err), &err);
    refused(load_with(&v, true, "tokenizer.ggml.unknown_token_id", UINT32_MAX, &err), -EINVAL, &err,
            "byte 0xFF");
    v.score[7] = 0.0f / 0.0f;
    refused(load_with(&v, true, NULL, 0, &err), -EINVAL, &err, "score of token 7");
    refused(load_with(&v, false, NULL, 0, &err), -EINVAL, &err,
            "no token for byte"); /* "<0x00>" is no byte there */

    struct gguf_writer *w = gguf_writer_new();
    gguf_put_string(w, "tokenizer.ggml.model", "t5");
    must(gguf_writer_save(w, path, &err), &err);
    gguf_writer_free(w);
    struct gguf *g;
    must(gguf_open(path, &g, &err), &err);
    refused(tokenizer_from_gguf(g, &t, &err), -ENOTSUP, &err,
            "tokenizer model \"t5\" is not supported; supported: llama, gpt2");
    gguf_close(g);
}

/* ---- UTF-8 ---- */

static void utf8_edges(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len; /* of the character at the beginning, 0 = none */
    } cases[] = {{"a", 1},
                 {"\x7f", 1},
                 {"\xc2\x80", 2},
                 {"\xdf\xbf", 2},
                 {"\xe0\xa0\x80", 3},
                 {"\xed\x9f\xbf", 3},
                 {"\xef\xbf\xbf", 3},
                 {"\xf0\x90\x80\x80", 4},
                 {"\xf4\x8f\xbf\xbf", 4},
                 {"\x80", 0},
                 {"\xc0\x80", 0},
                 {"\xc1\xbf", 0},
                 {"\xe0\x9f\xbf", 0},
                 {"\xed\xa0\x80", 0},
                 {"\xf0\x8f\xbf\xbf", 0},
                 {"\xf4\x90\x80\x80", 0},
                 {"\xf5\x80\x80\x80", 0},
                 {"\xe2\x82", 0},
                 {"\xe2\x82"
                  "a",
                  0},
                 {"\xff", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (utf8_char(cases[i].bytes, strlen(cases[i].bytes)) != cases[i].len)
            fail_msg("case %zu", i);
    assert_int_equal(utf8_valid("0123456789\xc3\xa4"
                                "bc\xff"
                                "d",
                                16),
                     14);
    assert_int_equal(utf8_valid("", 0), 0);
}

static void stream(const char *in, size_t n, size_t step, const char *want)
{
    struct utf8_stream s = {.n_held = 0};
    char out[400];
    size_t w = 0;
    for (size_t i = 0; i < n; i += step)
        w += utf8_stream_push(&s, in + i, n - i < step ? n - i : step, out + w);
    assert_int_equal(utf8_valid(out, w), w);
    w += utf8_stream_flush(&s, out + w);
    if (w != strlen(want) || memcmp(out, want, w) != 0)
        fail_msg("in steps of %zu: \"%.*s\", wanted \"%s\"", step, (int)w, out, want);
    assert_int_equal(utf8_stream_flush(&s, out), 0);
}

static void utf8_streams(void **state)
{
    (void)state;
#define FFFD "\xef\xbf\xbd"
    static const struct {
        const char *in, *want;
    } cases[] = {{"plain", "plain"},
                 {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80.", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80."},
                 {"a\xff\xfe"
                  "b",
                  "a" FFFD FFFD "b"},
                 {"\xe2\x82"
                  "a",
                  FFFD "a"}, /* one for the broken part */
                 {"\xf0\x9f\x98\xe2\x82\xac", FFFD "\xe2\x82\xac"},
                 {"\xed\xa0\x80", FFFD FFFD FFFD}, /* a surrogate: no prefix of it is good */
                 {"x\xf0\x9f\x98", "x" FFFD},      /* cut at the end */
                 {"\xc3\xc3\xa4", FFFD "\xc3\xa4"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t step = 1; step < 8; step++)
            stream(cases[i].in, strlen(cases[i].in), step, cases[i].want);

    struct utf8_stream s = {.n_held = 0};
    char out[UTF8_ROOM(4)];
    assert_int_equal(utf8_stream_push(&s, "a\xe2\x82", 3, out), 1); /* held back until it is whole */
    assert_int_equal(utf8_stream_push(&s, "\xac", 1, out), 3);
    assert_memory_equal(out, "\xe2\x82\xac", 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_llama),
        cmocka_unit_test(vectors_gpt2),
        cmocka_unit_test(golden_tokens),
        cmocka_unit_test(real_round_trips),
        cmocka_unit_test(llama_equals_plain_merging),
        cmocka_unit_test(llama_special_tokens),
        cmocka_unit_test(gpt2_words),
        cmocka_unit_test(llama3_and_qwen2_words),
        cmocka_unit_test(refusals_name_what_is_wrong),
        cmocka_unit_test(utf8_edges),
        cmocka_unit_test(utf8_streams),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, setup, teardown);
}
