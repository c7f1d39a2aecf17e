/* GGUF: what the writer writes the reader reads; every kind of damage is an error that says so, or a load. */
#include "tests/fuzz/gguf_probe.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[300], path[400];

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/skv-gguf-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/x.gguf", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir); /* fails if a writer left something behind */
}

static void must(int r, const struct skv_error *err)
{
    if (r)
        fail_msg("%d: %s", r, err->text);
}

/* The call failed with this code, and its sentence holds these words. */
static void refused(int r, int code, const struct skv_error *err, const char *words)
{
    if (r != code || !strstr(err->text, words))
        fail_msg("wanted %d with \"%s\", got %d with \"%s\"", code, words, r, err->text);
}

/* ---- writer and reader ---- */

static int fill_rows(void *arg, uint64_t row, uint64_t n_rows, void *out, struct skv_error *err)
{
    (void)err;
    uint64_t *calls = arg;
    float *f = out;
    for (uint64_t r = 0; r < n_rows; r++)
        for (uint64_t i = 0; i < 512; i++)
            f[r * 512 + i] = (float)((row + r) * 512 + i);
    ++*calls;
    return 0;
}

static void round_trip(void **state)
{
    (void)state;
    struct skv_error err;
    struct gguf_writer *w = gguf_writer_new();
    static const float floats[] = {1.5f, -2.5f};
    static const int32_t ints[] = {-1, 70000};
    static const struct gguf_str strings[] = {{"one", 3}, {"", 0}, {"\0\n", 2}};
    static const uint64_t shape[] = {512, 3000}, small[] = {3, 2};
    uint64_t calls = 0;
    gguf_put_u8(w, "u8", 200);
    gguf_put_i8(w, "i8", -3);
    gguf_put_u16(w, "u16", 60000);
    gguf_put_i16(w, "i16", 300);
    gguf_put_u32(w, "u32", 4000000000u);
    gguf_put_i32(w, "i32", -5);
    gguf_put_u64(w, "u64", 1ull << 40);
    gguf_put_i64(w, "i64", 7);
    gguf_put_f32(w, "f32", 0.25f);
    gguf_put_f64(w, "f64", 0.125);
    gguf_put_bool(w, "bool", true);
    gguf_put_string(w, "string", "hello");
    gguf_put_array(w, "floats", GGUF_F32, 2, floats);
    gguf_put_array(w, "ints", GGUF_I32, 2, ints);
    gguf_put_string_array(w, "strings", 3, strings);
    gguf_put_string_array(w, "none", 0, NULL);
    gguf_put_tensor(w, "small", 2, small, GGML_F16, "abcdefghijkl");
    gguf_put_tensor_rows(w, "large", 2, shape, GGML_F32, fill_rows, &calls);
    must(gguf_writer_save(w, path, &err), &err);
    gguf_writer_free(w);
    assert_true(calls > 1); /* 6 MB came in parts */

    struct gguf *g;
    must(gguf_open(path, &g, &err), &err);
    static const struct {
        const char *key;
        uint64_t value;
    } integers[] = {{"u8", 200},          {"u16", 60000},      {"i16", 300},
                    {"u32", 4000000000u}, {"u64", 1ull << 40}, {"i64", 7}};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        uint64_t v = 0;
        must(gguf_u64(g, integers[i].key, GGUF_NEED, &v, &err), &err);
        assert_int_equal(v, integers[i].value);
    }
    uint32_t u = 42;
    uint64_t u64 = 42;
    float f = 0;
    bool b = false;
    struct gguf_str s;
    struct gguf_array a;
    refused(gguf_u64(g, "i8", GGUF_NEED, &u64, &err), -EINVAL, &err, "i8");
    refused(gguf_u64(g, "i32", GGUF_NEED, &u64, &err), -EINVAL, &err, "non-negative");
    refused(gguf_u32(g, "u64", GGUF_OPT, &u, &err), -EINVAL, &err, "u64");
    refused(gguf_u32(g, "absent", GGUF_NEED, &u, &err), -ENOENT, &err, "absent");
    refused(gguf_u32(g, "string", GGUF_OPT, &u, &err), -EINVAL, &err, "string");
    must(gguf_u32(g, "absent", GGUF_OPT, &u, &err), &err);
    assert_int_equal(u, 42);
    assert_int_equal(u64, 42);
    must(gguf_f32(g, "f32", GGUF_NEED, &f, &err), &err);
    assert_true(f == 0.25f);
    must(gguf_f32(g, "f64", GGUF_NEED, &f, &err), &err);
    assert_true(f == 0.125f);
    must(gguf_bool(g, "bool", GGUF_NEED, &b, &err), &err);
    assert_true(b);
    must(gguf_string(g, "string", GGUF_NEED, &s, &err), &err);
    assert_true(gguf_str_is(s, "hello") && !gguf_str_is(s, "hell") && !gguf_str_is(s, "hello!"));
    must(gguf_array(g, "floats", GGUF_NEED, GGUF_F32, &a, &err), &err);
    assert_true(a.n == 2 && gguf_array_f32(&a, 1) == -2.5f);
    must(gguf_array(g, "ints", GGUF_NEED, GGUF_I32, &a, &err), &err);
    assert_true(a.n == 2 && gguf_array_i32(&a, 0) == -1);
    refused(gguf_array(g, "ints", GGUF_NEED, GGUF_STRING, &a, &err), -EINVAL, &err, "ints");
    must(gguf_array(g, "strings", GGUF_NEED, GGUF_STRING, &a, &err), &err);
    assert_true(a.n == 3 && a.strings[1].len == 0 && memcmp(a.strings[2].data, "\0\n", 2) == 0);
    must(gguf_array(g, "none", GGUF_NEED, GGUF_STRING, &a, &err), &err);
    assert_int_equal(a.n, 0);

    const struct gguf_tensor *t = gguf_tensor_find(g, "small");
    assert_non_null(t);
    assert_true(t->n_dims == 2 && t->ne[0] == 3 && t->ne[1] == 2 && t->ne[2] == 1 && t->row_bytes == 6);
    assert_memory_equal(t->data, "abcdefghijkl", 12);
    must(gguf_tensor_need(g, "large", &t, &err), &err);
    assert_int_equal(t->nbytes, 512 * 3000 * 4);
    for (uint32_t i = 0; i < 512 * 3000; i++)
        if (((const float *)t->data)[i] != (float)i)
            fail_msg("element %u is %g", i, (double)((const float *)t->data)[i]);
    assert_null(gguf_tensor_find(g, "larg"));
    refused(gguf_tensor_need(g, "huge", &t, &err), -ENOENT, &err, "huge");
    gguf_close(g);
}

