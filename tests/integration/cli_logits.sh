#!/bin/sh
# scoutkv logits and tokenize: the same bits on any nodes, dense and an unlimited budget the same, and the golden
# token ids where the test data is at hand.
. "$(dirname "$0")/cli_common"

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 260 >"$dir/text"
ends 0 tokenize -m "$dir/random.gguf" -f "$dir/text"
cp "$dir/out" "$dir/ids"
n=$(wc -w <"$dir/ids")
[ "$n" -gt 700 ] || fail "only $n tokens to test with"
"$scoutkv" tokenize -m "$dir/random.gguf" <"$dir/text" >"$dir/out" || fail "tokenize does not read standard input"
same "$dir/ids" "$dir/out" "standard input gave other ids than a file"
ends 0 tokenize -m "$dir/random.gguf" -f "$dir/text" --no-bos
[ "$(wc -w <"$dir/out")" -eq $((n - 1)) ] || fail "--no-bos left $(wc -w <"$dir/out") of $n ids"

start_nodes 3
one=${nodes%%,*}
logits() {
    out=$1
    shift
    ends 0 logits -m "$dir/random.gguf" --tokens "$dir/ids" -o "$dir/$out" --window 64 --cache 64KiB "$@"
}
logits dense --policy dense
[ "$(wc -c <"$dir/dense")" -eq $((n * 512 * 4)) ] || fail "the file is not [tokens][vocabulary] f32"
logits all --policy cascade --budget 1000000
same "$dir/dense" "$dir/all" "cascade with a budget of all pages is not dense"
logits cascade --budget 32
cmp -s "$dir/dense" "$dir/cascade" && fail "a budget of 32 tokens changed nothing"
logits one --budget 32 --nodes "$one"
same "$dir/cascade" "$dir/one" "one node gave other bits than the embedded one"
logits three --budget 32 --nodes "$nodes"
same "$dir/cascade" "$dir/three" "three nodes gave other bits than the embedded one"
logits thread --budget 32 -t 1
same "$dir/cascade" "$dir/thread" "decode depends on the number of threads"
logits p_dense --prefill-tokens 1000000 --prefill dense
logits p_all --prefill-tokens 1000000 --prefill cascade --prefill-budget 1000000
same "$dir/p_dense" "$dir/p_all" "prefill by cascade with a budget of all pages is not dense"
ends 1 logits -m "$dir/random.gguf" --tokens "$dir/ids" -o "$dir/absent/out"
says 'absent/out'

if [ -z "${SCOUTKV_TEST_DATA:-}" ]; then
    echo "golden ids skipped: SCOUTKV_TEST_DATA is not set"
    exit 0
fi
golden=$SCOUTKV_TEST_DATA/golden/stories260K
count=$(wc -w <"$golden.tokens.txt")
ends 0 tokenize -m "$SCOUTKV_TEST_DATA/stories260K.gguf" -f "$SCOUTKV_TEST_DATA/golden/story.txt"
tr ' ' '\n' <"$dir/out" | head -n "$count" | xargs >"$dir/mine"
xargs <"$golden.tokens.txt" >"$dir/theirs"
same "$dir/mine" "$dir/theirs" "tokenize gives other ids than the golden ones"
for type in f16 f32; do
    ends 0 run -m "$SCOUTKV_TEST_DATA/stories260K.gguf" --tokens "$golden.tokens.txt" -n 64 --ignore-eos --temp 0 \
        --kv-type $type --json
    sed 's/.*,"ids":\[\([^]]*\)\].*/\1/' "$dir/out" | tr ',' '\n' | xargs >"$dir/mine"
    xargs <"$golden.greedy.txt" >"$dir/theirs"
    same "$dir/mine" "$dir/theirs" "greedy continuation with a KV cache of $type is not the golden one"
done
