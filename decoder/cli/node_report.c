#include "decoder/cli/node_report.h"
#include "common/size.h"

#include <inttypes.h>

/* ", N what" after the first. */
static void tell(FILE *out, bool *any, uint64_t n, const char *one, const char *many)
{
    if (!n)
        return;
    fprintf(out, "%s %" PRIu64 " %s", *any ? "," : "", n, n == 1 ? one : many);
    *any = true;
}

void node_report_print(const skv_tier *t, FILE *out)
{
    struct skv_tier_stats s;
    char bytes[32];
    bool any = false;
    skv_tier_stats(t, &s);
    if (s.nodes_up == s.nodes && !(s.nodes_suspected + s.nodes_lost + s.nodes_reborn + s.pages_hedged +
                                   s.pages_bad + s.blocks_short + s.etcd_lost))
        return;
    fprintf(out, "nodes        %u of %u up;", s.nodes_up, s.nodes);
    tell(out, &any, s.nodes_lost, "lost", "times one was lost");
    tell(out, &any, s.nodes_reborn, "back without its blocks", "times one came back without its blocks");
    tell(out, &any, s.nodes_suspected, "passed over as silent", "times one was passed over as silent");
    tell(out, &any, s.etcd_lost, "etcd stopped answering", "times etcd stopped answering");
    tell(out, &any, s.pages_bad, "page failed its checksum", "pages failed their checksum");
    tell(out, &any, s.blocks_short, "block short of copies", "blocks short of copies");
    tell(out, &any, s.copies_repaired, "copy made good", "copies made good");
    tell(out, &any, s.pages_hedged, "page asked twice", "pages asked twice");
    if (s.pages_hedged)
        fprintf(out, " (%s came for nothing)", size_format(bytes, sizeof bytes, s.bytes_hedged));
    fputs(any ? "\n" : " the others never came\n", out);
}

json_t *node_report_json(const skv_tier *t)
{
    struct skv_tier_stats s;
    skv_tier_stats(t, &s);
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "nodes", (json_int_t)s.nodes,
                     "nodes_up", (json_int_t)s.nodes_up, "nodes_suspected", (json_int_t)s.nodes_suspected,
                     "nodes_lost", (json_int_t)s.nodes_lost, "nodes_reborn", (json_int_t)s.nodes_reborn,
                     "pages_hedged", (json_int_t)s.pages_hedged, "bytes_hedged", (json_int_t)s.bytes_hedged,
                     "pages_missed", (json_int_t)s.pages_missed, "pages_bad", (json_int_t)s.pages_bad,
                     "blocks_short", (json_int_t)s.blocks_short, "copies_repaired",
                     (json_int_t)s.copies_repaired, "etcd_lost", (json_int_t)s.etcd_lost);
}