static int fill_fails(void *arg, uint64_t row, uint64_t n_rows, void *out, struct skv_error *err)
{
    (void)arg, (void)row, (void)n_rows, (void)out;
    return skv_fail(err, -EDOM, "no more rows");
}

static void failed_save_keeps_the_old_file(void **state)
{
    (void)state;
    struct skv_error err;
    static const uint64_t ne[] = {32, 4};
    must(probe_save_sample(path, true, &err), &err);
    struct gguf_writer *w = gguf_writer_new();
    gguf_put_tensor_rows(w, "t", 2, ne, GGML_Q8_0, fill_fails, NULL);
    refused(gguf_writer_save(w, path, &err), -EDOM, &err, "no more rows");
    gguf_writer_free(w);
    w = gguf_writer_new();
    gguf_put_u32(w, "twice", 1);
    gguf_put_u32(w, "twice", 1);
    refused(gguf_writer_save(w, path, &err), -EINVAL, &err, "twice");
    gguf_writer_free(w);
    w = gguf_writer_new();
    gguf_put_tensor(w, "odd", 1, (const uint64_t[]){33}, GGML_Q8_0, "");
    refused(gguf_writer_save(w, path, &err), -EINVAL, &err, "odd");
    gguf_writer_free(w);
    struct gguf *g;
    must(gguf_open(path, &g, &err), &err);
    assert_non_null(gguf_tensor_find(g, "token_embd.weight"));
    gguf_close(g);
}

