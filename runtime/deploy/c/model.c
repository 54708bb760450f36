/* The functions of model.h. */
#include "internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_THREADS 256

struct nn_model {
    pthread_mutex_t mutex;
    nn_weights weights;
    unsigned char *arena, *lasting, *scratch;
    nn_memories *memories; /* of each thread */
    int *cores;
    nn_pool *pool;
    unsigned char *given; /* which inputs are set for the next run */
    int threads, core_count, bound;
    int has_run;
    char error[NN_ERROR_SIZE];
};

void *nn_allocate(size_t size) {
    void *memory = NULL;
    size_t whole = (size + NN_ALIGNMENT - 1) / NN_ALIGNMENT * NN_ALIGNMENT;
    if (posix_memalign(&memory, NN_ALIGNMENT, whole > 0 ? whole : NN_ALIGNMENT) != 0)
        return NULL;
#ifdef NN_POISON
    memset(memory, 0xff, whole); /* not a number: what is read before it is written shows */
#endif
    return memory;
}

static size_t scratch_stride(void) {
    /* Two lines apart, so that no two threads share one. */
    return (nn_network.scratch_size / NN_ALIGNMENT + 2) * NN_ALIGNMENT;
}

static int choose_threads(nn_model *model, const nn_options *options, char *error, size_t size) {
    int given = options->core_count > 0;
    const int *cores = given ? options->cores : nn_network.cores;
    int count = given ? options->core_count : nn_network.core_count;
    if (options->threads < 0 || options->threads > MOST_THREADS || options->core_count < 0 ||
        options->core_count > MOST_THREADS || (given && options->cores == NULL))
        return nn_fail(error, size, "threads and cores must be 0 to %d", MOST_THREADS);
    model->threads = options->threads > 0 ? options->threads : given ? count : nn_network.thread_count;
    model->cores = calloc((size_t)count + 1, sizeof *model->cores);
    if (model->cores == NULL)
        return nn_fail(error, size, "out of memory");
    if (count > 0)
        memcpy(model->cores, cores, (size_t)count * sizeof *cores);
    model->core_count = options->unbound ? 0 : count;
    return 0;
}

static int allocate(nn_model *model, char *error, size_t size) {
    model->arena = nn_allocate(nn_network.arena_size);
    model->lasting = nn_allocate(nn_network.lasting_size);
    model->scratch = nn_allocate(scratch_stride() * (size_t)model->threads);
    model->memories = calloc((size_t)model->threads, sizeof *model->memories);
    model->given = calloc((size_t)nn_network.input_count + 1, 1);
    if (model->arena == NULL || model->lasting == NULL || model->scratch == NULL ||
        model->memories == NULL || model->given == NULL)
        return nn_fail(error, size, "out of memory: the model needs %zu bytes", nn_memory(model));
    for (int i = 0; i < model->threads; i++)
        model->memories[i] = (nn_memories){.arena = model->arena,
                                           .lasting = model->lasting,
                                           .weights = model->weights.bytes,
                                           .scratch = model->scratch + scratch_stride() * (size_t)i};
    return 0;
}

/* The model's weights are there. */
static int prepare(nn_model *model, const nn_options *options, char *error, size_t size) {
    if (choose_threads(model, options, error, size) != 0 || allocate(model, error, size) != 0)
        return -1;
    model->pool = nn_pool_create(model->threads, model->memories, model->cores,
                                 model->core_count);
    if (model->pool == NULL)
        return nn_fail(error, size, "cannot start %d threads", model->threads);
    nn_pool_enter(model->pool);
    for (int i = 0; i < nn_network.prepare_count; i++)
        nn_pool_run(model->pool, &nn_network.prepare[i]);
    nn_pool_leave(model->pool);
    model->bound = nn_pool_bound(model->pool);
    return 0;
}

static nn_model *create(const nn_weights *weights, const nn_options *options, char *error,
                        size_t error_size) {
    static const nn_options defaults;
    nn_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        nn_weights left = *weights;
        nn_weights_close(&left);
        nn_fail(error, error_size, "out of memory");
        return NULL;
    }
    model->weights = *weights;
    pthread_mutex_init(&model->mutex, NULL);
    if (prepare(model, options != NULL ? options : &defaults, error, error_size) == 0)
        return model;
    nn_destroy(model);
    return NULL;
}

