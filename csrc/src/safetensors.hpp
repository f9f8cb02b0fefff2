// Reading safetensors files (https://github.com/huggingface/safetensors): 8 bytes little endian length N of the header, N
// bytes of JSON {"name": {"dtype", "shape", "data_offsets"}, ..., "__metadata__": {...}}, then the arrays, without gaps.
#pragma once

#include "json.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace ideal::detail {

struct Tensor {
    std::string name, type;
    std::vector<std::size_t> shape;
    std::size_t begin = 0, end = 0;
};

/// The arrays of a file; everything that is not as announced raises JsonError.
class Tensors {
public:
    Tensors(const Json& header, const char* data, std::size_t size, const std::vector<std::string>& types);

    const std::vector<Tensor>& all() const { return tensors_; }
    bool has(const std::string& name) const { return find(name) != nullptr; }

    /// Float64 values, all finite.
    std::vector<double> numbers(const std::string& name, const std::vector<std::size_t>& shape) const;
    /// Float32 values, all finite.
    std::vector<float> singles(const std::string& name, const std::vector<std::size_t>& shape) const;
    /// A positive whole number.
    std::size_t count(const std::string& name) const;

private:
    const Tensor* find(const std::string& name) const;
    const Tensor& checked(const std::string& name, const char* type, const std::vector<std::size_t>& shape) const;

    const char* data_;
    std::vector<Tensor> tensors_;
};

/// A whole file in memory. `types`: dtypes that may occur.
struct Safetensors {
    Safetensors(const char* data, std::size_t size, const std::vector<std::string>& types);

    std::size_t length = 0; // of the header
    Json header;
    Tensors tensors;
};

} // namespace ideal::detail
