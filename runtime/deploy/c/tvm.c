/* The network for programs with a TVM runtime: functions by TVM's calling convention, weights within.
 *
 *     main(x, ..., y, ...)         inputs, then outputs, as tensors on the CPU, row-major
 *     profile(x, ..., y, ..., ms)  the same; ms, float64, is told what each layer took
 *     describe()                   the network as JSON: inputs, outputs, layers
 *     set_threads(n)               how many compute; 0: one for each core meant for networks
 *
 * There is one model per library, made at the first call; calls wait for each other.
 */
#include "internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What tvm_ffi/c_api.h says of values and tensors (DLPack's), as far as it is needed here. */
enum { TVM_NONE = 0, TVM_INT = 1, TVM_TENSOR_POINTER = 7, TVM_TENSOR = 70, DL_CPU = 1 };

typedef struct {
    int32_t type;
    uint32_t zero;
    union {
        int64_t integer;
        void *pointer;
    } value;
} tvm_any;

typedef struct {
    void *data;
    int32_t device, device_id, rank;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
} tvm_tensor;

typedef struct {
    const char *data;
    size_t size;
} tvm_bytes;

#define TVM_OBJECT_SIZE 24 /* of the header before a tensor that is an object */

/* The runtime's, which is there when it has loaded this library. */
extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) __attribute__((weak));
extern int TVMFFIStringFromByteArray(const tvm_bytes *text, tvm_any *made) __attribute__((weak));

/* weights.s and network.c */
extern const unsigned char nn_weights_within[];
extern const char nn_description[];

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static nn_model *model;
static int wanted_threads;
static char message[NN_ERROR_SIZE];

static int raise(const char *kind) {
    if (TVMFFIErrorSetRaisedFromCStr != NULL)
        TVMFFIErrorSetRaisedFromCStr(kind, message);
    else
        fprintf(stderr, "%s: %s\n", kind, message);
    return -1;
}

#define RAISE(kind, ...) (nn_fail(message, sizeof message, __VA_ARGS__), raise(kind))

static int open_model(void) {
    const nn_options options = {.threads = wanted_threads};
    if (model == NULL)
        model = nn_create_from(nn_weights_within, nn_network.weights_size, &options, message,
                               sizeof message);
    return model != NULL ? 0 : raise("RuntimeError");
}

static const tvm_tensor *tensor_of(const tvm_any *value) {
    if (value->type == TVM_TENSOR_POINTER)
        return value->value.pointer;
    if (value->type == TVM_TENSOR)
        return (const tvm_tensor *)(const void *)((const char *)value->value.pointer + TVM_OBJECT_SIZE);
    return NULL;
}

/* DLPack's number for the kind of a type, and its bits. */
static void type_of(nn_type type, int *code, int *bits) {
    enum { SIGNED = 0, UNSIGNED = 1, FLOAT = 2, TRUTH = 6 };
    static const unsigned char known[][2] = {
        [NN_FLOAT32] = {FLOAT, 32},  [NN_FLOAT64] = {FLOAT, 64},    [NN_INT8] = {SIGNED, 8},
        [NN_INT16] = {SIGNED, 16},   [NN_INT32] = {SIGNED, 32},     [NN_INT64] = {SIGNED, 64},
        [NN_UINT8] = {UNSIGNED, 8},  [NN_UINT16] = {UNSIGNED, 16},  [NN_UINT32] = {UNSIGNED, 32},
        [NN_UINT64] = {UNSIGNED, 64}, [NN_BOOL] = {TRUTH, 8},
    };
    *code = known[type][0];
    *bits = known[type][1];
}

static int is_dense(const tvm_tensor *tensor) {
    int64_t stride = 1;
    for (int i = tensor->rank - 1; tensor->strides != NULL && i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->strides[i] != stride)
            return 0;
        stride *= tensor->shape[i];
    }
    return 1;
}

/* The memory of an argument that has to be like `port`; NULL: raised. */
static void *memory_of(const tvm_any *value, const char *kind, const nn_tensor *port) {
    const tvm_tensor *found = tensor_of(value);
    int code, bits, same;
    if (found == NULL || found->device != DL_CPU) {
        RAISE("TypeError", "%s %s is no tensor on the CPU", kind, port->name);
        return NULL;
    }
    type_of(port->type, &code, &bits);
    same = found->rank == port->rank && found->code == code && found->bits == bits &&
           found->lanes == 1 && is_dense(found);
    for (int i = 0; same && i < port->rank; i++)
        same = found->shape[i] == port->shape[i];
    if (!same) {
        RAISE("ValueError", "%s %s has another type, shape or layout; describe() tells its own", kind,
              port->name);
        return NULL;
    }
    return (char *)found->data + found->offset;
}

