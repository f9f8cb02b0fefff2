// The errors of the core. Each message says which value is wrong, what would be right and what to do.
#pragma once

#include <stdexcept>

namespace ideal {

/// Base of every error that the core raises on purpose.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// A parameter outside its valid set (n_max, l_max, sigma, species, threads ...).
class ConfigError : public Error {
public:
    using Error::Error;
};

/// A structure that cannot be described, or an uncertainty that cannot be given.
class UncertaintyError : public Error {
public:
    using Error::Error;
};

} // namespace ideal
