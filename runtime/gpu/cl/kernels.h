/* What kernels are written in: OpenCL C 1.2, with names for what depends on the precision.
 *
 * element: how images and weights are stored. real4: four numbers products are computed in; sums are float.
 * ELEMENT_FLOAT: both are float. Else elements are half, and real4 is of half where REAL_HALF is defined: where
 * it is not, the device computes in float with the same values in memory.
 */
#ifndef KERNEL
#define KERNEL(X, Y, Z) __kernel __attribute__((reqd_work_group_size(X, Y, Z)))
#endif
#ifndef INLINE
#define INLINE static inline
#endif

#if defined(ELEMENT_FLOAT)
typedef float element;
typedef uint bits;
typedef float4 real4;
INLINE float4 load_float4(__global const element *p) { return *(__global const float4 *)p; }
INLINE void store_float4(float4 v, __global element *p) { *(__global float4 *)p = v; }
INLINE real4 load_real4(__global const element *p) { return load_float4(p); }
INLINE float4 to_float4(real4 v) { return v; }
#elif defined(REAL_HALF)
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
typedef half element;
typedef ushort bits;
typedef half4 real4;
INLINE real4 load_real4(__global const element *p) { return *(__global const half4 *)p; }
INLINE float4 load_float4(__global const element *p) { return convert_float4(load_real4(p)); }
INLINE void store_float4(float4 v, __global element *p) { *(__global half4 *)p = convert_half4(v); }
INLINE float4 to_float4(real4 v) { return convert_float4(v); }
#else
typedef half element;
typedef ushort bits;
typedef float4 real4;
INLINE float4 load_float4(__global const element *p) { return vload_half4(0, p); }
INLINE void store_float4(float4 v, __global element *p) { vstore_half4_rte(v, 0, p); }
INLINE real4 load_real4(__global const element *p) { return vload_half4(0, p); }
INLINE float4 to_float4(real4 v) { return v; }
#endif
