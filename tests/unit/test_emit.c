/* What streams to the user: stop strings across pieces, characters across pieces; and how answers are read.
 */
#include "decoder/cli/emit.h"
#include "decoder/cli/answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const stops[] = {"END", "\n\n", ""};

/* Pushes pieces until NULL; *shown: what had been written before the end. */
static char *emit_all(struct emit *e, size_t *shown, ...)
{
    va_list ap;
    *e = (struct emit){.s = {.stops = stops, .n_stops = 3}};
    va_start(ap, shown);
    for (const char *piece; (piece = va_arg(ap, const char *));)
        assert_int_equal(emit_push(e, piece, strlen(piece), NULL), 0);
    va_end(ap);
    *shown = e->written;
    assert_int_equal(emit_end(e, NULL), 0);
    assert_int_equal(e->written, e->s.len);
    return strndup(e->s.text, e->s.len);
}

static void expect(struct emit *e, char *text, const char *want, bool stopped)
{
    assert_string_equal(text, want);
    assert_int_equal(e->s.stopped, stopped);
    free(text);
    emit_free(e);
}

static void text_passes(void **state)
{
    (void)state;
    struct emit e;
    size_t shown;
    char *text = emit_all(&e, &shown, "one ", "two", NULL);
    assert_int_equal(shown, 7);
    expect(&e, text, "one two", false);
}

static void a_stop_string_ends_it(void **state)
{
    (void)state;
    struct emit e;
    size_t shown;
    expect(&e, emit_all(&e, &shown, "oneENDtwo", "three", NULL), "one", true);
    expect(&e, emit_all(&e, &shown, "one E", "N", "D two", NULL), "one ", true);
    expect(&e, emit_all(&e, &shown, "one\n", "\nEND", NULL), "one", true);
}

static void a_possible_stop_is_held_back(void **state)
{
    (void)state;
    struct emit e;
    size_t shown;
    char *text = emit_all(&e, &shown, "the E", "N", NULL);
    assert_int_equal(shown, 4);
    expect(&e, text, "the EN", false);
    text = emit_all(&e, &shown, "the EN", "EN",
                    NULL); /* the first EN is free, the second may still become END */
    assert_int_equal(shown, 6);
    expect(&e, text, "the ENEN", false);
}

static void characters_are_whole(void **state)
{
    (void)state;
    struct emit e;
    size_t shown;
    char *text = emit_all(&e, &shown, "caf\xc3", "\xa9", "\xe2\x82", NULL);
    assert_int_equal(shown, 5);
    expect(&e, text, "caf\xc3\xa9\xef\xbf\xbd", false);
}

/* Whether what the model said, piece by piece, is the word that was wanted. */
static bool says(const char *want, ...)
{
    struct answer a = {0};
    va_list ap;
    va_start(ap, want);
    for (const char *piece; (piece = va_arg(ap, const char *)) && !a.over;)
        answer_add(&a, (struct gguf_str){piece, strlen(piece)}, !strcmp(piece, "</s>"), strlen(want));
    va_end(ap);
    return answer_right(&a, want);
}

static void answers_are_compared_whole(void **state)
{
    (void)state;
    assert_true(says("503118", " 503", "118", ".", NULL));
    assert_true(says("503118", " ", "5", "0", "3", "1", "1", "8", NULL));
    assert_false(says("503118", " 503", "117", NULL));
    assert_false(says("503118", " 503", "</s>", "118", NULL));
    assert_false(says("503118", " 503", " 118", NULL));
    assert_false(says("503118", " the", " 503", "118", NULL));
    assert_false(says("503118", NULL));
    assert_true(says("Levet", " Levet", ".", NULL));
    assert_false(says("Leve", " Levet", ".", NULL));
    assert_false(
        says("503118", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " 503", "118", NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_passes),
        cmocka_unit_test(a_stop_string_ends_it),
        cmocka_unit_test(a_possible_stop_is_held_back),
        cmocka_unit_test(characters_are_whole),
        cmocka_unit_test(answers_are_compared_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
