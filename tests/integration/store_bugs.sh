#!/bin/sh
# Bugs planted into a copy of the store (tests/store/bugs/*.patch) are each caught by its histories, with a seed that
# shows it; and without the bug that seed shows nothing.
set -u
# shellcheck source=tests/integration/builds
. "$(dirname "$0")/builds"
plain_only "whether histories catch a bug does not depend on a sanitizer"
if command -v git >/dev/null; then
    apply() { GIT_CEILING_DIRECTORIES=$dir git apply "$1"; }
elif command -v patch >/dev/null; then
    apply() { patch -s -p1 --fuzz=0 <"$1"; }
else
    echo "SKIPPED: store_bugs: neither git nor patch is installed"
    exit 77
fi
histories=3000
root=$PWD
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
fail() {
    echo "store_bugs: $*" >&2
    tail -n 40 "$dir/log" >&2
    exit 1
}
build() { make -j2 B=build CFLAGS=-O2 build/tests/store/check_store >"$dir/log" 2>&1; }
check() { build/tests/store/check_store "$@" >"$dir/log" 2>&1; }

mkdir -p "$dir/good/tests"
cp -R Makefile common proto memnode "$dir/good/"
cp -R tests/store "$dir/good/tests/"
cd "$dir/good" || exit 1
build || fail "the store does not build from the folders that it needs"

for patch in "$root"/tests/store/bugs/*.patch; do
    bug=$(basename "$patch" .patch)
    cp -Rp "$dir/good" "$dir/$bug" # objects too: only what the patch touches is built anew
    cd "$dir/$bug" || exit 1
    apply "$patch" >"$dir/log" 2>&1 || fail "$bug.patch does not apply any more; make it anew"
    build || fail "with $bug.patch the store does not build"
    check --count $histories --stop && fail "$bug is not caught in $histories histories"
    seed=$(sed -n 's/.*make check-store SEED=\([0-9]*\) N=1$/\1/p' "$dir/log" | head -n 1)
    last=$(tail -n 1 "$dir/log")
    [ -n "$seed" ] || fail "$bug is caught, and no seed is printed"
    case $last in
    *' 0 lost, '*' 0 wrong') fail "$bug makes histories fail, but nothing is said to be lost or wrong" ;;
    'store: '*) ;;
    *) fail "$bug: the last line is not what it should be" ;;
    esac
    cd "$dir/good" || exit 1
    check --seed "$seed" --count 1 || fail "seed $seed fails without $bug too"
    echo "$bug: caught with seed $seed, in $last"
    rm -rf "${dir:?}/$bug"
done
