/* gguf_probe.h: what the GGUF tests and the fuzzer share: small sample files, and a probe that walks through
 * everything a loaded file gives out, so that a sanitizer sees each byte that the reader promises. */
#ifndef TESTS_FUZZ_GGUF_PROBE_H
#define TESTS_FUZZ_GGUF_PROBE_H

#include "decoder/model/gguf_write.h"
#include "decoder/model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

/* The printable form in which gpt2 vocabularies write a byte; returns its length (1 or 2). */
static inline size_t probe_byte_text(int byte, char out[2])
{
    int code = byte, next = 0x100;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (b == byte && !printable)
            code = next;
        next += !printable;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3f));
    return 2;
}

struct probe_vocab { /* a vocabulary under construction: 256 bytes first, then what a test adds */
    struct gguf_str text[512];
    float score[512];
    int32_t type[512];
    char bytes[256][8];
    uint32_t n;
};

static inline uint32_t probe_add(struct probe_vocab *v, const char *text, float score, int32_t type)
{
    v->text[v->n] = (struct gguf_str){text, strlen(text)};
    v->score[v->n] = score;
    v->type[v->n] = type;
    return v->n++;
}

/* llama: ids 0 <unk>, 1 <s>, 2 </s>, then byte b is 3 + b. gpt2: byte b is b. */
static inline void probe_vocab_init(struct probe_vocab *v, bool llama)
{
    v->n = 0;
    if (llama) {
        probe_add(v, "<unk>", 0, 2);
        probe_add(v, "<s>", 0, 3);
        probe_add(v, "</s>", 0, 3);
    }
    for (int b = 0; b < 256; b++) {
        size_t len = 6;
        if (llama)
            snprintf(v->bytes[b], sizeof v->bytes[b], "<0x%02X>", (unsigned)b);
        else
            len = probe_byte_text(b, v->bytes[b]);
        probe_add(v, "", 0, llama ? 6 : 1);
        v->text[v->n - 1] = (struct gguf_str){v->bytes[b], len};
    }
}

static inline void probe_put_vocab(struct gguf_writer *w, const struct probe_vocab *v, bool llama)
{
    gguf_put_string(w, "tokenizer.ggml.model", llama ? "llama" : "gpt2");
    gguf_put_string_array(w, "tokenizer.ggml.tokens", v->n, v->text);
    gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_I32, v->n, v->type);
    if (llama)
        gguf_put_array(w, "tokenizer.ggml.scores", GGUF_F32, v->n, v->score);
}

/* A complete little file of at most 16 KiB: every kind of metadata, a vocabulary, tensors of three types. */
static inline int probe_save_sample(const char *path, bool llama, struct skv_error *err)
{
    static const struct gguf_str merges[] = {{"h e", 3}, {"\xc4\xa0 he", 5}};
    static const uint64_t ne[] = {32, 3, 2};
    static const float f32[32 * 3 * 2] = {1, 2, 3};
    static const uint8_t q8[34 * 3] = {1};
    struct probe_vocab v;
    probe_vocab_init(&v, llama);
    probe_add(&v, llama ? "\xe2\x96\x81" : "he", -1, 1);
    probe_add(&v, llama ? "he" : "\xc4\xa0he", -2, 1);
    uint32_t end = probe_add(&v, "<|eot_id|>", 0, 3);
    probe_add(&v, "<user>", 0, 4);
    struct gguf_writer *w = gguf_writer_new();
    if (!w)
        return -1;
    gguf_put_string(w, "general.architecture", "llama");
    gguf_put_u32(w, "general.alignment", 32);
    gguf_put_u8(w, "a.u8", 1);
    gguf_put_i16(w, "a.i16", -2);
    gguf_put_u64(w, "a.u64", 3);
    gguf_put_f64(w, "a.f64", 0.5);
    gguf_put_bool(w, "a.bool", true);
    gguf_put_array(w, "a.u16s", GGUF_U16, 3, "\1\0\2\0\3");
    probe_put_vocab(w, &v, llama);
    if (!llama) {
        gguf_put_string(w, "tokenizer.ggml.pre", "llama-bpe");
        gguf_put_string_array(w, "tokenizer.ggml.merges", 2, merges);
    }
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", llama ? 1 : end);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", llama ? 2 : end);
    gguf_put_tensor(w, "token_embd.weight", 3, ne, GGML_F32, f32);
    gguf_put_tensor(w, "blk.0.attn_q.weight", 2, ne, GGML_Q8_0, q8);
    gguf_put_tensor(w, "output_norm.weight", 1, ne, GGML_F16, f32);
    int r = gguf_writer_save(w, path, err);
    gguf_writer_free(w);
    return r;
}

static inline void *probe_read_file(const char *path, size_t *size)
{
    *size = 0;
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *bytes = NULL;
    if (fseek(f, 0, SEEK_END) == 0 && (*size = (size_t)ftell(f)) && (bytes = malloc(*size + 1))) {
        rewind(f);
        if (fread(bytes, 1, *size, f) != *size) {
            free(bytes);
            bytes = NULL;
        } else {
            bytes[*size] = 0;
        }
    }
    fclose(f);
    return bytes;
}

static inline void probe_complain(const char *what)
{
    fprintf(stderr, "probe: %s\n", what);
    abort();
}

/* An error must carry a number and a sentence. */
static inline int probe_error(int r, const struct skv_error *err)
{
    if (r > 0 || (r < 0 && (err->code != r || !err->text[0] || strchr(err->text, '\n'))))
        probe_complain("an error without its sentence");
    return r;
}

static inline int probe_tokenizer(const struct gguf *g)
{
    struct skv_error err = {0};
    struct tokenizer *t;
    int r = probe_error(tokenizer_from_gguf(g, &t, &err), &err);
    if (r)
        return r;
    static const char text[] = " he said <|eot_id|><user> \xff\xe2\x82 123\n\n";
    uint32_t *ids;
    size_t n, bytes = 0;
    r = probe_error(tokenizer_encode(t, text, sizeof text, true, true, &ids, &n, &err), &err);
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (ids[i] >= tokenizer_n_vocab(t))
            probe_complain("an id beyond the vocabulary");
        bytes += tokenizer_is_eog(t, ids[i]);
    }
    for (uint32_t i = 0; i <= tokenizer_n_vocab(t); i++) {
        struct gguf_str p = tokenizer_piece(t, i, true);
        for (size_t k = 0; k < p.len; k++)
            bytes += (unsigned char)p.data[k];
    }
    free(ids);
    tokenizer_free(t);
    return bytes == SIZE_MAX ? -1 : r; /* keeps the reads */
}

/* Reads all that an open file gives out, then closes it. 0: file and vocabulary are good. */
static inline int probe_opened(struct gguf *g)
{
    size_t sum = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        for (uint64_t k = 0; k < t->nbytes; k += k + 64 < t->nbytes ? 64 : 1)
            sum += ((const uint8_t *)t->data)[k];
    }
    int r = probe_tokenizer(g);
    gguf_close(g);
    return sum == SIZE_MAX ? -1 : r;
}

/* The same from bytes, in a copy of exactly their size: a sanitizer sees one byte too far. */
static inline int probe_bytes(const void *bytes, size_t size)
{
    struct skv_error err = {0};
    struct gguf *g;
    void *exact = malloc(size ? size : 1);
    if (!exact)
        return -1;
    memcpy(exact, bytes, size);
    int r = probe_error(gguf_open_memory(exact, size, "sample", &g, &err), &err);
    if (r == 0)
        r = probe_opened(g);
    free(exact);
    return r;
}

static inline uint64_t probe_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

#endif
