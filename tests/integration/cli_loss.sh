#!/bin/sh
# scoutkv run --on-loss, with every replica of some blocks destroyed: fail, degrade, recompute.
. "$(dirname "$0")/cli_common"

# destroy FROM TO NAME: blocks of the snapshot are on no node any more; prints how many it has.
destroy() {
    "$BUILD/tests/tools/drop_blocks" "$1" "$2" -m "$dir/random.gguf" --resume "$3" --nodes "$nodes" \
        >"$dir/sealed" 2>"$dir/err" || fail "drop_blocks failed"
}

# figure NAME: a number of the last --json run's losses
figure() {
    sed 's/.*"loss":{\([^}]*\)}.*/\1/' "$dir/out" | tr ',' '\n' | sed -n "s/^\"$1\"://p"
}

start_nodes 3
ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 500 | tr '\n' ' ' >"$dir/prompt"
set -- run -m "$dir/random.gguf" -c 20000 --ignore-eos --window 64 --policy cascade --budget 64 --cache 0 --temp 0 --nodes "$nodes" --replicas 2

# Undisturbed: the whole, its second half, and no loss whatever is asked for.
ends 0 "$@" --policy dense -f "$dir/prompt" -n 24
cp "$dir/out" "$dir/straight"
ends 0 "$@" --policy dense -f "$dir/prompt" -n 12 --save half
cp "$dir/out" "$dir/first"
ends 0 "$@" --policy dense --resume half -n 12
cp "$dir/out" "$dir/second"
cat "$dir/first" "$dir/second" | cmp -s - "$dir/straight" || fail "a resumed run gave other text than a straight one"
grep -q '^lost' "$dir/err" && fail "--on-loss fail spoke of losses that did not happen"
ends 0 "$@" --policy dense --resume half -n 12 --on-loss degrade
same "$dir/out" "$dir/second" "--on-loss degrade changed an undisturbed run"
says '^lost  *0 pages; 0 of [0-9]* attention passes went on without; estimated missed mass there 0, at most 0$'
ends 0 "$@" --policy dense --resume half -n 12 --on-loss recompute
same "$dir/out" "$dir/second" "--on-loss recompute changed an undisturbed run"
says '^lost  *nothing; recomputed 0 blocks$'

# fail: status 3, and the snapshot is whole again when its blocks are: the prompt's run stores them.
destroy 3 9 half
ends 3 "$@" --policy dense --resume half -n 12
[ -s "$dir/out" ] && fail "it printed '$(cat "$dir/out")' though its first step failed"
says 'is lost: all 3 memory nodes were asked'
says '--on-loss recompute'
ends 0 "$@" --policy dense -f "$dir/prompt" -n 1 --fresh
ends 0 "$@" --policy dense --resume half -n 12
same "$dir/out" "$dir/second" "blocks that were put again gave other text"

# A step that fails on the way leaves what was shown. Which step chooses a block is the scout's affair: the first
# block that is chosen late enough will do.
ends 0 "$@" --resume half -n 100
cp "$dir/out" "$dir/hundred"
found=
for block in $(seq 2 27); do
    destroy "$block" $((block + 1)) half
    "$scoutkv" "$@" --resume half -n 100 >"$dir/out" 2>"$dir/err" </dev/null
    status=$?
    shown=$(wc -c <"$dir/out")
    [ $status -eq 0 ] || [ $status -eq 3 ] || fail "block $block destroyed: status $status"
    cmp -s -n "$shown" "$dir/out" "$dir/hundred" || fail "block $block destroyed: it showed other text before it failed"
    if [ $status -eq 3 ] && [ "$shown" -gt 0 ]; then
        found=$block
        break
    fi
    ends 0 "$@" --policy dense --resume half -n 1 --on-loss recompute
done
[ -n "$found" ] || fail "no block was chosen in the middle of a run: the test shows nothing"
ends 3 "$@" --resume half -n 100 --json
prints '"ended":"failed"'
grep -q '"ids":\[[0-9]' "$dir/out" || fail "the JSON of a failed run lacks the ids it had drawn"
ends 0 "$@" --resume half -n 100 --on-loss recompute
same "$dir/out" "$dir/hundred" "one block computed again in the middle of a run changed the text"
says 'recomputed 1 blocks, 0 of them not bit for bit'

