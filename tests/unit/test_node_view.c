/* The view of the cluster in a node: the newest one stays, and writes by an older one are refused. */
#include "tests/unit/node_asserts.h"

#include "common/cluster_view.h"
#include "memnode/store/store.h"
#include "tests/store/sim_disk.h"

static const Scoutkv__Header *view_put_damaged(struct harness *h, uint64_t epoch, const char *text,
                                               uint64_t damage)
{
    Scoutkv__ViewPut put = SCOUTKV__VIEW_PUT__INIT;
    put.checksum = view_checksum(text, strlen(text)) ^ damage;
    put.epoch = epoch;
    H_HEADER(header, VIEW_PUT, view_put, &put);
    struct buf *payload = buf_copy(text, strlen(text));
    const Scoutkv__Header *a = h_ask(h, H_READ, &header, payload);
    buf_unref(payload);
    return a;
}

static const Scoutkv__Header *view_put(struct harness *h, uint64_t epoch, const char *text)
{
    return view_put_damaged(h, epoch, text, 0);
}

/* What the node says, as the epoch of its view; the text must be that of `want` (NULL: none). */
static uint64_t view_get(struct harness *h, const char *want)
{
    Scoutkv__ViewGet get = SCOUTKV__VIEW_GET__INIT;
    H_HEADER(header, VIEW_GET, view_get, &get);
    const Scoutkv__Header *a = h_ask(h, H_READ, &header, NULL);
    assert_non_null(a);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_VIEW);
    assert_int_equal(a->epoch, a->view->epoch);
    struct view text = h->sent[0].m.payload;
    assert_int_equal(text.len > 0, want != NULL);
    if (want) {
        struct cluster_view has, wanted;
        assert_int_equal(cluster_view_parse((const char *)text.data, text.len, &has, NULL), 0);
        assert_int_equal(cluster_view_parse(want, strlen(want), &wanted, NULL), 0);
        assert_true(cluster_view_equal(&has, &wanted));
        assert_int_equal(has.epoch, a->view->epoch);
    }
    return a->view->epoch;
}

static void the_newest_view_stays(void **state)
{
    (void)state;
    static const char *const two = "epoch 2\nn1@h:1\nn2@h:2\n", *const other = "epoch 2\nn1@h:1\nn3@h:2\n";
    static const char *const nine = "# nine\nepoch 9\nn1@h:1\nn2@h:2 draining\n";
    struct harness *h = h_ready(0);
    assert_int_equal(view_get(h, NULL), 0);
    done_is(view_put(h, 2, two), 0);
    assert_int_equal(h->sent[0].m.header->epoch, 2);
    assert_int_equal(view_get(h, two), 2);
    done_is(view_put(h, 2, "epoch 2\nn2@h:2\nn1@h:1*1.0\n"), 0); /* the same, said otherwise */
    refused(view_put(h, 2, other), REASON(CONFLICT), "another view of epoch 2");
    done_is(view_put(h, 9, nine), 0);
    refused(view_put(h, 2, two), REASON(CONFLICT), "a newer view of epoch 9");
    assert_int_equal(h->sent[0].m.header->epoch, 9);
    assert_int_equal(view_get(h, nine), 9);
    assert_int_equal(h_counter(h, "view_epoch"), 9);
    assert_int_equal(h_counter(h, "view_nodes"), 2);
    h_free(h);
}

static void what_is_no_view_changes_nothing(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    done_is(view_put(h, 2, "epoch 2\nn1@h:1\n"), 0);
    refused(view_put_damaged(h, 3, "epoch 3\nn1@h:1\n", 1), REASON(MALFORMED), "checksum");
    refused(view_put(h, 3, "epoch 3\nn1\n"), REASON(MALFORMED), "line 2");
    refused(view_put(h, 3, "epoch 4\nn1@h:1\n"), REASON(MALFORMED), "(4)");
    refused(view_put(h, 0, "n1@h:1\n"), REASON(MALFORMED), "at least 1");
    refused(view_put(h, 5, ""), REASON(MALFORMED), "no memory node");
    assert_int_equal(view_get(h, "epoch 2\nn1@h:1\n"), 2);
    h_free(h);
}

static const Scoutkv__Header *put_at(struct harness *h, struct h_block *b, uint64_t epoch)
{
    Scoutkv__Put put = h_put_of(b);
    H_HEADER(header, PUT, put, &put);
    header.epoch = epoch;
    return h_ask(h, H_BULK, &header, b->payload);
}

