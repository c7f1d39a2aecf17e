#include "decoder/cli/svg_plot.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum {
    WIDTH = 840,
    HEIGHT = 460,
    LEFT = 78,
    RIGHT = 600, /* the legend stands beyond */
    TOP = 48,
    BOTTOM = 400,
    MAX_TICKS = 40,
};

/* Okabe and Ito's colours, which colour-blind people tell apart too; then markers and dashes do. */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#000000", "#8c6d1f"};
static const char *const dashes[] = {"none", "6 3", "2 3"};
enum { N_COLOURS = sizeof colours / sizeof *colours, N_MARKERS = 6, N_DASHES = 3 };

struct axis {
    bool log;
    double from, to;   /* of values; log10 of them on a log axis */
    double begin, end; /* of the picture */
    double tick[MAX_TICKS];
    size_t n_ticks;
    int digits; /* behind the point of tick labels */
};

struct frame {
    FILE *out;
    const struct svg_plot *plot;
    struct axis x, y;
};

static void text_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            if ((unsigned char)*text >= ' ' || *text == '\t')
                fputc(*text, out);
        }
    }
}

/* ---- axes ---- */

static bool can_show(const struct axis *a, double value)
{
    return isfinite(value) && (!a->log || value > 0);
}

static bool point_shows(const struct frame *f, const struct svg_series *s, size_t i)
{
    return can_show(&f->x, s->x[i]) && can_show(&f->y, s->y[i]);
}

static void reach(struct axis *a, double value)
{
    if (!can_show(a, value))
        return;
    double v = a->log ? log10(value) : value;
    a->from = v < a->from ? v : a->from;
    a->to = v > a->to ? v : a->to;
}

static double place(const struct axis *a, double value)
{
    double v = a->log ? log10(value) : value;
    return a->begin + (v - a->from) / (a->to - a->from) * (a->end - a->begin);
}

static bool within(const struct axis *a, double value)
{
    double v = a->log ? log10(value) : value, slack = 1e-9 * (a->to - a->from);
    return v >= a->from - slack && v <= a->to + slack;
}

static void add_tick(struct axis *a, double value)
{
    if (a->n_ticks < MAX_TICKS && within(a, value))
        a->tick[a->n_ticks++] = value;
}

/* 1, 2 or 5 times a power of ten, so that about `wanted` of them cover the span. */
static double nice_step(double span, double wanted)
{
    double step = pow(10, floor(log10(span / wanted)));
    double fit = span / wanted / step;
    return step * (fit > 5 ? 10 : fit > 2 ? 5 : fit > 1 ? 2 : 1);
}

static void linear_ticks(struct axis *a, double from, double to)
{
    double step = nice_step(to - from, 6);
    for (double i = ceil(from / step - 1e-9); i * step <= to + 1e-9 * (to - from); i++)
        add_tick(a, i * step == 0 ? 0 : i * step);
    int digits = (int)-floor(log10(step) + 1e-9);
    a->digits = digits > 0 ? digits : 0;
}

/* Powers of ten, with 2 and 5 between them where there is room; a short span is ticked like a linear one. */
static void log_ticks(struct axis *a)
{
    double decades = a->to - a->from;
    if (decades < 1) {
        linear_ticks(a, pow(10, a->from), pow(10, a->to));
        return;
    }
    for (double e = floor(a->from); e <= ceil(a->to); e += decades > 12 ? 2 : 1) {
        add_tick(a, pow(10, e));
        add_tick(a, decades < 4 ? 2 * pow(10, e) : -1);
        add_tick(a, decades < 4 ? 5 * pow(10, e) : -1);
    }
    a->digits = -1;
}

static void axis_end(struct axis *a)
{
    double room = a->to > a->from ? (a->to - a->from) * 0.05 : fabs(a->from) > 0 ? fabs(a->from) * 0.1 : 1;
    a->from -= room;
    a->to += room;
}

/* False: nothing can be drawn. */
static bool fit_axes(struct frame *f)
{
    const struct svg_plot *p = f->plot;
    f->x = (struct axis){.log = p->log_x, .from = INFINITY, .to = -INFINITY, .begin = LEFT, .end = RIGHT};
    f->y = (struct axis){.log = p->log_y, .from = INFINITY, .to = -INFINITY, .begin = BOTTOM, .end = TOP};
    for (size_t s = 0; s < p->n_series; s++)
        for (size_t i = 0; i < p->series[s].n; i++) {
            const struct svg_series *e = &p->series[s];
            if (!point_shows(f, e, i))
                continue;
            double spread = e->spread && isfinite(e->spread[i]) ? e->spread[i] : 0;
            reach(&f->x, e->x[i]);
            reach(&f->y, e->y[i]);
            reach(&f->y, e->y[i] - spread);
            reach(&f->y, e->y[i] + spread);
        }
    if (!isfinite(f->x.from))
        return false;
    if (p->y_line_name)
        reach(&f->y, p->y_line);
    axis_end(&f->x);
    axis_end(&f->y);
    for (size_t i = 0; i < p->n_x_ticks; i++)
        add_tick(&f->x, can_show(&f->x, p->x_ticks[i]) ? p->x_ticks[i] : -1);
    if (p->n_x_ticks)
        f->x.digits = -1;
    else
        f->x.log ? log_ticks(&f->x) : linear_ticks(&f->x, f->x.from, f->x.to);
    f->y.log ? log_ticks(&f->y) : linear_ticks(&f->y, f->y.from, f->y.to);
    return true;
}

