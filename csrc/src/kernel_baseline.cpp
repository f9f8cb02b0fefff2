// The kernels for whatever the compiler targets by default: SSE2 on x86-64, NEON on aarch64.
#define IDEAL_KERNELS baseline_kernels
#define IDEAL_KERNELS_NAME "baseline"
#define IDEAL_LANES 2
#ifdef __aarch64__
#define IDEAL_VECTOR_REGISTERS 32
#else
#define IDEAL_VECTOR_REGISTERS 16
#endif
#include "kernel_impl.hpp"