/* Every kind of write, at this epoch; each must be refused as stale, or none. */
static void write_all(struct harness *h, struct h_block *b, uint64_t epoch, bool stale)
{
    Scoutkv__Key *keys[] = {&b->wire_key};
    Scoutkv__Drop drop = SCOUTKV__DROP__INIT;
    Scoutkv__Pin pin = SCOUTKV__PIN__INIT;
    Scoutkv__ObjectPut object = SCOUTKV__OBJECT_PUT__INIT;
    drop.n_keys = pin.n_keys = 1;
    drop.keys = pin.keys = keys;
    pin.owner = object.name = (char *)(uintptr_t) "m";
    pin.ttl_ms = 1;
    object.checksum = object_checksum(SCOUTKV__OBJECT_KIND__MANIFEST, "m", "m", 1);
    H_HEADER(h_pin, PIN, pin, &pin);
    H_HEADER(h_object, OBJECT_PUT, object_put, &object);
    H_HEADER(h_drop, DROP, drop, &drop);
    Scoutkv__Header *writes[] = {&h_pin, &h_object, &h_drop};
    struct buf *bytes = buf_copy("m", 1);
    for (size_t i = 0; i < sizeof writes / sizeof *writes; i++) {
        writes[i]->epoch = epoch;
        h->now += NS_PER_S; /* the lease is over when the block is dropped */
        const Scoutkv__Header *a = h_ask(h, H_READ, writes[i], writes[i] == &h_object ? bytes : NULL);
        if (stale)
            refused(a, REASON(STALE_VIEW), "epoch 5");
        else
            done_is(a, 1);
        assert_int_equal(a->epoch, 5);
    }
    buf_unref(bytes);
}

static void writes_by_an_older_view_are_refused(void **state)
{
    (void)state;
    struct harness *h = h_ready(0);
    struct h_block b;
    h_block(&b, 0, 1);
    put_is(put_at(h, &b, 0), STORED); /* nobody knows a view */
    done_is(view_put(h, 5, "epoch 5\nn1@h:1\n"), 0);
    for (uint64_t old = 0; old < 5; old += 4) {
        const Scoutkv__Header *a = put_at(h, &b, old);
        refused(a, REASON(STALE_VIEW), "epoch 5");
        assert_int_equal(a->epoch, 5);
        assert_int_equal(a->refused->credit, b.payload->len);
        write_all(h, &b, old, true);
    }
    assert_int_equal(h_counter(h, "blocks"), 1);
    assert_int_equal(h_counter(h, "objects"), 0);
    assert_int_equal(h_counter(h, "refused_stale_view"), 8);

    struct h_block *one[] = {&b}; /* reads are served, and tell the epoch */
    const Scoutkv__Header *a = ask_keys(h, H_READ, 'H', NULL, 0, one, 1);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_HAVE_ACK);
    assert_int_equal(a->have_ack->present.data[0], 1);
    assert_int_equal(a->epoch, 5);

    put_is(put_at(h, &b, 5), SAME); /* the same view, and a newer one */
    put_is(put_at(h, &b, 6), SAME);
    write_all(h, &b, 5, false);
    assert_int_equal(h_counter(h, "blocks"), 0);
    h_block_free(&b);
    h_free(h);
}

/* ---- on a disk ---- */

static struct harness *life(struct sim *sim)
{
    static const struct store_disk disk = {"d", STORE_DISK_MIN};
    struct harness *h = h_new(
        &(struct node_opts){.id = "n1", .ram = 32 * MIB, .disks = &disk, .n_disks = 1, .io = sim_io(sim)});
    h_hello(h, H_READ, 0, false);
    return h;
}

static void run(struct harness *h, unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        h->now += NS_PER_MS;
        node_run(h->node, h->now);
        if (i % 100 == 0)
            node_tick(h->node, h->now);
    }
}

static void death(struct harness *h, struct sim *sim, bool power)
{
    (power ? sim_power_loss : sim_kill)(sim);
    h_free(h);
    sim_io(sim)->ops->close(sim_io(sim));
}

static void a_node_with_a_disk_remembers(void **state)
{
    (void)state;
    static const char *const five = "epoch 5\nn1@h:1\nn2@h:2\n",
                             *const six = "epoch 6\nn1@h:1 draining\nn2@h:2\n",
                             *const nine = "epoch 9\nn1@h:1\nn2@h:2\nn3@h:3\n";
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct sim *sim = sim_new(seed);
        struct harness *h = life(sim);
        done_is(view_put(h, 5, five), 0); /* while it begins */
        run(h, 500);
        done_is(view_put(h, 6, six), 0);
        run(h, 3000);
        death(h, sim, seed % 2);

        h = life(sim);
        run(h, 3000);
        assert_int_equal(view_get(h, six), 6);
        assert_int_equal(h_counter(h, "view_epoch"), 6);
        assert_int_equal(h_counter(h, "objects"), 0); /* it is none of the clients' */
        refused(view_put(h, 5, five), REASON(CONFLICT), "a newer view of epoch 6");
        death(h, sim, seed % 2);

        h = life(sim); /* told of a newer one before it has found its own */
        done_is(view_put(h, 9, nine), 0);
        run(h, 3000);
        assert_int_equal(view_get(h, nine), 9);
        death(h, sim, seed % 2);
        h = life(sim);
        run(h, 3000);
        assert_int_equal(view_get(h, nine), 9);
        h_free(h);
        sim_io(sim)->ops->close(sim_io(sim));
        sim_free(sim);
    }
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(the_newest_view_stays),
        cmocka_unit_test(what_is_no_view_changes_nothing),
        cmocka_unit_test(writes_by_an_older_view_are_refused),
        cmocka_unit_test(a_node_with_a_disk_remembers),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
