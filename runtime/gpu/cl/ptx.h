/* OpenCL C's own functions for clang, whose NVPTX back end knows none; also for processors, in tests.
 *
 * Only what kernels use: a function that is missing here is an error when a network is compiled.
 */
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef __SIZE_TYPE__ size_t;
#define VECTORS(T)                                     \
    typedef T T##2 __attribute__((ext_vector_type(2))); \
    typedef T T##4 __attribute__((ext_vector_type(4))); \
    typedef T T##8 __attribute__((ext_vector_type(8)));
VECTORS(float)
VECTORS(half)
VECTORS(int)

#define INLINE static inline __attribute__((always_inline))
#define MANY __attribute__((overloadable)) INLINE
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define CLK_LOCAL_MEM_FENCE 1
#define __kernel __attribute__((device_kernel))

#ifdef __NVPTX__
#define KERNEL(X, Y, Z) __kernel __attribute__((reqd_work_group_size(X, Y, Z)))
#define INDEX(NAME, REGISTER)                                             \
    INLINE uint NAME(uint axis) {                                         \
        return axis == 0 ? __nvvm_read_ptx_sreg_##REGISTER##_x()          \
                         : axis == 1 ? __nvvm_read_ptx_sreg_##REGISTER##_y() \
                                     : __nvvm_read_ptx_sreg_##REGISTER##_z(); \
    }
INDEX(get_group_id, ctaid)
INDEX(get_local_id, tid)
INLINE void barrier(uint flags) {
    (void)flags;
    __syncthreads();
}
#else
#define KERNEL(X, Y, Z) __kernel
uint get_group_id(uint axis);
uint get_local_id(uint axis);
void barrier(uint flags);
#endif

#define ONE(NAME, TYPE, VALUE) \
    MANY TYPE NAME(TYPE x) { return VALUE; }
#define TWO(NAME, TYPE, VALUE) \
    MANY TYPE NAME(TYPE x, TYPE y) { return VALUE; }
#define THREE(NAME, TYPE, VALUE) \
    MANY TYPE NAME(TYPE x, TYPE y, TYPE z) { return VALUE; }
#define FLOATS(NAME, KIND, VALUE) KIND(NAME, float, VALUE) KIND(NAME, float4, VALUE)

FLOATS(floor, ONE, __builtin_elementwise_floor(x))
FLOATS(ceil, ONE, __builtin_elementwise_ceil(x))
FLOATS(trunc, ONE, __builtin_elementwise_trunc(x))
FLOATS(rint, ONE, __builtin_elementwise_rint(x))
FLOATS(fabs, ONE, __builtin_elementwise_abs(x))
FLOATS(fmax, TWO, __builtin_elementwise_max(x, y))
FLOATS(fmin, TWO, __builtin_elementwise_min(x, y))
FLOATS(fma, THREE, __builtin_elementwise_fma(x, y, z))
THREE(fma, half4, __builtin_elementwise_fma(x, y, z))
#define SMALLER_AND_LARGER(TYPE)           \
    TWO(max, TYPE, x > y ? x : y)          \
    TWO(min, TYPE, x < y ? x : y)
SMALLER_AND_LARGER(float)
SMALLER_AND_LARGER(double)
SMALLER_AND_LARGER(char)
SMALLER_AND_LARGER(uchar)
SMALLER_AND_LARGER(short)
SMALLER_AND_LARGER(ushort)
SMALLER_AND_LARGER(int)
SMALLER_AND_LARGER(uint)
SMALLER_AND_LARGER(long)
SMALLER_AND_LARGER(ulong)
ONE(isnan, float, x != x)
ONE(isinf, float, __builtin_elementwise_abs(x) == INFINITY)
TWO(fmod, float, x - y * __builtin_elementwise_trunc(x / y))
ONE(round, float, (x < 0 ? -1.0f : 1.0f) * __builtin_elementwise_floor(__builtin_elementwise_abs(x) + 0.5f))

#ifdef __NVPTX__
#define SQRT(X) __nvvm_sqrt_rn_f(X)
ONE(sin, float, __nvvm_sin_approx_f(x))
ONE(cos, float, __nvvm_cos_approx_f(x))
#else
#define SQRT(X) __builtin_elementwise_sqrt(X)
ONE(sin, float, __builtin_elementwise_sin(x))
ONE(cos, float, __builtin_elementwise_cos(x))
#endif
ONE(sqrt, float, SQRT(x))
MANY float4 sqrt(float4 x) { return (float4)(SQRT(x.x), SQRT(x.y), SQRT(x.z), SQRT(x.w)); }
ONE(rsqrt, float, 1.0f / SQRT(x))

#define CONVERT(TO)                                                   \
    MANY TO convert_##TO(float x) { return (TO)x; }                   \
    MANY TO convert_##TO(char x) { return (TO)x; }                    \
    MANY TO convert_##TO(uchar x) { return (TO)x; }                   \
    MANY TO convert_##TO(short x) { return (TO)x; }                   \
    MANY TO convert_##TO(ushort x) { return (TO)x; }                  \
    MANY TO convert_##TO(int x) { return (TO)x; }                     \
    MANY TO convert_##TO(uint x) { return (TO)x; }                    \
    MANY TO convert_##TO(long x) { return (TO)x; }                    \
    MANY TO convert_##TO(ulong x) { return (TO)x; }
CONVERT(float)
CONVERT(char)
CONVERT(uchar)
CONVERT(short)
CONVERT(ushort)
CONVERT(int)
CONVERT(uint)
CONVERT(long)
CONVERT(ulong)
MANY float4 convert_float4(half4 x) { return __builtin_convertvector(x, float4); }
MANY float4 convert_float4(int4 x) { return __builtin_convertvector(x, float4); }
MANY half4 convert_half4(float4 x) { return __builtin_convertvector(x, half4); }
MANY int4 convert_int4(float4 x) { return __builtin_convertvector(x, int4); }
#define as_int(X) __builtin_astype(X, int)
#define as_float(X) __builtin_astype(X, float)
#define as_int4(X) __builtin_astype(X, int4)
#define as_float4(X) __builtin_astype(X, float4)

#define SELECTS(TYPE, CONDITION) \
    MANY TYPE select(TYPE other, TYPE value, CONDITION condition) { return condition ? value : other; }
SELECTS(float, int)
SELECTS(int, int)
SELECTS(uint, int)
SELECTS(long, long)
SELECTS(ulong, long)
SELECTS(short, short)
SELECTS(uchar, char)
SELECTS(char, char)
MANY float4 select(float4 other, float4 value, int4 condition) {
    return as_float4((condition & as_int4(value)) | (~condition & as_int4(other)));
}
