// SPDX-License-Identifier: GPL-2.0-or-later
#include "broadcast.hpp"

#include <algorithm>
#include <cstdio>

std::vector<char> broadcast_file(const std::string& path, MPI_Comm world, int rank, bool& fine) {
    std::vector<char> bytes;
    long long size = -1;
    if (rank == 0) {
        std::FILE* file = std::fopen(path.c_str(), "rb"); // streams throw when they read a folder
        char block[1 << 16];
        std::size_t n = 0;
        while (file != nullptr && (n = std::fread(block, 1, sizeof block, file)) > 0)
            bytes.insert(bytes.end(), block, block + n);
        if (file != nullptr && std::ferror(file) == 0) size = static_cast<long long>(bytes.size());
        if (file != nullptr) std::fclose(file);
    }
    MPI_Bcast(&size, 1, MPI_LONG_LONG, 0, world);
    fine = size >= 0;
    if (!fine) return {};
    bytes.resize(static_cast<std::size_t>(size));
    constexpr long long most = 1 << 30; // counts of MPI are ints
    for (long long begin = 0; begin < size; begin += most)
        MPI_Bcast(bytes.data() + begin, static_cast<int>(std::min(most, size - begin)), MPI_CHAR, 0, world);
    return bytes;
}
