// Which compiled variant of the kernels runs. The best one the processor supports is chosen at first use; the
// environment variable IDEAL_INSTRUCTION_SET (baseline, avx2, avx512) overrides it.
#pragma once

#include <string>
#include <vector>

namespace ideal {

/// Names of the variants that this build holds and this processor can run, slowest first.
std::vector<std::string> available_instruction_sets();

/// The variant in use.
std::string instruction_set();

/// Use another variant from now on (tests, benchmarks). Raises ConfigError for a name that is not available.
void select_instruction_set(const std::string& name);

} // namespace ideal
