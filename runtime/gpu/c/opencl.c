/* The device of gpu.h through an OpenCL driver, 1.2 or later, which is opened at run time.
 *
 * The few types, numbers and functions of OpenCL's C interface that are used are declared here, so that
 * nothing of OpenCL is needed to build a library. A kernel object is made for every launch, with its
 * arguments, which never change.
 */
#include "gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct cl_object *cl_object; /* platforms, devices, contexts, queues, buffers, programs, kernels */
typedef int32_t cl_int;
typedef uint32_t cl_uint;
typedef uint64_t cl_bitfield;

#define CL_SUCCESS 0
#define CL_MEM_READ_WRITE 1
#define CL_MEM_READ_ONLY 4
#define CL_MEM_COPY_HOST_PTR 32
#define CL_DEVICE_TYPE_GPU 4
#define CL_DEVICE_TYPE_ALL 0xFFFFFFFF
#define CL_DEVICE_NAME 0x102B
#define CL_DEVICE_EXTENSIONS 0x1030
#define CL_DEVICE_MAX_MEM_ALLOC_SIZE 0x1010
#define CL_PROGRAM_BUILD_LOG 0x1183
#define CL_TRUE 1

#define MOST_PLATFORMS 16
#define NAME_SIZE 160

/* name, result, parameters */
#define FUNCTIONS(X)                                                                                   \
    X(GetPlatformIDs, cl_int, (cl_uint, cl_object *, cl_uint *))                                       \
    X(GetDeviceIDs, cl_int, (cl_object, cl_bitfield, cl_uint, cl_object *, cl_uint *))                 \
    X(GetDeviceInfo, cl_int, (cl_object, cl_uint, size_t, void *, size_t *))                           \
    X(CreateContext, cl_object,                                                                        \
      (const intptr_t *, cl_uint, const cl_object *, void (*)(const char *, const void *, size_t, void *), \
       void *, cl_int *))                                                                              \
    X(ReleaseContext, cl_int, (cl_object))                                                             \
    X(CreateCommandQueue, cl_object, (cl_object, cl_object, cl_bitfield, cl_int *))                    \
    X(ReleaseCommandQueue, cl_int, (cl_object))                                                        \
    X(CreateBuffer, cl_object, (cl_object, cl_bitfield, size_t, void *, cl_int *))                     \
    X(ReleaseMemObject, cl_int, (cl_object))                                                           \
    X(CreateProgramWithSource, cl_object,                                                              \
      (cl_object, cl_uint, const char **, const size_t *, cl_int *))                                   \
    X(BuildProgram, cl_int,                                                                            \
      (cl_object, cl_uint, const cl_object *, const char *, void (*)(cl_object, void *), void *))      \
    X(GetProgramBuildInfo, cl_int, (cl_object, cl_object, cl_uint, size_t, void *, size_t *))          \
    X(ReleaseProgram, cl_int, (cl_object))                                                             \
    X(CreateKernel, cl_object, (cl_object, const char *, cl_int *))                                    \
    X(SetKernelArg, cl_int, (cl_object, cl_uint, size_t, const void *))                                \
    X(ReleaseKernel, cl_int, (cl_object))                                                              \
    X(EnqueueNDRangeKernel, cl_int,                                                                    \
      (cl_object, cl_object, cl_uint, const size_t *, const size_t *, const size_t *, cl_uint,         \
       const cl_object *, cl_object *))                                                                \
    X(EnqueueWriteBuffer, cl_int,                                                                      \
      (cl_object, cl_object, cl_uint, size_t, size_t, const void *, cl_uint, const cl_object *,        \
       cl_object *))                                                                                   \
    X(EnqueueReadBuffer, cl_int,                                                                       \
      (cl_object, cl_object, cl_uint, size_t, size_t, void *, cl_uint, const cl_object *, cl_object *)) \
    X(Finish, cl_int, (cl_object))

#define MEMBER(NAME, RESULT, PARAMETERS) RESULT(*NAME) PARAMETERS;

struct nn_driver {
    void *library;
    FUNCTIONS(MEMBER)
    cl_object id, context, queue, program;
    cl_object memories[NN_IN_WEIGHTS + 1]; /* by nn_base */
    cl_object *kernels;                    /* of each launch */
    int has_half;
    char name[NAME_SIZE];
};

#ifndef NN_OPENCL_LIBRARIES
#define NN_OPENCL_LIBRARIES                                                                      \
    "libOpenCL.so.1", "libOpenCL.so", "/vendor/lib64/libOpenCL.so", "/vendor/lib64/egl/libGLES_mali.so", \
        "/system/vendor/lib64/egl/libGLES_mali.so"
#endif
static const char *const libraries[] = {NN_OPENCL_LIBRARIES, NULL};

/* The likeliest reasons; others are known by their numbers, as OpenCL's headers list them. */
static const char *reason_of(cl_int code) {
    switch (code) {
    case -4:
    case -5:
    case -6:
        return "out of memory";
    case -11:
        return "its compiler refuses them";
    case -36:
        return "the device stopped working";
    case -54:
        return "its work-groups are larger than this device takes";
    default:
        return "it fails";
    }
}

