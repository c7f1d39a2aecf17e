#include "common/options.h"
#include "common/size.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_NAMES = 256, HELP_COLUMN = 28, HELP_WIDTH = 100, MAX_LINE = 198 /* inih's buffer is 200 */ };

struct parse {
    const struct opt_command *command;
    struct opt_memory *memory;
    struct skv_error *err;
    uint64_t given[MAX_NAMES / 64]; /* by index over all groups: named on the command line or in the file */
};

/* ---- memory ---- */

static void *remember(struct opt_memory *m, void *block)
{
    void **grown = block ? realloc(m->block, (m->n + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(block);
        return NULL;
    }
    m->block = grown;
    m->block[m->n++] = block;
    return block;
}

void options_free(struct opt_memory *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->block[i]);
    free(m->block);
    *m = (struct opt_memory){0};
}

/* The list may point at constants before it is first extended, so it is copied, not grown in place. */
static int list_add(struct opt_memory *m, struct opt_list *list, const char *item)
{
    const char **copy = remember(m, malloc((list->n + 1) * sizeof *copy));
    if (!copy)
        return -ENOMEM;
    if (list->n)
        memcpy(copy, list->item, list->n * sizeof *copy);
    copy[list->n] = item;
    *list = (struct opt_list){copy, list->n + 1};
    return 0;
}

/* ---- names ---- */

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Levenshtein distance with swaps of neighbours; words longer than the table count as far apart. */
static size_t distance(const char *a, const char *b)
{
    enum { LONGEST = 40 };
    size_t d[LONGEST + 1][LONGEST + 1];
    size_t n = strlen(a), m = strlen(b);
    if (n > LONGEST || m > LONGEST)
        return SIZE_MAX;
    for (size_t i = 0; i <= n; i++)
        d[i][0] = i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            d[i][j] = min3(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < d[i][j])
                d[i][j] = d[i - 2][j - 2] + 1;
        }
    }
    return d[n][m];
}

const char *nearest_name(const char *word, const char *const *names, size_t n)
{
    size_t len = strlen(word), best = len < 4 ? 2 : len / 3 + 1; /* must be closer than this */
    const char *found = NULL;
    for (size_t i = 0; i < n; i++) {
        size_t far = distance(word, names[i]);
        if (len >= 3 && !strncmp(word, names[i], len))
            far = 1; /* a beginning is as good as one slip */
        if (far < best) {
            best = far;
            found = names[i];
        }
    }
    return found;
}

static const struct opt *find(const struct opt_command *c, const char *name, char letter, void **place,
                              size_t *index)
{
    size_t at = 0;
    for (const struct opt_group *g = c->groups; g->title; g++) {
        for (const struct opt *o = g->table; o->name; o++, at++) {
            if (name ? !strcmp(o->name, name) : o->letter == letter) {
                *place = (char *)g->base + o->offset;
                *index = at;
                return o;
            }
        }
    }
    return NULL;
}

static int unknown_name(const struct parse *p, const char *dashes, const char *name)
{
    const char *names[MAX_NAMES + 3] = {"help", "version", "config"};
    size_t n = 3;
    for (const struct opt_group *g = p->command->groups; g->title; g++)
        for (const struct opt *o = g->table; o->name && n < MAX_NAMES; o++)
            names[n++] = o->name;
    const char *near = nearest_name(name, names, n);
    if (near)
        return skv_fail(p->err, -EINVAL, "unknown option %s%s: did you mean %s%s?", dashes, name, dashes,
                        near);
    return skv_fail(p->err, -EINVAL, "unknown option %s%s", dashes, name);
}

/* ---- values ---- */

static bool is_choice(const char *choices, const char *value)
{
    size_t len = strlen(value);
    for (const char *at = choices; len && at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
        if (!strncmp(at, value, len) && (at[len] == '|' || !at[len]))
            return true;
    return false;
}

static int parse_flag(const char *text, bool *out)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (int i = 0; i < 4; i++) {
        if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
            *out = !strcasecmp(text, yes[i]);
            return 0;
        }
    }
    return -EINVAL;
}

