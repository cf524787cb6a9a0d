/* The integer layers' maps and scalings in one pass each. Every function does what the torch operations that it stands
   for do, in their order, so it gives the same bits. Tensors are rows (m) of numbers (k), one after the other. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { SMALLEST = -120, ENOUGH = 32768 }; /* fixed_point.SMALLEST; numbers that are worth a second thread */
typedef int64_t count;

static inline float power(int e) {
    uint32_t word = (uint32_t)(e + 127) << 23;
    float two;
    memcpy(&two, &word, 4);
    return two;
}

/* The largest magnitude as the bits of a float, which are in the order of the numbers; NaN is above infinity. */
static inline uint32_t top_of(const float *x, count k) {
    uint32_t top = 0;
    for (count j = 0; j < k; j++) {
        uint32_t word;
        memcpy(&word, x + j, 4);
        word &= 0x7fffffff;
        top = word > top ? word : top;
    }
    return top;
}

static inline int infinite(uint32_t top) { return top >= 0x7f800000; }

/* s of the scale 2^s. */
static inline int exponent(uint32_t top, int bits) {
    int e = (int)(top >> 23) - 125 - bits;
    return !top ? 0 : e < SMALLEST ? SMALLEST : e;
}

#define FILL(NAME, TYPE)                                                                                               \
    static void NAME(const float *x, TYPE *q, count k, float inverse, float most, const float *u, const float *v) {    \
        for (count j = 0; !u && j < k; j++) {                                                                          \
            float y = rintf(x[j] * inverse);                                                                           \
            q[j] = (TYPE)(y < -most ? -most : y > most ? most : y);                                                    \
        }                                                                                                              \
        for (count j = 0; u && j < k; j++) {                                                                           \
            float draw = *u + v[j], y = floorf(x[j] * inverse + (draw - truncf(draw)));                                \
            q[j] = (TYPE)(y < -most ? -most : y > most ? most : y);                                                    \
        }                                                                                                              \
    }
FILL(fill_8, int8_t)
FILL(fill_16, int16_t)
FILL(fill_float, float)

/* Row i of x as integers of 1 or 2 bytes, or as floats of 4. */
static void fill(const float *x, void *q, int bytes, count i, count k, int e, int bits, const float *u, const float *v) {
    float inverse = power(-e), most = (float)((1 << (bits - 1)) - 1);
    u = u ? u + i : u;
    x += i * k;
    if (bytes == 1) fill_8(x, (int8_t *)q + i * k, k, inverse, most, u, v);
    else if (bytes == 2) fill_16(x, (int16_t *)q + i * k, k, inverse, most, u, v);
    else fill_float(x, (float *)q + i * k, k, inverse, most, u, v);
}

/* Integers q and scales of x, by row or whole, with noise frac(u[i] + v[j]) where there is some; 1 where x is not
   finite. `known` is the largest magnitude of a whole one where it is known. */
int mapped(const float *x, void *q, float *scale, count m, count k, int bits, int bytes, int by_row, const float *known,
           const float *u, const float *v) {
    uint32_t most = known ? top_of(known, 1) : 0;
    if (!by_row && !known) {
#pragma omp parallel for reduction(max : most) if (m * k > ENOUGH)
        for (count i = 0; i < m; i++) {
            uint32_t top = top_of(x + i * k, k);
            most = top > most ? top : most;
        }
    }
    if (infinite(most)) return 1;
    if (!by_row) *scale = power(exponent(most, bits));
    int bad = 0;
#pragma omp parallel for reduction(| : bad) if (m * k > ENOUGH)
    for (count i = 0; i < m; i++) {
        uint32_t top = by_row ? top_of(x + i * k, k) : most;
        int e = exponent(top, bits);
        if (infinite(top)) {
            bad = 1;
            continue;
        }
        if (by_row) scale[i] = power(e);
        fill(x, q, bytes, i, k, e, bits, u, v);
    }
    return bad;
}

/* z = y rows other + bias: the float32 result of a product of integers. */
#define SCALED(NAME, TYPE)                                                                                             \
    void NAME(const TYPE *y, float *z, count m, count n, const float *rows, int by_row, float other,                   \
              const float *bias) {                                                                                     \
        _Pragma("omp parallel for if (m * n > ENOUGH)") for (count i = 0; i < m; i++) {                                \
            float scale = by_row ? rows[i] : rows[0];                                                                  \
            const TYPE *from = y + i * n;                                                                              \
            float *to = z + i * n;                                                                                     \
            for (count j = 0; !bias && j < n; j++) to[j] = (float)from[j] * scale * other;                             \
            for (count j = 0; bias && j < n; j++) to[j] = (float)from[j] * scale * other + bias[j];                    \
        }                                                                                                              \
    }
