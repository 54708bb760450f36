/* The functions of check.h; graphopt/runtime/deploy/digest.py does the same in Python. */
#include "check.h"

#include "internal.h"

#include <math.h>
#include <string.h>

#define GOLDEN 0x9E3779B97F4A7C15u
#define TINY 1e-6 /* outputs that are all but 0 are held to this */

static size_t bytes_of(nn_type type) {
    switch (type) {
    case NN_FLOAT64:
    case NN_INT64:
    case NN_UINT64:
        return 8;
    case NN_FLOAT32:
    case NN_INT32:
    case NN_UINT32:
        return 4;
    case NN_INT16:
    case NN_UINT16:
        return 2;
    default:
        return 1;
    }
}

/* A number in [0, 1) with 24 bits, which float32 holds exactly. */
static double uniform(uint64_t stream, uint64_t place) {
    return (double)(nn_mix((stream << 40) + (place + 1) * GOLDEN) >> 40) / (double)(1 << 24);
}

void nn_draw(const nn_tensor *tensor, int index, void *data) {
    size_t width = bytes_of(tensor->type);
    unsigned char *bytes = data;
    memset(data, 0, tensor->size);
    for (size_t i = 0; i < tensor->size / width; i++) {
        double value = uniform((uint64_t)index + 1, i);
        float single = (float)value;
        if (tensor->type == NN_FLOAT32)
            memcpy(bytes + 4 * i, &single, 4);
        else if (tensor->type == NN_FLOAT64)
            memcpy(bytes + 8 * i, &value, 8);
        else
            bytes[width * i] = value >= 0.5; /* little-endian */
    }
}

#define VALUE(NAME, TYPE)                        \
    case NAME: {                                 \
        TYPE value;                              \
        memcpy(&value, at, sizeof value);        \
        return (double)value;                    \
    }

static double value_at(nn_type type, const unsigned char *at) {
    switch (type) {
        VALUE(NN_FLOAT32, float)
        VALUE(NN_FLOAT64, double)
        VALUE(NN_INT8, int8_t)
        VALUE(NN_INT16, int16_t)
        VALUE(NN_INT32, int32_t)
        VALUE(NN_INT64, int64_t)
        VALUE(NN_UINT16, uint16_t)
        VALUE(NN_UINT32, uint32_t)
        VALUE(NN_UINT64, uint64_t)
    default:
        return *at;
    }
}

nn_digest nn_digest_of(const nn_tensor *tensor, const void *data) {
    size_t width = bytes_of(tensor->type);
    nn_digest made = {.count = (int64_t)(tensor->size / width)};
    double sum = 0, squares = 0, projected = 0;
    for (size_t i = 0; i < tensor->size / width; i++) {
        double value = value_at(tensor->type, (const unsigned char *)data + width * i);
        if (!isfinite(value))
            continue;
        made.least = made.finite == 0 || value < made.least ? value : made.least;
        made.most = made.finite == 0 || value > made.most ? value : made.most;
        made.finite++;
        sum += value;
        squares += value * value;
        projected += value * (2 * uniform(0, i) - 1);
    }
    double count = made.finite > 0 ? (double)made.finite : 1;
    made.mean = sum / count;
    made.rms = sqrt(squares / count);
    made.projection = projected / sqrt(count);
    return made;
}

double nn_deviation(const nn_digest *found, const nn_digest *expected) {
    if (found->count != expected->count || found->finite != expected->finite)
        return INFINITY;
    double scale = fmax(expected->rms, TINY);
    double peak = fmax(fmax(fabs(expected->least), fabs(expected->most)), TINY);
    double averages = fmax(fabs(found->mean - expected->mean), fabs(found->rms - expected->rms));
    double all = fmax(averages, fabs(found->projection - expected->projection)) / scale;
    double ends = fmax(fabs(found->least - expected->least), fabs(found->most - expected->most));
    return fmax(all, ends / peak);
}
