/* Parhelion plugin ABI 1.0, for C and whatever can include C. One header, no library.
 *
 * A plugin is one erasure code or one durability model. The same source builds in two forms:
 *
 *   shared library, trusted by the host      cc -shared -fPIC -O2 -o my-code.so my-code.c
 *   WebAssembly, sandboxed                   clang --target=wasm32 -O2 -msimd128 -nostdlib -Wl,--no-entry \
 *                                                -Wl,--export-dynamic -o my-code.wasm my-code.c
 *
 * Define the functions below that your kind of plugin needs, and end the file with PARHELION_EXPORT_CODE or
 * PARHELION_EXPORT_MODEL. Everything is little-endian; pointers are native in a library and 32 bits wide in WebAssembly,
 * which may import nothing.
 *
 * Memory belongs to whoever allocated it. What the host passes is valid for the call; what a plugin puts into an outbox
 * must stay until the next call on the same handle. In a library, different handles are used from different threads at
 * once, one handle by one thread at a time; `describe`, `structure` and `own_risk` from any thread. In WebAssembly each
 * encoder and each decoder has an instance of its own, so static variables serve one of them alone, nothing needs to be
 * freed, and a call that takes too long or too much memory ends the instance.
 *
 * Results: 0 or more is success (where symbols come out: how many are in the outbox); negative is a refusal, or
 * PARHELION_BROKEN, upon which the host gives the instance up and goes on with a built-in code.
 */
#ifndef PARHELION_PLUGIN_H
#define PARHELION_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

/* Major version in the upper, minor in the lower 16 bits. A minor version only adds members to struct parhelion_plugin. */
#define PARHELION_ABI 0x00010000u
#define PARHELION_LAYERS_MAX 8
/* Bytes of the buffer for a reason, with the zero at its end. */
#define PARHELION_REASON_BYTES 256

/* Refusals of a repair symbol; the decoder stays as it was. */
#define PARHELION_REFUSED_LENGTH (-1)       /* impossible size */
#define PARHELION_REFUSED_INCONSISTENT (-2) /* shorter than its group; outbox[0].bytes is what the group needs */
#define PARHELION_REFUSED_HEAD (-3)         /* no encoder of this code writes such a head */
#define PARHELION_REFUSED_WINDOW (-4)       /* reaches beyond what the decoder remembers */
#define PARHELION_BROKEN (-100)

/* What comes out: a repair symbol of an encoder, which includes the source symbols id, id + stride, ..., count of them; or
 * a source symbol that a decoder rebuilt, padded with zeros to the longest symbol of its group. 32 bytes. */
struct parhelion_symbol {
    uint64_t id;
    uint64_t payload; /* address: PARHELION_ADDRESS(pointer) */
    uint32_t bytes;   /* 1 to the symbol size that the encoder or decoder was made for */
    uint32_t index;   /* repair: which repair of these symbols it is; below the structure's repairs per symbol */
    uint16_t stride;  /* repair: at least 1 */
    uint16_t count;   /* repair: at least 1 */
    uint32_t reserved;
};
#define PARHELION_ADDRESS(pointer) ((uint64_t)(uintptr_t)(pointer))

/* A handle points to a struct of yours that starts with this. The host reads it after each call. */
struct parhelion_coder {
    const struct parhelion_symbol *outbox;
};

/* The shape of a code: what coverage and the durability models need to know. The host hands it over filled with zeros. */
enum parhelion_kind {
    PARHELION_NONE = 0,       /* no repairs */
    PARHELION_REPETITION = 1, /* copies, spacing: each symbol again, spacing source symbols after the last */
    PARHELION_BLOCK = 2,      /* r, c, depth: any r of r + c symbols rebuild a block; depth blocks take turns */
    PARHELION_LAYERED = 3,    /* r, layers, interleaves, delayed: an XOR family per layer */
    PARHELION_WINDOW = 4,     /* r, c, window, indices: after r symbols c repairs over the newest window symbols */
    PARHELION_OTHER = 5       /* repairs, per, span, losses: no closed form */
};
struct parhelion_structure {
    uint32_t kind;
    uint32_t r, c, depth;
    uint32_t copies, spacing;
    uint32_t delayed;
    uint32_t layers, interleaves[PARHELION_LAYERS_MAX];
    uint32_t window, indices;
    uint32_t repairs; /* other: repair symbols that include a given source symbol, at most 64 */
    uint32_t per;     /* other: source symbols of which `repairs` are the repairs in steady state */
    uint32_t span;    /* other: source symbols from the first of a group until its last repair has left */
    uint32_t losses;  /* other: losses, whichever they are, that a decoder makes up for in a whole stream */
    uint32_t reserved[2];
};

