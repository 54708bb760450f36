/* The library's C part with a network made up for it: out[i] = 3 * (in[i] + 2 * weight[i]).
 *
 * Arguments: the weights file, then damaged ones, each of which has to be refused.
 */
#include "internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COUNT 1000
#define SCRATCH 16

static atomic_int prepared, parts[COUNT], small_steps;
static atomic_int expected_guests, guests; /* threads that are to work at the same time, and that do */

static void meet(void) {
    double until = nn_milliseconds() + 5000;
    atomic_fetch_add(&guests, 1);
    while (atomic_load(&guests) < atomic_load(&expected_guests) && nn_milliseconds() < until)
        ;
}

/* A part that takes a while and needs memory of its own. */
static int32_t slowly(int32_t *scratch, int32_t value) {
    for (int i = 0; i < SCRATCH; i++)
        scratch[i] = value;
    for (volatile int i = 0; i < 200; i++)
        ;
    int32_t sum = 0;
    for (int i = 0; i < SCRATCH; i++)
        sum += scratch[i];
    return sum / SCRATCH;
}

static void prepare(const nn_memories *at, int32_t begin, int32_t end) {
    const int32_t *weights = (const int32_t *)(at->weights + 64);
    for (int32_t i = begin; i < end; i++) {
        ((int32_t *)at->lasting)[i] = slowly((int32_t *)at->scratch, 2 * weights[i]);
        atomic_fetch_add(&prepared, 1);
    }
}

static void add(const nn_memories *at, int32_t begin, int32_t end) {
    int32_t *out = (int32_t *)at->arena + COUNT;
    meet();
    for (int32_t i = begin; i < end; i++) {
        int32_t sum = ((int32_t *)at->arena)[i - 5] + ((int32_t *)at->lasting)[i - 5];
        out[i - 5] = slowly((int32_t *)at->scratch, sum);
        atomic_fetch_add(&parts[i - 5], 1);
    }
}

/* Reads what the step before wrote, all of it in one go. */
static void triple(const nn_memories *at, int32_t begin, int32_t end) {
    int32_t *values = (int32_t *)at->arena + COUNT;
    for (int32_t i = begin; i < end; i++)
        for (int k = 0; k < COUNT; k++)
            values[k] *= 3;
    atomic_fetch_add(&small_steps, 1);
}

static const nn_step prepare_steps[] = {{prepare, 0, COUNT, 1, 0, "weights"}};
static const nn_step run_steps[] = {
    {add, 5, COUNT + 5, 1, COUNT, "add"},
    {triple, 0, 1, 0, 7, "triple"},
};
static const int64_t shape[] = {COUNT};
static const nn_port inputs[] = {{{"x", NN_INT32, 1, shape, 4 * COUNT}, NN_IN_ARENA, 0}};
static const nn_port outputs[] = {{{"y", NN_INT32, 1, shape, 4 * COUNT}, NN_IN_ARENA, 4 * COUNT}};
static const int cores[] = {0, 100000, 1};

const nn_network_tables nn_network = {
    .inputs = inputs,
    .outputs = outputs,
    .input_count = 1,
    .output_count = 1,
    .prepare = prepare_steps,
    .steps = run_steps,
    .prepare_count = 1,
    .step_count = 2,
    .arena_size = 8 * COUNT,
    .lasting_size = 4 * COUNT,
    .scratch_size = 4 * SCRATCH,
    .weights_size = WEIGHTS_SIZE,
    .weights_checksum = WEIGHTS_CHECKSUM,
    .cores = cores,
    .core_count = 3,
    .thread_count = 3,
};

