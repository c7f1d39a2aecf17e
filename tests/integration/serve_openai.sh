#!/bin/sh
# scoutkv serve and the official npm client of OpenAI's API: streams, typed errors, cancelling; the snippet in
# decoder/serve/README.md.
. "$(dirname "$0")/cli_common"
client=build/openai
if [ ! -x $client/node ] || [ ! -e $client/installed ]; then
    echo "SKIPPED: the client is not installed: run deploy/openai-client, which says why if it can't be"
    exit 77
fi
# Modules are looked for beside the file that imports them.
ln -s "$PWD/$client/node_modules" "$dir/node_modules"
cp tests/integration/serve_openai.mjs "$dir/client.mjs"
awk '/^```js$/ { on = 1; next } /^```$/ { on = 0 } on' decoder/serve/README.md >"$dir/snippet.mjs"
[ -s "$dir/snippet.mjs" ] || fail "decoder/serve/README.md has no snippet for the client"

ends 0 make-model recall -o "$dir/recall.gguf"
echo sk-one >"$dir/keys"
"$scoutkv" serve -m "$dir/recall.gguf" -c 1000000 --port 0 --api-keys "$dir/keys" --chat-template chatml \
    --parallel 1 --queue 0 --drain 0.1s >"$dir/listens" 2>"$dir/log" </dev/null &
SERVER=$!
pids=$SERVER
for _ in $(seq 300); do
    URL=$(sed -n 's/^listening on //p' "$dir/listens")
    [ -z "$URL" ] || break
    sleep 0.1
done
[ -n "$URL" ] || fail "the server does not listen: $(cat "$dir/log")"
KEY=sk-one
export URL KEY SERVER

$client/node "$dir/snippet.mjs" >"$dir/out" 2>"$dir/err" || fail "the README's snippet failed"
prints '^The key of Levet is 503118\.$'
timeout 300 $client/node "$dir/client.mjs" >"$dir/out" 2>"$dir/err" || fail "after $(tail -n 1 "$dir/out")"
[ "$(grep -c '^ok: ' "$dir/out")" -eq 12 ] || fail "not all was tried: $(cat "$dir/out")"
[ "$(grep -c 'the client went' "$dir/log")" -eq 3 ] || fail "clients went unnoticed: $(cat "$dir/log")"
pids=
wait $SERVER || fail "the server ended with status $?: $(cat "$dir/log")"