/* What a model is asked. Probabilities are bounds at the stated confidence, on the side that makes loss more likely. */
struct parhelion_question {
    double good_to_bad, bad_to_good, loss_in_bad; /* Gilbert-Elliott channel, per packet slot */
    double loss;                                  /* overall loss rate */
    double confidence;                            /* P(all these bounds hold) */
    double packets_per_second;                    /* 0 if unknown */
    uint64_t coverage; /* repair indices on the wire for every symbol of the append: bit i for index i */
    uint64_t flushed;  /* of these, the ones that some symbol got from a flush */
    uint32_t symbols;  /* source symbols of the append, at least 1 */
    uint32_t group_max;   /* most source symbols that any of these repairs includes */
    uint32_t flush_run;   /* fewest source symbols between two flushes */
    uint32_t flush_pause; /* packet times that a flush waits between one index and the next */
    struct parhelion_structure code;
};

/* In a library each name is a member of struct parhelion_plugin, in WebAssembly an export. */
#ifdef __wasm__
#define PARHELION_FUNCTION(type, name) __attribute__((export_name(#name))) type name
#else
#define PARHELION_FUNCTION(type, name) __attribute__((visibility("hidden"))) type name
#endif
#ifdef __cplusplus
extern "C" {
#endif

/* JSON, at most 64 KiB: {"kind": "code", "name": "my-code", "version": 1, "parameters": [{"name": "r", "meaning": "source
 * symbols per block", "unit": "symbols", "min": 1, "max": 64, "default": [8]}]}. A parameter with "values_max" above 1 is
 * a list. A model has "kind": "model" and no parameters. The version changes whenever the same parameters give other
 * repair symbols: both ends of a link must have the same. */
PARHELION_FUNCTION(const char *, parhelion_describe)(void);

/* Codes. `values` are the parameters in the order of the description, a list as its length and its values; each is in its
 * range already. `structure` refuses a combination that does not fit with a negative result and a text in `reason`. */
PARHELION_FUNCTION(int32_t, parhelion_structure)(const uint32_t *values, uint32_t count,
                                                struct parhelion_structure *out, char *reason);
/* A handle, or NULL. Allocate here what you need: later calls should not. */
PARHELION_FUNCTION(void *, parhelion_encoder_new)(const uint32_t *values, uint32_t count, uint32_t symbol_bytes);
/* The next source symbol; ids rise by one, the first may be any. Repairs that are due go to the outbox. */
PARHELION_FUNCTION(int32_t, parhelion_encoder_source)(void *encoder, uint64_t id, const uint8_t *payload, uint32_t bytes);
/* Completes the coverage of every symbol given so far. */
PARHELION_FUNCTION(int32_t, parhelion_encoder_flush)(void *encoder);
PARHELION_FUNCTION(void, parhelion_encoder_free)(void *encoder);
PARHELION_FUNCTION(void *, parhelion_decoder_new)(const uint32_t *values, uint32_t count, uint32_t symbol_bytes);
/* A source symbol arrived, in any order, perhaps twice. What it makes solvable goes to the outbox. */
PARHELION_FUNCTION(int32_t, parhelion_decoder_source)(void *decoder, uint64_t id, const uint8_t *payload, uint32_t bytes);
/* A repair symbol arrived. The host has checked that the ids do not overflow and that count, stride, index and bytes are
 * possible. */
PARHELION_FUNCTION(int32_t, parhelion_decoder_repair)(void *decoder, uint64_t first, uint32_t stride, uint32_t count,
                                                     uint32_t index, const uint8_t *payload, uint32_t bytes);
/* No symbol below `id` is to be reported any more. */
PARHELION_FUNCTION(int32_t, parhelion_decoder_expire)(void *decoder, uint64_t id);
PARHELION_FUNCTION(void, parhelion_decoder_free)(void *decoder);

/* Models. Upper bound, 0 to 1, on P(some symbol of the append neither arrives nor can be rebuilt). Within microseconds. */
PARHELION_FUNCTION(double, parhelion_own_risk)(const struct parhelion_question *question);

/* What a shared library hands out; members are only ever added at the end. */
struct parhelion_plugin {
    uint32_t abi;
    uint32_t struct_size;
    const char *(*describe)(void);
    int32_t (*structure)(const uint32_t *, uint32_t, struct parhelion_structure *, char *);
    void *(*encoder_new)(const uint32_t *, uint32_t, uint32_t);
    int32_t (*encoder_source)(void *, uint64_t, const uint8_t *, uint32_t);
    int32_t (*encoder_flush)(void *);
    void (*encoder_free)(void *);
    void *(*decoder_new)(const uint32_t *, uint32_t, uint32_t);
    int32_t (*decoder_source)(void *, uint64_t, const uint8_t *, uint32_t);
    int32_t (*decoder_repair)(void *, uint64_t, uint32_t, uint32_t, uint32_t, const uint8_t *, uint32_t);
    int32_t (*decoder_expire)(void *, uint64_t);
    void (*decoder_free)(void *);
    double (*own_risk)(const struct parhelion_question *);
};

/* Memory for handles, zeroed, aligned to 16 bytes; and back. In WebAssembly nothing is ever freed. */
#ifdef __wasm__
extern unsigned char __heap_base;
static inline void *parhelion_allocate(size_t bytes) {
    static uintptr_t next;
    uintptr_t start = next ? next : ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15;
    size_t left = (size_t)__builtin_wasm_memory_size(0) * 65536 - start;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > left && __builtin_wasm_memory_grow(0, (bytes - left + 65535) / 65536) == (size_t)-1) return NULL;
    next = start + bytes;
    return (void *)start; /* WebAssembly hands out zeroed memory */
}
static inline void parhelion_release(void *memory) { (void)memory; }
#define PARHELION_EXPORT_COMMON                                                                                        \
    __attribute__((export_name("parhelion_abi"))) uint32_t parhelion_abi(void) { return PARHELION_ABI; }               \
    __attribute__((export_name("parhelion_alloc"))) void *parhelion_alloc(uint32_t bytes) {                            \
        return parhelion_allocate(bytes);                                                                              \
    }
