# Builds the plugin as a shared library and, with clang and wasm-ld, as a WebAssembly module.

CFLAGS ?= -O2 -Wall -Wextra
CLANG ?= clang
# LLVM's own, under whatever version, or the one that rustup brings.
WASM_LD ?= $(firstword $(foreach dir,$(subst :, ,$(PATH)),$(wildcard $(dir)/wasm-ld $(dir)/wasm-ld-[0-9]*)) \
	$(wildcard $(shell rustc --print sysroot 2>/dev/null)/lib/rustlib/*/bin/gcc-ld/wasm-ld))

.PHONY: all clean
all: NAME.so $(if $(WASM_LD),NAME.wasm)

NAME.so: NAME.c $(wildcard *.h)
	$(CC) -std=c11 $(CFLAGS) -shared -fPIC -o $@ $<

NAME.wasm: NAME.c $(wildcard *.h)
	$(CLANG) --target=wasm32 -std=c11 $(CFLAGS) -mbulk-memory -msimd128 -nostdlib \
		-fuse-ld=$(WASM_LD) -Wl,--no-entry -Wl,--export-dynamic -o $@ $<

clean:
	rm -f NAME.so NAME.wasm
