// The fused evaluation: chunks of centers go structure -> neighbors -> c_nlm -> features -> head, and, for the centers
// that the head wants, back to positions and strain. Nothing per pair outlives its chunk.
#pragma once

#include "ideal/aligned.hpp"
#include "ideal/structure.hpp"
#include "soap_basis.hpp"

#include <cstddef>
#include <vector>

namespace ideal::detail {

/// Centers of one species that are evaluated together.
struct Chunk {
    int species;
    int size;
    /// (size) index k into the caller's centers, and the atom behind it.
    const std::size_t* order;
    const std::ptrdiff_t* atoms;
};

/// What is done with the features of a chunk. Called from several threads at once, each with a scratch of its own.
class Head {
public:
    virtual ~Head() = default;

    /// Features are (size, stride) and may be overwritten. Returns how many centers want a backward pass; their
    /// positions within the chunk go to `active` and dL/d(features) to rows of `adjoint`, (count, stride).
    virtual int process(const Chunk& chunk, double* features, std::size_t stride, int* active, double* adjoint,
                        AlignedVector<double>& scratch) const = 0;
};

/// Largest chunk; the metric's matrix product reads its matrix once per chunk.
constexpr int chunk_size = 64;

/// Row stride of a chunk's features: a whole number of panels, plus what kernels write over.
std::size_t feature_stride(const SoapBasis& basis);

/// Run a head over the centers. The work is cut into the same chunks and the gradient summed in the same order whatever
/// the number of threads, so results do not depend on it. A gradient with null pointers means that none is wanted.
void run_pipeline(const SoapBasis& basis, const Structure& structure, Centers centers, const Head& head,
                  Gradient gradient, int threads);

} // namespace ideal::detail
