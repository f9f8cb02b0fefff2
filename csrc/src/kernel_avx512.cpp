// The kernels for x86-64 with AVX-512 (F, DQ, VL, BW).
#define IDEAL_KERNELS avx512_kernels
#define IDEAL_KERNELS_NAME "avx512"
#define IDEAL_LANES 8
#define IDEAL_VECTOR_REGISTERS 32
#include "kernel_impl.hpp"
