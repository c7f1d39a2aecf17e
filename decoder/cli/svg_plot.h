/* svg_plot.h: a line plot with markers and a legend as an SVG file, for the figures of `scoutkv eval`.
 *
 * Made for reading beside text: white ground, one colour and one marker a series (told apart without colour
 * too), horizontal grid, numbers as people write them. The file needs nothing besides itself. */
#ifndef CLI_SVG_PLOT_H
#define CLI_SVG_PLOT_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct svg_series {
    const char *name; /* in the legend */
    const double *x, *y;
    const double *spread; /* a bar from y - spread to y + spread at each point; NULL: none */
    size_t n;         /* points; what cannot be drawn (not finite; not positive on a log axis) is left out */
    bool points_only; /* not joined by a line: a scatter */
};

struct svg_plot {
    const char *title, *x_label, *y_label; /* UTF-8; NULL: none */
    bool log_x, log_y;
    const double *x_ticks; /* where numbers stand; NULL: round ones are chosen */
    size_t n_x_ticks;
    double y_line;           /* a horizontal line across, if it has a name */
    const char *y_line_name; /* NULL: none */
    bool diagonal;           /* a line y = x: estimated against true */
    const struct svg_series *series;
    size_t n_series;
};

/* n plots, one below the other; one without a point that can be drawn is left out. -EINVAL: all are. */
int svg_plot_write(const struct svg_plot *, size_t n, const char *path, struct skv_error *);
/* The same to an open file; -EIO if that fails. */
int svg_plot_draw(const struct svg_plot *, size_t n, FILE *, struct skv_error *);

#endif