nn_model *nn_create(const char *path, const nn_options *options, char *error, size_t error_size) {
    nn_weights weights;
    if (path == NULL) {
        nn_fail(error, error_size, "no path of the weights was given");
        return NULL;
    }
    if (nn_weights_open(&weights, path, error, error_size) != 0)
        return NULL;
    return create(&weights, options, error, error_size);
}

nn_model *nn_create_from(const void *bytes, size_t size, const nn_options *options, char *error,
                         size_t error_size) {
    nn_weights weights;
    if (nn_weights_use(&weights, bytes, size, error, error_size) != 0)
        return NULL;
    return create(&weights, options, error, error_size);
}

void nn_destroy(nn_model *model) {
    if (model == NULL)
        return;
    nn_pool_destroy(model->pool);
    nn_weights_close(&model->weights);
    free(model->arena);
    free(model->lasting);
    free(model->scratch);
    free(model->memories);
    free(model->cores);
    free(model->given);
    pthread_mutex_destroy(&model->mutex);
    free(model);
}

static unsigned char *place(const nn_model *model, const nn_port *port) {
    unsigned char *bases[] = {
        [NN_IN_ARENA] = model->arena,
        [NN_IN_LASTING] = model->lasting,
        [NN_IN_WEIGHTS] = model->weights.bytes,
    };
    return bases[port->base] + port->offset;
}

#define MESSAGE model->error, sizeof model->error
#define FAIL(...) nn_fail(model->error, sizeof model->error, __VA_ARGS__)

int nn_set_input(nn_model *model, int index, const void *data, size_t size) {
    pthread_mutex_lock(&model->mutex);
    int failed = nn_check_input(index, data, size, MESSAGE);
    if (!failed) {
        if (size > 0)
            memcpy(place(model, &nn_network.inputs[index]), data, size);
        model->given[index] = 1;
        model->has_run = 0; /* outputs may lie where inputs do */
    }
    pthread_mutex_unlock(&model->mutex);
    return failed;
}

int nn_get_output(nn_model *model, int index, void *data, size_t size) {
    pthread_mutex_lock(&model->mutex);
    int failed = nn_check_output(index, data, size, MESSAGE);
    if (!failed && !model->has_run)
        failed = FAIL("there are no outputs: run the model after setting its inputs");
    if (!failed && size > 0)
        memcpy(data, place(model, &nn_network.outputs[index]), size);
    pthread_mutex_unlock(&model->mutex);
    return failed;
}

/* No-operations by which whoever counts instructions in an emulator tells layers apart. */
#ifdef __aarch64__
#define LAYER_BEGINS() __asm__ volatile("hint #120" ::: "memory")
#define LAYER_ENDS() __asm__ volatile("hint #121" ::: "memory")
#else
#define LAYER_BEGINS() ((void)0)
#define LAYER_ENDS() ((void)0)
#endif

static void run_steps(nn_model *model) {
    for (int i = 0; i < nn_network.step_count; i++)
        nn_pool_run(model->pool, &nn_network.steps[i]);
}

static void profile_steps(nn_model *model, nn_layer *layers) {
    double before = nn_milliseconds();
    for (int i = 0; i < nn_network.step_count; i++) {
        const nn_step *step = &nn_network.steps[i];
        LAYER_BEGINS();
        nn_pool_run(model->pool, step);
        LAYER_ENDS();
        double after = nn_milliseconds();
        layers[i] = (nn_layer){.name = step->name, .ms = after - before, .macs = step->macs};
        before = after;
    }
}

static int run(nn_model *model, nn_layer *layers, int count) {
    if (layers != NULL && count != nn_network.step_count)
        return FAIL("there are %d layers, not %d", nn_network.step_count, count);
    if (nn_check_given(model->given, MESSAGE) != 0)
        return -1;
    nn_pool_enter(model->pool);
    if (layers != NULL)
        profile_steps(model, layers);
    else
        run_steps(model);
    nn_pool_leave(model->pool);
    memset(model->given, 0, (size_t)nn_network.input_count + 1);
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

const char *nn_error(const nn_model *model) { return model->error; }
int nn_thread_count(const nn_model *model) { return model->threads; }
int nn_bound_count(const nn_model *model) { return model->bound; }
const char *nn_device(const nn_model *model) {
    (void)model;
    return "";
}

size_t nn_memory(const nn_model *model) {
    return nn_network.arena_size + nn_network.lasting_size +
           scratch_stride() * (size_t)model->threads;
}