/* Numbers of every type pass through here once, so that limits are checked in one place. */
static int parse_number(enum opt_type type, const char *text, double *value, uint64_t *u, int64_t *i)
{
    char *end = NULL;
    errno = 0;
    if (type == OPT_SIZE) {
        int rc = size_parse(text, u);
        *value = rc ? 0 : (double)*u;
        return rc;
    }
    if (isspace((unsigned char)*text) || !*text)
        return -EINVAL;
    if (type == OPT_DOUBLE) {
        *value = strtod(text, &end);
        return *end || !isfinite(*value) ? -EINVAL : 0;
    }
    if (type == OPT_I64) {
        *i = strtoll(text, &end, 10);
        *value = (double)*i;
    } else {
        if (*text == '-')
            return -EINVAL; /* strtoull would wrap it round */
        *u = strtoull(text, &end, 10);
        *value = (double)*u;
        if (type == OPT_U32 && *u > UINT32_MAX)
            errno = ERANGE;
    }
    return *end || end == text ? -EINVAL : -errno;
}

static const char *expected(enum opt_type type)
{
    switch (type) {
    case OPT_FLAG:
        return "true or false";
    case OPT_SIZE:
        return "a size such as 512M or 4GiB";
    case OPT_DOUBLE:
        return "a number";
    case OPT_U32:
    case OPT_U64:
        return "a whole number, not negative";
    default:
        return "a whole number";
    }
}

static int set_number(const struct parse *p, const struct opt *o, void *place, const char *text)
{
    double value = 0;
    uint64_t u = 0;
    int64_t i = 0;
    int rc = parse_number(o->type, text, &value, &u, &i);
    if (rc == -ERANGE)
        return skv_fail(p->err, -EINVAL, "%s: %s is too large", o->name, text);
    if (rc)
        return skv_fail(p->err, -EINVAL, "%s: expected %s, not '%s'", o->name, expected(o->type), text);
    if ((o->min != 0 || o->max != 0) && (value < o->min || (o->max != 0 && value > o->max))) {
        if (o->max != 0)
            return skv_fail(p->err, -EINVAL, "%s: %s is outside %.10g to %.10g", o->name, text, o->min,
                            o->max);
        return skv_fail(p->err, -EINVAL, "%s: %s is less than %.10g", o->name, text, o->min);
    }
    switch (o->type) {
    case OPT_I64:
        *(int64_t *)place = i;
        break;
    case OPT_U32:
        *(uint32_t *)place = (uint32_t)u;
        break;
    case OPT_DOUBLE:
        *(double *)place = value;
        break;
    default:
        *(uint64_t *)place = u;
    }
    return 0;
}

static int set_value(const struct parse *p, const struct opt *o, void *place, const char *text)
{
    switch (o->type) {
    case OPT_FLAG:
        if (parse_flag(text, place))
            return skv_fail(p->err, -EINVAL, "%s: expected %s, not '%s'", o->name, expected(o->type), text);
        return 0;
    case OPT_STRING:
        *(const char **)place = text;
        return 0;
    case OPT_CHOICE:
        if (!is_choice(o->choices, text))
            return skv_fail(p->err, -EINVAL, "%s: '%s' is not one of %s", o->name, text, o->choices);
        *(const char **)place = text;
        return 0;
    case OPT_LIST:
        if (list_add(p->memory, place, text))
            return skv_fail(p->err, -ENOMEM, "out of memory");
        return 0;
    default:
        return set_number(p, o, place, text);
    }
}

static_assert(sizeof((struct opt_memory){0}.typed) * 8 == MAX_NAMES, "a bit each");

static void mark_given(struct parse *p, size_t index)
{
    if (index < MAX_NAMES)
        p->given[index / 64] |= 1ull << index % 64;
}

/* ---- config file ---- */

struct config {
    struct parse *parse;
    FILE *file;
    unsigned line;
    const char *path, *section; /* section: the command's name without the program's */
    int rc;
};

