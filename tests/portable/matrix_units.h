// Takes the place of csrc/cpu/matrix_units.h where the processor has no such units: the same functions on tiles in
// memory. What is not loaded or cleared is NaN.

struct Tiles {
  alignas(64) unsigned char bytes[8][1024];
};

inline Tiles& tiles() {
  static thread_local Tiles all;
  return all;
}

template <int kRegister>
inline void load_tile(const void* from, int64_t stride_bytes) {
  for (int row = 0; row < 16; ++row)
    __builtin_memcpy(tiles().bytes[kRegister] + row * 64, static_cast<const char*>(from) + row * stride_bytes, 64);
}
template <int kRegister>
inline void store_tile(void* to) {
  __builtin_memcpy(to, tiles().bytes[kRegister], 1024);
}
template <int kRegister>
inline void clear_tile() {
  __builtin_memset(tiles().bytes[kRegister], 0, 1024);
}

inline float value_of(const unsigned char* at) {
  unsigned char bytes[4] = {0, 0, at[0], at[1]};
  float value;
  __builtin_memcpy(&value, bytes, 4);
  return value;
}

template <int kSums, int kInputs, int kWeights>
inline void add_products() {
  float sums[16][16];
  store_tile<kSums>(sums);
  for (int row = 0; row < 16; ++row)
    for (int output = 0; output < 16; ++output)
      for (int value = 0; value < 32; ++value)
        sums[row][output] += value_of(tiles().bytes[kInputs] + row * 64 + value * 2) *
                             value_of(tiles().bytes[kWeights] + value / 2 * 64 + output * 4 + value % 2 * 2);
  load_tile<kSums>(sums, 64);
}

inline void configure() { __builtin_memset(&tiles(), 0xff, sizeof(Tiles)); }
inline void release() { configure(); }
