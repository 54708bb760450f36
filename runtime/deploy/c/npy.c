/* numpy's file format: "\x93NUMPY", two bytes of version, the header's length (2 bytes in version 1, 4
 * later), and the text of a Python dictionary with descr, fortran_order and shape. Files are not trusted.
 */
#include "npy.h"

#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_HEADER 65536
#define PRELUDE 10 /* bytes before the text in version 1 */

typedef struct {
    nn_type type;
    char descr[5];
} type_name;

static const type_name names[] = {
    {NN_FLOAT32, "<f4"}, {NN_FLOAT64, "<f8"}, {NN_INT8, "|i1"},   {NN_INT16, "<i2"},
    {NN_INT32, "<i4"},   {NN_INT64, "<i8"},   {NN_UINT8, "|u1"},  {NN_UINT16, "<u2"},
    {NN_UINT32, "<u4"},  {NN_UINT64, "<u8"},  {NN_BOOL, "|b1"},
};
#define NAME_COUNT (sizeof names / sizeof *names)

static const char *descr_of(nn_type type) {
    for (size_t i = 0; i < NAME_COUNT; i++)
        if (names[i].type == type)
            return names[i].descr;
    return "?";
}

/* What follows "'key':" and blanks in the header, or NULL. */
static const char *value_of(const char *header, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s'", key);
    const char *at = strstr(header, quoted);
    if (at == NULL)
        return NULL;
    at += strlen(quoted);
    while (*at == ' ')
        at++;
    if (*at++ != ':')
        return NULL;
    while (*at == ' ')
        at++;
    return at;
}

static int read_shape(nn_npy *array, const char *at) {
    if (at == NULL || *at++ != '(')
        return -1;
    array->rank = 0;
    for (;;) {
        while (*at == ' ' || *at == ',')
            at++;
        if (*at == ')')
            return 0;
        if (*at < '0' || *at > '9' || array->rank == NN_NPY_MOST_AXES)
            return -1;
        char *end;
        errno = 0;
        long long size = strtoll(at, &end, 10);
        if (errno != 0)
            return -1;
        array->shape[array->rank++] = size;
        at = end;
    }
}

static int is_as_expected(const nn_npy *array, const nn_tensor *expected) {
    if (array->rank != expected->rank)
        return 0;
    for (int i = 0; i < array->rank; i++)
        if (array->shape[i] != expected->shape[i])
            return 0;
    return 1;
}

static void write_shape(char *text, size_t size, int rank, const int64_t *shape) {
    size_t used = (size_t)snprintf(text, size, "(");
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%lld%s", (long long)shape[i],
                                 rank == 1 ? "," : i + 1 < rank ? ", " : "");
    if (used < size)
        snprintf(text + used, size - used, ")");
}

/* The text of the header, or NULL; the caller frees it. */
static char *read_header(FILE *file) {
    unsigned char prelude[PRELUDE + 2];
    if (fread(prelude, 1, PRELUDE, file) != PRELUDE || memcmp(prelude, "\x93NUMPY", 6) != 0)
        return NULL;
    int version = prelude[6];
    size_t length = prelude[8] | (size_t)prelude[9] << 8;
    if (version == 2 || version == 3) {
        if (fread(prelude + PRELUDE, 1, 2, file) != 2)
            return NULL;
        length |= (size_t)prelude[10] << 16 | (size_t)prelude[11] << 24;
    } else if (version != 1)
        return NULL;
    if (length > MOST_HEADER)
        return NULL;
    char *text = calloc(length + 1, 1);
    if (text != NULL && fread(text, 1, length, file) != length) {
        free(text);
        return NULL;
    }
    return text;
}

static int check_header(nn_npy *array, const char *header, const char *path,
                        const nn_tensor *expected, char *error, size_t error_size) {
    const char *descr = value_of(header, "descr");
    const char *order = value_of(header, "fortran_order");
    if (descr == NULL || *descr != '\'' || order == NULL ||
        read_shape(array, value_of(header, "shape")) != 0)
        return nn_fail(error, error_size, "%s: its header is damaged, or it is no plain array", path);
    const char *wanted = descr_of(expected->type);
    if (strncmp(descr + 1, wanted, 3) != 0 || descr[4] != '\'')
        return nn_fail(error, error_size, "%s: its type is %.5s, and %s needs '%s'", path, descr,
                       expected->name, wanted);
    if (strncmp(order, "False", 5) != 0)
        return nn_fail(error, error_size,
                       "%s is in Fortran order; save np.ascontiguousarray(array)", path);
    if (!is_as_expected(array, expected)) {
        char found[256], needed[256];
        write_shape(found, sizeof found, array->rank, array->shape);
        write_shape(needed, sizeof needed, expected->rank, expected->shape);
        return nn_fail(error, error_size, "%s: its shape is %s, and %s needs %s", path, found,
                       expected->name, needed);
    }
    array->type = expected->type;
    array->size = expected->size;
    return 0;
}

static int read_data(nn_npy *array, FILE *file, const char *path, char *error, size_t error_size) {
    array->data = malloc(array->size > 0 ? array->size : 1);
    if (array->data == NULL)
        return nn_fail(error, error_size, "%s: out of memory for %zu bytes", path, array->size);
    size_t count = fread(array->data, 1, array->size, file);
    char beyond;
    if (count == array->size && fread(&beyond, 1, 1, file) == 0)
        return 0;
    free(array->data);
    array->data = NULL;
    return nn_fail(error, error_size, "%s: %s data than its shape says", path,
                   count == array->size ? "more" : "less");
}

int nn_npy_read(nn_npy *array, const char *path, const nn_tensor *expected, char *error,
                size_t error_size) {
    memset(array, 0, sizeof *array);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return nn_fail(error, error_size, "cannot open %s: %s", path, strerror(errno));
    char *header = read_header(file);
    int failed = header == NULL ? nn_fail(error, error_size, "%s is not an .npy file", path)
                                : check_header(array, header, path, expected, error, error_size);
    if (!failed)
        failed = read_data(array, file, path, error, error_size);
    free(header);
    fclose(file);
    return failed;
}

int nn_npy_write(const char *path, const nn_tensor *tensor, const void *data, char *error,
                 size_t error_size) {
    char shape[256], text[512];
    write_shape(shape, sizeof shape, tensor->rank, tensor->shape);
    int length = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                          descr_of(tensor->type), shape);
    size_t padded = (PRELUDE + (size_t)length + 1 + 63) / 64 * 64;
    unsigned char header[sizeof text + 128];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (unsigned char)((padded - PRELUDE) & 0xff);
    header[9] = (unsigned char)((padded - PRELUDE) >> 8);
    memcpy(header + PRELUDE, text, (size_t)length);
    header[padded - 1] = '\n';
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return nn_fail(error, error_size, "cannot write %s: %s", path, strerror(errno));
    int written = fwrite(header, 1, padded, file) == padded &&
                  fwrite(data, 1, tensor->size, file) == tensor->size;
    if (fclose(file) != 0 || !written)
        return nn_fail(error, error_size, "cannot write %s: %s", path, strerror(errno));
    return 0;
}
