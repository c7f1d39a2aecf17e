/* options.h: command lines and config files from one table.
 *
 * A program describes its options once: name, letter, type, place in a struct, help. The table parses
 * `--name VALUE`, `--name=VALUE`, `-x VALUE`, `-xVALUE` and, of flags, `-name`, reads the same names from
 * `--config FILE` ("name = value" lines), and prints `--help` with the defaults that the struct held before
 * parsing.
 *
 *     struct my { uint64_t ram; const char *id; } my = {.ram = 4 << 20};
 *     static const struct opt table[] = {
 *         {"ram", 'r', OPT_SIZE, offsetof(struct my, ram), "SIZE", "memory for blocks", .min = 4096},
 *         {"id", 0, OPT_STRING, offsetof(struct my, id), "NAME", "name of this node", .required = true},
 *         {0},
 *     };
 *     const struct opt_group groups[] = {{"Options", table, &my}, {0}};
 *     const struct opt_command cmd = {"scoutkv-memnode", "--id NAME [options]", "…", "…", groups};
 *     struct opt_memory mem = {0};
 *     int rc = options_start(&cmd, argc, argv, &mem);
 *     if (rc >= 0)
 *         return rc;
 *     …
 *     options_free(&mem);
 *
 * Every command has --help, --version and --config FILE by itself. The command line wins over the file; lists
 * are joined, the file's items first. In the file, keys before any [section] are for every command and keys
 * in [run] only for `scoutkv run` ([eval recall] for `scoutkv eval recall`); other sections are skipped. */
#ifndef COMMON_OPTIONS_H
#define COMMON_OPTIONS_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tables leave out what does not apply to an option, which is what zero means here. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

enum opt_type {               /* what lies at the option's offset */
                OPT_FLAG = 1, /* bool; --name sets it; in a file true/false/yes/no/on/off/1/0 */
                OPT_I64,      /* int64_t */
                OPT_U32,      /* uint32_t */
                OPT_U64,      /* uint64_t */
                OPT_SIZE,     /* uint64_t; "4GiB", "512M" */
                OPT_DOUBLE,   /* double */
                OPT_STRING,   /* const char * */
                OPT_CHOICE,   /* const char *, one of `choices` */
                OPT_LIST,     /* struct opt_list; may be repeated */
};

struct opt_list {
    const char **item;
    size_t n;
};

struct opt {
    const char *name; /* "top-k"; NULL ends the table */
    char letter;      /* 'm' for -m, or 0 */
    enum opt_type type;
    size_t offset;       /* in the group's struct */
    const char *arg;     /* the value's name in --help: "TOKENS"; not for flags */
    const char *help;    /* lower case, no full stop */
    const char *choices; /* "ram|durable" for OPT_CHOICE */
    double min, max;     /* limits of numbers; both 0: none */
    bool required;
};

struct opt_group {
    const char *title;       /* NULL ends the list */
    const struct opt *table; /* ends with a zero entry */
    void *base;              /* the struct that receives the values and holds the defaults */
};

struct opt_command {
    const char *name;     /* "scoutkv run" */
    const char *synopsis; /* what follows the name: "-m MODEL -p PROMPT [options]" */
    const char *about;    /* a paragraph or two that teach; lines already broken */
    const char *examples; /* lines already broken; NULL: none */
    const struct opt_group *groups;
    struct opt_list *operands; /* takes arguments that are no options, in order; NULL: there may be none */
    size_t n_operands;         /* how many there must be, or OPERANDS_ANY */
};

/* Owns what values point at; zero it first, free it when the values are no longer used. */
struct opt_memory {
    void **block;
    size_t n;
    uint64_t typed[4]; /* by index over all groups: named on the command line */
};

enum { OPTIONS_SHOWN = 1 };
#define OPERANDS_ANY SIZE_MAX

/* Parses argv[1…]. 0: go on; OPTIONS_SHOWN: help or version was printed to stdout; -EINVAL (or another -errno
 * if the config file can't be read): err says what was wrong, with a suggestion for unknown names. */
int options_parse(const struct opt_command *, int argc, char **argv, struct opt_memory *,
                  struct skv_error *err);

/* The same for main(): -1: go on; else the exit code: 0 after help, 2 after a mistake (said on stderr). */
int options_start(const struct opt_command *, int argc, char **argv, struct opt_memory *);

/* Whether the command line (not the config file) named this option. */
bool options_typed(const struct opt_command *, const struct opt_memory *, const char *name);

/* Says a mistake that only the command itself can see, points to --help; returns 2. */
int options_mistake(const struct opt_command *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void options_free(struct opt_memory *);

/* The name nearest to word if it is near enough for "did you mean …?", else NULL. */
const char *nearest_name(const char *word, const char *const *names, size_t n);

#endif
