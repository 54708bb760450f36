/* What the files of the library know of each other.
 *
 * In a bundle "nn_" is replaced by the model's name everywhere, so that one program can hold several.
 */
#ifndef NN_INTERNAL_H
#define NN_INTERNAL_H

#include "model.h"

#include <stdarg.h>
#include <stdatomic.h>

#define NN_ALIGNMENT 64 /* a cache line, and the widest vector */
#define NN_ERROR_SIZE 512

/* What a kernel's arguments are offsets into. Only `scratch` differs between threads. */
typedef struct {
    unsigned char *arena;
    unsigned char *lasting;
    unsigned char *weights;
    unsigned char *scratch;
} nn_memories;

/* Parts begin .. end - 1 of one kernel call. */
typedef struct {
    void (*run)(const nn_memories *at, int32_t begin, int32_t end);
    int32_t begin, end;
    int32_t shared; /* whether it is worth waking other threads for */
    int64_t macs;
    const char *name;
} nn_step;

typedef enum { NN_IN_ARENA, NN_IN_LASTING, NN_IN_WEIGHTS } nn_base;

typedef struct {
    nn_tensor tensor;
    nn_base base;
    size_t offset;
} nn_port;

/* The generated part: the network as tables. */
typedef struct {
    const nn_port *inputs, *outputs;
    int input_count, output_count;
    const nn_step *prepare, *steps; /* at load time once; in every run */
    int prepare_count, step_count;
    size_t arena_size, lasting_size, scratch_size; /* the last is each thread's */
    uint64_t weights_size, weights_checksum;
    const int *cores;
    int core_count, thread_count;
} nn_network_tables;

extern const nn_network_tables nn_network;

/* --- weights.c: the file of constants, mapped and checked --- */

typedef struct {
    unsigned char *bytes;
    size_t size;
    int mapped; /* from a file, and to be given back */
} nn_weights;

int nn_weights_open(nn_weights *weights, const char *path, char *error, size_t error_size);
int nn_weights_use(nn_weights *weights, const void *bytes, size_t size, char *error,
                   size_t error_size);
void nn_weights_close(nn_weights *weights);
uint64_t nn_mix(uint64_t value);

/* --- pool.c: threads that share the parts of a step --- */

typedef struct nn_pool nn_pool;

/* memories[0] is the caller's; both arrays stay the caller's property and must outlive the pool. */
nn_pool *nn_pool_create(int threads, const nn_memories *memories, const int *cores,
                        int core_count);
void nn_pool_destroy(nn_pool *pool);
void nn_pool_run(nn_pool *pool, const nn_step *step);
int nn_pool_bound(nn_pool *pool); /* threads that were on their cores the last time */

/* Binds the calling thread as thread 0 between the two. */
void nn_pool_enter(nn_pool *pool);
void nn_pool_leave(nn_pool *pool);

/* --- ports.c: inputs and outputs by number; 0, or -1 with the reason --- */

int nn_check_input(int index, const void *data, size_t size, char *error, size_t error_size);
int nn_check_output(int index, const void *data, size_t size, char *error, size_t error_size);
int nn_check_given(const unsigned char *given, char *error, size_t error_size); /* of every input */

/* --- small things --- */

double nn_milliseconds(void);
void *nn_allocate(size_t size);
int nn_fail(char *error, size_t error_size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
