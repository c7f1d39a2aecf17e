/* Plots: the file is well-formed XML whatever words and numbers go in, and shows every point where it
 * belongs. */
#include "decoder/cli/svg_plot.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char *draw(const struct svg_plot *plots, size_t n)
{
    char *text = NULL;
    size_t len;
    struct skv_error err = {0};
    FILE *out = open_memstream(&text, &len);
    int rc = svg_plot_draw(plots, n, out, &err);
    fclose(out);
    if (rc)
        fail_msg("svg_plot_draw: %s", err.text);
    return text;
}

/* ---- a strict reader of the XML that a plot may use ---- */

static const char *read_entity(const char *at)
{
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strncmp(at, known[i], strlen(known[i])))
            return at + strlen(known[i]);
    fail_msg("not an entity: %.20s", at);
    return NULL;
}

static const char *read_name(const char *at, char name[32])
{
    size_t n = 0;
    while (isalnum((unsigned char)at[n]) || at[n] == '-')
        n++;
    assert_in_range(n, 1, 31);
    memcpy(name, at, n);
    name[n] = 0;
    return at + n;
}

/* Attributes up to > or />. */
static const char *read_attributes(const char *at, bool *closed)
{
    char name[32];
    while (isspace((unsigned char)*at)) {
        while (isspace((unsigned char)*at))
            at++;
        if (*at == '/' || *at == '>')
            break;
        at = read_name(at, name);
        assert_true(at[0] == '=' && at[1] == '"');
        for (at += 2; *at != '"';) {
            if (!*at || *at == '<')
                fail_msg("the value of %s does not end", name);
            at = *at == '&' ? read_entity(at) : at + 1;
        }
        at++;
    }
    *closed = *at == '/';
    at += *closed;
    assert_int_equal(*at, '>');
    return at + 1;
}

static void well_formed(const char *text)
{
    char open[32][32];
    size_t depth = 0, roots = 0;
    for (const char *at = text; *at;) {
        if (*at == '&') {
            at = read_entity(at);
        } else if (*at != '<') {
            assert_true((unsigned char)*at >= ' ' || *at == '\n' || *at == '\t');
            if (depth == 0)
                assert_true(isspace((unsigned char)*at));
            at++;
        } else if (at[1] == '/') {
            char name[32];
            at = read_name(at + 2, name);
            assert_true(depth > 0 && *at == '>');
            assert_string_equal(name, open[--depth]);
            at++;
        } else {
            bool closed;
            assert_in_range(depth, 0, 31);
            roots += depth == 0;
            at = read_attributes(read_name(at + 1, open[depth]), &closed);
            depth += !closed;
        }
    }
    assert_int_equal(depth, 0);
    assert_int_equal(roots, 1);
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        n++;
    return n;
}

/* ---- tests ---- */

static void any_words_are_escaped(void **state)
{
    (void)state;
    const double x[] = {1, 2}, y[] = {3, 4};
    const struct svg_series s = {.name = "a<b>&\"c\"\x01\n", .x = x, .y = y, .n = 2};
    const struct svg_plot p = {
        .title = "<svg> & 5 ÷ 3", .x_label = "]]>", .y_label = "\"", .series = &s, .n_series = 1};
    char *text = draw(&p, 1);
    well_formed(text);
    assert_non_null(strstr(text, "&lt;svg&gt; &amp; 5 ÷ 3"));
    assert_non_null(strstr(text, "a&lt;b&gt;&amp;&quot;c&quot;<"));
    free(text);
}