#define REASON "%s (OpenCL error %d)"
#define REASON_OF(CODE) reason_of(CODE), (int)(CODE)

static int load_functions(nn_driver *device, nn_message error) {
#define LOAD(NAME, RESULT, PARAMETERS)                                                 \
    *(void **)&device->NAME = dlsym(device->library, "cl" #NAME);                      \
    if (device->NAME == NULL)                                                          \
        return NN_TELL(error, "the OpenCL library has no cl" #NAME "; 1.2 is needed");
    FUNCTIONS(LOAD)
    return 0;
}

/* --- the device --- */

static int find_of_type(nn_driver *device, const cl_object *platforms, cl_uint count, cl_bitfield type) {
    for (cl_uint i = 0; i < count; i++)
        if (device->GetDeviceIDs(platforms[i], type, 1, &device->id, NULL) == CL_SUCCESS)
            return 0;
    return -1;
}

/* The first GPU of any platform, else the first device. */
static int find_device(nn_driver *device, nn_message error) {
    cl_object platforms[MOST_PLATFORMS];
    cl_uint count = 0;
    if (device->GetPlatformIDs(MOST_PLATFORMS, platforms, &count) != CL_SUCCESS || count == 0)
        return NN_TELL(error, "no OpenCL driver is installed on this machine");
    count = count < MOST_PLATFORMS ? count : MOST_PLATFORMS;
    if (find_of_type(device, platforms, count, CL_DEVICE_TYPE_GPU) != 0 &&
        find_of_type(device, platforms, count, CL_DEVICE_TYPE_ALL) != 0)
        return NN_TELL(error, "OpenCL finds no device on this machine");
    return 0;
}

static int describe(nn_driver *device, nn_message error) {
    char *extensions = NULL;
    size_t size = 0;
    if (device->GetDeviceInfo(device->id, CL_DEVICE_EXTENSIONS, 0, NULL, &size) == CL_SUCCESS)
        extensions = calloc(size + 1, 1);
    if (extensions == NULL)
        return NN_TELL(error, "the OpenCL device does not describe itself");
    device->GetDeviceInfo(device->id, CL_DEVICE_EXTENSIONS, size, extensions, NULL);
    device->has_half = strstr(extensions, "cl_khr_fp16") != NULL;
    free(extensions);
    device->GetDeviceInfo(device->id, CL_DEVICE_NAME, sizeof device->name - 1, device->name, NULL);
    return 0;
}

static int open_device(nn_driver *device, nn_message error) {
    cl_int code;
    device->library = nn_open_library(libraries, error);
    if (device->library == NULL || load_functions(device, error) != 0 ||
        find_device(device, error) != 0 || describe(device, error) != 0)
        return -1;
    device->context = device->CreateContext(NULL, 1, &device->id, NULL, NULL, &code);
    if (device->context == NULL)
        return NN_TELL(error, "%s cannot be used: " REASON, device->name, REASON_OF(code));
    device->queue = device->CreateCommandQueue(device->context, device->id, 0, &code);
    if (device->queue == NULL)
        return NN_TELL(error, "%s has no queue: " REASON, device->name, REASON_OF(code));
    return 0;
}

/* --- what a model needs of it --- */

static int allocate(nn_driver *device, size_t arena, const nn_weights *weights, nn_message error) {
    cl_int code = CL_SUCCESS, other = CL_SUCCESS;
    uint64_t most = 0;
    size_t needed = arena > weights->size ? arena : weights->size;
    device->GetDeviceInfo(device->id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof most, &most, NULL);
    if (most > 0 && needed > most)
        return NN_TELL(error, "out of memory: the model needs %zu bytes at once, %s gives at most %llu",
                       needed, device->name, (unsigned long long)most);
    device->memories[NN_IN_ARENA] =
        device->CreateBuffer(device->context, CL_MEM_READ_WRITE, arena > 0 ? arena : 1, NULL, &code);
    device->memories[NN_IN_WEIGHTS] =
        device->CreateBuffer(device->context, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, weights->size,
                             weights->bytes, &other);
    if (device->memories[NN_IN_ARENA] == NULL || device->memories[NN_IN_WEIGHTS] == NULL)
        return NN_TELL(error, "the model needs %zu bytes of %s: " REASON, arena + weights->size,
                       device->name, REASON_OF(code != CL_SUCCESS ? code : other));
    return 0;
}

/* The first lines of what the compiler said; the line with the first error, if one is marked. */
static int build_failed(nn_driver *device, cl_int code, nn_message error) {
    size_t size = 0;
    device->GetProgramBuildInfo(device->program, device->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &size);
    char *log = calloc(size + 1, 1);
    if (log != NULL && size > 0)
        device->GetProgramBuildInfo(device->program, device->id, CL_PROGRAM_BUILD_LOG, size, log, NULL);
    const char *told = log != NULL ? log : "";
    const char *marked = strstr(told, "error");
    while (marked != NULL && marked > told && marked[-1] != '\n')
        marked--;
    told = marked != NULL ? marked : told;
    NN_TELL(error, "the driver of %s does not build the kernels (" REASON "): %.*s", device->name,
            REASON_OF(code),
            (int)strcspn(told, "\n"), told);
    free(log);
    return -1;
}

static int build(nn_driver *device, nn_message error) {
    const char *text = nn_gpu.source;
    cl_int code;
    device->program = device->CreateProgramWithSource(device->context, 1, &text, &nn_gpu.source_size, &code);
    if (device->program == NULL)
        return NN_TELL(error, "%s takes no kernels: " REASON, device->name, REASON_OF(code));
    const char *options = device->has_half ? "-DREAL_HALF" : "";
    code = device->BuildProgram(device->program, 1, &device->id, options, NULL, NULL);
    return code == CL_SUCCESS ? 0 : build_failed(device, code, error);
}

static int prepare(nn_driver *device, int index, nn_message error) {
    const nn_launch *launch = &nn_gpu.launches[index];
    cl_int code;
    cl_object kernel = device->CreateKernel(device->program, launch->kernel->name, &code);
    device->kernels[index] = kernel;
    if (kernel == NULL)
        return NN_TELL(error, "layer %s has no kernel: " REASON, launch->name, REASON_OF(code));
    for (int i = 0; i < launch->argument_count; i++) {
        const nn_argument *argument = &launch->arguments[i];
        cl_uint at = 2 * (cl_uint)i;
        code = device->SetKernelArg(kernel, at, sizeof(cl_object), &device->memories[argument->base]);
        if (code == CL_SUCCESS)
            code = device->SetKernelArg(kernel, at + 1, sizeof argument->offset, &argument->offset);
        if (code != CL_SUCCESS)
            return NN_TELL(error, "layer %s: " REASON, launch->name, REASON_OF(code));
    }
    return 0;
}

static int prepare_all(nn_driver *device, nn_message error) {
    device->kernels = calloc((size_t)nn_network.step_count + 1, sizeof *device->kernels);
    if (device->kernels == NULL)
        return NN_TELL(error, "out of memory");
    for (int i = 0; i < nn_network.step_count; i++)
        if (prepare(device, i, error) != 0)
            return -1;
    return 0;
}

nn_driver *nn_driver_open(size_t arena, const nn_weights *weights, nn_message error) {
    nn_driver *device = calloc(1, sizeof *device);
    if (device == NULL) {
        NN_TELL(error, "out of memory");
        return NULL;
    }
    if (open_device(device, error) == 0 && allocate(device, arena, weights, error) == 0 &&
        build(device, error) == 0 && prepare_all(device, error) == 0)
        return device;
    nn_driver_close(device);
    return NULL;
}

void nn_driver_close(nn_driver *device) {
    if (device == NULL)
        return;
    for (int i = 0; device->kernels != NULL && i < nn_network.step_count; i++)
        if (device->kernels[i] != NULL)
            device->ReleaseKernel(device->kernels[i]);
    if (device->program != NULL)
        device->ReleaseProgram(device->program);
    for (int i = 0; i <= NN_IN_WEIGHTS; i++)
        if (device->memories[i] != NULL)
            device->ReleaseMemObject(device->memories[i]);
    if (device->queue != NULL)
        device->ReleaseCommandQueue(device->queue);
    if (device->context != NULL)
        device->ReleaseContext(device->context);
    free(device->kernels);
    free(device); /* the driver stays open: not every one can be opened twice */
}

const char *nn_driver_name(const nn_driver *device) { return device->name; }

/* --- running --- */

int nn_driver_write(nn_driver *device, nn_span to, const void *data, nn_message error) {
    cl_int code = device->EnqueueWriteBuffer(device->queue, device->memories[to.base], CL_TRUE, to.offset,
                                             to.size, data, 0, NULL, NULL);
    if (code == CL_SUCCESS)
        return 0;
    return NN_TELL(error, "%s takes no data: " REASON, device->name, REASON_OF(code));
}

int nn_driver_read(nn_driver *device, nn_span from, void *data, nn_message error) {
    cl_int code = device->EnqueueReadBuffer(device->queue, device->memories[from.base], CL_TRUE,
                                            from.offset, from.size, data, 0, NULL, NULL);
    if (code == CL_SUCCESS)
        return 0;
    return NN_TELL(error, "%s gives no data: " REASON, device->name, REASON_OF(code));
}

int nn_driver_launch(nn_driver *device, int index, nn_message error) {
    const nn_launch *launch = &nn_gpu.launches[index];
    size_t all[3], local[3];
    for (int i = 0; i < 3; i++) {
        local[i] = launch->kernel->local[i];
        all[i] = local[i] * launch->groups[i];
    }
    cl_int code = device->EnqueueNDRangeKernel(device->queue, device->kernels[index], 3, NULL, all, local, 0,
                                               NULL, NULL);
    if (code == CL_SUCCESS)
        return 0;
    return NN_TELL(error, "layer %s: " REASON, launch->name, REASON_OF(code));
}

int nn_driver_finish(nn_driver *device, nn_message error) {
    cl_int code = device->Finish(device->queue);
    if (code == CL_SUCCESS)
        return 0;
    return NN_TELL(error, "%s: " REASON, device->name, REASON_OF(code));
}
