// Lets the kernels run on the processor, unchanged, so that they can be tested where there is no GPU: what NVRTC knows by
// itself of the CUDA language, as far as the kernels use it, in C++20.
//
// One block runs at a time; its threads are threads of the system, which meet at a real barrier, so that a phase that is not
// fenced off can be seen to fail. Never part of the program that a GPU gets.

#pragma once

#include <barrier>
#include <cmath>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#define __global__
#define __device__ inline
#define __restrict__
// Of the block, and there is one at a time.
#define __shared__ static

struct Index3 {
    unsigned x, y, z;
};

inline thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;
inline thread_local std::barrier<> *block_barrier;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }

inline unsigned atomicAdd(unsigned *at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline unsigned atomicOr(unsigned *at, unsigned value) { return __atomic_fetch_or(at, value, __ATOMIC_RELAXED); }

template <class Better> int replace_if(int *at, int value, Better better) {
    int old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (better(value, old) && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
inline int atomicMin(int *at, int value) { return replace_if(at, value, [](int a, int b) { return a < b; }); }
inline int atomicMax(int *at, int value) { return replace_if(at, value, [](int a, int b) { return a > b; }); }

inline int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

/// Runs a kernel as `cuLaunchKernel` does, with pointers to its arguments, and waits for it.
template <class... Arguments>
void launch(void (*kernel)(Arguments...), const unsigned grid[3], const unsigned block[3], void **arguments) {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const unsigned threads = block[0] * block[1] * block[2];
    std::barrier<> barrier(threads);
    const auto run = [&](unsigned thread) {
        gridDim = {grid[0], grid[1], grid[2]};
        blockDim = {block[0], block[1], block[2]};
        threadIdx = {thread % block[0], thread / block[0] % block[1], thread / block[0] / block[1]};
        block_barrier = &barrier;
        for (unsigned at = 0; at < grid[0] * grid[1] * grid[2]; ++at) {
            blockIdx = {at % grid[0], at / grid[0] % grid[1], at / grid[0] / grid[1]};
            [&]<std::size_t... I>(std::index_sequence<I...>) {
                kernel(*static_cast<Arguments *>(arguments[I])...);
            }(std::index_sequence_for<Arguments...>());
            // What the block shares is the next one's.
            barrier.arrive_and_wait();
        }
    };
    std::vector<std::thread> others;
    for (unsigned thread = 1; thread < threads; ++thread) {
        others.emplace_back(run, thread);
    }
    run(0);
    for (std::thread &other : others) {
        other.join();
    }
}