/* inih silently cuts long lines in two; this reader counts lines and refuses those instead. */
static char *config_line(char *buf, int len, void *arg)
{
    struct config *c = arg;
    if (c->rc || !fgets(buf, len, c->file))
        return NULL;
    c->line++;
    if (!strchr(buf, '\n') && !feof(c->file)) {
        c->rc = skv_fail(c->parse->err, -EINVAL, "%s:%u: line longer than %d characters", c->path, c->line,
                         MAX_LINE);
        return NULL;
    }
    return buf;
}

static int config_pair(void *arg, const char *section, const char *name, const char *value)
{
    struct config *c = arg;
    struct parse *p = c->parse;
    struct skv_error why = {0}, *outer = p->err;
    void *place;
    size_t index;
    if (c->rc)
        return 0;
    if (*section && strcmp(section, c->section))
        return 1;
    p->err = &why;
    const struct opt *o = find(p->command, name, 0, &place, &index);
    if (!o) {
        c->rc = unknown_name(p, "", name);
    } else {
        char *copy = remember(p->memory, strdup(value));
        c->rc = copy ? set_value(p, o, place, copy) : skv_fail(&why, -ENOMEM, "out of memory");
        mark_given(p, index);
    }
    p->err = outer;
    if (c->rc)
        skv_fail(outer, c->rc, "%s:%u: %s", c->path, c->line, why.text);
    return !c->rc;
}

static int read_config(struct parse *p, const char *path)
{
    const char *space = strchr(p->command->name, ' ');
    struct config c = {.parse = p, .path = path, .section = space ? space + 1 : p->command->name};
    c.file = fopen(path, "r");
    if (!c.file)
        return skv_fail(p->err, -errno, "cannot read config file %s: %s", path, strerror(errno));
    int bad_line = ini_parse_stream(config_line, &c, config_pair, &c);
    fclose(c.file);
    if (!c.rc && bad_line)
        c.rc = skv_fail(p->err, -EINVAL, "%s:%d: expected 'name = value'", path, bad_line);
    return c.rc;
}

/* ---- help ---- */

/* Words of text from column `at` on, broken at HELP_WIDTH, further lines at HELP_COLUMN. */
static void print_wrapped(size_t at, const char *text)
{
    while (*text) {
        size_t word = strcspn(text, " ");
        if (at > HELP_COLUMN && at + 1 + word > HELP_WIDTH) {
            printf("\n%*s", HELP_COLUMN, "");
            at = HELP_COLUMN;
        } else if (at > HELP_COLUMN) {
            putchar(' ');
            at++;
        }
        fwrite(text, 1, word, stdout);
        at += word;
        text += word + strspn(text + word, " ");
    }
    putchar('\n');
}

static void default_text(const struct opt *o, const void *place, char *out, size_t len)
{
    char buf[32];
    const char *text = NULL;
    switch (o->type) {
    case OPT_I64:
        if (*(const int64_t *)place)
            snprintf(buf, sizeof buf, "%" PRId64, *(const int64_t *)place), text = buf;
        break;
    case OPT_U32:
        if (*(const uint32_t *)place)
            snprintf(buf, sizeof buf, "%" PRIu32, *(const uint32_t *)place), text = buf;
        break;
    case OPT_U64:
        if (*(const uint64_t *)place)
            snprintf(buf, sizeof buf, "%" PRIu64, *(const uint64_t *)place), text = buf;
        break;
    case OPT_SIZE:
        if (*(const uint64_t *)place)
            text = size_format(buf, sizeof buf, *(const uint64_t *)place);
        break;
    case OPT_DOUBLE:
        if (*(const double *)place != 0)
            snprintf(buf, sizeof buf, "%g", *(const double *)place), text = buf;
        break;
    case OPT_STRING:
    case OPT_CHOICE:
        text = *(const char *const *)place;
        break;
    default:
        break;
    }
    if (text && *text)
        snprintf(out, len, " (default %s)", text);
    else
        *out = 0;
}

