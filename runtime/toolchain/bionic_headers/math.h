#pragma once
#define HUGE_VALF __builtin_huge_valf()
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)
double ceil(double);
double cos(double);
double erf(double);
double exp(double);
double fabs(double);
double floor(double);
double fmax(double, double);
double fmin(double, double);
double log(double);
double pow(double, double);
double rint(double);
double round(double);
double sin(double);
double sqrt(double);
double tanh(double);
double trunc(double);
float atanf(float);
float atan2f(float, float);
float ceilf(float);
float cosf(float);
float erff(float);
float exp2f(float);
float expf(float);
float expm1f(float);
float fabsf(float);
float floorf(float);
float fmaf(float, float, float);
float fmaxf(float, float);
float fminf(float, float);
float fmodf(float, float);
float ldexpf(float, int);
float log1pf(float);
float log2f(float);
float logf(float);
float nearbyintf(float);
float powf(float, float);
float rintf(float);
float roundf(float);
float sinf(float);
float sqrtf(float);
float tanf(float);
float tanhf(float);
float truncf(float);
long lrintf(float);
long lroundf(float);
