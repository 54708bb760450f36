/* Reading and writing numpy's .npy files: row-major arrays of the types in model.h. */
#ifndef NN_NPY_H
#define NN_NPY_H

#include "model.h"

#define NN_NPY_MOST_AXES 32

typedef struct {
    nn_type type;
    int rank;
    int64_t shape[NN_NPY_MOST_AXES];
    size_t size; /* of the data, in bytes */
    void *data;  /* the caller frees it */
} nn_npy;

/* Reads a file that must hold what `expected` describes. */
int nn_npy_read(nn_npy *array, const char *path, const nn_tensor *expected, char *error,
                size_t error_size);
int nn_npy_write(const char *path, const nn_tensor *tensor, const void *data, char *error,
                 size_t error_size);

#endif
