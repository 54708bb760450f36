#pragma once
#include <stdarg.h>
#include <stddef.h>
typedef struct __sFILE FILE;
#define EOF (-1)
#define SEEK_SET 0
#define SEEK_CUR 1
#define SEEK_END 2
/* Variables from API level 23 on. */
extern FILE *stderr;
extern FILE *stdin;
extern FILE *stdout;
#define stderr stderr
#define stdin stdin
#define stdout stdout
FILE *fopen(const char *, const char *);
char *fgets(char *, int, FILE *);
int fclose(FILE *);
int ferror(FILE *);
int fflush(FILE *);
int fprintf(FILE *, const char *, ...) __attribute__((format(printf, 2, 3)));
int fputs(const char *, FILE *);
int fseek(FILE *, long, int);
int printf(const char *, ...) __attribute__((format(printf, 1, 2)));
int putchar(int);
int puts(const char *);
int snprintf(char *, size_t, const char *, ...) __attribute__((format(printf, 3, 4)));
int vsnprintf(char *, size_t, const char *, va_list);
long ftell(FILE *);
size_t fread(void *, size_t, size_t, FILE *);
size_t fwrite(const void *, size_t, size_t, FILE *);
