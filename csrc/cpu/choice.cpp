// Which inner loops this machine gets. PRUNEFUSE_BENCH_ISA=baseline|avx2|avx512|avx512_bf16 names others, for tests and
// comparisons; with avx512 all products stay in single precision, with avx512_bf16 matrix units are not used.

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace prunefuse::cpu {

namespace {

std::string wanted() {
  const char* value = std::getenv("PRUNEFUSE_BENCH_ISA");
  return value == nullptr ? "" : value;
}

struct Choice {
  const Kernels* kernels = baseline_kernels();
  const Filter* single = baseline_filter();
  const Filter* bfloat16 = nullptr;
  Bfloat16Units units = Bfloat16Units::none;
  bool bytes = false;

  Choice() {
    const std::string isa = wanted();
    if (!isa.empty() && isa != "baseline" && isa != "avx2" && isa != "avx512" && isa != "avx512_bf16")
      throw std::invalid_argument("PRUNEFUSE_BENCH_ISA: expected baseline, avx2, avx512 or avx512_bf16, got '" + isa +
                                  "'");
    if (isa == "baseline") return;
    if (avx2_kernels() != nullptr) {
      kernels = avx2_kernels();
      single = avx2_filter();
    }
    if (isa == "avx2") return;
    if (avx512_kernels() != nullptr) {
      kernels = avx512_kernels();
      single = avx512_filter();
    }
    if (isa == "avx512") return;
    bytes = avx512_multiplies_bytes();
    if (avx512_multiplies_bfloat16()) units = Bfloat16Units::vector;
    if (isa == "avx512_bf16") return;
    bfloat16 = amx_filter();
    if (bfloat16 == nullptr) return;
    bytes = false;
    if (units == Bfloat16Units::vector) units = Bfloat16Units::matrix;
  }
};

const Choice& choice() {
  static const Choice chosen;
  return chosen;
}

}  // namespace

const Kernels& kernels() { return *choice().kernels; }
const Filter& single_filter() { return *choice().single; }
const Filter* bfloat16_filter() { return choice().bfloat16; }
Bfloat16Units bfloat16_units() { return choice().units; }
bool multiplies_bytes() { return choice().bytes; }

}  // namespace prunefuse::cpu
