// Chemical symbols and atomic numbers.
#pragma once

#include <string>

namespace ideal {

/// Atomic number of a chemical symbol ("Li" -> 3); 0 for what is none.
int atomic_number(const std::string& symbol);

/// Symbol of an atomic number from 1 to 118; empty for others.
const char* chemical_symbol(int number);

} // namespace ideal
