#!/bin/sh
# scoutkv: help, version, mistakes on the command line and in files, and their exit codes.
. "$(dirname "$0")/cli_common"

ends 0 --help
for command in run serve tokenize logits make-model eval bench stats load check; do
    prints "^  $command "
done
ends 0 --version
prints '^scoutkv [0-9]'
ends 2
ends 2 rnu
says 'did you mean run?'
for command in run serve tokenize logits "make-model recall" "make-model counting" "make-model random" "eval recall" "eval text" "eval tasks" "bench step" "bench compare" "bench trace" plan stats load check; do
    ends 0 $command --help
    prints "^Usage: scoutkv $command"
    prints '^Examples:'
    prints '^  scoutkv '
    ends 2 $command --zebra-crossing
    says 'unknown option --zebra-crossing'
    [ "$(wc -l <"$dir/err")" -eq 1 ] || fail "'$command' took more than a line to refuse an option"
done

ends 2 run -m x
says 'missing -p'
ends 2 run -p x
says 'missing -m'
ends 2 run -m x -p x -f y
ends 2 run -m x -p x --bugdet 3
says 'did you mean --budget?'
ends 2 run -m x -p x --budget lots
ends 2 run -m x -p x --select 17
says '16, 32, 64'
ends 2 run -m x -p x --protect 9:3
says 'A:B'
ends 2 run -m x -p x --chunk 100
ends 2 run -m x -p x --policy magic
says 'is unknown: cascade, dense, window, norm-only'
ends 2 run -m x -p x --layer-policy 3-1=dense
says 'A <= B'
ends 2 run -m x -p x --policy window --tail
says 'estimates no mass'
ends 2 run -m x -p x --policy heavy-hitter --beta 0.5
says 'has no option "beta"'
ends 0 policies
prints '^  heavy-hitter '
ends 2 run -m x -p x --top-p 1.5
ends 2 run -m x -p x --window 512 --seal-lag 100
ends 2 eval recall -m x --policies cascade,magic
ends 2 make-model random -o x --type Q9_9
ends 1 run -m "$dir/absent.gguf" -p x
says 'absent.gguf'
ends 1 make-model recall -o "$dir/absent/recall.gguf"

ends 0 make-model random -o "$dir/model.gguf" --layers 1 --dim 64 --heads 2 --kv-heads 1 --ff 64
prints 'llama'
printf 'text, not a model' >"$dir/text"
ends 1 run -m "$dir/text" -p x
says 'text'
ends 4 run -m "$dir/model.gguf" -p x --nodes 127.0.0.1:1 --timeout-ms 500
says '127.0.0.1:1'
[ "$(wc -l <"$dir/err")" -eq 1 ] || fail "an absent node took more than one line"
ends 1 run -m "$dir/model.gguf" -p 'a b c d e f g h' -c 3
says '-c '
printf '1 2 99999' >"$dir/ids"
ends 1 logits -m "$dir/model.gguf" --tokens "$dir/ids" -o "$dir/logits"
says '99999'
ends 1 eval recall -m "$dir/model.gguf"
says 'make-model recall'

# A file takes the same names; the command line wins; a mistake names its line.
printf 'n = 3\n' >"$dir/conf"
ends 2 run -m "$dir/model.gguf" -p x --config "$dir/conf"
says 'conf:1'
printf 'model = %s\n[run]\npredict = 3\ntemp = 0\nignore-eos = yes\n[eval recall]\nzebra = 1\n' "$dir/model.gguf" >"$dir/conf"
ends 0 run -p x --config "$dir/conf" --json
[ "$(sed 's/.*"ids":\[\([^]]*\)\].*/\1/' "$dir/out" | tr ',' '\n' | wc -l)" -eq 3 ] || fail "predict = 3 made other than 3 tokens"
ends 0 run -p x --config "$dir/conf" --json -n 2
[ "$(sed 's/.*"ids":\[\([^]]*\)\].*/\1/' "$dir/out" | tr ',' '\n' | wc -l)" -eq 2 ] || fail "-n 2 did not win over the file"
