/* Reads files as an int16 array of 2 x 3 and says what came of each; writes the first that is good. */
#include "npy.h"

#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words) {
    static const int64_t shape[] = {2, 3};
    const nn_tensor tensor = {"x", NN_INT16, 2, shape, 12};
    char error[400];
    for (int i = 2; i < count; i++) {
        nn_npy array;
        if (nn_npy_read(&array, words[i], &tensor, error, sizeof error) != 0) {
            printf("%s\n", error);
            continue;
        }
        printf("ok\n");
        if (nn_npy_write(words[1], &tensor, array.data, error, sizeof error) != 0)
            return 1;
        free(array.data);
    }
    return 0;
}
