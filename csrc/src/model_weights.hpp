// A trained M3GNet as the kernels take it: padded weights and views of them.
#pragma once

#include "kernel_model.hpp"

#include <cstddef>
#include <list>
#include <memory>
#include <vector>

namespace ideal::detail {

struct ModelWeights {
    std::vector<int> numbers;
    std::vector<double> references; // eV, per element
    double scale = 1;
    ModelView model{};
    ReadoutView readout{};
    std::vector<BlockView> blocks;
    std::vector<float> embedding; // (elements, U)
    std::list<std::vector<float>> arrays;
    std::vector<double> bond_matrix, angle_matrix;
};

/// From the contents of a model.safetensors. JsonError for what is damaged or not covered.
std::shared_ptr<const ModelWeights> read_model(const char* data, std::size_t size);

} // namespace ideal::detail
