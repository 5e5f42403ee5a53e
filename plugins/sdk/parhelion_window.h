/* What most decoders need: the source symbols of the newest ids. Optional; include it after parhelion_plugin.h.
 *
 * The ids floor .. floor + size have a place each, id % size; the window moves forward only. A rebuilt symbol is kept
 * without the zeros at its end, since its own length is not known, and must not appear longer than its repairs. */
#ifndef PARHELION_WINDOW_H
#define PARHELION_WINDOW_H

#include "parhelion_plugin.h"

struct parhelion_window {
    uint64_t size, floor, wanted; /* nothing below `wanted` is reported */
    uint32_t symbol_bytes, started;
    uint32_t *lengths; /* size in bytes plus 1; 0 where the symbol is not held */
    uint8_t *payloads;
};

/* A window for a code whose repairs leave at most `span` source symbols behind the first symbol they include: twice the
 * span and at least 1024 symbols, as the host expects. 0 if there is no memory. */
static inline int parhelion_window_open(struct parhelion_window *w, uint64_t span, uint32_t symbol_bytes) {
    w->size = 1024;
    while (w->size < 2 * span) w->size *= 2;
    w->symbol_bytes = symbol_bytes;
    w->lengths = (uint32_t *)parhelion_allocate((size_t)w->size * sizeof(uint32_t));
    w->payloads = (uint8_t *)parhelion_allocate((size_t)w->size * symbol_bytes);
    return w->lengths && w->payloads;
}

static inline void parhelion_window_close(struct parhelion_window *w) {
    parhelion_release(w->lengths);
    parhelion_release(w->payloads);
}

static inline size_t parhelion_window_place(const struct parhelion_window *w, uint64_t id) {
    return (size_t)(id & (w->size - 1));
}

static inline int parhelion_window_holds(const struct parhelion_window *w, uint64_t id) {
    return id >= w->floor && id - w->floor < w->size && w->lengths[parhelion_window_place(w, id)];
}

/* The bytes of a symbol, and how many; none of one that is not held. */
static inline const uint8_t *parhelion_window_symbol(const struct parhelion_window *w, uint64_t id, uint32_t *bytes) {
    size_t place = parhelion_window_place(w, id);
    *bytes = parhelion_window_holds(w, id) ? w->lengths[place] - 1 : 0;
    return w->payloads + place * w->symbol_bytes;
}

/* Moves the window so that it has a place for `id`. */
static inline void parhelion_window_reach(struct parhelion_window *w, uint64_t id) {
    if (!w->started) { /* half a window is left for symbols that the first one overtook */
        w->started = 1;
        w->floor = id > w->size / 2 ? id - w->size / 2 : 0;
    }
    if (id < w->floor || id - w->floor < w->size) return;
    uint64_t floor = id - (w->size - 1), gone = floor - w->floor;
    for (uint64_t k = 0; k < gone && k < w->size; k++) w->lengths[parhelion_window_place(w, w->floor + k)] = 0;
    w->floor = floor;
}

/* Keeps a symbol; whether it is news. */
static inline int parhelion_window_keep(struct parhelion_window *w, uint64_t id, const uint8_t *payload, uint32_t bytes) {
    parhelion_window_reach(w, id);
    if (id < w->floor || bytes > w->symbol_bytes || parhelion_window_holds(w, id)) return 0;
    size_t place = parhelion_window_place(w, id);
    uint8_t *to = w->payloads + place * w->symbol_bytes;
    for (uint32_t k = 0; k < bytes; k++) to[k] = payload[k];
    w->lengths[place] = bytes + 1;
    return 1;
}

/* Keeps a symbol that was rebuilt, without the zeros at its end; whether it is to be reported. */
static inline int parhelion_window_rebuilt(struct parhelion_window *w, uint64_t id, const uint8_t *payload, uint32_t bytes) {
    while (bytes && !payload[bytes - 1]) bytes--;
    return parhelion_window_keep(w, id, payload, bytes) && id >= w->wanted;
}

/* Whether a repair is of use: 1, or 0 where nothing that it rebuilds is wanted, or a refusal; `needs` is what its group
 * needs if it was truncated. */
static inline int32_t parhelion_window_admit(struct parhelion_window *w, uint64_t first, uint32_t stride, uint32_t count,
                                             uint32_t bytes, uint32_t *needs) {
    uint64_t last = first + (uint64_t)(count - 1) * stride;
    if (last < w->floor || last < w->wanted) return 0;
    parhelion_window_reach(w, last);
    if (first < w->floor) return PARHELION_REFUSED_WINDOW;
    for (uint32_t k = 0; k < count; k++) {
        uint32_t length;
        parhelion_window_symbol(w, first + (uint64_t)k * stride, &length);
        if (length > bytes) {
            *needs = length;
            return PARHELION_REFUSED_INCONSISTENT;
        }
    }
    return 1;
}

static inline void parhelion_window_expire(struct parhelion_window *w, uint64_t id) {
    if (id > w->wanted) w->wanted = id;
}

#endif
