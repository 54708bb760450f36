/* A network on a GPU: generated tables, and what a driver is asked for.
 *
 * opencl.c and cuda.c define the functions of nn_driver, one of them in a library. Both open the driver
 * when a model is created: a library loads where there is none.
 */
#ifndef NN_GPU_H
#define NN_GPU_H

#include "internal.h"

/* A kernel is given two parameters for each array: a memory, and an offset in bytes. */
typedef struct {
    nn_base base; /* the arena, or the weights */
    uint64_t offset;
} nn_argument;

typedef struct {
    const char *name;
    uint32_t local[3]; /* work-items of a group */
} nn_kernel;

typedef struct {
    const nn_kernel *kernel;
    uint32_t groups[3];
    const nn_argument *arguments;
    int argument_count;
    int64_t macs;
    const char *name; /* of the layer */
} nn_launch;

typedef struct {
    const char *source; /* OpenCL C, or PTX, with a zero at the end */
    size_t source_size; /* without it */
    const nn_kernel *kernels;
    const nn_launch *launches; /* nn_network.step_count of them */
    int kernel_count;
} nn_gpu_tables;

extern const nn_gpu_tables nn_gpu;

typedef struct {
    nn_base base;
    size_t offset, size;
} nn_span;

typedef struct {
    char *text;
    size_t size;
} nn_message;

typedef struct nn_driver nn_driver;

/* Opens the driver, allocates, brings the weights in and makes the kernels. */
nn_driver *nn_driver_open(size_t arena, const nn_weights *weights, nn_message error);
void nn_driver_close(nn_driver *device);
const char *nn_driver_name(const nn_driver *device);

/* Data is there when these return; launches are under way until nn_driver_finish. -1: failed. */
int nn_driver_write(nn_driver *device, nn_span to, const void *data, nn_message error);
int nn_driver_read(nn_driver *device, nn_span from, void *data, nn_message error);
int nn_driver_launch(nn_driver *device, int index, nn_message error);
int nn_driver_finish(nn_driver *device, nn_message error);

/* Opens the first library there is; NULL, and the reason why the first is none. */
void *nn_open_library(const char *const *names, nn_message error);

#define NN_TELL(ERROR, ...) nn_fail((ERROR).text, (ERROR).size, __VA_ARGS__)

#endif
