// rotary.cuh: which two channels of a rotary head turn together, and their turn.
#pragma once

#include "device.cuh"

// Places of pair j's two channels among the r of a head.
struct PairPlaces {
  unsigned first, second;
};

__device__ __forceinline__ PairPlaces pair_places(unsigned j, unsigned half, bool are_halves) {
  if (are_halves) return {j, j + half};
  return {2 * j, 2 * j + 1};
}

// (a, b) -> (a cos - b sin, b cos + a sin)
__device__ __forceinline__ void turn(float& a, float& b, float cos, float sin) {
  const float turned = a * cos - b * sin;
  b = b * cos + a * sin;
  a = turned;
}
