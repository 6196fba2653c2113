// The processor's matrix units (AMX) by literal register numbers; included inside a namespace, after tiles.h.
//
// The compilers' own functions for tiles want literal register numbers, which template parameters are not.

template <int kRegister>
inline void load_tile(const void* from, int64_t stride_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride_bytes), "i"(kRegister) : "memory");
}
template <int kRegister>
inline void store_tile(void* to) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(int64_t{64}), "i"(kRegister) : "memory");
}
template <int kRegister>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kRegister));
}
template <int kSums, int kInputs, int kWeights>
inline void add_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kInputs), "i"(kWeights));
}

inline void configure() {
  const TileConfig config;
  asm volatile("ldtilecfg %0" : : "m"(config));
}
inline void release() { asm volatile("tilerelease"); }
