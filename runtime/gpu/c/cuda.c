/* The device of gpu.h through CUDA's driver, 9 or later, which is opened at run time.
 *
 * The kernels are PTX, which the driver compiles for the processor that is there. Types, numbers and
 * functions of the driver's C interface that are used are declared here. Its context is current only
 * while one of these functions runs, so that a program with a context of its own is not disturbed.
 */
#include "gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int cu_result, cu_device;
typedef struct cu_object *cu_object; /* contexts, modules, functions, streams */
typedef uint64_t cu_pointer;         /* into the device's memory */

#define CU_JIT_ERROR_LOG_BUFFER 5
#define CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES 6
#define LOG_SIZE 384
#define NAME_SIZE 128
#define MOST_ARGUMENTS 64

/* name, parameters; all return a result */
#define FUNCTIONS(X)                                                                                \
    X(cuInit, (unsigned))                                                                           \
    X(cuGetErrorString, (cu_result, const char **))                                                 \
    X(cuDeviceGetCount, (int *))                                                                    \
    X(cuDeviceGet, (cu_device *, int))                                                              \
    X(cuDeviceGetName, (char *, int, cu_device))                                                    \
    X(cuDevicePrimaryCtxRetain, (cu_object *, cu_device))                                           \
    X(cuDevicePrimaryCtxRelease, (cu_device))                                                       \
    X(cuCtxPushCurrent_v2, (cu_object))                                                             \
    X(cuCtxPopCurrent_v2, (cu_object *))                                                            \
    X(cuStreamCreate, (cu_object *, unsigned))                                                      \
    X(cuStreamDestroy_v2, (cu_object))                                                              \
    X(cuStreamSynchronize, (cu_object))                                                             \
    X(cuModuleLoadDataEx, (cu_object *, const void *, unsigned, int *, void **))                    \
    X(cuModuleUnload, (cu_object))                                                                  \
    X(cuModuleGetFunction, (cu_object *, cu_object, const char *))                                  \
    X(cuMemAlloc_v2, (cu_pointer *, size_t))                                                        \
    X(cuMemFree_v2, (cu_pointer))                                                                   \
    X(cuMemcpyHtoDAsync_v2, (cu_pointer, const void *, size_t, cu_object))                          \
    X(cuMemcpyDtoHAsync_v2, (void *, cu_pointer, size_t, cu_object))                                \
    X(cuLaunchKernel, (cu_object, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
                       cu_object, void **, void **))

#define MEMBER(NAME, PARAMETERS) cu_result(*NAME) PARAMETERS;

struct nn_driver {
    void *library;
    FUNCTIONS(MEMBER)
    cu_device id;
    cu_object context, stream, module;
    cu_pointer memories[NN_IN_WEIGHTS + 1]; /* by nn_base */
    cu_object *functions;                   /* of each kernel */
    char name[NAME_SIZE];
};

#ifndef NN_CUDA_LIBRARIES
#define NN_CUDA_LIBRARIES "libcuda.so.1", "libcuda.so", "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1"
#endif
static const char *const libraries[] = {NN_CUDA_LIBRARIES, NULL};

static int failed(nn_driver *device, const char *what, cu_result code, nn_message error) {
    const char *reason = NULL;
    device->cuGetErrorString(code, &reason);
    return NN_TELL(error, "%s: %s (CUDA error %d)", what, reason != NULL ? reason : "unknown", code);
}

#define TRY(WHAT, CALL)                                   \
    do {                                                  \
        cu_result code_ = (CALL);                         \
        if (code_ != 0)                                   \
            return failed(device, WHAT, code_, error);    \
    } while (0)

static int load_functions(nn_driver *device, nn_message error) {
#define LOAD(NAME, PARAMETERS)                                              \
    *(void **)&device->NAME = dlsym(device->library, #NAME);                \
    if (device->NAME == NULL)                                               \
        return NN_TELL(error, "CUDA's driver has no " #NAME "; it is too old");
    FUNCTIONS(LOAD)
    return 0;
}

static int enter(nn_driver *device, nn_message error) {
    TRY("the GPU's context cannot be entered", device->cuCtxPushCurrent_v2(device->context));
    return 0;
}

static void leave(nn_driver *device) {
    cu_object left;
    device->cuCtxPopCurrent_v2(&left);
}

static int open_device(nn_driver *device, nn_message error) {
    int count = 0;
    device->library = nn_open_library(libraries, error);
    if (device->library == NULL || load_functions(device, error) != 0)
        return -1;
    TRY("CUDA does not start", device->cuInit(0));
    TRY("CUDA's devices cannot be counted", device->cuDeviceGetCount(&count));
    if (count == 0)
        return NN_TELL(error, "CUDA finds no device on this machine");
    TRY("the first GPU cannot be had", device->cuDeviceGet(&device->id, 0));
    device->cuDeviceGetName(device->name, sizeof device->name, device->id);
    TRY("the GPU has no context", device->cuDevicePrimaryCtxRetain(&device->context, device->id));
    return 0;
}

/* --- what a model needs of it; its context is current --- */

static int allocate(nn_driver *device, size_t arena, const nn_weights *weights, nn_message error) {
    size_t sizes[NN_IN_WEIGHTS + 1] = {[NN_IN_ARENA] = arena > 0 ? arena : 1,
                                       [NN_IN_WEIGHTS] = weights->size};
    char what[128];
    snprintf(what, sizeof what, "the model needs %zu bytes of the GPU's memory", arena + weights->size);
    for (int i = 0; i <= NN_IN_WEIGHTS; i++)
        if (sizes[i] > 0)
            TRY(what, device->cuMemAlloc_v2(&device->memories[i], sizes[i]));
    return 0;
}

static int build(nn_driver *device, nn_message error) {
    char log[LOG_SIZE] = "";
    int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)(sizeof log - 1)};
    cu_result code = device->cuModuleLoadDataEx(&device->module, nn_gpu.source, 2, options, values);
    if (code != 0 && log[0] != '\0')
        return NN_TELL(error, "CUDA's driver does not build the kernels: %.*s", (int)strcspn(log, "\n"), log);
    TRY("CUDA's driver does not build the kernels", code);
    device->functions = calloc((size_t)nn_gpu.kernel_count + 1, sizeof *device->functions);
    if (device->functions == NULL)
        return NN_TELL(error, "out of memory");
    for (int i = 0; i < nn_gpu.kernel_count; i++)
        TRY(nn_gpu.kernels[i].name,
            device->cuModuleGetFunction(&device->functions[i], device->module, nn_gpu.kernels[i].name));
    return 0;
}

