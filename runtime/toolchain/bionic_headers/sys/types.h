#pragma once
#include <stddef.h>
typedef int clockid_t;
typedef int pid_t;
typedef long off_t;
typedef long ssize_t;
typedef long time_t;
typedef unsigned int mode_t;
