/* What every library does alike, whatever computes: inputs and outputs by number, and what is refused. */
#include "internal.h"

#include <stdio.h>
#include <time.h>

int nn_fail(char *error, size_t error_size, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (error != NULL && error_size > 0)
        vsnprintf(error, error_size, format, arguments);
    va_end(arguments);
    return -1;
}

double nn_milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

int nn_input_count(void) { return nn_network.input_count; }
int nn_output_count(void) { return nn_network.output_count; }
int nn_layer_count(void) { return nn_network.step_count; }

const nn_tensor *nn_input(int index) {
    return index >= 0 && index < nn_network.input_count ? &nn_network.inputs[index].tensor : NULL;
}

const nn_tensor *nn_output(int index) {
    return index >= 0 && index < nn_network.output_count ? &nn_network.outputs[index].tensor : NULL;
}

static int check_port(const char *kind, const nn_tensor *tensor, int count, int index, const void *data,
                      size_t size, char *error, size_t error_size) {
    if (tensor == NULL)
        return nn_fail(error, error_size, "there is no %s %d; there are %d", kind, index, count);
    if (size != tensor->size)
        return nn_fail(error, error_size, "%s %s has %zu bytes, not %zu", kind, tensor->name,
                       tensor->size, size);
    if (data == NULL && size > 0)
        return nn_fail(error, error_size, "%s %s: no memory was given", kind, tensor->name);
    return 0;
}

int nn_check_input(int index, const void *data, size_t size, char *error, size_t error_size) {
    return check_port("input", nn_input(index), nn_network.input_count, index, data, size, error,
                      error_size);
}

int nn_check_output(int index, const void *data, size_t size, char *error, size_t error_size) {
    return check_port("output", nn_output(index), nn_network.output_count, index, data, size, error,
                      error_size);
}

int nn_check_given(const unsigned char *given, char *error, size_t error_size) {
    for (int i = 0; i < nn_network.input_count; i++)
        if (!given[i])
            return nn_fail(error, error_size, "input %s was not set; every run uses its inputs up",
                           nn_input(i)->name);
    return 0;
}
