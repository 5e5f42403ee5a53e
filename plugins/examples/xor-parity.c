/* XOR parity in C: after every r source symbols leaves one repair symbol, the XOR of them. An example of a plugin, which
 * builds as a shared library and as WebAssembly; parhelion_plugin.h says how. Any one of the r + 1 symbols of a block may
 * be lost. */
#include "parhelion_plugin.h"
#include "parhelion_window.h"

const char *parhelion_describe(void) {
    return "{\"kind\": \"code\", \"name\": \"xor-parity-c\", \"version\": 1, \"parameters\": [{\"name\": \"r\","
           "\"meaning\": \"source symbols in one XOR\", \"unit\": \"symbols\", \"min\": 1, \"max\": 64, \"default\": [8]}]}";
}

int32_t parhelion_structure(const uint32_t *values, uint32_t count, struct parhelion_structure *out, char *reason) {
    (void)count, (void)reason;
    out->kind = PARHELION_BLOCK;
    out->r = values[0];
    out->c = 1;
    out->depth = 1;
    return 0;
}

static void add(uint8_t *sum, const uint8_t *symbol, uint32_t bytes) {
    /* A sandbox counts each turn of a loop: make them long. */
    typedef uint8_t piece __attribute__((vector_size(128), aligned(1), may_alias));
    for (; bytes >= 128; bytes -= 128, sum += 128, symbol += 128) *(piece *)sum ^= *(const piece *)symbol;
    for (uint32_t k = 0; k < bytes; k++) sum[k] ^= symbol[k];
}

/* The XOR of the `count` symbols since `first`. */
struct encoder {
    const struct parhelion_symbol *outbox;
    struct parhelion_symbol repair;
    uint32_t r, count, bytes;
    uint64_t first;
    uint8_t sum[];
};

void *parhelion_encoder_new(const uint32_t *values, uint32_t count, uint32_t symbol_bytes) {
    (void)count;
    struct encoder *e = parhelion_allocate(sizeof(struct encoder) + symbol_bytes + 1);
    if (e) e->r = values[0], e->outbox = &e->repair;
    return e;
}

void parhelion_encoder_free(void *encoder) { parhelion_release(encoder); }

int32_t parhelion_encoder_flush(void *encoder) {
    struct encoder *e = encoder;
    if (!e->count) return 0;
    e->repair = (struct parhelion_symbol){.id = e->first, .payload = PARHELION_ADDRESS(e->sum),
                                          .bytes = e->bytes, .stride = 1, .count = (uint16_t)e->count};
    e->count = 0;
    return 1;
}

int32_t parhelion_encoder_source(void *encoder, uint64_t id, const uint8_t *payload, uint32_t bytes) {
    struct encoder *e = encoder;
    if (!e->count) e->first = id, e->bytes = 1, e->sum[0] = 0; /* a repair has at least one byte */
    for (; e->bytes < bytes; e->bytes++) e->sum[e->bytes] = 0; /* shorter symbols end in zeros */
    add(e->sum, payload, bytes);
    return ++e->count == e->r ? parhelion_encoder_flush(e) : 0;
}

/* The newest source symbols, and repairs that lack two or more of them, at the place of their first. */
struct waiting {
    uint64_t first;
    uint32_t count, bytes; /* none if count is 0 */
};
struct decoder {
    const struct parhelion_symbol *outbox;
    struct parhelion_symbol recovered;
    struct parhelion_window window;
    uint32_t r;
    struct waiting *waiting;
    uint8_t *repairs, *scratch;
};

void parhelion_decoder_free(void *decoder) {
    struct decoder *d = decoder;
    parhelion_window_close(&d->window);
    parhelion_release(d->waiting), parhelion_release(d->repairs), parhelion_release(d->scratch);
    parhelion_release(d);
}

void *parhelion_decoder_new(const uint32_t *values, uint32_t count, uint32_t symbol_bytes) {
    (void)count;
    struct decoder *d = parhelion_allocate(sizeof(struct decoder));
    if (!d) return NULL;
    int open = parhelion_window_open(&d->window, values[0], symbol_bytes);
    d->r = values[0], d->outbox = &d->recovered;
    d->waiting = parhelion_allocate((size_t)d->window.size * sizeof(struct waiting));
    d->repairs = parhelion_allocate((size_t)d->window.size * symbol_bytes);
    d->scratch = parhelion_allocate(symbol_bytes);
    if (open && d->waiting && d->repairs && d->scratch) return d;
    parhelion_decoder_free(d);
    return NULL;
}

/* Rebuilds the one symbol that the repair at `place` lacks, if it is one; how many symbols are in the outbox. */
static int32_t rebuild(struct decoder *d, size_t place) {
    struct waiting *w = &d->waiting[place];
    uint64_t first = w->first, end = w->first + w->count, lost = 0;
    uint32_t missing = 0, bytes = w->bytes, length = 0;
    for (uint64_t id = first; id < end && length <= bytes && missing < 2; id++) {
        parhelion_window_symbol(&d->window, id, &length);
        if (!parhelion_window_holds(&d->window, id)) lost = id, missing++;
    }
    if (missing > 1) return 0;
    w->count = 0;
    if (!missing || length > bytes) return 0; /* a repair that is shorter than its symbols is none */
    for (uint32_t k = 0; k < bytes; k++) d->scratch[k] = d->repairs[place * d->window.symbol_bytes + k];
    for (uint64_t id = first; id < end; id++) {
        const uint8_t *symbol = parhelion_window_symbol(&d->window, id, &length);
        add(d->scratch, symbol, length);
    }
    d->recovered = (struct parhelion_symbol){.id = lost, .payload = PARHELION_ADDRESS(d->scratch), .bytes = bytes};
    return parhelion_window_rebuilt(&d->window, lost, d->scratch, bytes);
}

int32_t parhelion_decoder_source(void *decoder, uint64_t id, const uint8_t *payload, uint32_t bytes) {
    struct decoder *d = decoder;
    if (!parhelion_window_keep(&d->window, id, payload, bytes)) return 0;
    for (uint64_t back = 0; back < d->r && back <= id - d->window.floor; back++) {
        size_t place = parhelion_window_place(&d->window, id - back);
        if (d->waiting[place].first == id - back && d->waiting[place].count > back) return rebuild(d, place);
    }
    return 0;
}

int32_t parhelion_decoder_repair(void *decoder, uint64_t first, uint32_t stride, uint32_t count, uint32_t index,
                                 const uint8_t *payload, uint32_t bytes) {
    struct decoder *d = decoder;
    (void)index;
    if (count > d->r || (count > 1 && stride != 1)) return PARHELION_REFUSED_HEAD;
    int32_t useful = parhelion_window_admit(&d->window, first, stride, count, bytes, &d->recovered.bytes);
    if (useful <= 0) return useful;
    size_t place = parhelion_window_place(&d->window, first);
    for (uint32_t k = 0; k < bytes; k++) d->repairs[place * d->window.symbol_bytes + k] = payload[k];
    d->waiting[place] = (struct waiting){first, count, bytes};
    return rebuild(d, place);
}

int32_t parhelion_decoder_expire(void *decoder, uint64_t id) {
    parhelion_window_expire(&((struct decoder *)decoder)->window, id);
    return 0;
}

PARHELION_EXPORT_CODE
