#pragma once
#include <stddef.h>
#define EXIT_SUCCESS 0
#define EXIT_FAILURE 1
int atexit(void (*)(void));
int atoi(const char *);
int posix_memalign(void **, size_t, size_t);
char *getenv(const char *);
double strtod(const char *, char **);
float strtof(const char *, char **);
long strtol(const char *, char **, int);
long long strtoll(const char *, char **, int);
unsigned long strtoul(const char *, char **, int);
unsigned long long strtoull(const char *, char **, int);
void *calloc(size_t, size_t);
void *malloc(size_t);
void *realloc(void *, size_t);
void abort(void) __attribute__((noreturn));
void exit(int) __attribute__((noreturn));
void free(void *);
void qsort(void *, size_t, size_t, int (*)(const void *, const void *));
