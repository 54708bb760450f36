/* Runs the network on the board: on files or on inputs it draws, timed, per layer, or to check itself.
 *
 * Exit codes: 0 done, 1 failed, 2 the command line cannot be meant, 3 the check failed.
 */
#include "check.h"
#include "internal.h"
#include "npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_FILES 64
#define MOST_CORES 256
#define MOST_RUNS 1000000

enum { DONE, FAILED, USAGE, CHECK_FAILED };

typedef struct {
    const char *path;
    int port;
} file_option;

typedef struct {
    const char *weights;
    file_option inputs[MOST_FILES], outputs[MOST_FILES];
    int input_count, output_count;
    int cores[MOST_CORES];
    nn_options how;
    long iters, warmup;
    int profile, check;
} options;

static const char usage[] =
    "usage: run [options]\n"
    "  --input [NAME=]x.npy    an input; what is not given is drawn, always the same\n"
    "  --output [NAME=]y.npy   where to write an output\n"
    "  --iters N --warmup N    timed runs (1), and runs before them (0)\n"
    "  --threads N             the caller's included; one per core if not given\n"
    "  --cores 0,3,4,5         bind threads to these processors; 'any' binds none\n"
    "  --profile               what each layer takes\n"
    "  --check                 compare with what ONNX Runtime computed; exit code 3: differs\n"
    "  --weights FILE          model.weights beside this program if not given\n";

static char message[NN_ERROR_SIZE];

static int say(int code, const char *text) {
    fflush(stdout);
    fprintf(stderr, "FAILED: %s\n", text);
    return code;
}

/* --- the command line --- */

static int read_number(const char *text, long least, long most, long *value) {
    char *end;
    errno = 0;
    *value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *value < least || *value > most)
        return nn_fail(message, sizeof message, "'%s' is no number from %ld to %ld", text, least, most);
    return 0;
}

static int read_cores(const char *text, options *found) {
    if (strcmp(text, "any") == 0) {
        found->how.unbound = 1;
        return 0;
    }
    for (;;) {
        char *end;
        long core = strtol(text, &end, 10);
        if (end == text || (*end != ',' && *end != '\0') || core < 0 || core > 4095 ||
            found->how.core_count == MOST_CORES)
            return nn_fail(message, sizeof message, "--cores needs numbers such as 0,3,4,5");
        found->cores[found->how.core_count++] = (int)core;
        if (*end == '\0')
            return 0;
        text = end + 1;
    }
}

/* NAME=path, or a path for the first input or output that has none yet. */
static int read_file_option(const char *text, file_option *files, int *used,
                            const nn_tensor *(*port)(int), int ports) {
    if (*used == MOST_FILES)
        return nn_fail(message, sizeof message, "too many files");
    file_option *file = &files[(*used)++];
    *file = (file_option){.path = text, .port = -1};
    for (int i = 0; i < ports; i++) {
        size_t length = strlen(port(i)->name);
        if (strncmp(text, port(i)->name, length) == 0 && text[length] == '=')
            *file = (file_option){.path = text + length + 1, .port = i};
    }
    if (file->port < 0)
        file->port = *used - 1;
    if (file->port >= ports)
        return nn_fail(message, sizeof message, "%s: the network has no more than %d of these", text,
                       ports);
    return 0;
}

static int read_flag(const char *name, options *found) {
    if (strcmp(name, "--profile") == 0)
        found->profile = 1;
    else if (strcmp(name, "--check") == 0)
        found->check = 1;
    else
        return 0;
    return 1;
}

static int read_option(const char *name, const char *value, options *found) {
    long threads = 0;
    int failed;
    if (strcmp(name, "--input") == 0)
        return read_file_option(value, found->inputs, &found->input_count, nn_input, nn_input_count());
    if (strcmp(name, "--output") == 0)
        return read_file_option(value, found->outputs, &found->output_count, nn_output,
                                nn_output_count());
    if (strcmp(name, "--iters") == 0)
        return read_number(value, 1, MOST_RUNS, &found->iters);
    if (strcmp(name, "--warmup") == 0)
        return read_number(value, 0, MOST_RUNS, &found->warmup);
    if (strcmp(name, "--cores") == 0)
        return read_cores(value, found);
    if (strcmp(name, "--threads") == 0) {
        failed = read_number(value, 1, MOST_CORES, &threads);
        found->how.threads = (int)threads;
        return failed;
    }
    if (strcmp(name, "--weights") == 0) {
        found->weights = value;
        return 0;
    }
    return nn_fail(message, sizeof message, "there is no option %s", name);
}