#define PARHELION_EXPORT_CODE PARHELION_EXPORT_COMMON
#define PARHELION_EXPORT_MODEL PARHELION_EXPORT_COMMON
#else
#include <stdlib.h>
static inline void *parhelion_allocate(size_t bytes) { return calloc(1, bytes ? bytes : 1); }
static inline void parhelion_release(void *memory) { free(memory); }
#define PARHELION_EXPORT_TABLE(...)                                                                                    \
    __attribute__((visibility("default"))) const struct parhelion_plugin *parhelion_plugin(void) {                     \
        static const struct parhelion_plugin table = {PARHELION_ABI, sizeof(struct parhelion_plugin),                  \
                                                      parhelion_describe, __VA_ARGS__};                                \
        return &table;                                                                                                 \
    }
#define PARHELION_EXPORT_CODE                                                                                          \
    PARHELION_EXPORT_TABLE(parhelion_structure, parhelion_encoder_new, parhelion_encoder_source,                       \
                           parhelion_encoder_flush, parhelion_encoder_free, parhelion_decoder_new,                     \
                           parhelion_decoder_source, parhelion_decoder_repair, parhelion_decoder_expire,               \
                           parhelion_decoder_free, NULL)
#define PARHELION_EXPORT_MODEL                                                                                         \
    PARHELION_EXPORT_TABLE(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, parhelion_own_risk)
#endif

#ifdef __cplusplus
}
#endif
#endif