static void type_facts(void **state)
{
    (void)state;
    assert_int_equal(ggml_row_bytes(GGML_F32, 5), 20);
    assert_int_equal(ggml_row_bytes(GGML_BF16, 5), 10);
    assert_int_equal(ggml_row_bytes(GGML_Q8_0, 64), 68);
    assert_int_equal(ggml_row_bytes(GGML_Q4_0, 32), 18);
    assert_int_equal(ggml_row_bytes(GGML_Q4_K, 256), 144);
    assert_int_equal(ggml_row_bytes(GGML_Q6_K, 512), 420);
    assert_int_equal(ggml_row_bytes(GGML_Q6_K, 32), 0);
    assert_int_equal(ggml_row_bytes(4, 32), 0);
    assert_int_equal(ggml_row_bytes(GGML_F32, UINT64_MAX / 2), 0);
    uint32_t type;
    assert_int_equal(ggml_type_by_name("q4_k", &type), 0);
    assert_int_equal(type, GGML_Q4_K);
    assert_int_equal(ggml_type_by_name("Q5_K", &type), -EINVAL); /* known, but not computed with */
    assert_false(ggml_type_supported(13));
}

/* ---- refusals, each on a file built byte by byte ---- */

struct image {
    uint8_t p[4096];
    size_t n;
};

static void add(struct image *m, const void *p, size_t n)
{
    memcpy(m->p + m->n, p, n);
    m->n += n;
}

static void add_u32(struct image *m, uint32_t v)
{
    add(m, &v, sizeof v);
}

static void add_u64(struct image *m, uint64_t v)
{
    add(m, &v, sizeof v);
}

static void add_text(struct image *m, const char *s)
{
    add_u64(m, strlen(s));
    add(m, s, strlen(s));
}

static struct image header(uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    struct image m = {.n = 0};
    add(&m, "GGUF", 4);
    add_u32(&m, version);
    add_u64(&m, n_tensors);
    add_u64(&m, n_kv);
    return m;
}

static void add_tensor(struct image *m, const char *name, uint64_t ne0, uint64_t ne1, uint32_t type,
                       uint64_t offset)
{
    add_text(m, name);
    add_u32(m, 2);
    add_u64(m, ne0);
    add_u64(m, ne1);
    add_u32(m, type);
    add_u64(m, offset);
}

static void add_data(struct image *m, size_t n)
{
    m->n = (m->n + 31) / 32 * 32 + n;
}

static void image_refused(const struct image *m, int code, const char *words)
{
    struct skv_error err = {0};
    struct gguf *g = NULL;
    int r = gguf_open_memory(m->p, m->n, "image", &g, &err);
    gguf_close(g);
    refused(r, code, &err, words);
}

static void refusals_of_the_header(void **state)
{
    (void)state;
    struct image m = header(3, 0, 0);
    struct gguf *g;
    struct skv_error err;
    must(gguf_open_memory(m.p, m.n, "empty", &g, &err), &err);
    gguf_close(g);
    m = header(2, 0, 0);
    must(gguf_open_memory(m.p, m.n, "v2", &g, &err), &err);
    gguf_close(g);
    m.p[0] = 'g';
    image_refused(&m, -EINVAL, "not a GGUF file");
    m = header(1, 0, 0);
    image_refused(&m, -ENOTSUP, "version 1; supported: 2, 3");
    m = header(0x03000000, 0, 0);
    image_refused(&m, -ENOTSUP, "big-endian");
    m = header(3, 0, 1ull << 60);
    image_refused(&m, -EINVAL, "too many");
    m = header(3, 1000, 0);
    image_refused(&m, -EINVAL, "too many");
    refused(gguf_open(dir, &g, &err), -EINVAL, &err, "not a regular file");
    refused(gguf_open("no/such/file.gguf", &g, &err), -ENOENT, &err, "no/such/file.gguf");
    fclose(fopen(path, "w"));
    refused(gguf_open(path, &g, &err), -EINVAL, &err, "empty");
}

