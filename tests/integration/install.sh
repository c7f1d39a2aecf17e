#!/bin/sh
# make install into a folder of its own; the example is then built with pkg-config alone, as an engine would, and run.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
fail() {
    echo "install: $*" >&2
    cat "$dir"/*.txt >&2
    exit 1
}
case $BUILD in
*address* | *thread*)
    echo "SKIPPED: install: a library built with a sanitizer is for no other program"
    exit 77
    ;;
esac
make install B="$BUILD" DESTDIR="$dir/root" PREFIX=/opt/skv >"$dir/make.txt" 2>&1 || fail "make install failed"
prefix=$dir/root/opt/skv
for file in bin/scoutkv bin/scoutkv-memnode lib/libscoutkv.a lib/libscoutkv.so include/scoutkv/scoutkv.h; do
    [ -e "$prefix/$file" ] || fail "it did not install $file"
done
"$prefix/bin/scoutkv" --version >"$dir/version.txt" || fail "the installed program does not run"

export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
[ "$(pkg-config --variable=prefix scoutkv)" = /opt/skv ] || fail "scoutkv.pc names another prefix"
flags="pkg-config --define-variable=prefix=$prefix"
# shellcheck disable=SC2046 # flags
cc -Wall -Werror -o "$dir/shared" decoder/examples/attend.c $($flags --cflags --libs scoutkv) -lm \
    >"$dir/cc.txt" 2>&1 || fail "the example does not build with the installed files"
LD_LIBRARY_PATH=$prefix/lib "$dir/shared" >"$dir/run.txt" 2>&1 || fail "the example does not run"
# shellcheck disable=SC2046 # flags
cc -o "$dir/static" decoder/examples/attend.c $($flags --cflags scoutkv) "$prefix/lib/libscoutkv.a" \
    $(pkg-config --libs $($flags --print-requires-private scoutkv)) -lm -pthread >"$dir/cc.txt" 2>&1 ||
    fail "the example does not build with the static library"
"$dir/static" >"$dir/run.txt" 2>&1 || fail "the statically linked example does not run"
