// Runs the CUDA kernels of csrc/cuda on the CPU over a file of cases (cases.py), each of them in several orders of
// threads, and compares with what is expected; all orders have to agree to the bit.
//
//     run_cases FILE [--seeds COUNT] [--only NAME]...      prints `ok NAME` or `FAIL NAME: why`, ends with 1 on a FAIL
//     run_cases FILE --list
//
// With SCORE, COMMITTEE, TOP_K, KCENTERS or FUSE defined only the kernels of these operators are compiled.

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <functional>
#include <set>

#include "../../csrc/core/launch.h"
#include "case_file.h"

#if !defined(SCORE) && !defined(COMMITTEE) && !defined(TOP_K) && !defined(KCENTERS) && !defined(FUSE)
#define SCORE
#define COMMITTEE
#define TOP_K
#define KCENTERS
#define FUSE
#endif

#ifdef SCORE
#include "../../csrc/cuda/score.cuh"
#endif
#ifdef COMMITTEE
#include "../../csrc/cuda/committee.cuh"
#endif
#ifdef TOP_K
#include "../../csrc/cuda/top_k.cuh"
#endif
#ifdef KCENTERS
#include "../../csrc/cuda/kcenters.cuh"
#endif
#ifdef FUSE
#include "../../csrc/cuda/fuse.cuh"
#endif

