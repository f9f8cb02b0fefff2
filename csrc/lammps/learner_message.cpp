// SPDX-License-Identifier: GPL-2.0-or-later
#include "learner_message.hpp"

#include "safetensors.hpp"

#include <cmath>
#include <cstdint>
#include <stdexcept>

namespace {

using ideal::detail::Json;
using ideal::detail::json_number;
using ideal::detail::json_string;

std::string little_endian(std::uint64_t number)
{
    std::string bytes;
    for (int k = 0; k < 8; ++k) bytes.push_back(static_cast<char>(number >> 8 * k & 0xff));
    return bytes;
}

/// A member that may be missing.
const Json* member(const Json& fields, const char* name)
{
    const auto found = fields.object.find(name);
    return found == fields.object.end() ? nullptr : &found->second;
}

std::string text_of(const Json& fields, const char* name)
{
    const Json* value = member(fields, name);
    return value == nullptr ? std::string() : value->as_string(name);
}

long long integer_of(const Json& fields, const char* name)
{
    const Json* value = member(fields, name);
    return value == nullptr ? 0 : static_cast<long long>(value->as_size(name));
}

bool flag_of(const Json& fields, const char* name)
{
    const Json* value = member(fields, name);
    return value != nullptr && value->as_bool(name);
}

Message parse(const char* data, std::size_t size)
{
    const ideal::detail::Safetensors file(data, size, {"U8", "F64", "I64"});
    const std::string text = file.header.at("__metadata__").at("message").as_string("message");
    const Json fields = Json::parse(text.data(), text.size());
    fields.as_object("message");
    Message message;
    message.kind = fields.at("kind").as_string("kind");
    message.text = text_of(fields, "text");
    message.run = text_of(fields, "run");
    message.version = text_of(fields, "version");
    message.request = integer_of(fields, "request");
    message.labels = integer_of(fields, "labels");
    message.protocol = integer_of(fields, "protocol");
    message.update = flag_of(fields, "update");
    message.stop = flag_of(fields, "stop");
    if (const Json* threshold = member(fields, "threshold")) message.threshold = threshold->as_number("threshold");
    const char* arrays = data + 8 + file.length;
    for (const ideal::detail::Tensor& tensor : file.tensors.all())
        if (tensor.type == "U8") message.arrays[tensor.name].assign(arrays + tensor.begin, arrays + tensor.end);
    return message;
}

} // namespace

MessageWriter::MessageWriter(const std::string& kind) : fields_("{\"kind\": " + json_string(kind)) {}

void MessageWriter::raw(const std::string& name, const std::string& json) { fields_ += ", " + json_string(name) + ": " + json; }

void MessageWriter::text(const std::string& name, const std::string& value) { raw(name, json_string(value)); }

void MessageWriter::number(const std::string& name, double value)
{
    raw(name, std::isfinite(value) ? json_number(value) : "null");
}

void MessageWriter::integer(const std::string& name, long long value) { raw(name, std::to_string(value)); }

void MessageWriter::flag(const std::string& name, bool value) { raw(name, value ? "true" : "false"); }

void MessageWriter::array(const std::string& name, const std::vector<double>& values, const std::vector<std::size_t>& shape)
{
    std::string text;
    for (const std::size_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
    tensor(name, "F64", text, values.data(), values.size() * sizeof(double));
}

void MessageWriter::array(const std::string& name, const std::vector<long long>& values)
{
    static_assert(sizeof(long long) == 8);
    tensor(name, "I64", std::to_string(values.size()), values.data(), values.size() * sizeof(long long));
}

void MessageWriter::tensor(const std::string& name, const char* type, const std::string& shape, const void* data,
                           std::size_t size)
{
    const std::size_t begin = arrays_.size();
    arrays_.append(static_cast<const char*>(data), size);
    header_ += ", " + json_string(name) + ": {\"dtype\": \"" + type + "\", \"shape\": [" + shape +
               "], \"data_offsets\": [" + std::to_string(begin) + ", " + std::to_string(begin + size) + "]}";
}

std::string MessageWriter::bytes() const
{
    std::string header = "{\"__metadata__\": {\"message\": " + json_string(fields_ + "}") + "}" + header_ + "}";
    header.append((8 - header.size() % 8) % 8, ' '); // arrays begin at multiples of 8
    return little_endian(8 + header.size() + arrays_.size()) + little_endian(header.size()) + header + arrays_;
}

std::optional<Message> MessageReader::next()
{
    if (buffer_.size() < 8) return std::nullopt;
    std::uint64_t size = 0;
    for (int k = 7; k >= 0; --k) size = size << 8 | static_cast<unsigned char>(buffer_[static_cast<std::size_t>(k)]);
    if (size > longest) throw std::runtime_error("a message of " + std::to_string(size) + " bytes");
    if (buffer_.size() - 8 < size) return std::nullopt;
    Message message = parse(buffer_.data() + 8, static_cast<std::size_t>(size));
    buffer_.erase(buffer_.begin(), buffer_.begin() + 8 + static_cast<std::ptrdiff_t>(size));
    return message;
}
