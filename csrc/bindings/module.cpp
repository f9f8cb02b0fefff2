// The Python module ideal._core: registers what the bind_*.cpp files define, and turns the core's errors into
// ideal.errors.
#include "ideal/errors.hpp"
#include "ideal/instruction_set.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace ideal::python {
void bind_frame_scan(nb::module_& module);
void bind_neighbors(nb::module_& module);
void bind_soap(nb::module_& module);
void bind_mahalanobis(nb::module_& module);
} // namespace ideal::python

namespace {

void raise(const char* name, const char* message) {
    PyObject* errors = PyImport_ImportModule("ideal.errors");
    if (errors == nullptr) return; // the import error is the exception then
    PyObject* type = PyObject_GetAttrString(errors, name);
    Py_DECREF(errors);
    if (type == nullptr) return;
    PyErr_SetString(type, message);
    Py_DECREF(type);
}

} // namespace

NB_MODULE(_core, module) {
    module.doc() = "C++ core of IDEAL; use ideal.soap and ideal.uncertainty instead.";
    nb::register_exception_translator([](const std::exception_ptr& exception, void*) {
        try {
            std::rethrow_exception(exception);
        } catch (const ideal::UncertaintyError& error) {
            raise("UncertaintyError", error.what());
        } catch (const ideal::ConfigError& error) {
            raise("ConfigError", error.what());
        }
    });
    module.def("available_instruction_sets", &ideal::available_instruction_sets,
               "Kernel variants that this processor can run, slowest first.");
    module.def("instruction_set", &ideal::instruction_set, "The kernel variant in use.");
    module.def("select_instruction_set", &ideal::select_instruction_set, nb::arg("name"),
               "Use another kernel variant from now on (tests, benchmarks).");
    ideal::python::bind_frame_scan(module);
    ideal::python::bind_neighbors(module);
    ideal::python::bind_soap(module);
    ideal::python::bind_mahalanobis(module);
}
