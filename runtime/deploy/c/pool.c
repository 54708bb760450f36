/* Threads that share the parts of a step.
 *
 * `remaining` counts the parts nobody has taken. A thread takes a share of what remains, less and less
 * towards the end, so that slow cores are not waited for; the step ends when `unfinished` is 0. Who holds
 * parts keeps the step from ending, so that `step` is only read while it cannot change. Workers without
 * work look for some for a moment, then sleep.
 *
 * A part is computed by the same code whoever takes it, so results do not depend on threads.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPIN_MS 0.2
#define LOOKS_BETWEEN_CLOCKS 64
#define STACK_SIZE ((size_t)1 << 20) /* musl's own choice is too small for kernels */

typedef struct {
    nn_pool *pool;
    const nn_memories *memories;
    pthread_t id;
    int index;
} worker;

struct nn_pool {
    _Alignas(NN_ALIGNMENT) atomic_int remaining;
    _Alignas(NN_ALIGNMENT) atomic_int unfinished;
    _Alignas(NN_ALIGNMENT) atomic_int sleepers;
    atomic_int stop;
    atomic_int bound; /* workers on their cores */
    atomic_int ready; /* workers that know whether they are */
    const nn_step *step;
    const nn_memories *memories;
    const int *cores;
    int core_count;
    int threads; /* with the caller */
    int started; /* workers, without the caller */
    int spins;   /* whether every thread can have a core for itself */
    int caller_moved, caller_was_bound;
    cpu_set_t callers;
    worker *workers;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* Whether the calling thread was bound to the core of thread `index`; further threads stay free. */
static int bind_to_core(const nn_pool *pool, int index) {
    if (index >= pool->core_count || pool->cores[index] < 0 || pool->cores[index] >= CPU_SETSIZE)
        return 0;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)pool->cores[index], &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

static void work(nn_pool *pool, const nn_memories *memories) {
    int left = atomic_load_explicit(&pool->remaining, memory_order_acquire);
    while (left > 0) {
        int taken = left / (2 * pool->threads);
        taken = taken > 0 ? taken : 1;
        if (!atomic_compare_exchange_weak_explicit(&pool->remaining, &left, left - taken,
                                                   memory_order_acquire, memory_order_acquire))
            continue;
        const nn_step *step = pool->step;
        step->run(memories, step->end - left, step->end - left + taken);
        atomic_fetch_sub_explicit(&pool->unfinished, taken, memory_order_release);
        left = atomic_load_explicit(&pool->remaining, memory_order_acquire);
    }
}

static int has_news(nn_pool *pool) {
    return atomic_load(&pool->remaining) > 0 || atomic_load(&pool->stop);
}

/* Waits for a step with parts left; 0 when the pool ends. */
static int wait_for_work(nn_pool *pool) {
    double until = pool->spins ? nn_milliseconds() + SPIN_MS : 0;
    while (pool->spins && nn_milliseconds() < until)
        for (int i = 0; i < LOOKS_BETWEEN_CLOCKS; i++) {
            if (has_news(pool))
                return !atomic_load(&pool->stop);
            relax();
        }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_news(pool))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
    return !atomic_load(&pool->stop);
}

static void *run_worker(void *argument) {
    worker *self = argument;
    if (bind_to_core(self->pool, self->index))
        atomic_fetch_add(&self->pool->bound, 1);
    atomic_fetch_add(&self->pool->ready, 1);
    while (wait_for_work(self->pool))
        work(self->pool, self->memories);
    return NULL;
}

static void wake_all(nn_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

/* Starts as many workers as the system allows. */
static void start(nn_pool *pool) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    for (int i = 0; i < pool->threads - 1; i++) {
        worker *each = &pool->workers[i];
        *each = (worker){.pool = pool, .memories = &pool->memories[i + 1], .index = i + 1};
        if (pthread_create(&each->id, &attributes, run_worker, each) != 0)
            break;
        pool->started++;
    }
    pthread_attr_destroy(&attributes);
    while (atomic_load(&pool->ready) < pool->started)
        sched_yield();
}

nn_pool *nn_pool_create(int threads, const nn_memories *memories, const int *cores,
                        int core_count) {
    nn_pool *pool = nn_allocate(sizeof *pool);
    worker *workers = calloc((size_t)threads, sizeof *workers);
    if (pool == NULL || workers == NULL) {
        free(pool);
        free(workers);
        return NULL;
    }
    memset(pool, 0, sizeof *pool);
    pool->memories = memories;
    pool->workers = workers;
    pool->cores = cores;
    pool->core_count = core_count;
    pool->threads = threads;
    pool->spins = threads <= sysconf(_SC_NPROCESSORS_ONLN);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    start(pool);
    if (pool->started < threads - 1) {
        nn_pool_destroy(pool);
        return NULL;
    }
    return pool;
}

void nn_pool_destroy(nn_pool *pool) {
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, 1);
    wake_all(pool);
    for (int i = 0; i < pool->started; i++)
        pthread_join(pool->workers[i].id, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

void nn_pool_run(nn_pool *pool, const nn_step *step) {
    int parts = step->end - step->begin;
    if (pool->threads == 1 || !step->shared || parts < 2) {
        step->run(pool->memories, step->begin, step->end);
        return;
    }
    pool->step = step;
    atomic_store(&pool->unfinished, parts);
    atomic_store(&pool->remaining, parts);
    /* Whoever goes to sleep counts itself first and looks once more: one of the two is seen. */
    if (atomic_load(&pool->sleepers) > 0)
        wake_all(pool);
    work(pool, pool->memories);
    for (int looks = 0; atomic_load_explicit(&pool->unfinished, memory_order_acquire) > 0; looks++) {
        if (!pool->spins || looks > LOOKS_BETWEEN_CLOCKS * LOOKS_BETWEEN_CLOCKS)
            sched_yield();
        else
            relax();
    }
}

int nn_pool_bound(nn_pool *pool) { return atomic_load(&pool->bound) + pool->caller_was_bound; }

void nn_pool_enter(nn_pool *pool) {
    pool->caller_moved = pool->core_count > 0 &&
                         sched_getaffinity(0, sizeof pool->callers, &pool->callers) == 0 &&
                         bind_to_core(pool, 0);
    pool->caller_was_bound = pool->caller_moved;
}

void nn_pool_leave(nn_pool *pool) {
    if (pool->caller_moved)
        sched_setaffinity(0, sizeof pool->callers, &pool->callers);
    pool->caller_moved = 0;
}