static int read_options(int count, char **words, options *found) {
    *found = (options){.iters = 1};
    for (int i = 1; i < count; i++) {
        if (read_flag(words[i], found))
            continue;
        const char *value = i + 1 < count ? words[i + 1] : NULL;
        if (value == NULL && strncmp(words[i], "--", 2) == 0)
            return nn_fail(message, sizeof message, "there is no option %s, or its value is missing",
                           words[i]);
        if (read_option(words[i], value, found) != 0)
            return -1;
        i++;
    }
    if (found->how.core_count > 0)
        found->how.cores = found->cores;
    return 0;
}

/* --- inputs and outputs --- */

static int load_inputs(const options *chosen, void **data) {
    for (int i = 0; i < nn_input_count(); i++) {
        const nn_tensor *tensor = nn_input(i);
        const char *path = NULL;
        for (int k = 0; k < chosen->input_count; k++)
            path = chosen->inputs[k].port == i ? chosen->inputs[k].path : path;
        if (path != NULL) {
            nn_npy array;
            if (nn_npy_read(&array, path, tensor, message, sizeof message) != 0)
                return -1;
            data[i] = array.data;
            continue;
        }
        data[i] = malloc(tensor->size > 0 ? tensor->size : 1);
        if (data[i] == NULL)
            return nn_fail(message, sizeof message, "out of memory");
        nn_draw(tensor, i, data[i]);
    }
    return 0;
}

static int with_output(nn_model *model, int index, int (*use)(int, const void *, const void *),
                       const void *context) {
    const nn_tensor *tensor = nn_output(index);
    void *data = malloc(tensor->size > 0 ? tensor->size : 1);
    if (data == NULL)
        return nn_fail(message, sizeof message, "out of memory");
    int failed = nn_get_output(model, index, data, tensor->size);
    if (failed)
        nn_fail(message, sizeof message, "%s", nn_error(model));
    else
        failed = use(index, data, context);
    free(data);
    return failed;
}

static int write_output(int index, const void *data, const void *path) {
    return nn_npy_write(path, nn_output(index), data, message, sizeof message);
}

static int check_output(int index, const void *data, const void *context) {
    (void)context;
    const nn_tensor *tensor = nn_output(index);
    nn_digest digest = nn_digest_of(tensor, data);
    double deviation = nn_deviation(&digest, &nn_expected[index]);
    int bad = !(deviation <= nn_tolerance);
    printf("check %s: deviation %.2g, may be %.2g: %s\n", tensor->name, deviation, nn_tolerance,
           bad ? "DIFFERS" : "ok");
    return bad;
}

/* --- running --- */

