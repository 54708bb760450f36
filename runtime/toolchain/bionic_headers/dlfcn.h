#pragma once
#define RTLD_LAZY 1
#define RTLD_NOW 2
#define RTLD_LOCAL 0
#define RTLD_GLOBAL 0x100
char *dlerror(void);
int dlclose(void *);
void *dlopen(const char *, int);
void *dlsym(void *, const char *);