# degrade: a finished answer, and what it missed. Nothing is repaired by it.
destroy 3 9 half
ends 0 "$@" --policy dense --resume half -n 12 --on-loss degrade
says '^lost  *[1-9][0-9]* pages; [1-9][0-9]* of [0-9]* attention passes went on without; estimated missed mass there 0\.'
ends 0 "$@" --policy dense --resume half -n 12 --on-loss degrade --json
# 6 blocks of 4 pages, 2 layers of 2 KV heads, 12 steps (the first repeats the last token of the snapshot)
[ "$(figure pages)" = $((6 * 4 * 2 * 2 * 12)) ] || fail "lost pages: $(figure pages)"
[ "$(figure passes)" = 24 ] || fail "passes with lost pages: $(figure passes)"
for key in mass worst_mass; do
    case $(figure $key) in
    0.[0-9]*) ;;
    *) fail "$key of the lost pages is $(figure $key)" ;;
    esac
done
ends 0 "$@" --policy window --resume half -p ' and then' -n 1 --on-loss degrade --json
[ "$(figure pages)" -gt 0 ] || fail "a prompt's pass went on without pages and did not count them"
ends 3 "$@" --policy dense --resume half -n 12

# recompute: the same text, and then nothing is lost any more. Also with everything gone, and in a prompt's pass.
ends 0 "$@" --policy dense --resume half -n 12 --on-loss recompute
same "$dir/out" "$dir/second" "blocks computed again gave other text"
says 'note: 384 tokens lie in blocks that no memory node has; computing them again'
says '^lost  *recomputed 6 blocks, 0 of them not bit for bit (.* tokens in .*), and repeated 1 passes$'
ends 0 "$@" --policy dense --resume half -n 12
same "$dir/out" "$dir/second" "after recompute a run gave other text"
destroy 0 1000 half
ends 0 "$@" --policy dense --resume half -n 12 --on-loss recompute --json
[ "$(figure recomputed_blocks)" = "$(cat "$dir/sealed")" ] || fail "recomputed $(figure recomputed_blocks) of $(cat "$dir/sealed") blocks"
[ "$(figure changed_blocks)" = 0 ] || fail "$(figure changed_blocks) blocks came out with other bits"
ends 0 "$@" --policy dense --resume half -n 12
same "$dir/out" "$dir/second" "after recomputing everything a run gave other text"
ends 0 "$@" --resume half -p ' and then' -n 8
cp "$dir/out" "$dir/then"
destroy 0 1000 half
ends 3 "$@" --resume half -p ' and then' -n 8
ends 0 "$@" --resume half -p ' and then' -n 8 --on-loss recompute
same "$dir/out" "$dir/then" "a prompt behind lost blocks gave other text"

# Blocks that cascade decode made, repeated with another budget: other bits, an answer, and both counted.
ends 0 "$@" -f "$dir/prompt" -n 200 --save told
destroy 1000 1000 told
sealed=$(cat "$dir/sealed")
destroy $((sealed - 2)) "$sealed" told
ends 0 "$@" --resume told -n 12 --on-loss recompute
says 'recomputed 2 blocks, 0 of them not bit for bit'
destroy $((sealed - 2)) "$sealed" told
ends 0 "$@" --resume told -n 12 --policy dense --on-loss recompute --save retold
says 'recomputed 2 blocks, 2 of them not bit for bit'
for name in retold told; do # the new bits have the old name: every snapshot of it finds them
    ends 0 "$@" --resume $name -n 12 --policy dense --on-loss recompute
    says '^lost  *nothing'
done

# A node dies on the way, and with it every copy of the blocks that one node alone holds.
ends 0 "$@" --policy dense --replicas 1 --namespace 7 --timeout-ms 1000 -f "$dir/prompt" -n 300
cp "$dir/out" "$dir/undisturbed"
"$scoutkv" "$@" --policy dense --replicas 1 --namespace 7 --timeout-ms 1000 -f "$dir/prompt" -n 300 --on-loss recompute \
    >"$dir/out" 2>"$dir/err" </dev/null &
run=$!
pids="$pids $run"
for _ in $(seq 100); do
    [ -s "$dir/out" ] && break
    sleep 0.05
done
victim=${pids# }
kill -9 "${victim%% *}" || fail "there was no node to kill"
wait $run || fail "a run that was to recompute ended with status $?"
same "$dir/out" "$dir/undisturbed" "after a node died a run gave other text"

# Mistakes in the option.
ends 2 "$@" -p x --on-loss ignore
says 'fail|degrade|recompute'