static int prepare(nn_driver *device, size_t arena, const nn_weights *weights, nn_message error) {
    TRY("the GPU has no stream", device->cuStreamCreate(&device->stream, 1 /* not the default one's */));
    return allocate(device, arena, weights, error) != 0 || build(device, error) != 0 ? -1 : 0;
}

nn_driver *nn_driver_open(size_t arena, const nn_weights *weights, nn_message error) {
    nn_driver *device = calloc(1, sizeof *device);
    if (device == NULL) {
        NN_TELL(error, "out of memory");
        return NULL;
    }
    if (open_device(device, error) == 0 && enter(device, error) == 0) {
        int bad = prepare(device, arena, weights, error);
        leave(device);
        nn_span all = {NN_IN_WEIGHTS, 0, weights->size};
        if (!bad && nn_driver_write(device, all, weights->bytes, error) == 0)
            return device;
    }
    nn_driver_close(device);
    return NULL;
}

void nn_driver_close(nn_driver *device) {
    if (device == NULL)
        return;
    if (device->context != NULL && device->cuCtxPushCurrent_v2(device->context) == 0) {
        for (int i = 0; i <= NN_IN_WEIGHTS; i++)
            if (device->memories[i] != 0)
                device->cuMemFree_v2(device->memories[i]);
        if (device->module != NULL)
            device->cuModuleUnload(device->module);
        if (device->stream != NULL)
            device->cuStreamDestroy_v2(device->stream);
        leave(device);
    }
    if (device->context != NULL)
        device->cuDevicePrimaryCtxRelease(device->id);
    free(device->functions);
    free(device); /* the driver stays open */
}

const char *nn_driver_name(const nn_driver *device) { return device->name; }

/* --- running --- */

static int write_now(nn_driver *device, nn_span to, const void *data, nn_message error) {
    cu_pointer at = device->memories[to.base] + to.offset;
    TRY("the GPU takes no data", device->cuMemcpyHtoDAsync_v2(at, data, to.size, device->stream));
    TRY("the GPU takes no data", device->cuStreamSynchronize(device->stream));
    return 0;
}

static int read_now(nn_driver *device, nn_span from, void *data, nn_message error) {
    cu_pointer at = device->memories[from.base] + from.offset;
    TRY("the GPU gives no data", device->cuMemcpyDtoHAsync_v2(data, at, from.size, device->stream));
    TRY("the GPU gives no data", device->cuStreamSynchronize(device->stream));
    return 0;
}

static int launch_now(nn_driver *device, const nn_launch *launch, nn_message error) {
    void *parameters[2 * MOST_ARGUMENTS];
    cu_pointer memories[MOST_ARGUMENTS];
    uint64_t offsets[MOST_ARGUMENTS];
    const uint32_t *groups = launch->groups, *local = launch->kernel->local;
    if (launch->argument_count > MOST_ARGUMENTS)
        return NN_TELL(error, "layer %s has more than %d arrays", launch->name, MOST_ARGUMENTS);
    for (int i = 0; i < launch->argument_count; i++) {
        memories[i] = device->memories[launch->arguments[i].base];
        offsets[i] = launch->arguments[i].offset;
        parameters[2 * i] = &memories[i];
        parameters[2 * i + 1] = &offsets[i];
    }
    TRY(launch->name,
        device->cuLaunchKernel(device->functions[launch->kernel - nn_gpu.kernels], groups[0], groups[1],
                               groups[2], local[0], local[1], local[2], 0, device->stream, parameters, NULL));
    return 0;
}

static int finish_now(nn_driver *device, nn_message error) {
    TRY("the network was not computed", device->cuStreamSynchronize(device->stream));
    return 0;
}

#define INSIDE(CALL)                    \
    if (enter(device, error) != 0)      \
        return -1;                      \
    int bad = CALL;                     \
    leave(device);                      \
    return bad;

int nn_driver_write(nn_driver *device, nn_span to, const void *data, nn_message error) {
    INSIDE(write_now(device, to, data, error))
}

int nn_driver_read(nn_driver *device, nn_span from, void *data, nn_message error) {
    INSIDE(read_now(device, from, data, error))
}

int nn_driver_launch(nn_driver *device, int index, nn_message error) {
    INSIDE(launch_now(device, &nn_gpu.launches[index], error))
}

int nn_driver_finish(nn_driver *device, nn_message error) { INSIDE(finish_now(device, error)) }
