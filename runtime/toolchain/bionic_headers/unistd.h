#pragma once
#include <sys/types.h>
/* bionic numbers these as it likes: bionic/libc/include/bits/sysconf.h. */
#define _SC_PAGESIZE 0x0027
#define _SC_NPROCESSORS_CONF 0x0060
#define _SC_NPROCESSORS_ONLN 0x0061
int close(int);
int usleep(unsigned int);
long sysconf(int);
off_t lseek(int, off_t, int);
pid_t getpid(void);
ssize_t read(int, void *, size_t);
ssize_t write(int, const void *, size_t);
