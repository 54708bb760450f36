/* A CUDA driver that computes on the processor: the same kernels, compiled from the same OpenCL C.
 *
 * The PTX itself is only looked into: that it is for the processor and of the version that was asked
 * for, and that its kernels want the groups they are launched in. Work-items of a group are fibers that
 * take turns at barriers. Every allocation ends at a page nobody may touch.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define MOST_ITEMS 1024
#define MOST_PARAMETERS 32
#define STACK (64 << 10)
#define PAGE 4096
#define MOST_MEMORIES 16
#define MOST_FUNCTIONS 1024

enum { DONE, INVALID = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_CONTEXT = 201, BAD_PTX = 218, MISSING = 500 };

static int initialized, retained, current; /* contexts: how deep */
static const char *ptx;

/* --- fibers --- */

typedef void (*kernel)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

static ucontext_t scheduler, fibers[MOST_ITEMS];
static char *stacks;
static int running, finished[MOST_ITEMS];
static uint32_t group[3], local[3];
static kernel called;
static uint64_t given[MOST_PARAMETERS];

uint32_t get_group_id(uint32_t axis) { return group[axis]; }

uint32_t get_local_id(uint32_t axis) {
    uint32_t item = (uint32_t)running;
    return axis == 0 ? item % local[0] : axis == 1 ? item / local[0] % local[1] : item / (local[0] * local[1]);
}

void barrier(uint32_t flags) {
    (void)flags;
    swapcontext(&fibers[running], &scheduler);
}

static void run_item(void) {
    const uint64_t *a = given;
    /* A function that takes less ignores the rest. */
    called(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15],
           a[16], a[17], a[18], a[19], a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28], a[29],
           a[30], a[31]);
    finished[running] = 1;
}

static void run_group(int items) {
    for (int i = 0; i < items; i++) {
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = stacks + (size_t)i * STACK;
        fibers[i].uc_stack.ss_size = STACK;
        fibers[i].uc_link = &scheduler;
        finished[i] = 0;
        makecontext(&fibers[i], run_item, 0);
    }
    for (int left = items; left > 0;) {
        left = 0;
        for (running = 0; running < items; running++)
            if (!finished[running]) {
                swapcontext(&scheduler, &fibers[running]);
                left += !finished[running];
            }
    }
}

/* --- the driver --- */

int cuInit(unsigned flags) {
    initialized = flags == 0;
    return getenv("FAKE_CUDA_NO_DRIVER") ? NOT_INITIALIZED : DONE;
}
int cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : code == BAD_PTX ? "a PTX JIT compilation failed" : "an error";
    return DONE;
}
int cuDeviceGetCount(int *count) {
    *count = getenv("FAKE_CUDA_NO_DEVICE") ? 0 : 1;
    return initialized ? DONE : NOT_INITIALIZED;
}
int cuDeviceGet(int *device, int number) {
    *device = 7;
    return number == 0 ? DONE : INVALID;
}
int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, (size_t)size, "a processor");
    return device == 7 ? DONE : INVALID;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &retained;
    retained++;
    return device == 7 ? DONE : INVALID;
}
int cuDevicePrimaryCtxRelease(int device) {
    retained--;
    return device == 7 ? DONE : INVALID;
}
int cuCtxPushCurrent_v2(void *context) {
    current++;
    return context == &retained ? DONE : INVALID;
}
int cuCtxPopCurrent_v2(void **context) {
    *context = &retained;
    return current-- > 0 ? DONE : INVALID;
}
int fake_balance(void) { return current * 1000 + retained; }

#define NEED_CONTEXT            \
    if (current <= 0)           \
        return NO_CONTEXT

int cuStreamCreate(void **stream, unsigned flags) {
    NEED_CONTEXT;
    *stream = &scheduler;
    return flags <= 1 ? DONE : INVALID;
}
int cuStreamDestroy_v2(void *stream) {
    NEED_CONTEXT;
    return stream == &scheduler ? DONE : INVALID;
}
int cuStreamSynchronize(void *stream) {
    NEED_CONTEXT;
    return stream == &scheduler ? DONE : INVALID;
}

/* --- memory --- */

static struct { uint64_t at; size_t size; void *base; size_t whole; } memories[MOST_MEMORIES];

int fake_memories(void) {
    int count = 0;
    for (int i = 0; i < MOST_MEMORIES; i++)
        count += memories[i].at != 0;
    return count;
}