static int run_once(nn_model *model, void **data, nn_layer *layers, double *ms) {
    double start = nn_milliseconds();
    for (int i = 0; i < nn_input_count(); i++)
        if (nn_set_input(model, i, data[i], nn_input(i)->size) != 0)
            return nn_fail(message, sizeof message, "%s", nn_error(model));
    int failed =
        layers != NULL ? nn_run_profiled(model, layers, nn_layer_count()) : nn_run(model);
    if (failed)
        return nn_fail(message, sizeof message, "%s", nn_error(model));
    *ms = nn_milliseconds() - start;
    return 0;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(double *times, long count, long warmup) {
    double sum = 0;
    for (long i = 0; i < count; i++)
        sum += times[i];
    qsort(times, (size_t)count, sizeof *times, by_size);
    printf("latency: median %.3f ms, mean %.3f, least %.3f, 90 %% below %.3f, most %.3f "
           "(%ld runs after %ld)\n",
           times[count / 2], sum / (double)count, times[0], times[(count - 1) * 9 / 10],
           times[count - 1], count, warmup);
}

static void print_profile(const nn_layer *sums, long runs) {
    double all = 0;
    for (int i = 0; i < nn_layer_count(); i++)
        all += sums[i].ms;
    printf("%10s %6s %10s %8s  layer\n", "ms", "%", "MMAC", "GMAC/s");
    for (int i = 0; i < nn_layer_count(); i++) {
        double ms = sums[i].ms / (double)runs;
        printf("%10.4f %6.1f %10.3f %8.2f  %s\n", ms, all > 0 ? 100 * sums[i].ms / all : 0,
               (double)sums[i].macs * 1e-6, ms > 0 ? (double)sums[i].macs * 1e-6 / ms : 0, sums[i].name);
    }
    printf("%10.4f  in all, mean of %ld runs\n", all / (double)runs, runs);
}

static int run_all(nn_model *model, const options *chosen, void **data, double *times, nn_layer *layers,
                   nn_layer *sums) {
    double ignored;
    for (long i = 0; i < chosen->warmup; i++)
        if (run_once(model, data, NULL, &ignored) != 0)
            return -1;
    for (long i = 0; i < chosen->iters; i++) {
        if (run_once(model, data, chosen->profile ? layers : NULL, &times[i]) != 0)
            return -1;
        for (int k = 0; chosen->profile && k < nn_layer_count(); k++) {
            sums[k].name = layers[k].name;
            sums[k].macs = layers[k].macs;
            sums[k].ms += layers[k].ms;
        }
    }
    print_times(times, chosen->iters, chosen->warmup);
    if (chosen->profile)
        print_profile(sums, chosen->iters);
    return 0;
}

static int finish(nn_model *model, const options *chosen) {
    for (int i = 0; i < chosen->output_count; i++) {
        const file_option *file = &chosen->outputs[i];
        if (with_output(model, file->port, write_output, file->path) != 0)
            return say(FAILED, message);
        printf("wrote %s to %s\n", nn_output(file->port)->name, file->path);
    }
    int differ = 0;
    for (int i = 0; chosen->check && i < nn_output_count(); i++)
        differ |= with_output(model, i, check_output, NULL);
    return differ ? say(CHECK_FAILED, "the outputs are not those of ONNX Runtime") : DONE;
}

static int run_model(nn_model *model, const options *chosen) {
    size_t layers = (size_t)nn_layer_count() + 1;
    void **data = calloc((size_t)nn_input_count() + 1, sizeof *data);
    double *times = calloc((size_t)chosen->iters, sizeof *times);
    nn_layer *now = calloc(layers, sizeof *now), *sums = calloc(layers, sizeof *sums);
    int code;
    if (data == NULL || times == NULL || now == NULL || sums == NULL)
        code = say(FAILED, "out of memory");
    else if (load_inputs(chosen, data) != 0 || run_all(model, chosen, data, times, now, sums) != 0)
        code = say(FAILED, message);
    else
        code = finish(model, chosen);
    for (int i = 0; data != NULL && i < nn_input_count(); i++)
        free(data[i]);
    free(data);
    free(times);
    free(now);
    free(sums);
    return code;
}

/* model.weights in the folder of this program. */
static void find_weights(const char *program, char *path, size_t size) {
    const char *slash = strrchr(program, '/');
    int folder = slash == NULL ? 0 : (int)(slash - program) + 1;
    snprintf(path, size, "%.*smodel.weights", folder, program);
}

static void print_model(const nn_model *model, double ms) {
    printf("%d layers", nn_layer_count());
    if (nn_device(model)[0] != '\0')
        printf(" on %s", nn_device(model));
    else
        printf(", %d threads, %d of them bound to a core", nn_thread_count(model), nn_bound_count(model));
    printf(", %.1f MB of memory; ready in %.1f ms\n", (double)nn_memory(model) * 1e-6, ms);
}

int main(int count, char **words) {
    options chosen;
    char beside[4096];
    for (int i = 1; i < count; i++)
        if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
            fputs(usage, stdout);
            return DONE;
        }
    if (read_options(count, words, &chosen) != 0) {
        fputs(usage, stderr);
        return say(USAGE, message);
    }
    if (chosen.check && chosen.input_count > 0)
        return say(USAGE, "--check draws its own inputs: leave --input out");
    if (chosen.check && nn_expected_count != nn_output_count())
        return say(USAGE, "this bundle was made without a reference to check against");
    if (chosen.weights == NULL) {
        find_weights(words[0], beside, sizeof beside);
        chosen.weights = beside;
    }
    double start = nn_milliseconds();
    nn_model *model = nn_create(chosen.weights, &chosen.how, message, sizeof message);
    if (model == NULL)
        return say(FAILED, message);
    print_model(model, nn_milliseconds() - start);
    int code = run_model(model, &chosen);
    nn_destroy(model);
    return code;
}