#define MUST(condition)                                                     \
    do {                                                                    \
        if (!(condition)) {                                                 \
            printf("line %d: %s\n", __LINE__, #condition);                  \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

static const char *path;
static char error[200];

static nn_model *created(int threads) {
    nn_options options = {.threads = threads};
    nn_model *model = nn_create(path, &options, error, sizeof error);
    MUST(model != NULL);
    return model;
}

static void run_and_compare(nn_model *model, int32_t first) {
    int32_t x[COUNT], y[COUNT];
    for (int i = 0; i < COUNT; i++)
        x[i] = first + i;
    MUST(nn_set_input(model, 0, x, sizeof x) == 0);
    MUST(nn_run(model) == 0);
    MUST(nn_get_output(model, 0, y, sizeof y) == 0);
    for (int i = 0; i < COUNT; i++)
        MUST(y[i] == 3 * (x[i] + 2 * (7 * i % 50)));
}

static void test_every_part_is_computed_once(void) {
    for (int threads = 1; threads <= 5; threads++) {
        atomic_store(&prepared, 0);
        atomic_store(&small_steps, 0);
        for (int i = 0; i < COUNT; i++)
            atomic_store(&parts[i], 0);
        nn_model *model = created(threads);
        MUST(nn_thread_count(model) == threads);
        for (int k = 0; k < 30; k++)
            run_and_compare(model, k);
        MUST(atomic_load(&prepared) == COUNT); /* when it was loaded, and never again */
        MUST(atomic_load(&small_steps) == 30);
        for (int i = 0; i < COUNT; i++)
            MUST(atomic_load(&parts[i]) == 30);
        nn_destroy(model);
    }
}

static void test_all_threads_work_even_after_a_sleep(void) {
    nn_model *model = created(3);
    for (int k = 0; k < 5; k++) {
        atomic_store(&guests, 0);
        atomic_store(&expected_guests, 3);
        double start = nn_milliseconds();
        run_and_compare(model, k);
        MUST(nn_milliseconds() - start < 4000);
        struct timespec pause = {0, 5000000};
        nanosleep(&pause, NULL);
    }
    atomic_store(&expected_guests, 0);
    nn_destroy(model);
}

static int maps_the_weights(void) {
    char line[4096];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps) != NULL)
        found |= strstr(line, path) != NULL;
    fclose(maps);
    return found;
}

static void test_the_weights_are_mapped_while_there_is_a_model(void) {
    MUST(!maps_the_weights());
    nn_model *model = created(1);
    MUST(maps_the_weights());
    nn_destroy(model);
    MUST(!maps_the_weights());
}

static void test_what_is_refused(void) {
    int32_t data[COUNT + 1] = {0};
    nn_model *model = created(2);
    MUST(strcmp(nn_error(model), "") == 0);
    MUST(nn_run(model) == -1);
    MUST(strcmp(nn_error(model), "input x was not set; every run uses its inputs up") == 0);
    MUST(nn_get_output(model, 0, data, 4 * COUNT) == -1);
    MUST(strcmp(nn_error(model), "there are no outputs: run the model after setting its inputs") == 0);
    MUST(nn_set_input(model, 0, data, 4 * COUNT + 4) == -1);
    MUST(strcmp(nn_error(model), "input x has 4000 bytes, not 4004") == 0);
    MUST(nn_set_input(model, 0, data, 0) == -1);
    MUST(nn_set_input(model, 1, data, 4 * COUNT) == -1);
    MUST(strcmp(nn_error(model), "there is no input 1; there are 1") == 0);
    MUST(nn_set_input(model, -1, data, 4 * COUNT) == -1);
    MUST(nn_set_input(model, 0, NULL, 4 * COUNT) == -1);
    MUST(nn_run(model) == -1);
    MUST(nn_set_input(model, 0, data, 4 * COUNT) == 0);
    MUST(nn_run(model) == 0);
    MUST(nn_run(model) == -1); /* the inputs are used up */
    MUST(nn_get_output(model, 0, data, 4) == -1);
    MUST(nn_get_output(model, 7, data, 4 * COUNT) == -1);
    MUST(nn_get_output(model, 0, NULL, 4 * COUNT) == -1);
    MUST(nn_get_output(model, 0, data, 4 * COUNT) == 0);
    MUST(nn_run_profiled(model, NULL, 2) == -1);
    nn_layer layers[2];
    MUST(nn_set_input(model, 0, data, 4 * COUNT) == 0);
    MUST(nn_run_profiled(model, layers, 1) == -1);
    MUST(strcmp(nn_error(model), "there are 2 layers, not 1") == 0);
    MUST(nn_run_profiled(model, layers, nn_layer_count()) == 0);
    MUST(strcmp(layers[0].name, "add") == 0 && layers[0].ms > 0 && layers[1].macs == 7);
    MUST(nn_input(0)->size == 4 * COUNT && nn_input(1) == NULL && nn_input(-1) == NULL);
    MUST(strcmp(nn_output(0)->name, "y") == 0 && nn_output(1) == NULL);
    MUST(nn_memory(model) >= 12 * COUNT);
    nn_destroy(model);
    nn_destroy(NULL);
}

static void test_options(void) {
    int own[] = {0, 0, 1 << 20, -7};
    nn_options options = {.cores = own, .core_count = 4};
    nn_model *model = nn_create(path, &options, error, sizeof error);
    MUST(model != NULL && nn_thread_count(model) == 4 && nn_bound_count(model) <= 2);
    run_and_compare(model, 1);
    nn_destroy(model);
    model = nn_create(path, NULL, error, sizeof error); /* the network's own */
    MUST(nn_thread_count(model) == 3 && nn_bound_count(model) <= 2);
    nn_destroy(model);
    options = (nn_options){.threads = 5, .unbound = 1};
    model = nn_create(path, &options, error, sizeof error);
    MUST(nn_thread_count(model) == 5 && nn_bound_count(model) == 0);
    run_and_compare(model, 1);
    nn_destroy(model);
    options = (nn_options){.threads = -1};
    MUST(nn_create(path, &options, error, sizeof error) == NULL);
    MUST(strcmp(error, "threads and cores must be 0 to 256") == 0);
    options = (nn_options){.core_count = 2};
    MUST(nn_create(path, &options, NULL, 0) == NULL);
    MUST(nn_create(NULL, NULL, error, sizeof error) == NULL);
    MUST(strcmp(error, "no path of the weights was given") == 0);
    MUST(nn_create("/nowhere/at all", NULL, error, 12) == NULL);
    MUST(strcmp(error, "cannot open") == 0); /* cut to the size that was given */
}

static void test_weights_in_memory(void) {
    static _Alignas(4096) unsigned char bytes[1 << 14]; /* whole pages could be unmapped */
    FILE *file = fopen(path, "rb");
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    nn_options options = {.threads = 2};
    nn_model *model = nn_create_from(bytes, size, &options, error, sizeof error);
    MUST(model != NULL && !maps_the_weights());
    run_and_compare(model, 3);
    nn_destroy(model); /* the memory stays the caller's */
    MUST(memcmp(bytes, "GRAPHOPT", 8) == 0);
    MUST(nn_create_from(bytes, size - 64, NULL, error, sizeof error) == NULL);
    MUST(strstr(error, "the memory of the weights has") == error);
    MUST(nn_create_from(bytes + 1, size, NULL, error, sizeof error) == NULL);
    MUST(strcmp(error, "the memory of the weights must begin at a multiple of 64") == 0);
    MUST(nn_create_from(NULL, size, NULL, error, sizeof error) == NULL);
    bytes[200] ^= 1;
    MUST(nn_create_from(bytes, size, NULL, error, sizeof error) == NULL);
    MUST(strcmp(error, "the memory of the weights is damaged (its checksum differs); copy it again") == 0);
}

static void *run_often(void *model) {
    int32_t x[COUNT] = {0}, y[COUNT];
    for (int k = 0; k < 20; k++) {
        nn_set_input(model, 0, x, sizeof x);
        nn_run(model); /* may fail: the other thread may have used the input up */
        nn_get_output(model, 0, y, sizeof y);
    }
    return NULL;
}

static void *own_model(void *unused) {
    (void)unused;
    nn_model *model = created(2);
    for (int k = 0; k < 20; k++)
        run_and_compare(model, k);
    nn_destroy(model);
    return NULL;
}

static void test_several_threads_at_once(void) {
    pthread_t ids[4];
    nn_model *shared = created(2);
    for (int i = 0; i < 4; i++)
        MUST(pthread_create(&ids[i], NULL, i < 2 ? run_often : own_model, shared) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(ids[i], NULL);
    run_and_compare(shared, 3);
    nn_destroy(shared);
}

int main(int count, char **words) {
    MUST(count > 1);
    path = words[1];
    for (int i = 2; i < count; i++) {
        MUST(nn_create(words[i], NULL, error, sizeof error) == NULL);
        printf("%s\n", error);
    }
    test_every_part_is_computed_once();
    test_all_threads_work_even_after_a_sleep();
    test_the_weights_are_mapped_while_there_is_a_model();
    test_what_is_refused();
    test_options();
    test_weights_in_memory();
    test_several_threads_at_once();
    printf("passed\n");
    return 0;
}
