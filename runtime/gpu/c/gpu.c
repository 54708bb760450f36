/* The functions of model.h for a network on a GPU. */
#include "gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct nn_model {
    pthread_mutex_t mutex;
    nn_driver *device;
    unsigned char *given; /* which inputs are set for the next run */
    int has_run;
    char error[NN_ERROR_SIZE];
};

void *nn_open_library(const char *const *names, nn_message error) {
    void *library = NULL;
    for (int i = 0; names[i] != NULL && library == NULL; i++) {
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL && i == 0)
            NN_TELL(error, "%s cannot be opened: %s", names[0], dlerror());
    }
    return library;
}

/* --- loading --- */

static int check_options(const nn_options *options, nn_message error) {
    if (options != NULL && (options->threads != 0 || options->core_count != 0))
        return NN_TELL(error, "a network on a GPU has no threads to choose or to bind");
    return 0;
}

#ifdef NN_POISON
/* Not a number everywhere: what is read before it is written shows. */
static int poison(nn_driver *device, nn_message error) {
    void *bad = malloc(nn_network.arena_size + 1);
    if (bad == NULL)
        return NN_TELL(error, "out of memory");
    memset(bad, 0xff, nn_network.arena_size);
    int failed = nn_driver_write(device, (nn_span){NN_IN_ARENA, 0, nn_network.arena_size}, bad, error);
    free(bad);
    return failed;
}
#endif

static int load(nn_model *model, const nn_weights *weights, nn_message error) {
    model->given = calloc((size_t)nn_network.input_count + 1, 1);
    if (model->given == NULL)
        return NN_TELL(error, "out of memory");
    model->device = nn_driver_open(nn_network.arena_size, weights, error);
    if (model->device == NULL)
        return -1;
#ifdef NN_POISON
    return poison(model->device, error);
#else
    return 0;
#endif
}

static nn_model *create(nn_weights *weights, nn_message error) {
    nn_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        NN_TELL(error, "out of memory");
    } else {
        pthread_mutex_init(&model->mutex, NULL);
        if (load(model, weights, error) != 0) {
            nn_destroy(model);
            model = NULL;
        }
    }
    nn_weights_close(weights); /* the device has its own */
    return model;
}

nn_model *nn_create(const char *path, const nn_options *options, char *error, size_t error_size) {
    nn_weights weights;
    nn_message message = {error, error_size};
    if (check_options(options, message) != 0)
        return NULL;
    if (path == NULL) {
        NN_TELL(message, "no path of the weights was given");
        return NULL;
    }
    return nn_weights_open(&weights, path, error, error_size) == 0 ? create(&weights, message) : NULL;
}

nn_model *nn_create_from(const void *bytes, size_t size, const nn_options *options, char *error,
                         size_t error_size) {
    nn_weights weights;
    nn_message message = {error, error_size};
    if (check_options(options, message) != 0)
        return NULL;
    return nn_weights_use(&weights, bytes, size, error, error_size) == 0 ? create(&weights, message)
                                                                         : NULL;
}

void nn_destroy(nn_model *model) {
    if (model == NULL)
        return;
    nn_driver_close(model->device);
    free(model->given);
    pthread_mutex_destroy(&model->mutex);
    free(model);
}

/* --- asking --- */

const char *nn_error(const nn_model *model) { return model->error; }
const char *nn_device(const nn_model *model) { return nn_driver_name(model->device); }
int nn_thread_count(const nn_model *model) {
    (void)model;
    return 1; /* the caller's, which waits */
}
int nn_bound_count(const nn_model *model) {
    (void)model;
    return 0;
}
size_t nn_memory(const nn_model *model) {
    (void)model;
    return nn_network.arena_size + (size_t)nn_network.weights_size;
}

/* --- running --- */

#define TEXT model->error, sizeof model->error
#define MESSAGE ((nn_message){TEXT})
#define FAIL(...) nn_fail(TEXT, __VA_ARGS__)

static nn_span span_of(const nn_port *port) {
    return (nn_span){port->base, port->offset, port->tensor.size};
}

int nn_set_input(nn_model *model, int index, const void *data, size_t size) {
    pthread_mutex_lock(&model->mutex);
    int failed = nn_check_input(index, data, size, TEXT);
    if (!failed && size > 0)
        failed = nn_driver_write(model->device, span_of(&nn_network.inputs[index]), data, MESSAGE);
    if (!failed) {
        model->given[index] = 1;
        model->has_run = 0; /* outputs may lie where inputs do */
    }
    pthread_mutex_unlock(&model->mutex);
    return failed;
}

int nn_get_output(nn_model *model, int index, void *data, size_t size) {
    pthread_mutex_lock(&model->mutex);
    int failed = nn_check_output(index, data, size, TEXT);
    if (!failed && !model->has_run)
        failed = FAIL("there are no outputs: run the model after setting its inputs");
    if (!failed && size > 0)
        failed = nn_driver_read(model->device, span_of(&nn_network.outputs[index]), data, MESSAGE);
    pthread_mutex_unlock(&model->mutex);
    return failed;
}

static int launch_all(nn_model *model) {
    for (int i = 0; i < nn_network.step_count; i++)
        if (nn_driver_launch(model->device, i, MESSAGE) != 0)
            return -1;
    return nn_driver_finish(model->device, MESSAGE);
}

/* Each launch is waited for, so times are those of kernels that run alone, with what a launch costs. */
static int launch_each(nn_model *model, nn_layer *layers) {
    double before = nn_milliseconds();
    for (int i = 0; i < nn_network.step_count; i++) {
        const nn_launch *launch = &nn_gpu.launches[i];
        if (nn_driver_launch(model->device, i, MESSAGE) != 0 ||
            nn_driver_finish(model->device, MESSAGE) != 0)
            return -1;
        double after = nn_milliseconds();
        layers[i] = (nn_layer){.name = launch->name, .ms = after - before, .macs = launch->macs};
        before = after;
    }
    return 0;
}

static int run(nn_model *model, nn_layer *layers, int count) {
    if (layers != NULL && count != nn_network.step_count)
        return FAIL("there are %d layers, not %d", nn_network.step_count, count);
    if (nn_check_given(model->given, TEXT) != 0)
        return -1;
    memset(model->given, 0, (size_t)nn_network.input_count + 1);
    if ((layers != NULL ? launch_each(model, layers) : launch_all(model)) != 0)
        return -1;
    model->has_run = 1;
    return 0;
}

int nn_run(nn_model *model) {
    pthread_mutex_lock(&model->mutex);
    int failed = run(model, NULL, 0);
    pthread_mutex_unlock(&model->mutex);
    return failed;
}

int nn_run_profiled(nn_model *model, nn_layer *layers, int count) {
    pthread_mutex_lock(&model->mutex);
    int failed = layers == NULL ? FAIL("no memory for layers was given") : run(model, layers, count);
    pthread_mutex_unlock(&model->mutex);
    return failed;
}
