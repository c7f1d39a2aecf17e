/* Options: what a command line and a config file may say, and what is refused with which words. */
#include "common/options.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct values {
    const char *model, *ack;
    bool json;
    int64_t count;
    uint32_t budget;
    uint64_t cache, seed;
    double temp;
    struct opt_list stop;
};

static const struct opt table[] = {
    {"model", 'm', OPT_STRING, offsetof(struct values, model), "FILE", "the model", .required = true},
    {"ack", 0, OPT_CHOICE, offsetof(struct values, ack), NULL, "when a write counts",
     .choices = "ram|durable"},
    {"json", 'j', OPT_FLAG, offsetof(struct values, json), NULL, "machine-readable output"},
    {"count", 'n', OPT_I64, offsetof(struct values, count), "N", "how many", .min = -1, .max = 100},
    {"budget", 0, OPT_U32, offsetof(struct values, budget), "TOKENS", "how much"},
    {"cache", 0, OPT_SIZE, offsetof(struct values, cache), "SIZE", "of pages", .min = 4096},
    {"seed", 's', OPT_U64, offsetof(struct values, seed), "S", "of randomness"},
    {"temp", 0, OPT_DOUBLE, offsetof(struct values, temp), "T", "of sampling", .min = 0, .max = 10},
    {"stop", 0, OPT_LIST, offsetof(struct values, stop), "STR", "where to stop"},
    {0},
};

struct fixture {
    struct values v;
    struct opt_memory mem;
    struct skv_error err;
    struct opt_group groups[2];
    struct opt_command cmd;
};

/* Parses words after the program's name; the list ends with NULL. */
static struct opt_list *operands; /* if there may be any */
static size_t n_operands = 2;

static int parse(struct fixture *f, ...)
{
    char *argv[20] = {"scoutkv"};
    int argc = 1;
    va_list ap;
    va_start(ap, f);
    for (char *word; (word = va_arg(ap, char *));)
        argv[argc++] = word;
    va_end(ap);
    options_free(&f->mem);
    *f = (struct fixture){.v = {.ack = "ram", .budget = 2048, .cache = 64 << 20, .temp = 0.8}};
    f->groups[0] = (struct opt_group){"Options", table, &f->v};
    f->cmd = (struct opt_command){"scoutkv run", "-m FILE", "Runs.", NULL, f->groups, operands, n_operands};
    return options_parse(&f->cmd, argc, argv, &f->mem, &f->err);
}

static void refused(struct fixture *f, int rc, const char *part)
{
    if (rc != -EINVAL || !strstr(f->err.text, part))
        fail_msg("wanted a refusal that says \"%s\", got %d \"%s\"", part, rc, f->err.text);
}

static void values_of_every_type(void **state)
{
    (void)state;
    struct fixture f = {0};
    assert_int_equal(parse(&f, "-m", "a.gguf", "--ack=durable", "-j", "-n-1", "--budget", "64", "--cache",
                           "4GiB", "-s", "18446744073709551615", "--temp=0.25", "--stop", "a",
                           "--stop=", NULL),
                     0);
    assert_string_equal(f.v.model, "a.gguf");
    assert_string_equal(f.v.ack, "durable");
    assert_true(f.v.json);
    assert_int_equal(f.v.count, -1);
    assert_int_equal(f.v.budget, 64);
    assert_true(f.v.cache == 4ull << 30);
    assert_true(f.v.seed == UINT64_MAX);
    assert_true(f.v.temp == 0.25);
    assert_int_equal(f.v.stop.n, 2);
    assert_string_equal(f.v.stop.item[1], "");
    options_free(&f.mem);
}

static void a_flag_may_have_one_dash(void **state)
{
    (void)state;
    struct fixture f = {0};
    assert_int_equal(parse(&f, "-m", "x", "-json", NULL), 0);
    assert_true(f.v.json);
    refused(&f, parse(&f, "-m", "x", "-budget", "64", NULL), "unknown option -budget");
    options_free(&f.mem);
}

static void defaults_stay(void **state)
{
    (void)state;
    struct fixture f = {0};
    assert_int_equal(parse(&f, "--model", "x", "--json=false", NULL), 0);
    assert_int_equal(f.v.budget, 2048);
    assert_string_equal(f.v.ack, "ram");
    assert_false(f.v.json);
    options_free(&f.mem);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    struct fixture f = {0};
    refused(&f, parse(&f, NULL), "missing -m FILE");
    refused(&f, parse(&f, "-m", "x", "--bugdet", "3", NULL), "did you mean --budget?");
    refused(&f, parse(&f, "-m", "x", "--conf", "3", NULL), "did you mean --config?");
    refused(&f, parse(&f, "-m", "x", "--zebra", NULL), "unknown option --zebra");
    assert_null(strstr(f.err.text, "did you mean"));
    refused(&f, parse(&f, "-m", "x", "-q", NULL), "unknown option -q");
    refused(&f, parse(&f, "-m", "x", "extra", NULL), "unexpected argument 'extra'");
    refused(&f, parse(&f, "-m", NULL), "-m needs a value");
    refused(&f, parse(&f, "-m", "x", "-n", "12x", NULL), "count: expected a whole number, not '12x'");
    refused(&f, parse(&f, "-m", "x", "-n", "101", NULL), "outside -1 to 100");
    refused(&f, parse(&f, "-m", "x", "--budget", "-1", NULL), "not negative");
    refused(&f, parse(&f, "-m", "x", "--budget", "4294967296", NULL), "too large");
    refused(&f, parse(&f, "-m", "x", "--cache", "12", NULL), "less than 4096");
    refused(&f, parse(&f, "-m", "x", "--cache", "many", NULL), "such as 512M");
    refused(&f, parse(&f, "-m", "x", "--temp", "nan", NULL), "expected a number");
    refused(&f, parse(&f, "-m", "x", "--ack", "dur", NULL), "not one of ram|durable");
    refused(&f, parse(&f, "-m", "x", "--ack", "", NULL), "not one of");
    refused(&f, parse(&f, "-m", "x", "-jx", NULL), "takes no value");
    refused(&f, parse(&f, "-m", "x", "-jso", NULL), "takes no value");
    refused(&f, parse(&f, "-m", "x", "--json=maybe", NULL), "true or false");
    options_free(&f.mem);
}

