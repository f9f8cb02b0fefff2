// The kernels. Included by one translation unit per instruction set, which defines
//   IDEAL_KERNELS            name of the function that returns the table
//   IDEAL_KERNELS_NAME       its name for people
//   IDEAL_LANES              doubles per native vector
//   IDEAL_VECTOR_REGISTERS   how many of them there are
//
// Everything lives in unnamed namespaces and uses no standard library template: see kernel.hpp.
#include "kernel_descriptor_impl.hpp"
#include "kernel_metric_impl.hpp"
#include "kernel_model_impl.hpp"

namespace ideal::detail {

const Kernels& IDEAL_KERNELS() {
    static const Kernels table{IDEAL_KERNELS_NAME, basis_kernels, select, normalize, reduce, metric_kernels(),
                               model_kernels()};
    return table;
}

} // namespace ideal::detail
