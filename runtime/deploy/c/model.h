/* A trained network as a C library.
 *
 *     char error[256];
 *     nn_model *model = nn_create("model.weights", NULL, error, sizeof error);
 *     if (model == NULL) { puts(error); return 1; }
 *     nn_set_input(model, 0, pixels, nn_input(0)->size);
 *     if (nn_run(model)) puts(nn_error(model));
 *     nn_get_output(model, 0, scores, nn_output(0)->size);
 *     nn_destroy(model);
 *
 * Functions that return int return 0, or -1 with the reason in nn_error(). There is no global state:
 * models are independent of each other. Calls with the same model wait for each other; whoever lets
 * several threads set inputs, run and get outputs of one model has to keep these three together.
 */
#ifndef NN_MODEL_H
#define NN_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nn_model nn_model;

typedef enum {
    NN_FLOAT32 = 1,
    NN_FLOAT64,
    NN_INT8,
    NN_INT16,
    NN_INT32,
    NN_INT64,
    NN_UINT8,
    NN_UINT16,
    NN_UINT32,
    NN_UINT64,
    NN_BOOL /* one byte, 0 or 1 */
} nn_type;

/* An input or output: row-major, without gaps. */
typedef struct {
    const char *name;
    nn_type type;
    int rank;
    const int64_t *shape;
    size_t size; /* in bytes */
} nn_tensor;

/* How to run. All 0, or NULL in place of it, is what suits the board the network was compiled for. */
typedef struct {
    int threads;      /* the caller's included; 0: one for each core that is meant for networks */
    const int *cores; /* Linux's numbers of processors: thread i is bound to the i-th of them */
    int core_count;   /* how many; 0: the board's own */
    int unbound;      /* 1: threads run wherever the system puts them */
} nn_options;

/* What one step of a run took. */
typedef struct {
    const char *name; /* of the layer, as in the model file */
    double ms;
    int64_t macs; /* multiply-accumulates */
} nn_layer;

/* Loads the weights, prepares them and starts the threads.
 *
 * weights: the path of model.weights. options: may be NULL. error: is told what went wrong, in one
 * line; may be NULL. Returns NULL when something did.
 */
nn_model *nn_create(const char *weights, const nn_options *options, char *error, size_t error_size);

/* The same with the contents of model.weights in memory, at a multiple of 64: an asset of an app, or
 * part of a program. They are not copied and must stay until nn_destroy().
 */
nn_model *nn_create_from(const void *weights, size_t size, const nn_options *options, char *error,
                         size_t error_size);

/* Ends the threads and frees everything. NULL is fine; no other call may be under way. */
void nn_destroy(nn_model *model);

/* Inputs and outputs in the order of the model file; NULL for an index that there is not. */
int nn_input_count(void);
int nn_output_count(void);
const nn_tensor *nn_input(int index);
const nn_tensor *nn_output(int index);

/* Copies `size` bytes in, which must be the input's size. Every run uses its inputs up. */
int nn_set_input(nn_model *model, int index, const void *data, size_t size);

/* Computes the outputs. The result is the same for any number of threads, to the last bit. */
int nn_run(nn_model *model);

/* As nn_run; layers[i] is told what step i took. `count` must be nn_layer_count(). */
int nn_run_profiled(nn_model *model, nn_layer *layers, int count);
int nn_layer_count(void);

/* Copies an output of the last run out; `size` must be its size. */
int nn_get_output(nn_model *model, int index, void *data, size_t size);

/* Why the last call that failed did so; "" if none has. Valid until the next call. */
const char *nn_error(const nn_model *model);

/* How many threads compute, and how many of them the system agreed to bind to their cores. */
int nn_thread_count(const nn_model *model);
int nn_bound_count(const nn_model *model);

/* What computes: the GPU as its driver calls it; "" for a network that was compiled for processors. */
const char *nn_device(const nn_model *model);

/* Bytes of memory a model takes besides its mapped weights. */
size_t nn_memory(const nn_model *model);

#ifdef __cplusplus
}
#endif

#endif
