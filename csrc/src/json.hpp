// A small JSON reader (RFC 8259) for headers of state files: refuses whatever is not JSON, and says where.
#pragma once

#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace ideal::detail {

class JsonError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

struct Json {
    enum class Kind { null, boolean, number, string, array, object };
    Kind kind = Kind::null;
    bool boolean = false;
    double number = 0;
    std::string string;
    std::vector<Json> array;
    std::map<std::string, Json> object;

    /// The whole text must be one value. Raises JsonError; also for a key that occurs twice, nesting deeper than 32
    /// and numbers beyond float64.
    static Json parse(const char* text, std::size_t size);

    /// What the value is expected to be; JsonError naming `what` otherwise.
    bool as_bool(const char* what) const;
    double as_number(const char* what) const;
    /// A whole number from 0 to 2^53.
    std::size_t as_size(const char* what) const;
    const std::string& as_string(const char* what) const;
    const std::vector<Json>& as_array(const char* what) const;
    const std::map<std::string, Json>& as_object(const char* what) const;
    /// Member of an object; JsonError if it is missing.
    const Json& at(const char* key) const;
};

/// "text" with quotes and escapes.
std::string json_string(const std::string& text);
/// The shortest decimal that reads back as the same number.
std::string json_number(double number);

} // namespace ideal::detail
