// The kernels for x86-64 with AVX2 and FMA.
#define IDEAL_KERNELS avx2_kernels
#define IDEAL_KERNELS_NAME "avx2"
#define IDEAL_LANES 4
#define IDEAL_VECTOR_REGISTERS 16
#include "kernel_impl.hpp"
