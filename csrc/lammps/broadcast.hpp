// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <mpi.h>

#include <string>
#include <vector>

/// A file's bytes on every rank, read by rank 0 alone. `fine` is false on all ranks if it could not be read.
std::vector<char> broadcast_file(const std::string& path, MPI_Comm world, int rank, bool& fine);