static void tick_label(FILE *out, const struct axis *a, double value)
{
    if (a->digits >= 0)
        fprintf(out, "%.*f", a->digits, value);
    else
        fprintf(out, "%.6g", value);
}

static void draw_axes(const struct frame *f)
{
    FILE *out = f->out;
    fprintf(out, "<g font-size=\"12\" fill=\"#333\">\n");
    for (size_t i = 0; i < f->y.n_ticks; i++) {
        double y = place(&f->y, f->y.tick[i]);
        fprintf(out, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/>", LEFT, y, RIGHT);
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 8, y + 4);
        tick_label(out, &f->y, f->y.tick[i]);
        fputs("</text>\n", out);
    }
    for (size_t i = 0; i < f->x.n_ticks; i++) {
        double x = place(&f->x, f->x.tick[i]);
        fprintf(out, "<path d=\"M%.1f %dv5\" stroke=\"#333\"/>", x, BOTTOM);
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">", x, BOTTOM + 20);
        tick_label(out, &f->x, f->x.tick[i]);
        fputs("</text>\n", out);
    }
    fprintf(out, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#333\"/>\n</g>\n", LEFT, TOP, BOTTOM,
            RIGHT);
}

static void draw_words(const struct frame *f)
{
    const struct svg_plot *p = f->plot;
    FILE *out = f->out;
    if (p->title) {
        fprintf(out, "<text x=\"%d\" y=\"26\" font-size=\"16\" font-weight=\"bold\">", LEFT);
        text_escaped(out, p->title);
        fputs("</text>\n", out);
    }
    if (p->x_label) {
        fprintf(out, "<text x=\"%d\" y=\"%d\" font-size=\"13\" text-anchor=\"middle\">", (LEFT + RIGHT) / 2,
                BOTTOM + 44);
        text_escaped(out, p->x_label);
        fputs("</text>\n", out);
    }
    if (p->y_label) {
        fprintf(out,
                "<text transform=\"translate(20 %d) rotate(-90)\" font-size=\"13\" text-anchor=\"middle\">",
                (TOP + BOTTOM) / 2);
        text_escaped(out, p->y_label);
        fputs("</text>\n", out);
    }
}

static void draw_lines(const struct frame *f)
{
    const struct svg_plot *p = f->plot;
    if (p->y_line_name && can_show(&f->y, p->y_line)) {
        double y = place(&f->y, p->y_line);
        fprintf(f->out, "<path d=\"M%d %.1fH%d\" stroke=\"#777\" stroke-dasharray=\"4 3\"/>", LEFT, y, RIGHT);
        fprintf(f->out, "<text x=\"%d\" y=\"%.1f\" font-size=\"12\" fill=\"#777\" text-anchor=\"end\">",
                RIGHT - 4, y - 5);
        text_escaped(f->out, p->y_line_name);
        fputs("</text>\n", f->out);
    }
    if (p->diagonal && f->x.log == f->y.log) {
        double from = fmax(f->x.from, f->y.from), to = fmin(f->x.to, f->y.to);
        double a = f->x.log ? pow(10, from) : from, b = f->x.log ? pow(10, to) : to;
        if (from < to)
            fprintf(f->out, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"#777\" stroke-dasharray=\"4 3\"/>\n",
                    place(&f->x, a), place(&f->y, a), place(&f->x, b), place(&f->y, b));
    }
}

/* ---- series ---- */

static void draw_marker(FILE *out, size_t which, double x, double y)
{
    static const char *const path[N_MARKERS] = {
        "",                                                  /* a circle */
        "m-4-4h8v8h-8z",                                     /* square */
        "m0-5.5l5 9h-10z",                                   /* triangle */
        "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",                 /* diamond */
        "m0 5.5l5-9h-10z",                                   /* triangle, upside down */
        "m-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z", /* cross */
    };
    if (which % N_MARKERS == 0)
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\"/>", x, y);
    else
        fprintf(out, "<path d=\"M%.1f %.1f%s\"/>", x, y, path[which % N_MARKERS]);
}

