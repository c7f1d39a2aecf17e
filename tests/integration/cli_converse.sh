#!/bin/sh
# scoutkv run -cnv: lines are answered as the server answers the same conversation; commands, Ctrl-C, the end of the
# input; templates that are not known.
. "$(dirname "$0")/cli_common"
command -v curl >/dev/null || {
    echo "SKIPPED: curl is not installed"
    exit 77
}

ends 2 run -m x -cnv --chat-template alpaca
says 'not one of chatml|llama2|llama3|mistral|mistral-v3|gemma|phi-3'
ends 2 run -m x -p y --chat-template chatml
says 'give -cnv, too'
ends 2 run -m x -cnv --json
ends 0 make-model recall -o "$dir/recall.gguf"
ends 1 run -m "$dir/recall.gguf" -cnv
says 'no chat template: .*--chat-template chatml|llama2|llama3|mistral|mistral-v3|gemma|phi-3'

# Long enough that blocks are sealed, and that the second turn begins within what was decoded.
kv="--window 64 --budget 64 --chunk 64 -c 20000"
document="The key of Levet is 503118. $(seq 1 300 | tr '\n' ' ')"
first="$document The key of Melan is 271828."
second="The key of Levet is 503118."

# converses LINES ARGS…: a conversation of the recall model; what it said is in $dir/out.
converses() {
    printf '%b' "$1" >"$dir/lines"
    shift
    # shellcheck disable=SC2086 # a list of words
    timeout 120 "$scoutkv" run -m "$dir/recall.gguf" -cnv $kv --temp 0 "$@" <"$dir/lines" >"$dir/out" 2>"$dir/err" ||
        fail "the conversation '$*' ended with status $?"
}

# asks TEMPLATE MESSAGES: what the server says to it
asks() {
    : >"$dir/listens"
    # shellcheck disable=SC2086
    "$scoutkv" serve -m "$dir/recall.gguf" $kv --chat-template "$1" --port 0 >"$dir/listens" 2>"$dir/log" </dev/null &
    server=$!
    pids="$pids $server"
    for _ in $(seq 300); do
        url=$(sed -n 's/^listening on //p' "$dir/listens")
        [ -z "$url" ] || break
        sleep 0.1
    done
    curl -sS "$url/v1/chat/completions" -d "{\"messages\": [$2], \"max_tokens\": 8, \"temperature\": 0}" |
        sed 's/.*"content":"\([^"]*\)".*/\1/'
    echo
    kill $server
    wait $server
}

# Both kinds of templates: chatml's turns only grow; mistral-v3 moves the system's message to the last of the user's.
for template in chatml mistral-v3; do
    converses "$first\n$second\n" --chat-template $template --system 'Be brief.' -n 8
    [ "$(wc -l <"$dir/out")" -eq 2 ] || fail "not one line an answer: $(cat "$dir/out")"
    says 'conversation 2 answers'
    answer=$(sed -n 1p "$dir/out")
    [ -n "$answer" ] || fail "with $template it said nothing"
    asks $template "{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": \"$first\"},
        {\"role\": \"assistant\", \"content\": \"$answer\"}, {\"role\": \"user\", \"content\": \"$second\"}" >"$dir/want"
    sed -n 2p "$dir/out" >"$dir/got"
    same "$dir/want" "$dir/got" "with $template the server says '$(cat "$dir/want")', the conversation '$(cat "$dir/got")'"
done
prompts=$(sed -n 's/^conversation.*prompts \([0-9]*\) tokens.*/\1/p' "$dir/err")
converses "$first\n$second\n" --chat-template chatml --system 'Be brief.' -n 8
grown=$(sed -n 's/^conversation.*prompts \([0-9]*\) tokens.*/\1/p' "$dir/err")
[ "$((grown + 150))" -lt "$prompts" ] ||
    fail "a turn that only grows prefilled $grown tokens, one that changes its beginning $prompts"

# Commands, empty lines, what comes from -p; /exit leaves the rest unread.
converses '\n/help\n/nothing\n   \n/exit\nnever\n' --chat-template chatml -p "$second" -n 4
[ "$(wc -l <"$dir/out")" -eq 1 ] || fail "-p alone had not one answer: $(cat "$dir/out")"
says '/exit   ends'
says '/nothing: no such command'
converses '' --chat-template chatml
[ ! -s "$dir/out" ] || fail "nothing was asked, and it said $(cat "$dir/out")"

# Ctrl-C ends an answer, and not the conversation.
mkfifo "$dir/typed"
: >"$dir/out"
"$scoutkv" run -m "$dir/recall.gguf" -cnv --chat-template chatml -c 10000000 --temp 0 --ignore-eos <"$dir/typed" >"$dir/out" 2>"$dir/err" &
pid=$!
pids="$pids $pid"
exec 3>"$dir/typed"
echo "$second" >&3
for _ in $(seq 100); do
    [ -s "$dir/out" ] && break
    sleep 0.1
done
kill -INT $pid
for _ in $(seq 100); do
    [ "$(wc -l <"$dir/out")" -eq 1 ] && break
    sleep 0.1
done
[ "$(wc -l <"$dir/out")" -eq 1 ] || fail "Ctrl-C did not end an answer"
echo /exit >&3
exec 3>&-
wait $pid || fail "/exit after Ctrl-C ended it with status $?"
says 'conversation 1 answers'