SCALED(scaled_32, int32_t)
SCALED(scaled_64, int64_t)

/* x = low + 256 high, both bytes with a sign. */
void digits(const int16_t *x, int8_t *low, int8_t *high, count n) {
#pragma omp parallel for if (n > ENOUGH)
    for (count j = 0; j < n; j++) {
        low[j] = (int8_t)x[j];
        high[j] = (int8_t)((x[j] - low[j]) >> 8);
    }
}

/* x = low + 256 middle + 65536 high, where there is a high. */
void joined(const int32_t *low, const int32_t *middle, const int32_t *high, int64_t *x, count n) {
#pragma omp parallel for if (n > ENOUGH)
    for (count j = 0; j < n; j++) x[j] = low[j] + 256 * (int64_t)middle[j] + (high ? 65536 * (int64_t)high[j] : 0);
}

/* n q - sum, which 32 bits hold for rows of up to 2^14 numbers. */
static inline float difference(const void *q, int bytes, count n, count at, int32_t sum) {
    int32_t one = bytes == 1 ? ((const int8_t *)q)[at] : ((const int16_t *)q)[at];
    return (float)((int32_t)n * one - sum);
}

/* The layer norm of each row's integers, which are kept in q of 1 or 2 bytes: y, and for the backward their sum, 1 /
   root and n / (root scale). Sums of integers are exact. */
int normalized(const float *x, void *q, float *y, double *total, double *inverse, double *steep, count m, count n,
               int bits, int bytes, double eps, const float *gain, const float *bias) {
    int bad = 0;
#pragma omp parallel for reduction(| : bad) if (m * n > ENOUGH)
    for (count i = 0; i < m; i++) {
        uint32_t top = top_of(x + i * n, n);
        if (infinite(top)) {
            bad = 1;
            continue;
        }
        int e = exponent(top, bits);
        fill(x, q, bytes, i, n, e, bits, 0, 0);
        int64_t sum = 0, squares = 0;
        for (count j = i * n; bytes == 1 && j < (i + 1) * n; j++) {
            int32_t one = ((const int8_t *)q)[j];
            sum += one, squares += one * one;
        }
        for (count j = i * n; bytes == 2 && j < (i + 1) * n; j++) {
            int64_t one = ((const int16_t *)q)[j];
            sum += one, squares += one * one;
        }
        double scale = power(e), spread = (double)n * (double)squares - (double)sum * (double)sum;
        double root = sqrt(spread + eps * (double)(n * n) / (scale * scale));
        float by = (float)(1.0 / root);
        float *to = y + i * n;
        for (count j = 0; j < n; j++) {
            to[j] = difference(q, bytes, n, i * n + j, (int32_t)sum) * by;
            if (gain) to[j] *= gain[j];
            if (bias) to[j] += bias[j];
        }
        total[i] = (double)sum, inverse[i] = 1.0 / root, steep[i] = (double)n / (root * scale);
    }
    return bad;
}

/* Of the gradient's integers g: `inner` = g scale xhat and g itself scaled, in float32; both times the gain if asked. */
void inner(const float *scale, int by_row, float *g, const void *q, int bytes, float *product, const double *total,
           const double *inverse, count m, count n, const float *gain) {
#pragma omp parallel for if (m * n > ENOUGH)
    for (count i = 0; i < m; i++) {
        float by = by_row ? scale[i] : scale[0];
        for (count j = 0, at = i * n; j < n; j++, at++) {
            float one = g[at] * by, other = one * (difference(q, bytes, n, at, (int32_t)total[i]) * (float)inverse[i]);
            g[at] = gain ? one * gain[j] : one;
            product[at] = gain ? other * gain[j] : other;
        }
    }
}

/* g = (g - mean - xhat slope) steep: the gradient of the norm's input. */
void descended(float *g, const void *q, int bytes, const double *total, const double *inverse, const double *steep,
               const float *mean, const float *slope, count m, count n) {
#pragma omp parallel for if (m * n > ENOUGH)
    for (count i = 0; i < m; i++)
        for (count j = 0, at = i * n; j < n; j++, at++) {
            float xhat = difference(q, bytes, n, at, (int32_t)total[i]) * (float)inverse[i];
            g[at] = (g[at] - mean[i] - xhat * slope[i]) * (float)steep[i];
        }
}

/* Uniform numbers in [0, 1) of 24 bits, splitmix64 of key and counter (default: the place). */
void uniform(const int64_t *counters, float *u, count m, uint64_t key) {
    for (count i = 0; i < m; i++) {
        uint64_t z = (uint64_t)(counters ? counters[i] : i) * 0x9E3779B97F4A7C15u + key;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        u[i] = (float)((z ^ z >> 31) >> 40) * 0x1p-24f;
    }
}
