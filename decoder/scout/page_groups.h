/* page_groups.h: scoring some of the far pages, for policies that have marked where to look closer.
 *
 * Representatives of pages lie in groups of eight, which are read whole: whoever wants one page of a group
 * gets the other seven scored for nothing. */
#ifndef SCOUT_PAGE_GROUPS_H
#define SCOUT_PAGE_GROUPS_H

#include "decoder/scout/policy.h"

struct page_groups {
    size_t n_all, n;        /* groups of all far pages; of these marked, once they are scored */
    uint8_t *marked;        /* (n_all) set by the policy: nonzero, score its pages */
    const uint8_t **groups; /* (n) */
    const float **scatter;  /* of each one's piece */
    uint32_t *at;           /* lane i of the j-th marked group is page 8·at[j] + i */
    uint64_t *eligible;     /* bitmap of lanes that may be chosen */
    size_t ld;
    float *mass, *score; /* (rows, ld) each lane's share of the row's mass in lanes; (ld) */
    uint32_t *order;     /* work space of scout_top, for any n up to n_pages */
};

/* Gives the arrays their places from base + *at on, and moves *at behind them; base NULL: only that. */
void page_groups_lay_out(const struct far_view *, struct page_groups *, char *base, size_t *at);
/* Bit i: page 8·group + i may be chosen. */
uint8_t page_groups_eligible(const struct far_view *, size_t group);
/* Gathers and scores what is marked; v->lse receives the rows' log mass of that. */
void page_groups_score(struct far_view *, struct page_groups *);
/* Chooses lanes; and makes page numbers of them. */
size_t page_groups_top(const struct far_view *, const struct page_groups *, uint32_t *lanes);
void page_groups_pages(const struct page_groups *, size_t n, uint32_t *lanes);

#endif