/* A line through (10, 1), (100, 2), (1000, 3), with log x: equal distances both ways. */
static void points_are_where_they_belong(void **state)
{
    (void)state;
    const double x[] = {10, 100, 1000}, y[] = {1, 2, 3};
    const struct svg_series s = {.name = "line", .x = x, .y = y, .n = 3};
    const struct svg_plot p = {.log_x = true, .series = &s, .n_series = 1};
    char *text = draw(&p, 1);
    double at[3][2];
    well_formed(text);
    assert_int_equal(count(text, "<circle"), 4); /* and one in the legend */
    const char *c = text;
    for (int i = 0; i < 3; i++, c++) {
        c = strstr(c, "<circle");
        assert_int_equal(sscanf(c, "<circle cx=\"%lf\" cy=\"%lf\"", &at[i][0], &at[i][1]), 2);
    }
    assert_true(at[0][0] < at[1][0] && at[0][1] > at[1][1]); /* y grows downwards in the picture */
    assert_true(fabs(at[2][0] - at[1][0] - (at[1][0] - at[0][0])) <= 0.2);
    assert_true(fabs(at[2][1] - at[1][1] - (at[1][1] - at[0][1])) <= 0.2);
    assert_non_null(strstr(text, ">10<"));
    assert_non_null(strstr(text, ">1000<"));
    free(text);
}

static void what_cannot_be_drawn_is_left_out(void **state)
{
    (void)state;
    const double x[] = {0, 1, 2, 3, 4}, y[] = {1, NAN, INFINITY, 0, 5};
    const double spread[] = {NAN, 1, 1, 1, 9}; /* the last reaches below 0 */
    const struct svg_series s = {.name = "s", .x = x, .y = y, .spread = spread, .n = 5};
    struct svg_plot p = {.log_x = true, .log_y = true, .series = &s, .n_series = 1};
    char *text = draw(&p, 1);
    well_formed(text);
    assert_int_equal(count(text, "<circle"), 2); /* (4, 5) and the legend's */
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    free(text);
    p.log_x = p.log_y = false;
    text = draw(&p, 1);
    assert_int_equal(count(text, "<circle"), 4);
    free(text);
}

static void no_point_is_an_error(void **state)
{
    (void)state;
    const double x[] = {1}, none[] = {NAN}, y[] = {0.5};
    const struct svg_series s[] = {{.name = "s", .x = x, .y = none, .n = 1},
                                   {.name = "t", .x = x, .y = y, .n = 1}};
    const struct svg_plot p[] = {{.series = &s[0], .n_series = 1}, {.series = &s[1], .n_series = 1}};
    struct skv_error err = {0};
    assert_int_equal(svg_plot_draw(p, 1, stderr, &err), -EINVAL);
    assert_non_null(strstr(err.text, "no point"));
    assert_int_equal(svg_plot_write(p, 2, "/no/such/folder/x.svg", &err), -ENOENT);
    char *text = draw(p, 2); /* the one that has a point */
    well_formed(text);
    assert_int_equal(count(text, "<g transform"), 1);
    free(text);
}

static void many_series_differ(void **state)
{
    (void)state;
    const double x[] = {16, 64, 256}, y[] = {1e-4, 1e-3, 1e-1}, spread[] = {0, 1e-4, 1e-2};
    struct svg_series s[20];
    for (int i = 0; i < 20; i++)
        s[i] = (struct svg_series){
            .name = "policy", .x = x, .y = y, .spread = spread, .n = 3, .points_only = i == 19};
    const struct svg_plot p[] = {{.title = "one",
                                  .log_x = true,
                                  .log_y = true,
                                  .series = s,
                                  .n_series = 20,
                                  .x_ticks = x,
                                  .n_x_ticks = 3},
                                 {.title = "two",
                                  .diagonal = true,
                                  .y_line = 0.5,
                                  .y_line_name = "half",
                                  .series = s,
                                  .n_series = 20}};
    char *text = draw(p, 2);
    well_formed(text);
    assert_int_equal(count(text, ">policy<"), 40);
    assert_non_null(strstr(text, ">half<"));
    for (int n = 16; n <= 256; n *= 4) {
        char tick[16];
        snprintf(tick, sizeof tick, ">%d<", n);
        assert_non_null(strstr(text, tick));
    }
    assert_non_null(strstr(text, "stroke-dasharray=\"2 3\""));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_words_are_escaped),
        cmocka_unit_test(points_are_where_they_belong),
        cmocka_unit_test(what_cannot_be_drawn_is_left_out),
        cmocka_unit_test(no_point_is_an_error),
        cmocka_unit_test(many_series_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
