/* The weights file: a header of 64 bytes, then constants at offsets that are multiples of 64.
 *
 *     0  "GRAPHOPT"   8  version   12  0   16  size of the file   24  checksum   32  0 ...
 *
 * All numbers are little-endian. The checksum is the sum over 64-bit words of mix(word + number of the
 * word * golden ratio): any change of a word changes it, and so does an exchange of two.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEADER_SIZE 64
#define VERSION 1

static const char magic[8] = {'G', 'R', 'A', 'P', 'H', 'O', 'P', 'T'};

typedef struct {
    char magic[8];
    uint32_t version, zero;
    uint64_t size, checksum;
} header;

/* The finalizer of splitmix64: a bijection. */
uint64_t nn_mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

static uint64_t checksum(const unsigned char *bytes, size_t size) {
    uint64_t sum = 0;
    for (size_t i = 0; i < size / 8; i++) {
        uint64_t word;
        memcpy(&word, bytes + 8 * i, 8);
        sum += nn_mix(word + (i + 1) * 0x9E3779B97F4A7C15u);
    }
    return sum;
}

static int check(const nn_weights *weights, const char *path, char *error, size_t error_size) {
    header found;
    if (weights->size < HEADER_SIZE || memcmp(weights->bytes, magic, sizeof magic) != 0)
        return nn_fail(error, error_size, "%s is not a weights file of graphopt", path);
    memcpy(&found, weights->bytes, sizeof found);
    if (found.version != VERSION)
        return nn_fail(error, error_size, "%s has version %u of the format; this library reads %d", path,
                       (unsigned)found.version, VERSION);
    if (found.size != weights->size)
        return nn_fail(error, error_size, "%s has %llu bytes and should have %llu; copy it again", path,
                       (unsigned long long)weights->size, (unsigned long long)found.size);
    if (found.checksum != nn_network.weights_checksum || found.size != nn_network.weights_size)
        return nn_fail(error, error_size,
                       "%s is not of this model, or damaged: copy the one that came with it", path);
    if (checksum(weights->bytes + HEADER_SIZE, weights->size - HEADER_SIZE) != found.checksum)
        return nn_fail(error, error_size, "%s is damaged (its checksum differs); copy it again", path);
    return 0;
}

int nn_weights_open(nn_weights *weights, const char *path, char *error, size_t error_size) {
    int file = open(path, O_RDONLY);
    if (file < 0)
        return nn_fail(error, error_size, "cannot open the weights %s: %s", path, strerror(errno));
    off_t size = lseek(file, 0, SEEK_END);
    void *bytes = size > 0 ? mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    int reason = errno;
    close(file);
    if (size == 0)
        return nn_fail(error, error_size, "%s is empty; copy it again", path);
    if (bytes == MAP_FAILED)
        return nn_fail(error, error_size, "cannot read the weights %s: %s", path, strerror(reason));
    *weights = (nn_weights){.bytes = bytes, .size = (size_t)size, .mapped = 1};
    if (check(weights, path, error, error_size) == 0)
        return 0;
    nn_weights_close(weights);
    return -1;
}

int nn_weights_use(nn_weights *weights, const void *bytes, size_t size, char *error,
                   size_t error_size) {
    static const char name[] = "the memory of the weights";
    /* Nothing writes to weights; kernels have pointers of one kind for all memories. */
    *weights = (nn_weights){.bytes = (unsigned char *)(uintptr_t)bytes, .size = size};
    if (bytes == NULL || (uintptr_t)bytes % NN_ALIGNMENT != 0)
        return nn_fail(error, error_size, "%s must begin at a multiple of %d", name, NN_ALIGNMENT);
    return check(weights, name, error, error_size);
}

void nn_weights_close(nn_weights *weights) {
    if (weights->mapped)
        munmap(weights->bytes, weights->size);
    *weights = (nn_weights){0};
}