static void print_option(const struct opt *o, const void *place)
{
    char left[100], dflt[160], text[800];
    const char *arg = o->type == OPT_CHOICE ? o->choices : o->arg;
    char letter[5] = "    ";
    if (o->letter)
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    int at = snprintf(left, sizeof left, "  %s--%s%s%s", letter, o->name, arg ? " " : "", arg ? arg : "");
    fputs(left, stdout);
    if (at >= HELP_COLUMN - 1)
        printf("\n%*s", HELP_COLUMN, "");
    else
        printf("%*s", HELP_COLUMN - at, "");
    default_text(o, place, dflt, sizeof dflt);
    snprintf(text, sizeof text, "%s%s%s", o->help, o->type == OPT_LIST ? " (may be repeated)" : "", dflt);
    print_wrapped(HELP_COLUMN, text);
}

static void print_help(const struct opt_command *c)
{
    printf("Usage: %s %s\n\n%s\n", c->name, c->synopsis, c->about);
    for (const struct opt_group *g = c->groups; g->title; g++) {
        printf("\n%s:\n", g->title);
        for (const struct opt *o = g->table; o->name; o++)
            print_option(o, (const char *)g->base + o->offset);
    }
    printf("\nGeneral:\n");
    static const struct opt general[] = {
        {"config", 0, OPT_FLAG, 0, "FILE",
         "read options from FILE, one 'name = value' a line; the command line wins", 0, 0, 0, 0},
        {"help", 'h', OPT_FLAG, 0, NULL, "show this help", 0, 0, 0, 0},
        {"version", 0, OPT_FLAG, 0, NULL, "show the version", 0, 0, 0, 0},
    };
    for (size_t i = 0; i < 3; i++)
        print_option(&general[i], NULL);
    if (c->examples)
        printf("\nExamples:\n%s\n", c->examples);
}

/* ---- command line ---- */

/* argv[*at] as an option and its value, which may be the next argument. */
struct word {
    const struct opt *opt; /* NULL for config, help and version */
    void *place;
    size_t index;
    const char *builtin; /* "config", "help", "version" */
    const char *value;   /* NULL: a flag without one */
    const char *operand; /* no option at all */
};

static int take_value(const struct parse *p, const char *shown, const char *joined, int argc, char **argv,
                      int *at, struct word *w)
{
    w->value = joined;
    if (!joined && *at + 1 >= argc)
        return skv_fail(p->err, -EINVAL, "option %s needs a value", shown);
    if (!joined)
        w->value = argv[++*at];
    return 0;
}

static int split_word(const struct parse *p, int argc, char **argv, int *at, struct word *w)
{
    const char *text = argv[*at];
    *w = (struct word){0};
    if ((text[0] != '-' || !text[1]) && p->command->operands) {
        w->operand = text;
        return 0;
    }
    if (text[0] != '-' || !text[1])
        return skv_fail(p->err, -EINVAL, "unexpected argument '%s': values follow their option", text);
    if (text[1] != '-') {
        w->opt = find(p->command, text + 1, 0, &w->place, &w->index);
        if (w->opt && w->opt->type == OPT_FLAG)
            return 0;
        char shown[3] = {'-', text[1], 0};
        if (text[1] == 'h' && !text[2]) {
            w->builtin = "help";
            return 0;
        }
        w->opt = find(p->command, NULL, text[1], &w->place, &w->index);
        if (!w->opt)
            return skv_fail(p->err, -EINVAL, "unknown option %s", text);
        if (w->opt->type == OPT_FLAG)
            return text[2] ? skv_fail(p->err, -EINVAL, "option %s takes no value", shown) : 0;
        return take_value(p, shown, text[2] ? text + 2 : NULL, argc, argv, at, w);
    }
    const char *equals = strchr(text, '=');
    char name[64];
    snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - text - 2) : (int)strlen(text) - 2, text + 2);
    if (!strcmp(name, "help") || !strcmp(name, "version")) {
        w->builtin = name[0] == 'h' ? "help" : "version";
        return 0;
    }
    if (!strcmp(name, "config"))
        w->builtin = "config";
    else if (!(w->opt = find(p->command, name, 0, &w->place, &w->index)))
        return unknown_name(p, "--", name);
    if (w->opt && w->opt->type == OPT_FLAG) {
        w->value = equals ? equals + 1 : NULL;
        return 0;
    }
    return take_value(p, text, equals ? equals + 1 : NULL, argc, argv, at, w);
}

