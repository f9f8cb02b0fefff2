// SPDX-License-Identifier: GPL-2.0-or-later
// What travels between fix ideal and `ideal-run serve` (ideal/lammps/serve/messages.py): 8 bytes, the length of the rest,
// little endian, then one safetensors file with JSON under the key "message" of its header.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

/// Collects the fields and arrays of a message.
class MessageWriter {
public:
    explicit MessageWriter(const std::string& kind);
    void text(const std::string& name, const std::string& value);
    void number(const std::string& name, double value); // null where it is not finite
    void integer(const std::string& name, long long value);
    void flag(const std::string& name, bool value);
    /// JSON as it stands.
    void raw(const std::string& name, const std::string& json);
    void array(const std::string& name, const std::vector<double>& values, const std::vector<std::size_t>& shape);
    void array(const std::string& name, const std::vector<long long>& values);
    /// The whole message, length included.
    std::string bytes() const;

private:
    void tensor(const std::string& name, const char* type, const std::string& shape, const void* data, std::size_t size);
    std::string fields_, header_, arrays_;
};

/// A message of the learner, as far as a client needs it.
struct Message {
    std::string kind, text, run, version;
    double threshold = 0;
    long long request = 0, labels = 0, protocol = 0;
    bool update = false, stop = false;
    std::map<std::string, std::vector<char>> arrays;
};

/// Cuts a stream of bytes into messages.
class MessageReader {
public:
    /// Bytes of a message at most.
    static constexpr std::size_t longest = std::size_t{1} << 31;
    void feed(const char* data, std::size_t size) { buffer_.insert(buffer_.end(), data, data + size); }
    /// The next one, if it is complete. Raises std::runtime_error for what is no message.
    std::optional<Message> next();
    void clear() { buffer_.clear(); }

private:
    std::vector<char> buffer_;
};
