/* A plugin for qemu's user mode: how often every block of code runs, between two marks.
 *
 *     qemu-aarch64 -plugin counter.so,out=FILE program
 *
 * A program opens a section with the no-operation `hint #120` and closes it with `hint #121`; the
 * library of a bundle does so around every layer of a profiled run (deploy/c/model.c). Written are, for
 * every section in the order in which they were closed, the blocks that ran in it, and at the end the
 * blocks themselves:
 *
 *     S                        a section
 *     C <block> <executions>   in it
 *     B <block> <address, hexadecimal> <code, hexadecimal>
 *
 * Counters are plain: one thread inside sections. Distributions ship qemu without the header of its
 * plugins, so what is used of it (API version 1, qemu 4.2 and later) is declared here.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN 0xd5032f1fu  /* hint #120 */
#define CLOSE 0xd5032f3fu /* hint #121 */
#define LONGEST 1024      /* instructions of a block; qemu's are shorter */
#define BUCKETS 65536

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
    const char *target_name;
} qemu_info; /* as far as it is read */

enum { NO_REGISTERS = 0, ADD_U64 = 0 };

/* Weak, for a linker that has no qemu to find them in. */
#pragma weak qemu_plugin_register_vcpu_tb_trans_cb
#pragma weak qemu_plugin_register_vcpu_tb_exec_inline
#pragma weak qemu_plugin_register_vcpu_insn_exec_cb
#pragma weak qemu_plugin_register_atexit_cb
#pragma weak qemu_plugin_tb_n_insns
#pragma weak qemu_plugin_tb_vaddr
#pragma weak qemu_plugin_tb_get_insn
#pragma weak qemu_plugin_insn_data
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int,
                                            void *);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*)(uint64_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

typedef struct block {
    uint64_t count, before; /* executions, and those when the section was opened */
    uint64_t address;
    size_t size; /* instructions */
    int number;
    uint32_t *code;
    struct block *next_in_bucket, *next;
} block;

static block *buckets[BUCKETS], *blocks;
static int block_count, is_open;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static FILE *out;

static void open_section(unsigned cpu, void *data) {
    (void)cpu;
    (void)data;
    pthread_mutex_lock(&mutex);
    for (block *each = blocks; each != NULL; each = each->next)
        each->before = each->count;
    is_open = 1;
    pthread_mutex_unlock(&mutex);
}

static void close_section(unsigned cpu, void *data) {
    (void)cpu;
    (void)data;
    pthread_mutex_lock(&mutex);
    if (is_open) {
        fputs("S\n", out);
        for (block *each = blocks; each != NULL; each = each->next)
            if (each->count != each->before)
                fprintf(out, "C %d %" PRIu64 "\n", each->number, each->count - each->before);
    }
    is_open = 0;
    pthread_mutex_unlock(&mutex);
}

/* The block with this code at this address; code may be translated more than once. */
static block *block_of(uint64_t address, const uint32_t *code, size_t size) {
    block **bucket = &buckets[(address >> 2) % BUCKETS];
    for (block *each = *bucket; each != NULL; each = each->next_in_bucket)
        if (each->address == address && each->size == size &&
            memcmp(each->code, code, size * sizeof *code) == 0)
            return each;
    block *made = calloc(1, sizeof *made);
    uint32_t *copy = malloc((size + 1) * sizeof *copy);
    if (made == NULL || copy == NULL)
        abort();
    memcpy(copy, code, size * sizeof *code);
    *made = (block){.address = address, .size = size, .number = block_count++, .code = copy,
                    .next_in_bucket = *bucket, .next = blocks};
    *bucket = blocks = made;
    return made;
}

static void on_translation(uint64_t id, struct qemu_plugin_tb *translated) {
    (void)id;
    uint32_t code[LONGEST];
    size_t size = qemu_plugin_tb_n_insns(translated);
    if (size > LONGEST)
        abort();
    for (size_t i = 0; i < size; i++) {
        struct qemu_plugin_insn *each = qemu_plugin_tb_get_insn(translated, i);
        memcpy(&code[i], qemu_plugin_insn_data(each), sizeof code[i]);
        if (code[i] == OPEN || code[i] == CLOSE)
            qemu_plugin_register_vcpu_insn_exec_cb(
                each, code[i] == OPEN ? open_section : close_section, NO_REGISTERS, NULL);
    }
    pthread_mutex_lock(&mutex);
    block *found = block_of(qemu_plugin_tb_vaddr(translated), code, size);
    pthread_mutex_unlock(&mutex);
    qemu_plugin_register_vcpu_tb_exec_inline(translated, ADD_U64, &found->count, 1);
}

static void at_exit(uint64_t id, void *data) {
    (void)id;
    (void)data;
    for (const block *each = blocks; each != NULL; each = each->next) {
        if (each->count == 0)
            continue;
        fprintf(out, "B %d %" PRIx64 " ", each->number, each->address);
        for (size_t i = 0; i < each->size; i++)
            fprintf(out, "%08x", each->code[i]);
        fputc('\n', out);
    }
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const qemu_info *info,
                                                               int count, char **words) {
    if (strcmp(info->target_name, "aarch64") != 0 || count != 1 ||
        strncmp(words[0], "out=", 4) != 0 || (out = fopen(words[0] + 4, "w")) == NULL) {
        fputs("counter: for aarch64, with out=FILE, which has to be writable\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