int cuMemAlloc_v2(uint64_t *at, size_t size) {
    NEED_CONTEXT;
    const char *most = getenv("FAKE_CUDA_MEMORY");
    if (size == 0)
        return INVALID;
    if (most != NULL && size > strtoull(most, NULL, 10))
        return OUT_OF_MEMORY;
    size_t whole = (size + PAGE - 1) / PAGE * PAGE + PAGE;
    char *base = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(base + whole - PAGE, PAGE, PROT_NONE);
    for (int i = 0; i < MOST_MEMORIES; i++)
        if (memories[i].at == 0) {
            memories[i].base = base, memories[i].whole = whole, memories[i].size = size;
            memories[i].at = *at = (uint64_t)(base + whole - PAGE - (size + 15) / 16 * 16);
            return DONE;
        }
    return OUT_OF_MEMORY;
}
int cuMemFree_v2(uint64_t at) {
    NEED_CONTEXT;
    for (int i = 0; i < MOST_MEMORIES; i++)
        if (memories[i].at == at) {
            munmap(memories[i].base, memories[i].whole);
            memories[i].at = 0;
            return DONE;
        }
    return INVALID;
}
static int inside(uint64_t at, size_t size) {
    for (int i = 0; i < MOST_MEMORIES; i++)
        if (memories[i].at != 0 && at >= memories[i].at && at + size <= memories[i].at + memories[i].size)
            return 1;
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    NEED_CONTEXT;
    if (!inside(to, size) || stream != &scheduler)
        return INVALID;
    memcpy((void *)to, from, size);
    return DONE;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    NEED_CONTEXT;
    if (!inside(from, size) || stream != &scheduler)
        return INVALID;
    memcpy(to, (void *)from, size);
    return DONE;
}

/* --- kernels --- */

typedef struct {
    kernel code;
    uint32_t block[3];
    int parameters;
} function;

static function functions[MOST_FUNCTIONS];
static int function_count;

int cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values) {
    NEED_CONTEXT;
    ptx = image;
    *module = (void *)image;
    if (strstr(ptx, ".version 6.5\n") != NULL && strstr(ptx, ".target sm_62\n") != NULL && !getenv("FAKE_CUDA_REFUSES"))
        return DONE;
    for (unsigned i = 0; i + 1 < count; i++)
        if (options[i] == 5)
            snprintf(values[i], (size_t)(uintptr_t)values[i + 1], "ptxas fatal   : not for this processor\nmore");
    return BAD_PTX;
}
int cuModuleUnload(void *module) {
    NEED_CONTEXT;
    return module == ptx ? DONE : INVALID;
}
int cuModuleGetFunction(void **made, void *module, const char *name) {
    NEED_CONTEXT;
    char head[256];
    snprintf(head, sizeof head, ".entry %s(\n", name);
    const char *entry = strstr(module, head);
    if (entry == NULL || function_count == MOST_FUNCTIONS)
        return MISSING;
    function *f = &functions[function_count++];
    *f = (function){0};
    Dl_info own;
    dladdr((void *)cuInit, &own);
    f->code = (kernel)dlsym(dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD), name);
    const char *end = strstr(entry, "\n{");
    for (const char *p = strstr(entry, ".param"); p != NULL && p < end; p = strstr(p + 1, ".param"))
        f->parameters++;
    const char *wanted = strstr(entry, ".reqntid ");
    if (f->code == NULL || wanted == NULL || wanted > end || f->parameters > MOST_PARAMETERS ||
        sscanf(wanted, ".%*s %u, %u, %u", &f->block[0], &f->block[1], &f->block[2]) != 3)
        return MISSING;
    *made = f;
    return DONE;
}
int cuLaunchKernel(void *which, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned bytes, void *stream, void **parameters, void **extra) {
    NEED_CONTEXT;
    function *f = which;
    uint32_t groups[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    if (memcmp(block, f->block, sizeof block) != 0 || bytes != 0 || extra != NULL || stream != &scheduler ||
        gx == 0 || gy == 0 || gz == 0 || gy > 65535 || gz > 65535 || bx * by * bz > MOST_ITEMS)
        return INVALID;
    if (stacks == NULL)
        stacks = malloc((size_t)MOST_ITEMS * STACK);
    for (int i = 0; i < f->parameters; i++)
        memcpy(&given[i], parameters[i], 8);
    for (int i = 0; i < f->parameters; i += 2)
        if (!inside(given[i], 1))
            return INVALID;
    called = f->code;
    memcpy(local, block, sizeof local);
    for (group[2] = 0; group[2] < groups[2]; group[2]++)
        for (group[1] = 0; group[1] < groups[1]; group[1]++)
            for (group[0] = 0; group[0] < groups[0]; group[0]++)
                run_group((int)(bx * by * bz));
    return DONE;
}
