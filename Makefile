# scoutkv: plain make, out of tree in build/.
#
#   make                          all products: scoutkv, scoutkv-memnode, libscoutkv.{a,so}, scoutkv.pc
#   make check                    unit and integration tests
#   make bench-smoke              figures of short benches in build/bench.json, for deploy/bench-compare
#   make SANITIZER=address        (or undefined, thread, or address,undefined; in build/address/ ...)
#   make CC=clang B=build/clang   any C17 compiler, in a folder of its own
#   make V=1                      shows the commands
#   make install DESTDIR=… PREFIX=/usr/local
#   make format | format-check    clang-format with the repository's file

VERSION   := 0.1.0
ABI       := 0
PREFIX    ?= /usr/local
SANITIZER ?=
WERROR    ?=

CC        ?= cc
B         := build$(if $(SANITIZER),/$(SANITIZER))
PKGS      := libcurl libmicrohttpd libzmq libprotobuf-c openblas libsodium libxxhash inih jansson libpcre2-8 liburing

ifeq ($(filter clean format format-check,$(MAKECMDGOALS)),)
missing := $(strip $(foreach p,$(PKGS) cmocka,$(shell pkg-config --exists $(p) || echo $(p))))
ifneq ($(missing),)
$(error missing packages: $(missing); run deploy/check or deploy/demo, which install what they need)
endif
endif

PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

# -ffp-contract=off: a*b+c is fused only where a kernel says so, so compilers agree on bits.
CFLAGS   ?= $(if $(SANITIZER),-O1,-O3) -g
override CFLAGS += -std=gnu17 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wvla -fno-math-errno -ffp-contract=off \
                   -fPIC -fvisibility=hidden -pthread $(if $(WERROR),-Werror)
override CPPFLAGS += -I. -I$(B)/gen -D_GNU_SOURCE -DSKV_VERSION='"$(VERSION)"' $(PKG_CFLAGS)
override LDLIBS += $(PKG_LIBS) -lm -pthread
ifneq ($(SANITIZER),)
override CFLAGS  += -fsanitize=$(SANITIZER) -fno-omit-frame-pointer $(if $(findstring undefined,$(SANITIZER)),-fno-sanitize-recover=all)
override LDFLAGS += -fsanitize=$(SANITIZER)
endif