/* Markers change with the colour, and dashes when the colours are used up. */
static void begin_series(FILE *out, size_t which)
{
    const char *colour = colours[which % N_COLOURS];
    fprintf(out, "<g stroke=\"%s\" fill=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\">", colour,
            colour);
}

static void draw_path(const struct frame *f, const struct svg_series *s, size_t which)
{
    char pen = 'M';
    fprintf(f->out, "<path fill=\"none\" stroke-dasharray=\"%s\" d=\"", dashes[which / N_COLOURS % N_DASHES]);
    for (size_t i = 0; i < s->n; i++) {
        if (!point_shows(f, s, i))
            continue;
        fprintf(f->out, "%c%.1f %.1f", pen, place(&f->x, s->x[i]), place(&f->y, s->y[i]));
        pen = 'L';
    }
    fputs("\"/>\n", f->out);
}

static void draw_spread(const struct frame *f, const struct svg_series *s, size_t i)
{
    double low = s->y[i] - s->spread[i], high = s->y[i] + s->spread[i];
    if (!(s->spread[i] > 0) || !can_show(&f->y, low) || !can_show(&f->y, high))
        return;
    double x = place(&f->x, s->x[i]);
    fprintf(f->out, "<path stroke-width=\"1\" d=\"M%.1f %.1fV%.1fm-4 0h8M%.1f %.1fh8\"/>", x,
            place(&f->y, low), place(&f->y, high), x - 4, place(&f->y, low));
}

static void draw_series(const struct frame *f, size_t which)
{
    const struct svg_series *s = &f->plot->series[which];
    begin_series(f->out, which);
    bool any = false;
    for (size_t i = 0; i < s->n; i++)
        any |= point_shows(f, s, i);
    if (any && !s->points_only)
        draw_path(f, s, which);
    for (size_t i = 0; i < s->n; i++) {
        if (!point_shows(f, s, i))
            continue;
        if (s->spread)
            draw_spread(f, s, i);
        draw_marker(f->out, which, place(&f->x, s->x[i]), place(&f->y, s->y[i]));
    }
    fputs("</g>\n", f->out);
}

static void draw_legend(const struct frame *f)
{
    const struct svg_plot *p = f->plot;
    double gap = p->n_series > 16 ? (double)(BOTTOM - TOP) / (double)p->n_series : 22;
    for (size_t i = 0; i < p->n_series; i++) {
        double y = TOP + 10 + (double)i * gap;
        begin_series(f->out, i);
        if (!p->series[i].points_only)
            fprintf(f->out, "<path stroke-dasharray=\"%s\" d=\"M%d %.1fh28\"/>",
                    dashes[i / N_COLOURS % N_DASHES], RIGHT + 18, y);
        draw_marker(f->out, i, RIGHT + 32, y);
        fprintf(f->out, "</g><text x=\"%d\" y=\"%.1f\" font-size=\"13\">", RIGHT + 54, y + 4);
        text_escaped(f->out, p->series[i].name);
        fputs("</text>\n", f->out);
    }
}

static void draw_plot(const struct frame *f, int down)
{
    fprintf(f->out, "<g transform=\"translate(0 %d)\">\n", down);
    draw_axes(f);
    draw_words(f);
    draw_lines(f);
    for (size_t i = 0; i < f->plot->n_series; i++)
        draw_series(f, i);
    draw_legend(f);
    fputs("</g>\n", f->out);
}

int svg_plot_draw(const struct svg_plot *plots, size_t n, FILE *out, struct skv_error *err)
{
    struct frame f = {.out = out};
    int height = 0, down = 0;
    for (size_t i = 0; i < n; i++) {
        f.plot = &plots[i];
        height += fit_axes(&f) ? HEIGHT : 0;
    }
    if (!height)
        return skv_fail(err, -EINVAL, "plot: there is no point that can be drawn");
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
            "font-family=\"sans-serif\" fill=\"#111\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
            WIDTH, height, WIDTH, height, WIDTH, height);
    for (size_t i = 0; i < n; i++) {
        f.plot = &plots[i];
        if (fit_axes(&f)) {
            draw_plot(&f, down);
            down += HEIGHT;
        }
    }
    fputs("</svg>\n", out);
    return ferror(out) ? skv_fail(err, -EIO, "cannot write the plot") : 0;
}

int svg_plot_write(const struct svg_plot *plots, size_t n, const char *path, struct skv_error *err)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return skv_fail(err, -errno, "cannot write %s: %s", path, strerror(errno));
    int rc = svg_plot_draw(plots, n, out, err);
    if (fclose(out) && !rc)
        rc = skv_fail(err, -EIO, "cannot write %s: %s", path, strerror(errno));
    return rc;
}