namespace {

using cases::Array;
using cases::Case;
using cases::Memory;

struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Values>
[[noreturn]] void mismatch(const char* format, Values... values) {
  char text[300];
  snprintf(text, sizeof text, format, values...);
  throw Mismatch(text);
}

// Everything that a launcher wrote, so that runs can be compared to the bit.
using Outputs = std::vector<Memory>;
using Operator = std::function<Outputs(const Case&)>;

// NaN expects NaN; infinities are equal only to themselves.
[[maybe_unused]] void expect_close(const Case& test, const char* key, const float* found, int64_t count) {
  const std::vector<double> expected = test.array(key).values<double>();
  const double absolute = test.number("absolute"), relative = test.number("relative");
  if (static_cast<int64_t>(expected.size()) != count) mismatch("%s: expected %zu values", key, expected.size());
  for (int64_t i = 0; i < count; ++i) {
    const double wanted = expected[static_cast<size_t>(i)], got = static_cast<double>(found[i]);
    if (std::isnan(wanted) && std::isnan(got)) continue;
    if (wanted == got) continue;
    if (!(std::fabs(wanted - got) <= absolute + relative * std::fabs(wanted)))
      mismatch("%s[%" PRId64 "]: expected %.9g, got %.9g", key, i, wanted, got);
  }
}

[[maybe_unused]] void expect_same_bytes(const Case& test, const char* key, const void* found) {
  const Array& expected = test.array(key);
  const char* const got = static_cast<const char*>(found);
  for (size_t i = 0; i < expected.bytes.size(); ++i)
    if (expected.bytes[i] != got[i]) {
      const size_t first = i / expected.element_bytes * expected.element_bytes;
      uint64_t wanted = 0, came = 0;
      std::memcpy(&wanted, expected.bytes.data() + first, expected.element_bytes);
      std::memcpy(&came, got + first, expected.element_bytes);
      mismatch("%s[%zu]: expected %#" PRIx64 ", got %#" PRIx64, key, first / expected.element_bytes, wanted, came);
    }
}

#ifdef SCORE
template <class T>
Outputs run_score(const Case& test) {
  const int64_t rows = test.integer("rows");
  const Memory logits = test.array("logits").place();
  Outputs outputs;
  const Memory& scores = outputs.emplace_back(static_cast<size_t>(rows) * sizeof(float));
  prunefuse::cuda::score(logits.as<const T>(), rows, test.integer("columns"),
                         static_cast<prunefuse::ScoreKind>(test.integer("kind")), scores.as<float>(), nullptr);
  expect_close(test, "scores", scores.as<float>(), rows);
  return outputs;
}
#endif

#ifdef COMMITTEE
template <class T>
Outputs run_committee(const Case& test) {
  const int64_t samples = test.integer("rows");
  const Memory logits = test.array("logits").place();
  Outputs outputs;
  const Memory& scores = outputs.emplace_back(static_cast<size_t>(samples) * sizeof(float));
  prunefuse::cuda::score_committee(logits.as<const T>(), test.integer("members"), samples, test.integer("columns"),
                                   static_cast<prunefuse::CommitteeKind>(test.integer("kind")), scores.as<float>(),
                                   nullptr);
  expect_close(test, "scores", scores.as<float>(), samples);
  return outputs;
}
#endif

#ifdef TOP_K
template <class Score>
Outputs run_select(const Case& test) {
  const Array& given = test.array("scores");
  const int64_t wanted = test.array("positions").count;
  const Memory scores = given.place();
  Outputs outputs;
  outputs.reserve(2);
  const Memory& positions = outputs.emplace_back(static_cast<size_t>(wanted) * sizeof(int64_t));
  const Memory& chosen = outputs.emplace_back(static_cast<size_t>(wanted) * sizeof(Score));
  const Memory work(static_cast<size_t>(prunefuse::cuda::select_workspace_bytes(given.count)));
  prunefuse::cuda::select_highest(scores.as<const Score>(), given.count, wanted, positions.as<int64_t>(),
                                  chosen.as<Score>(), work.as<void>(), nullptr);
  expect_same_bytes(test, "positions", positions.as<char>());
  expect_same_bytes(test, "chosen", chosen.as<char>());
  return outputs;
}
#endif

#ifdef KCENTERS
// The distance of every pick to its nearest center has to be the largest there is, to 1e-5 in exact arithmetic; and the
// radius that is told is that distance.
void expect_greedy(const Case& test, const std::vector<double>& points, int64_t columns, int64_t initial,
                   const std::vector<int64_t>& centers, const float* radii) {
  const int64_t rows = static_cast<int64_t>(points.size()) / columns;
  const int64_t total = static_cast<int64_t>(centers.size());
  std::vector<double> nearest(static_cast<size_t>(rows), INFINITY);
  std::vector<bool> is_center(static_cast<size_t>(rows));
  const auto distances_to = [&](const double* from, auto use) {
    for (int64_t row = 0; row < rows; ++row) {
      double square = 0.0;
      for (int64_t c = 0; c < columns; ++c) {
        const double difference = points[static_cast<size_t>(row * columns + c)] - from[c];
        square += difference * difference;
      }
      use(static_cast<size_t>(row), std::sqrt(square));
    }
  };
  const double ties = test.number("relative");
  for (int64_t i = 0; i < total; ++i) {
    const int64_t center = centers[static_cast<size_t>(i)];
    if (center < 0 || center >= rows) mismatch("pick %" PRId64 " is row %" PRId64, i - initial, center);
    if (is_center[static_cast<size_t>(center)])
      mismatch("pick %" PRId64 " is row %" PRId64 ", a center already", i - initial, center);
    if (i >= initial) {
      std::vector<double> distance = nearest;
      if (i == 0) {
        std::vector<double> mean(static_cast<size_t>(columns));
        for (size_t e = 0; e < points.size(); ++e) mean[e % static_cast<size_t>(columns)] += points[e] / rows;
        distances_to(mean.data(), [&](size_t row, double value) { distance[row] = value; });
      }
      double largest = -1.0;
      for (size_t row = 0; row < distance.size(); ++row)
        if (!is_center[row]) largest = std::max(largest, distance[row]);
      const double picked = distance[static_cast<size_t>(center)], told = i == 0 ? INFINITY : picked;
      if (!(picked >= largest * (1 - ties)))
        mismatch("pick %" PRId64 ": row %" PRId64 " is %.9g away, another %.9g", i - initial, center, picked, largest);
      const double radius = static_cast<double>(radii[i - initial]);
      // The smallest floats are wide apart.
      if (radius != told && !(std::fabs(radius - told) <= ties * told + 0x1p-149))
        mismatch("radius %" PRId64 ": expected %.9g, got %.9g", i - initial, told, radius);
    }
    is_center[static_cast<size_t>(center)] = true;
    distances_to(&points[static_cast<size_t>(center * columns)],
                 [&](size_t row, double value) { nearest[row] = std::min(nearest[row], value); });
  }
}

template <class T>
Outputs run_kcenters(const Case& test) {
  const int64_t rows = test.integer("rows"), columns = test.integer("columns"), count = test.integer("picks");
  const std::vector<int64_t> initial = test.array("initial").values<int64_t>();
  const std::vector<double> steps = test.array("steps").values<double>();  // shares of the picks, call by call
  const int64_t known = static_cast<int64_t>(initial.size());
  const Memory features = test.array("features").place();
  Outputs outputs;
  outputs.reserve(4);
  const Memory& centers = outputs.emplace_back(static_cast<size_t>(known + count) * sizeof(int64_t));
  const Memory& radii = outputs.emplace_back(static_cast<size_t>(count) * sizeof(float));
  const Memory& bounds = outputs.emplace_back(static_cast<size_t>(rows) * sizeof(float));
  const Memory& folded = outputs.emplace_back(static_cast<size_t>(rows) * sizeof(int32_t));
  std::copy(initial.begin(), initial.end(), centers.as<int64_t>());
  std::fill_n(bounds.as<float>(), rows, INFINITY);
  std::fill_n(folded.as<int32_t>(), rows, 0);
  int64_t reads = 0;
  for (int64_t done = 0, step = 0; done < count; ++step) {
    const int64_t some = std::min<int64_t>(count - done, static_cast<int64_t>(steps[static_cast<size_t>(step)]));
    const Memory work(
        static_cast<size_t>(prunefuse::cuda::kcenters_workspace(nullptr, rows, columns, known + done == 0).bytes));
    const prunefuse::cuda::KCentersState<T> state = {features.as<const T>(), rows,         columns,
                                                     centers.as<int64_t>(),  known + done, bounds.as<float>(),
                                                     folded.as<int32_t>()};
    prunefuse::cuda::advance_kcenters(state, some, radii.as<float>() + done, work.as<void>(), nullptr,
                                      [&](const int64_t* accepted) {
                                        ++reads;
                                        return *accepted;
                                      });
    done += some;
  }
  if (reads > test.integer("most_reads")) mismatch("%" PRId64 " blocks of picks for %" PRId64 " picks", reads, count);
  const std::vector<int64_t> all(centers.as<int64_t>(), centers.as<int64_t>() + known + count);
  if (test.has("picks")) expect_same_bytes(test, "picks", centers.as<int64_t>() + known);
  expect_greedy(test, test.array("points").values<double>(), columns, known, all, radii.as<float>());
  return outputs;
}
#endif

#ifdef FUSE
double as_double(double value) { return value; }
template <class T>
double as_double(T value) {
  return static_cast<double>(prunefuse::cuda::to_float(value));
}

template <class T, class Index>
Outputs run_fuse(const Case& test) {
  const Memory dense = test.array("dense").place(), origin = test.array("origin").place();
  const Memory values = test.array("values").place(), begins = test.array("begins").place();
  const Memory laws = test.array("laws").place(), parameters = test.array("parameters").place();
  const int64_t count = test.array("dense").count;
  const prunefuse::cuda::Segments segments = {begins.as<const int64_t>(), laws.as<const int32_t>(),
                                              parameters.as<const float>(),
                                              static_cast<int>(test.array("begins").count)};
  Outputs outputs;
  const Memory& fused = outputs.emplace_back(static_cast<size_t>(count) * sizeof(T),
                                             static_cast<size_t>(test.integer("past")) * sizeof(T));
  const uint64_t before = simt::launches();
  prunefuse::cuda::fuse_flat(dense.as<const T>(), origin.as<const Index>(), values.as<const T>(), count, segments,
                             test.array("seed").values<uint64_t>()[0], fused.as<T>(), nullptr);
  if (simt::launches() - before != 1) mismatch("%" PRIu64 " launches, expected one", simt::launches() - before);

  // What is copied or constant has to be exactly that; draws may be off by a rounding.
  const std::vector<double> expected = test.array("fused").values<double>();
  const std::vector<uint8_t> drawn = test.array("drawn").values<uint8_t>();
  for (size_t i = 0; i < expected.size(); ++i) {
    const double got = as_double(fused.as<T>()[i]);
    const double allowed = drawn[i] ? test.number("relative") * std::max(1.0, std::fabs(expected[i])) : 0.0;
    if (got != expected[i] && !(std::fabs(got - expected[i]) <= allowed))
      mismatch("fused[%zu]: expected %.9g, got %.9g", i, expected[i], got);
  }
  return outputs;
}
#endif

const std::map<std::string, Operator>& operators() {
  using namespace prunefuse::cuda;
  static const std::map<std::string, Operator> table = {
#ifdef SCORE
      {"score:float32", run_score<float>},
      {"score:bfloat16", run_score<bfloat16>},
      {"score:float16", run_score<float16>},
#endif
#ifdef COMMITTEE
      {"committee:float32", run_committee<float>},
      {"committee:bfloat16", run_committee<bfloat16>},
      {"committee:float16", run_committee<float16>},
#endif
#ifdef TOP_K
      {"top_k:float32", run_select<float>},
      {"top_k:float64", run_select<double>},
#endif
#ifdef KCENTERS
      {"kcenters:float32", run_kcenters<float>},
      {"kcenters:bfloat16", run_kcenters<bfloat16>},
#endif
#ifdef FUSE
      {"fuse:float32:int64", run_fuse<float, int64_t>},
      {"fuse:float64:int32", run_fuse<double, int32_t>},
      {"fuse:bfloat16:int64", run_fuse<bfloat16, int64_t>},
      {"fuse:float16:int32", run_fuse<float16, int32_t>},
#endif
  };
  return table;
}

void run_case(const Case& test, uint64_t seeds) {
  const Operator& run = operators().at(test.operator_name);
  Outputs first;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    simt::set_seed(seed);
    Outputs outputs = run(test);
    if (seed == 0)
      first = std::move(outputs);
    else
      for (size_t i = 0; i < first.size(); ++i)
        if (!first[i].same_as(outputs[i])) mismatch("orders 0 and %" PRIu64 " of threads differ", seed);
  }
}

}  // namespace

int main(int count, char** arguments) {
  uint64_t seeds = 3;
  bool list = false, failed = false;
  std::set<std::string> only;
  for (int i = 2; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--list")
      list = true;
    else if (argument == "--seeds" && i + 1 < count)
      seeds = std::stoull(arguments[++i]);
    else if (argument == "--only" && i + 1 < count)
      only.insert(arguments[++i]);
    else
      return fprintf(stderr, "expected FILE [--list] [--seeds COUNT] [--only NAME], got %s\n", arguments[i]), 2;
  }
  if (count < 2) return fprintf(stderr, "expected the name of a file of cases\n"), 2;
  for (const Case& test : cases::read_cases(arguments[1])) {
    if ((!only.empty() && only.count(test.name) == 0) || operators().count(test.operator_name) == 0) continue;
    if (list) {
      printf("%s\n", test.name.c_str());
      continue;
    }
    try {
      run_case(test, seeds);
      printf("ok %s\n", test.name.c_str());
    } catch (const std::exception& error) {
      failed = true;
      printf("FAIL %s: %s\n", test.name.c_str(), error.what());
    }
    fflush(stdout);
  }
  return failed ? 1 : 0;
}