# One room a folder. The library is what engines link; the app adds models, the server and the command line.
LIB_SRC  := $(wildcard common/*.c proto/*.c decoder/tier/*.c decoder/context/*.c decoder/scout/*.c decoder/kernels/*.c) \
            $(filter-out memnode/main.c,$(wildcard memnode/*.c memnode/store/*.c))
APP_SRC  := $(wildcard decoder/model/*.c decoder/serve/*.c) $(filter-out decoder/cli/main.c,$(wildcard decoder/cli/*.c))
UNIT_SRC := $(wildcard tests/unit/test_*.c)
TOOL_SRC := $(wildcard tests/tools/*.c) $(wildcard tests/fuzz/*.c) $(wildcard tests/bench/*.c)
EXAMPLES := $(wildcard decoder/examples/*.c)

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
PB  := $(B)/gen/scoutkv.pb-c
PB_O := $(B)/obj/scoutkv.pb-c.o

UNIT_BIN    := $(patsubst tests/unit/%.c,$(B)/tests/%,$(UNIT_SRC))
TOOL_BIN    := $(patsubst tests/%.c,$(B)/tests/%,$(TOOL_SRC))
EXAMPLE_BIN := $(patsubst decoder/examples/%.c,$(B)/examples/%,$(EXAMPLES))

.PHONY: all tests check unit integration install clean format format-check
.SECONDARY:
ifndef V
.SILENT:
endif
all: $(B)/scoutkv $(B)/scoutkv-memnode $(B)/libscoutkv.so $(B)/scoutkv.pc $(EXAMPLE_BIN)
tests: all $(UNIT_BIN) $(TOOL_BIN)

$(PB).h $(PB).c &: proto/scoutkv.proto
	@mkdir -p $(B)/gen
	@echo '  gen    $@'
	protoc-c --proto_path=proto --c_out=$(B)/gen scoutkv.proto

$(PB_O): $(PB).c
	@mkdir -p $(@D)
	@echo '  cc     $@'
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# *_avx2.c and *_avx512.c are the only places with wider instructions: the choice is made at run time.
$(B)/obj/%_avx2.o: override CFLAGS += -mavx2 -mfma -mf16c
$(B)/obj/%_avx512.o: override CFLAGS += -mavx2 -mfma -mf16c -mavx512f -mavx512vl -mavx512vnni
$(B)/obj/%.o: %.c | $(PB).h
	@mkdir -p $(@D)
	@echo '  cc     $@'
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/libscoutkv.a: $(call obj,$(LIB_SRC)) $(PB_O)
	@echo '  ar     $@'
	@rm -f $@
	$(AR) rcs $@ $^
$(B)/libscoutkv.so: $(call obj,$(LIB_SRC)) $(PB_O)
	@echo '  link   $@'
	$(CC) $(LDFLAGS) -shared -Wl,-soname,libscoutkv.so.$(ABI) -o $@.$(ABI) $^ $(LDLIBS)
	ln -sf libscoutkv.so.$(ABI) $@
$(B)/app.a: $(call obj,$(APP_SRC))
	@echo '  ar     $@'
	@rm -f $@
	$(AR) rcs $@ $^
$(B)/scoutkv: $(call obj,decoder/cli/main.c) $(B)/app.a $(B)/libscoutkv.a
	@echo '  link   $@'
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/scoutkv-memnode: $(call obj,memnode/main.c) $(B)/libscoutkv.a
	@echo '  link   $@'
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/tests/%: $(B)/obj/tests/unit/%.o $(B)/app.a $(B)/libscoutkv.a
	@mkdir -p $(@D)
	@echo '  link   $@'
	$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(shell pkg-config --libs cmocka) $(LDLIBS)
$(B)/tests/%: $(B)/obj/tests/%.o $(B)/app.a $(B)/libscoutkv.a
	@mkdir -p $(@D)
	@echo '  link   $@'
	$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)
# Examples see only the public header and the shared library, as an engine would.
$(B)/examples/%: decoder/examples/%.c $(B)/libscoutkv.so
	@mkdir -p $(@D)
	@echo '  link   $@'
	$(CC) -Idecoder -I. $(CFLAGS) $(LDFLAGS) -o $@ $< -L$(B) -lscoutkv -Wl,-rpath,'$$ORIGIN/..' -lm

# Written every time: PREFIX may be another one.
.PHONY: $(B)/scoutkv.pc
$(B)/scoutkv.pc:
	@mkdir -p $(B)
	@printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include/scoutkv' 'libdir=$${prefix}/lib' '' \
	  'Name: scoutkv' 'Description: distributed KV memory tier for long-context decoding' 'Version: $(VERSION)' \
	  'Requires.private: $(PKGS)' 'Cflags: -I$${includedir}' 'Libs: -L$${libdir} -lscoutkv' 'Libs.private: -lm -pthread' > $@

check: tests
	tests/run $(B)
unit: tests
	tests/run $(B) unit
integration: tests
	tests/run $(B) integration

# Histories of the block store on simulated disks: make check-store [SEED=1] [N=500]. It needs only what lies
# below the store, so that it builds from a few folders (tests/integration/store_bugs.sh).
SEED ?= 1
N    ?= 500
CHECK_STORE := $(B)/tests/store/check_store
CHECK_STORE_SRC := $(wildcard tests/store/*.c memnode/store/*.c $(filter-out common/zmqx.c,$(wildcard common/*.c))) memnode/memory.c
$(CHECK_STORE): $(call obj,$(CHECK_STORE_SRC))
	@mkdir -p $(@D)
	@echo '  link   $@'
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/tests/test_sim_disk $(B)/tests/test_store_ram $(B)/tests/test_node_disk $(B)/tests/test_node_objects $(B)/tests/test_node_view $(B)/tests/fuzz/fuzz_node: $(call obj,$(wildcard tests/store/sim_*.c))
$(B)/tests/test_sim_disk: $(call obj,common/error.c) # nothing before it takes that from the library
tests: $(CHECK_STORE)
.PHONY: check-store
check-store: $(CHECK_STORE)
	$(CHECK_STORE) --seed $(SEED) --count $(N)

# Histories of a cluster on a simulated network, and a real one whose node is killed: make check-cluster [SEED=1] [N=500].
# The simulator is made of the cores, and no zmq.
CHECK_CLUSTER := $(B)/tests/sim/check_cluster
CHECK_CLUSTER_SRC := $(wildcard tests/sim/*.c tests/store/sim_*.c memnode/store/*.c proto/*.c decoder/tier/client*.c) \
                     $(filter-out memnode/main.c memnode/verify_main.c memnode/server.c memnode/disk_options.c,$(wildcard memnode/*.c)) \
                     $(filter-out common/zmqx.c,$(wildcard common/*.c)) tests/store/many.c decoder/tier/placement.c
$(CHECK_CLUSTER): $(call obj,$(CHECK_CLUSTER_SRC)) $(PB_O)
	@mkdir -p $(@D)
	@echo '  link   $@'
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
tests: $(CHECK_CLUSTER)
.PHONY: check-cluster
check-cluster: $(CHECK_CLUSTER) all
	tests/sim/check $(B) $(SEED) $(N)

# Short runs of the benches, to be compared with later ones by deploy/bench-compare: no test depends on them.
.PHONY: bench-smoke
bench-smoke: all
	deploy/bench-smoke --build $(B) > $(B)/bench.json.part
	mv $(B)/bench.json.part $(B)/bench.json
	@echo 'wrote $(B)/bench.json'

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/scoutkv/common
	install $(B)/scoutkv $(B)/scoutkv-memnode $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(B)/libscoutkv.a $(DESTDIR)$(PREFIX)/lib/
	install $(B)/libscoutkv.so.$(ABI) $(DESTDIR)$(PREFIX)/lib/
	ln -sf libscoutkv.so.$(ABI) $(DESTDIR)$(PREFIX)/lib/libscoutkv.so
	install -m 644 $(B)/scoutkv.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/
	install -m 644 decoder/scoutkv.h $(DESTDIR)$(PREFIX)/include/scoutkv/
	install -m 644 common/error.h $(DESTDIR)$(PREFIX)/include/scoutkv/common/

FORMATTED = $(shell find common proto memnode decoder tests -name '*.[ch]')
format:
	clang-format -i $(FORMATTED)
format-check:
	clang-format --dry-run -Werror $(FORMATTED)
clean:
	rm -rf build

-include $(shell [ -d $(B)/obj ] && find $(B)/obj -name '*.d')
