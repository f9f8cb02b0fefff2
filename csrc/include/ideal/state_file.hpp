// The state of a SoapMahalanobis in one safetensors file, the one that Python's SoapMahalanobis.save writes: read and
// written here without Python.
//
// Format (https://github.com/huggingface/safetensors): 8 bytes little endian length N of the header, N bytes of JSON
// {"name": {"dtype", "shape", "data_offsets"}, ..., "__metadata__": {...}}, then the arrays, without gaps. Per element X
// seen: X.count (1) I64, X.mean (n) F64, X.scatter (n, n) F64; where there is one distribution over all elements, mean
// and scatter are those of "all". Parameters stand in the metadata.
#pragma once

#include "ideal/mahalanobis.hpp"

#include <cstddef>
#include <memory>
#include <string>

namespace ideal {

/// Read a state; the same numbers give the same u, to the last bit, as in the program that wrote it.
/// Raises UncertaintyError for a file that is missing, damaged, or of another kind; the message says what is wrong.
std::unique_ptr<SoapMahalanobis> read_state(const std::string& path);

/// The same from memory; `name` stands for the file in messages.
std::unique_ptr<SoapMahalanobis> parse_state(const char* data, std::size_t size, const std::string& name);

/// Write a state in one step: a file beside it replaces the old one when complete.
/// Raises UncertaintyError if that fails; the old file is then as it was.
void write_state(const SoapMahalanobis& uncertainty, const std::string& path);

} // namespace ideal