static void refusals_of_metadata(void **state)
{
    (void)state;
    struct image m = header(3, 0, 2);
    for (int i = 0; i < 2; i++) {
        add_text(&m, "same");
        add_u32(&m, GGUF_U8);
        add(&m, "x", 1);
    }
    image_refused(&m, -EINVAL, "\"same\" at byte");
    m = header(3, 0, 1);
    add_text(&m, "a\nb");
    add(&m, "0123456789", 10);
    image_refused(&m, -EINVAL, "control characters");
    m = header(3, 0, 1);
    add_text(&m, "general.alignment");
    add_u32(&m, GGUF_U32);
    add_u32(&m, 48);
    image_refused(&m, -EINVAL, "general.alignment is 48");
    m = header(3, 0, 1);
    add_text(&m, "odd");
    add_u32(&m, GGUF_BOOL);
    add(&m, "\2", 1);
    image_refused(&m, -EINVAL, "neither 0 nor 1");
    m = header(3, 0, 1);
    add_text(&m, "odd");
    add_u32(&m, 99);
    add_u64(&m, 0);
    image_refused(&m, -EINVAL, "unknown type");
    m = header(3, 0, 1);
    add_text(&m, "long");
    add_u32(&m, GGUF_STRING);
    add_u64(&m, UINT64_MAX);
    image_refused(&m, -EINVAL, "ends at byte");
    m = header(3, 0, 1);
    add_text(&m, "long");
    add_u32(&m, GGUF_ARRAY);
    add_u32(&m, GGUF_U64);
    add_u64(&m, 1ull << 61); /* times 8 is 0 in 64 bits */
    image_refused(&m, -EINVAL, "ends at byte");
}

static void nested_arrays(void **state)
{
    (void)state;
    for (int depth = 1; depth < 8; depth++) {
        struct image m = header(3, 0, 1);
        add_text(&m, "nested");
        add_u32(&m, GGUF_ARRAY);
        for (int i = 1; i < depth; i++) {
            add_u32(&m, GGUF_ARRAY);
            add_u64(&m, 1);
        }
        add_u32(&m, GGUF_STRING);
        add_u64(&m, 1);
        add_text(&m, "inside");
        struct gguf *g = NULL;
        struct skv_error err;
        int r = gguf_open_memory(m.p, m.n, "nested", &g, &err);
        gguf_close(g);
        if (depth <= 4)
            must(r, &err);
        else
            refused(r, -EINVAL, &err, "too deeply");
    }
}

static void refusals_of_tensors(void **state)
{
    (void)state;
    struct image m = header(3, 1, 0);
    add_tensor(&m, "w", 32, 1, 77, 0);
    add_data(&m, 128);
    image_refused(&m, -ENOTSUP, "tensor \"w\" has the unknown type 77; supported: F32");
    m = header(3, 1, 0);
    add_tensor(&m, "w", 1ull << 33, 1ull << 33, GGML_F32, 0);
    add_data(&m, 128);
    image_refused(&m, -EINVAL, "shape");
    m = header(3, 1, 0);
    add_tensor(&m, "w", 31, 1, GGML_Q8_0, 0);
    add_data(&m, 128);
    image_refused(&m, -EINVAL, "shape");
    m = header(3, 1, 0);
    add_tensor(&m, "w", 32, 0, GGML_F32, 0);
    add_data(&m, 128);
    image_refused(&m, -EINVAL, "empty dimension");
    m = header(3, 1, 0);
    add_tensor(&m, "w", 32, 1, GGML_F32, 8);
    add_data(&m, 256);
    image_refused(&m, -EINVAL, "not aligned");
    m = header(3, 1, 0);
    add_tensor(&m, "w", 32, 1, GGML_F32, 0);
    add_data(&m, 127);
    image_refused(&m, -EINVAL, "beyond the end");
    m = header(3, 1, 0);
    add_tensor(&m, "w", 32, 1, GGML_F32, UINT64_MAX - 31);
    add_data(&m, 128);
    image_refused(&m, -EINVAL, "beyond the end");
    m = header(3, 2, 0);
    add_tensor(&m, "w", 32, 1, GGML_F32, 0);
    add_tensor(&m, "w", 32, 1, GGML_F32, 0);
    add_data(&m, 128);
    image_refused(&m, -EINVAL, "occurs twice");

    /* A type that is known but not computed with: the file opens (its vocabulary is of use), the weight is
     * refused. */
    m = header(3, 1, 0);
    add_tensor(&m, "w", 256, 1, 13, 0);
    add_data(&m, 176);
    struct gguf *g;
    struct skv_error err;
    const struct gguf_tensor *t;
    must(gguf_open_memory(m.p, m.n, "q5", &g, &err), &err);
    refused(gguf_tensor_need(g, "w", &t, &err), -ENOTSUP, &err,
            "\"w\" has type Q5_K, which is not supported");
    gguf_close(g);
}

