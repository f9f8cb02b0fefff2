// SPDX-License-Identifier: GPL-2.0-or-later
// What a LAMMPS plugin and LAMMPS tell each other. LAMMPS keeps these declarations in src/PLUGIN/lammpsplugin.h, which
// it does not install; this is the one place where they are repeated.
#pragma once

namespace LAMMPS_NS {
class LAMMPS;
}

extern "C" {

/// Makes a style: without arguments (pair styles), or with the words of its command (fixes, computes).
typedef void* (lammpsplugin_factory1)(LAMMPS_NS::LAMMPS*);
typedef void* (lammpsplugin_factory2)(LAMMPS_NS::LAMMPS*, int, char**);

/// One style of a plugin.
struct lammpsplugin_t {
    /// Version of LAMMPS that the plugin was compiled for, as LAMMPS prints it: "22 Jul 2025".
    const char* version;
    /// Kind of style: "pair", "fix", "compute".
    const char* style;
    /// Its name in the input script.
    const char* name;
    const char* info;
    const char* author;
    union {
        lammpsplugin_factory1* v1;
        lammpsplugin_factory2* v2;
    } creator;
    /// What dlopen gave LAMMPS for the plugin's file.
    void* handle;
};

/// Registers one style with a LAMMPS instance.
typedef void (*lammpsplugin_regfunc)(lammpsplugin_t*, void*);

/// The one function that LAMMPS looks for in a plugin.
void lammpsplugin_init(void* lammps, void* handle, void* register_function);
}