static int check_required(const struct parse *p)
{
    size_t at = 0;
    for (const struct opt_group *g = p->command->groups; g->title; g++) {
        for (const struct opt *o = g->table; o->name; o++, at++) {
            if (!o->required || (p->given[at / 64] >> at % 64 & 1))
                continue;
            if (o->letter)
                return skv_fail(p->err, -EINVAL, "missing -%c %s (--%s): %s", o->letter, o->arg, o->name,
                                o->help);
            return skv_fail(p->err, -EINVAL, "missing --%s %s: %s", o->name, o->arg, o->help);
        }
    }
    return 0;
}

/* Help and version win over every mistake to their right; config files are read before other options apply.
 */
static int scan_builtins(struct parse *p, int argc, char **argv)
{
    struct word w;
    for (int at = 1; at < argc; at++) {
        int rc = split_word(p, argc, argv, &at, &w);
        if (rc)
            return rc;
        if (!w.builtin)
            continue;
        if (!strcmp(w.builtin, "config")) {
            rc = read_config(p, w.value);
            if (rc)
                return rc;
            continue;
        }
        if (!strcmp(w.builtin, "help"))
            print_help(p->command);
        else
            printf("%.*s %s\n", (int)strcspn(p->command->name, " "), p->command->name, SKV_VERSION);
        return OPTIONS_SHOWN;
    }
    return 0;
}

int options_parse(const struct opt_command *c, int argc, char **argv, struct opt_memory *memory,
                  struct skv_error *err)
{
    struct parse p = {.command = c, .memory = memory, .err = err};
    struct word w;
    int rc = scan_builtins(&p, argc, argv);
    for (int at = 1; !rc && at < argc; at++) {
        rc = split_word(&p, argc, argv, &at, &w);
        if (rc || w.builtin)
            continue;
        if (w.operand) {
            rc = list_add(memory, c->operands, w.operand) ? skv_fail(err, -ENOMEM, "out of memory") : 0;
            continue;
        }
        mark_given(&p, w.index);
        if (w.index < MAX_NAMES)
            memory->typed[w.index / 64] |= 1ull << w.index % 64;
        if (w.opt->type == OPT_FLAG && !w.value)
            *(bool *)w.place = true;
        else
            rc = set_value(&p, w.opt, w.place, w.value);
    }
    if (!rc && c->operands && c->n_operands != OPERANDS_ANY && c->operands->n != c->n_operands)
        rc = skv_fail(err, -EINVAL, "expected %zu argument%s besides options, not %zu", c->n_operands,
                      c->n_operands == 1 ? "" : "s", c->operands->n);
    return rc ? rc : check_required(&p);
}

bool options_typed(const struct opt_command *c, const struct opt_memory *m, const char *name)
{
    void *place;
    size_t index;
    return find(c, name, 0, &place, &index) && index < MAX_NAMES && (m->typed[index / 64] >> index % 64 & 1);
}

int options_start(const struct opt_command *c, int argc, char **argv, struct opt_memory *memory)
{
    struct skv_error err = {0};
    int rc = options_parse(c, argc, argv, memory, &err);
    if (rc == 0)
        return -1;
    options_free(memory);
    return rc == OPTIONS_SHOWN ? 0 : options_mistake(c, "%s", err.text);
}

int options_mistake(const struct opt_command *c, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "%s: ", c->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, " (see %s --help)\n", c->name);
    return 2;
}
