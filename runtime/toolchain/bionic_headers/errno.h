#pragma once
#define ENOENT 2
#define EINTR 4
#define EAGAIN 11
#define ENOMEM 12
#define EINVAL 22
int *__errno(void);
#define errno (*__errno())