static char *config(char *path, const char *text)
{
    strcpy(path, "/tmp/test_options.XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    return path;
}

static void the_file_takes_the_same_names(void **state)
{
    (void)state;
    struct fixture f = {0};
    char path[40];
    config(path,
           "# for every command\nmodel = file.gguf\nbudget = 16\njson = yes\nstop = x\n[run]\ncache = 1M\n"
           "[bench step]\nzebra = 1\n");
    assert_int_equal(parse(&f, "--budget", "32", "--stop", "y", "--config", path, NULL), 0);
    unlink(path);
    assert_string_equal(f.v.model, "file.gguf");
    assert_int_equal(f.v.budget, 32); /* the command line wins wherever --config stands */
    assert_true(f.v.json);
    assert_int_equal(f.v.cache, 1 << 20);
    assert_int_equal(f.v.stop.n, 2);
    assert_string_equal(f.v.stop.item[0], "x");
    options_free(&f.mem);
}

static void mistakes_in_the_file_have_a_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"\nbudgt = 1\n", ":2: unknown option budgt: did you mean budget?"},
        {"budget = lots\n", ":1: budget: expected"},
        {"model = x\njust words\n", ":2: expected 'name = value'"},
        {"[run]\nstop = "
         "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
         "xxxxx"
         "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
         "xxxxx\n",
         ":2: line longer than"},
    };
    struct fixture f = {0};
    char path[40];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        config(path, bad[i].text);
        refused(&f, parse(&f, "-m", "x", "--config", path, NULL), bad[i].says);
        unlink(path);
    }
    assert_int_equal(parse(&f, "-m", "x", "--config", "/nonexistent/file", NULL), -ENOENT);
    options_free(&f.mem);
}

static void help_is_shown(void **state)
{
    (void)state;
    struct fixture f = {0};
    char text[4000] = "", path[] = "/tmp/test_options.XXXXXX";
    int out = mkstemp(path), saved = dup(1);
    assert_true(out >= 0 && saved >= 0);
    fflush(stdout);
    dup2(out, 1);
    int rc = parse(&f, "--help", "--zebra", NULL);
    fflush(stdout);
    dup2(saved, 1);
    close(saved);
    assert_int_equal(rc, OPTIONS_SHOWN); /* although a mistake follows */
    assert_true(pread(out, text, sizeof text - 1, 0) > 0);
    close(out);
    unlink(path);
    static const char *const parts[] = {"Usage: scoutkv run -m FILE",
                                        "-m, --model FILE",
                                        "--ack ram|durable",
                                        "(default 64.0 MiB)",
                                        "may be repeated",
                                        "--config FILE",
                                        "(default 2048)"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(text, parts[i]))
            fail_msg("help lacks \"%s\":\n%s", parts[i], text);
    options_free(&f.mem);
}

static void operands_stand_between_options(void **s)
{
    (void)s;
    struct fixture f = {0};
    struct opt_list list = {0};
    assert_int_equal(parse(&f, "one", "-m", "x", NULL), -EINVAL);
    assert_non_null(strstr(f.err.text, "unexpected argument 'one'"));
    operands = &list;
    assert_int_equal(parse(&f, "one", "-m", "x", "-", "--json", NULL), 0);
    assert_int_equal(list.n, 2);
    assert_string_equal(list.item[0], "one");
    assert_string_equal(list.item[1], "-");
    list = (struct opt_list){0};
    assert_int_equal(parse(&f, "-m", "x", "one", NULL), -EINVAL);
    assert_non_null(strstr(f.err.text, "expected 2 arguments besides options, not 1"));
    static const size_t any[] = {0, 1, 3};
    for (size_t i = 0; i < 3; i++) {
        list = (struct opt_list){0};
        n_operands = OPERANDS_ANY;
        assert_int_equal(parse(&f, "-m", "x", i > 0 ? "a" : NULL, i > 1 ? "b" : NULL, "c", NULL), 0);
        assert_int_equal(list.n, any[i]);
    }
    n_operands = 2;
    operands = NULL;
    options_free(&f.mem);
}

static void what_was_typed_is_known(void **s)
{
    (void)s;
    struct fixture f = {0};
    char path[] = "/tmp/scoutkv-options-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, "budget = 7\ntemp = 1\n", 20) == 20);
    close(fd);
    assert_int_equal(parse(&f, "-m", "x", "--config", path, "--temp=0.8", NULL), 0);
    assert_int_equal(f.v.budget, 7);
    assert_true(options_typed(&f.cmd, &f.mem, "model") && options_typed(&f.cmd, &f.mem, "temp"));
    assert_false(options_typed(&f.cmd, &f.mem, "budget")); /* the file said it */
    assert_false(options_typed(&f.cmd, &f.mem, "ack"));
    assert_false(options_typed(&f.cmd, &f.mem, "no such option"));
    options_free(&f.mem);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_every_type),
        cmocka_unit_test(a_flag_may_have_one_dash),
        cmocka_unit_test(defaults_stay),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(the_file_takes_the_same_names),
        cmocka_unit_test(mistakes_in_the_file_have_a_line),
        cmocka_unit_test(help_is_shown),
        cmocka_unit_test(operands_stand_between_options),
        cmocka_unit_test(what_was_typed_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
