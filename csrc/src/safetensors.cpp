#include "safetensors.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace ideal::detail {
namespace {

[[noreturn]] void damaged(const std::string& why) { throw JsonError(why); }

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (std::size_t k = 0; k < words.size(); ++k) text += (k == 0 ? "" : k + 1 < words.size() ? ", " : " and ") + words[k];
    return text;
}

Json header_of(const char* data, std::size_t size, std::size_t& length) {
    if (size < 8) damaged("it ends before its header");
    std::uint64_t announced = 0;
    for (int k = 7; k >= 0; --k) announced = announced << 8 | static_cast<unsigned char>(data[k]);
    if (announced > size - 8)
        damaged("its header of " + std::to_string(announced) + " bytes does not fit a file of " + std::to_string(size));
    length = static_cast<std::size_t>(announced);
    Json header = Json::parse(data + 8, length);
    header.as_object("the header");
    return header;
}

template <typename T>
std::vector<T> finite_values(const Tensor& tensor, const char* data) {
    std::vector<T> values((tensor.end - tensor.begin) / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), data + tensor.begin, tensor.end - tensor.begin);
    for (const T value : values)
        if (!std::isfinite(value)) damaged(tensor.name + " holds numbers that are not finite");
    return values;
}

} // namespace

Tensors::Tensors(const Json& header, const char* data, std::size_t size, const std::vector<std::string>& types)
    : data_(data) {
    for (const auto& [name, entry] : header.object) {
        if (name == "__metadata__") continue;
        Tensor tensor;
        tensor.name = name;
        entry.as_object(name.c_str());
        tensor.type = entry.at("dtype").as_string("dtype");
        if (std::find(types.begin(), types.end(), tensor.type) == types.end())
            damaged(name + " has dtype " + tensor.type + "; " + joined(types) + " are known");
        std::size_t bytes = static_cast<std::size_t>(std::atoi(tensor.type.c_str() + 1)) / 8;
        for (const Json& extent : entry.at("shape").as_array("shape")) {
            tensor.shape.push_back(extent.as_size("an extent"));
            if (__builtin_mul_overflow(bytes, tensor.shape.back(), &bytes)) damaged(name + " is impossibly large");
        }
        const auto& offsets = entry.at("data_offsets").as_array("data_offsets");
        if (offsets.size() != 2) damaged("data_offsets of " + name + " must be two numbers");
        tensor.begin = offsets[0].as_size("data_offsets");
        tensor.end = offsets[1].as_size("data_offsets");
        if (tensor.begin > tensor.end || tensor.end > size || tensor.end - tensor.begin != bytes)
            damaged(name + " of " + std::to_string(bytes) + " bytes does not fit its offsets " +
                    std::to_string(tensor.begin) + " to " + std::to_string(tensor.end) + " in " +
                    std::to_string(size) + " bytes of data");
        tensors_.push_back(tensor);
    }
    std::sort(tensors_.begin(), tensors_.end(), [](const Tensor& a, const Tensor& b) {
        return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    std::size_t covered = 0;
    for (const Tensor& tensor : tensors_) {
        if (tensor.begin != covered) damaged("arrays overlap or leave a gap before " + tensor.name);
        covered = tensor.end;
    }
    if (covered != size)
        damaged(std::to_string(size - covered) + " bytes at the end belong to no array");
}

std::vector<double> Tensors::numbers(const std::string& name, const std::vector<std::size_t>& shape) const {
    return finite_values<double>(checked(name, "F64", shape), data_);
}

std::vector<float> Tensors::singles(const std::string& name, const std::vector<std::size_t>& shape) const {
    return finite_values<float>(checked(name, "F32", shape), data_);
}

std::size_t Tensors::count(const std::string& name) const {
    const Tensor& tensor = checked(name, "I64", {1});
    std::int64_t value = 0;
    std::memcpy(&value, data_ + tensor.begin, 8);
    if (value < 1) damaged(name + " is " + std::to_string(value));
    return static_cast<std::size_t>(value);
}

const Tensor* Tensors::find(const std::string& name) const {
    for (const Tensor& tensor : tensors_)
        if (tensor.name == name) return &tensor;
    return nullptr;
}

const Tensor& Tensors::checked(const std::string& name, const char* type,
                               const std::vector<std::size_t>& shape) const {
    const Tensor* tensor = find(name);
    if (tensor == nullptr) damaged(name + " is missing");
    if (tensor->type != type || tensor->shape != shape) {
        std::string wanted;
        for (const std::size_t extent : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(extent);
        damaged(name + " must be (" + wanted + ") of " + type);
    }
    return *tensor;
}

Safetensors::Safetensors(const char* data, std::size_t size, const std::vector<std::string>& types)
    : header(header_of(data, size, length)),
      tensors(header, data + 8 + length, size - 8 - length, types) {}

} // namespace ideal::detail