/* ---- damage: an error or a load, never a crash; run it under ASan ---- */

static void every_byte_flipped(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x80, 0xff};
    for (int llama = 0; llama < 2; llama++) {
        struct skv_error err;
        size_t size, loads = 0, errors = 0;
        must(probe_save_sample(path, llama, &err), &err);
        uint8_t *bytes = probe_read_file(path, &size);
        assert_non_null(bytes);
        assert_true(size <= 16 << 10);
        assert_int_equal(probe_bytes(bytes, size), 0);
        for (size_t i = 0; i < size; i++)
            for (size_t k = 0; k < sizeof masks; k++) {
                bytes[i] ^= masks[k];
                if (probe_bytes(bytes, size))
                    errors++;
                else
                    loads++;
                bytes[i] ^= masks[k];
            }
        print_message("%s file of %zu bytes, each flipped 3 times: %zu errors, %zu loads\n",
                      llama ? "llama" : "gpt2", size, errors, loads);
        assert_true(errors > 1000 && loads > 1000);
        free(bytes);
    }
}

static void every_length_cut(void **state)
{
    (void)state;
    for (int llama = 0; llama < 2; llama++) {
        struct skv_error err;
        size_t size;
        must(probe_save_sample(path, llama, &err), &err);
        uint8_t *bytes = probe_read_file(path, &size);
        assert_non_null(bytes);
        for (size_t n = 0; n < size; n++) {
            int r = probe_bytes(bytes, n);
            if (r == 0 && n < size - 32) /* the last bytes only pad */
                fail_msg("a file of %zu bytes cut to %zu loads", size, n);
        }
        free(bytes);
    }
}

static int falling(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return x > y ? -1 : x < y;
}

static void real_file_cut(const char *name)
{
    size_t size = 0;
    char *real = NULL, *bytes = NULL;
    if (asprintf(&real, "%s/%s", getenv("SCOUTKV_TEST_DATA"), name) > 0)
        bytes = probe_read_file(real, &size);
    if (!bytes)
        fail_msg("cannot read %s", real);
    free(real);
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(bytes, 1, size, f) == size && fclose(f) == 0);
    uint64_t rng = 3;
    static size_t cuts[1000];
    for (int i = 0; i < 1000; i++)
        cuts[i] = (size_t)(probe_random(&rng) % size);
    qsort(cuts, 1000, sizeof cuts[0], falling); /* so that the one copy is only ever cut further */
    for (int i = 0; i < 1000; i++) {
        struct skv_error err = {0};
        struct gguf *g;
        assert_int_equal(truncate(path, (off_t)cuts[i]), 0);
        if (probe_error(gguf_open(path, &g, &err), &err) == 0) {
            gguf_close(g);
            fail_msg("%s cut to %zu of %zu bytes opens", name, cuts[i], size);
        }
        if (i % 10 == 0) /* and in a copy that ends where ASan looks */
            assert_true(probe_bytes(bytes, cuts[i]) < 0);
    }
    free(bytes);
}

static void real_files_cut(void **state)
{
    (void)state;
    if (!getenv("SCOUTKV_TEST_DATA")) {
        print_message("SKIPPED: cuts of real files; set SCOUTKV_TEST_DATA to the folder of test data\n");
        skip();
    }
    real_file_cut("stories260K.gguf");
    real_file_cut("vocab/ggml-vocab-gpt-2.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),           cmocka_unit_test(failed_save_keeps_the_old_file),
        cmocka_unit_test(type_facts),           cmocka_unit_test(refusals_of_the_header),
        cmocka_unit_test(refusals_of_metadata), cmocka_unit_test(nested_arrays),
        cmocka_unit_test(refusals_of_tensors),  cmocka_unit_test(every_byte_flipped),
        cmocka_unit_test(every_length_cut),     cmocka_unit_test(real_files_cut),
    };
    return cmocka_run_group_tests_name("gguf", tests, setup, teardown);
}