static int set_inputs(const tvm_any *values) {
    for (int i = 0; i < nn_network.input_count; i++) {
        const nn_tensor *port = nn_input(i);
        const void *data = memory_of(&values[i], "input", port);
        if (data == NULL)
            return -1;
        if (nn_set_input(model, i, data, port->size) != 0)
            return RAISE("RuntimeError", "%s", nn_error(model));
    }
    return 0;
}

static int get_outputs(const tvm_any *values) {
    for (int i = 0; i < nn_network.output_count; i++) {
        const nn_tensor *port = nn_output(i);
        void *data = memory_of(&values[i], "output", port);
        if (data == NULL)
            return -1;
        if (nn_get_output(model, i, data, port->size) != 0)
            return RAISE("RuntimeError", "%s", nn_error(model));
    }
    return 0;
}

static int run_profiled(double *ms) {
    int count = nn_layer_count();
    nn_layer *layers = calloc((size_t)count + 1, sizeof *layers);
    int failed = layers == NULL || nn_run_profiled(model, layers, count) != 0;
    for (int i = 0; !failed && i < count; i++)
        ms[i] = layers[i].ms;
    free(layers);
    return failed ? RAISE("RuntimeError", "%s", layers == NULL ? "out of memory" : nn_error(model)) : 0;
}

static int run(const tvm_any *values, int count, const nn_tensor *times) {
    int inputs = nn_network.input_count, ports = inputs + nn_network.output_count;
    double *ms = NULL;
    if (count != ports + (times != NULL))
        return RAISE("TypeError", "%d arguments are wanted (%d inputs, %d outputs%s), not %d",
                     ports + (times != NULL), inputs, ports - inputs,
                     times != NULL ? ", a tensor of times" : "", count);
    if (times != NULL && (ms = memory_of(&values[ports], "argument", times)) == NULL)
        return -1;
    if (open_model() != 0 || set_inputs(values) != 0)
        return -1;
    if (ms != NULL ? run_profiled(ms) : nn_run(model))
        return ms != NULL ? -1 : RAISE("RuntimeError", "%s", nn_error(model));
    return get_outputs(values + inputs);
}

int __tvm_ffi_main(void *self, const tvm_any *values, int32_t count, tvm_any *made) {
    (void)self;
    pthread_mutex_lock(&mutex);
    int failed = run(values, count, NULL);
    pthread_mutex_unlock(&mutex);
    made->type = TVM_NONE;
    return failed;
}

int __tvm_ffi_profile(void *self, const tvm_any *values, int32_t count, tvm_any *made) {
    (void)self;
    const int64_t layers = nn_layer_count();
    const nn_tensor times = {"ms", NN_FLOAT64, 1, &layers, (size_t)layers * sizeof(double)};
    pthread_mutex_lock(&mutex);
    int failed = run(values, count, &times);
    pthread_mutex_unlock(&mutex);
    made->type = TVM_NONE;
    return failed;
}

int __tvm_ffi_describe(void *self, const tvm_any *values, int32_t count, tvm_any *made) {
    (void)self;
    (void)values;
    (void)count;
    const tvm_bytes text = {nn_description, strlen(nn_description)};
    if (TVMFFIStringFromByteArray == NULL)
        return RAISE("RuntimeError", "the TVM runtime that loaded this library has no texts");
    return TVMFFIStringFromByteArray(&text, made);
}

int __tvm_ffi_set_threads(void *self, const tvm_any *values, int32_t count, tvm_any *made) {
    (void)self;
    if (count != 1 || values->type != TVM_INT || values->value.integer < 0 ||
        values->value.integer > 256)
        return RAISE("ValueError", "one number from 0 to 256 is wanted");
    pthread_mutex_lock(&mutex);
    wanted_threads = (int)values->value.integer;
    nn_destroy(model);
    model = NULL;
    pthread_mutex_unlock(&mutex);
    made->type = TVM_NONE;
    return 0;
}
