"""IDEAL inside LAMMPS: building the plugin whose styles stand in ``csrc/lammps``."""
