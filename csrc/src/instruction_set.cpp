#include "ideal/instruction_set.hpp"

#include "ideal/errors.hpp"
#include "kernel.hpp"

#include <atomic>
#include <cstdlib>

namespace ideal {
namespace {

std::vector<const detail::Kernels*> available_kernels() {
    std::vector<const detail::Kernels*> found{&detail::baseline_kernels()};
#ifdef IDEAL_X86_KERNELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(&detail::avx2_kernels());
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
            found.push_back(&detail::avx512_kernels());
    }
#endif
    return found;
}

const detail::Kernels* find(const std::string& name) {
    for (const auto* kernels : available_kernels())
        if (name == kernels->name) return kernels;
    std::string message = "instruction set '" + name + "' is not available here; valid:";
    for (const auto* kernels : available_kernels()) message += std::string(" ") + kernels->name;
    throw ConfigError(message);
}

std::atomic<const detail::Kernels*> selected{nullptr};

} // namespace

namespace detail {
const Kernels& kernels() {
    const Kernels* current = selected.load();
    if (current == nullptr) {
        const char* wish = std::getenv("IDEAL_INSTRUCTION_SET");
        current = wish != nullptr && *wish != '\0' ? find(wish) : available_kernels().back();
        selected.store(current);
    }
    return *current;
}
} // namespace detail

std::vector<std::string> available_instruction_sets() {
    std::vector<std::string> names;
    for (const auto* kernels : available_kernels()) names.emplace_back(kernels->name);
    return names;
}

std::string instruction_set() { return detail::kernels().name; }

void select_instruction_set(const std::string& name) { selected.store(find(name)); }

} // namespace ideal
