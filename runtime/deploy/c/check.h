/* Inputs that a board can draw by itself, and what the outputs for them should look like. */
#ifndef NN_CHECK_H
#define NN_CHECK_H

#include "model.h"

/* What is kept of an output: computed in double over its finite values. */
typedef struct {
    int64_t count, finite;
    double mean, rms, least, most;
    double projection; /* sum of value times a number in [-1, 1) drawn for its place, / sqrt(finite) */
} nn_digest;

/* Of the reference, and how far from it an output may be: relative to its rms, or its largest value. */
extern const nn_digest nn_expected[];
extern const int nn_expected_count; /* 0: there is no reference */
extern const double nn_tolerance;

/* Fills an input: floats in [0, 1), integers 0 or 1; the same on every machine. */
void nn_draw(const nn_tensor *tensor, int index, void *data);
nn_digest nn_digest_of(const nn_tensor *tensor, const void *data);

/* The largest deviation of a digest from what is expected; infinite where counts differ. */
double nn_deviation(const nn_digest *found, const nn_digest *expected);

#endif
