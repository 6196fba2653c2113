// The CUDA side of the operators, registered with torch's dispatcher through its stable ABI. Their schemas are those of
// csrc/bindings/ops.cpp, which has to be loaded before.
//
// Nothing here waits for the device but advance_kcenters, once in every block of picks.

#include <Python.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>

#include "committee.cuh"
#include "fuse.cuh"
#include "kcenters.cuh"
#include "score.cuh"
#include "top_k.cuh"

namespace {

using prunefuse::CommitteeKind;
using prunefuse::ScoreKind;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;
namespace cuda = prunefuse::cuda;

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* written(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

Tensor empty_like_on(const Tensor& other, int64_t count, ScalarType type) {
  const std::array<int64_t, 1> shape = {count};
  return torch::stable::new_empty(other, torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), 1), type);
}

void check_rank(const Tensor& tensor, int64_t rank, const char* what) {
  STD_TORCH_CHECK(tensor.dim() == rank, what, ": expected ", rank, " dimensions, got ", tensor.dim());
}

void check_vector(const Tensor& tensor, ScalarType type, int64_t count, const char* what) {
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.dim() == 1 && tensor.size(0) == count, what, ": expected ",
                  torch::headeronly::toString(type), " [", count, "], got ",
                  torch::headeronly::toString(tensor.scalar_type()), " of ", tensor.dim(), " dimensions and ",
                  tensor.numel(), " elements");
}

void check_device(const Tensor& tensor, const Tensor& other, const char* what) {
  STD_TORCH_CHECK(tensor.device() == other.device(), what, ": expected the device of the others, number ",
                  other.get_device_index(), ", got ", tensor.is_cpu() ? "the CPU" : "number ",
                  tensor.is_cpu() ? "" : std::to_string(tensor.get_device_index()));
}

