/* A durability model in C: independent losses, block codes and repetition. An example of a plugin; parhelion_plugin.h says
 * how it is built.
 *
 * A symbol of a block of g source symbols, k repairs of which are on the wire, is lost for good if it is lost and k or
 * more of the other g + k - 1 packets are, too; a repeated one if all its copies are. For any other code the figure is
 * what it would be without one. No upper bound if losses come in bursts. */
#include "parhelion_plugin.h"

const char *parhelion_describe(void) { return "{\"kind\": \"model\", \"name\": \"binomial\", \"version\": 1}"; }

static double power(double base, uint64_t exponent) {
    double result = 1;
    for (; exponent; exponent >>= 1, base *= base)
        if (exponent & 1) result *= base;
    return result;
}

/* P(least or more of `trials` independent packets are lost): term by term from the first that counts, each of which is the
 * last one times the odds and the change of the binomial coefficient. */
static double at_least(uint32_t least, uint32_t trials, double p) {
    if (least == 0 || p >= 1) return 1;
    if (p <= 0 || least > trials) return 0;
    double term = 1, sum = 0;
    for (uint32_t k = 1; k <= least; k++) term *= p * (trials - least + k) / k;
    /* (1 - p)^(trials - least) is a factor of every term. Where the sum overflows, the answer is 1, which is no lie. */
    for (uint32_t lost = least; lost <= trials; lost++) {
        sum += term;
        term *= p / (1 - p) * (trials - lost) / (lost + 1);
    }
    sum *= power(1 - p, trials - least);
    return sum < 1 ? sum : 1;
}

double parhelion_own_risk(const struct parhelion_question *q) {
    double p = q->loss;
    if (!(p >= 0 && p <= 1)) return 1; /* a loss that is not a number promises nothing */
    const struct parhelion_structure *code = &q->code;
    uint32_t indices = code->kind == PARHELION_BLOCK ? code->c : code->kind == PARHELION_REPETITION ? code->copies : 0;
    uint64_t known = indices < 64 ? ((uint64_t)1 << indices) - 1 : ~(uint64_t)0;
    uint32_t repairs = 0, group = q->group_max ? q->group_max : 1;
    for (uint64_t bits = q->coverage & known; bits; bits &= bits - 1) repairs++;
    double symbol = p;
    /* Rounding errors grow with the number of terms; nobody makes blocks as large as these. */
    if (repairs && code->kind == PARHELION_REPETITION) symbol = power(p, 1 + repairs);
    if (repairs && code->kind == PARHELION_BLOCK && group < 4096) symbol = p * at_least(repairs, group + repairs - 1, p);
    double any = symbol * q->symbols; /* union bound */
    return any < 1 ? any : 1;
}

PARHELION_EXPORT_MODEL