// Calls `run` with an example of the element type that kernels know the tensor's type by.
template <class Run>
void with_element(const Tensor& tensor, const char* what, Run run) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return run(float{});
    case ScalarType::BFloat16:
      return run(cuda::bfloat16{});
    case ScalarType::Half:
      return run(cuda::float16{});
    default:
      STD_TORCH_CHECK(false, what, ": expected float32, bfloat16 or float16, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

Tensor score(const Tensor& logits, int64_t kind) {
  check_rank(logits, 2, "logits");
  const int64_t rows = logits.size(0), classes = logits.size(1);
  STD_TORCH_CHECK(classes > 0, "logits: expected at least one class, got none");
  const DeviceGuard guard(logits.get_device_index());
  const Tensor from = torch::stable::contiguous(logits);
  const Tensor scores = empty_like_on(from, rows, ScalarType::Float);
  with_element(from, "logits", [&](auto example) {
    cuda::score(read<decltype(example)>(from), rows, classes, static_cast<ScoreKind>(kind), written<float>(scores),
                current_stream(from));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return scores;
}

Tensor score_committee(const Tensor& logits, int64_t kind) {
  check_rank(logits, 3, "logits");
  const int64_t members = logits.size(0), samples = logits.size(1), classes = logits.size(2);
  STD_TORCH_CHECK(0 < members && members <= cuda::most_members, "logits: expected from 1 to ", cuda::most_members,
                  " members, got ", members);
  STD_TORCH_CHECK(0 < classes && classes < int64_t{1} << 31, "logits: expected from 1 to 2^31 - 1 classes, got ",
                  classes);
  const DeviceGuard guard(logits.get_device_index());
  const Tensor from = torch::stable::contiguous(logits);
  const Tensor scores = empty_like_on(from, samples, ScalarType::Float);
  with_element(from, "logits", [&](auto example) {
    cuda::score_committee(read<decltype(example)>(from), members, samples, classes, static_cast<CommitteeKind>(kind),
                          written<float>(scores), current_stream(from));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return scores;
}

// The order of the values, highest first, and of equal ones the first first.
Tensor order_of(const Tensor& values) {
  std::array<StableIValue, 4> stack = {torch::stable::detail::from(values),
                                       torch::stable::detail::from(std::optional<bool>(true)),
                                       torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(true)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  const Tensor sorted = torch::stable::detail::to<Tensor>(stack[0]);
  return torch::stable::detail::to<Tensor>(stack[1]);
}

// The entries of a vector at these positions. torch::stable::index_select came with the headers of torch 2.14.
Tensor taken(const Tensor& vector, const Tensor& positions) {
  std::array<StableIValue, 3> stack = {torch::stable::detail::from(vector), torch::stable::detail::from(int64_t{0}),
                                       torch::stable::detail::from(positions)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::index_select", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

template <class Score>
Tensor highest(const Tensor& scores, int64_t k) {
  const Tensor positions = empty_like_on(scores, k, ScalarType::Long);
  const Tensor chosen = empty_like_on(scores, k, scores.scalar_type());
  const Tensor work = empty_like_on(scores, cuda::select_workspace_bytes(scores.size(0)), ScalarType::Byte);
  cuda::select_highest(read<Score>(scores), scores.size(0), k, written<int64_t>(positions), written<Score>(chosen),
                       work.mutable_data_ptr(), current_stream(scores));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  // The chosen come in the order of positions: a stable sort leaves equal ones in it.
  return taken(positions, order_of(chosen));
}

Tensor top_k(const Tensor& scores, int64_t k) {
  check_rank(scores, 1, "scores");
  const int64_t count = scores.size(0);
  STD_TORCH_CHECK(0 <= k && k <= count, "k: expected from 0 to ", count, ", got ", k);
  STD_TORCH_CHECK(count <= cuda::most_selected_from, "scores: expected at most ", cuda::most_selected_from, ", got ",
                  count);
  const DeviceGuard guard(scores.get_device_index());
  if (k == 0) return empty_like_on(scores, 0, ScalarType::Long);
  const Tensor from = torch::stable::contiguous(scores);
  if (from.scalar_type() == ScalarType::Float) return highest<float>(from, k);
  STD_TORCH_CHECK(from.scalar_type() == ScalarType::Double, "scores: expected float32 or float64, got ",
                  torch::headeronly::toString(from.scalar_type()));
  return highest<double>(from, k);
}

template <class T>
void advance(const Tensor& points, const Tensor& centers, int64_t known, const Tensor& bounds, const Tensor& folded,
             int64_t k, const Tensor& radii) {
  const cudaStream_t stream = current_stream(points);
  const int64_t rows = points.size(0), width = points.size(1);
  const cuda::KCentersState<T> state = {
      read<T>(points), rows, width, written<int64_t>(centers), known, written<float>(bounds), written<int32_t>(folded)};
  const int64_t bytes = cuda::kcenters_workspace(nullptr, rows, width, known == 0).bytes;
  const Tensor work = empty_like_on(points, bytes, ScalarType::Byte);
  cuda::advance_kcenters(
      state, k, written<float>(radii), work.mutable_data_ptr(), stream, [stream](const int64_t* number) {
        STD_CUDA_KERNEL_LAUNCH_CHECK();
        int64_t result = 0;
        STD_CUDA_CHECK(cudaMemcpyAsync(&result, number, sizeof result, cudaMemcpyDeviceToHost, stream));
        STD_CUDA_CHECK(cudaStreamSynchronize(stream));
        return result;
      });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> advance_kcenters(const Tensor& features, const Tensor& centers, Tensor bounds, Tensor folded,
                                            int64_t k) {
  check_rank(features, 2, "features");
  const int64_t rows = features.size(0), known = centers.numel();
  STD_TORCH_CHECK(features.size(1) > 0, "features: expected at least one column, got none");
  STD_TORCH_CHECK(rows <= 0x7fffffff, "features: expected at most 2^31 - 1 rows, got ", rows);
  check_vector(centers, ScalarType::Long, known, "centers");
  check_vector(bounds, ScalarType::Float, rows, "bounds");
  check_vector(folded, ScalarType::Int, rows, "folded");
  check_device(centers, features, "centers");
  check_device(bounds, features, "bounds");
  check_device(folded, features, "folded");
  STD_TORCH_CHECK(bounds.is_contiguous() && folded.is_contiguous(),
                  "bounds, folded: expected contiguous tensors, which are written in place");
  STD_TORCH_CHECK(0 <= k && k <= rows - known, "k: expected from 0 to ", rows - known, ", got ", k);
  const DeviceGuard guard(features.get_device_index());
  const Tensor points = torch::stable::contiguous(features);
  Tensor all_centers = empty_like_on(points, known + k, ScalarType::Long);
  Tensor head = torch::stable::narrow(all_centers, 0, 0, known);
  torch::stable::copy_(head, centers);
  const Tensor radii = empty_like_on(points, k, ScalarType::Float);
  if (points.scalar_type() == ScalarType::Float)
    advance<float>(points, all_centers, known, bounds, folded, k, radii);
  else if (points.scalar_type() == ScalarType::BFloat16)
    advance<cuda::bfloat16>(points, all_centers, known, bounds, folded, k, radii);
  else
    STD_TORCH_CHECK(false, "features: expected float32 or bfloat16, got ",
                    torch::headeronly::toString(points.scalar_type()));
  const Tensor picks = torch::stable::narrow(all_centers, 0, known, k);
  return {torch::stable::clone(picks), radii};
}

template <class T>
void fuse_as(const Tensor& dense, const Tensor& origin, const Tensor& values, const cuda::Segments& segments,
             int64_t seed, const Tensor& fused) {
  const int64_t count = dense.size(0);
  const uint64_t unsigned_seed = static_cast<uint64_t>(seed);
  const cudaStream_t stream = current_stream(dense);
  if (origin.scalar_type() == ScalarType::Long)
    cuda::fuse_flat(read<T>(dense), read<int64_t>(origin), read<T>(values), count, segments, unsigned_seed,
                    written<T>(fused), stream);
  else
    cuda::fuse_flat(read<T>(dense), read<int32_t>(origin), read<T>(values), count, segments, unsigned_seed,
                    written<T>(fused), stream);
}

Tensor fuse_flat(const Tensor& dense, const Tensor& origin, const Tensor& values, const Tensor& begins,
                 const Tensor& laws, const Tensor& parameters, int64_t seed) {
  check_rank(dense, 1, "dense");
  check_rank(values, 1, "values");
  check_rank(begins, 1, "begins");
  const int64_t count = dense.size(0), segment_count = begins.size(0);
  STD_TORCH_CHECK(origin.scalar_type() == ScalarType::Long || origin.scalar_type() == ScalarType::Int,
                  "origin: expected int64 or int32, got ", torch::headeronly::toString(origin.scalar_type()));
  check_vector(origin, origin.scalar_type(), count, "origin");
  check_vector(values, dense.scalar_type(), values.size(0), "values");
  check_vector(begins, ScalarType::Long, segment_count, "begins");
  check_vector(laws, ScalarType::Int, segment_count, "laws");
  STD_TORCH_CHECK(parameters.scalar_type() == ScalarType::Float && parameters.dim() == 2 &&
                      parameters.size(0) == segment_count && parameters.size(1) == 2,
                  "parameters: expected float32 [", segment_count, ", 2], got ",
                  torch::headeronly::toString(parameters.scalar_type()), " of ", parameters.numel(), " elements");
  STD_TORCH_CHECK(0 < segment_count && segment_count < int64_t{1} << 31, "begins: expected at least one segment, got ",
                  segment_count);
  check_device(origin, dense, "origin");
  check_device(values, dense, "values");
  check_device(begins, dense, "begins");
  check_device(laws, dense, "laws");
  check_device(parameters, dense, "parameters");
  const DeviceGuard guard(dense.get_device_index());
  const Tensor from = torch::stable::contiguous(dense), map = torch::stable::contiguous(origin),
               pruned = torch::stable::contiguous(values), all_begins = torch::stable::contiguous(begins),
               all_laws = torch::stable::contiguous(laws), all_parameters = torch::stable::contiguous(parameters);
  const cuda::Segments segments = {read<int64_t>(all_begins), read<int32_t>(all_laws), read<float>(all_parameters),
                                   static_cast<int>(segment_count)};
  const Tensor fused = empty_like_on(from, count, dense.scalar_type());
  if (dense.scalar_type() == ScalarType::Double)
    fuse_as<double>(from, map, pruned, segments, seed, fused);
  else
    with_element(from, "dense",
                 [&](auto example) { fuse_as<decltype(example)>(from, map, pruned, segments, seed, fused); });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return fused;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(prunefuse_bench, CUDA, library) {
  library.impl("score", TORCH_BOX(&score));
  library.impl("score_committee", TORCH_BOX(&score_committee));
  library.impl("top_k", TORCH_BOX(&top_k));
  library.impl("advance_kcenters", TORCH_BOX(&advance_kcenters));
  library.impl("fuse_flat", TORCH_BOX(&fuse_flat));
}

// Importing the module is loading the operators.
PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
