// Python module for what is not a tensor operation: for now, how the core was built.

#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#elif defined(_MSC_VER)
  return "msvc " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

std::string architecture() {
#if defined(__x86_64__) || defined(_M_X64)
  return "x86-64";
#elif defined(__aarch64__) || defined(_M_ARM64)
  return "aarch64";
#else
  return "unknown";
#endif
}

py::dict build_info() {
  py::dict info;
  info["version"] = PRUNEFUSE_BENCH_VERSION;
  info["compiler"] = compiler();
  info["cxx_standard"] = static_cast<long>(__cplusplus);
  info["architecture"] = architecture();
#ifdef NDEBUG
  info["assertions"] = false;
#else
  info["assertions"] = true;
#endif
  info["cuda"] = PRUNEFUSE_BENCH_CUDA;
  return info;
}

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.doc() = "Host side of the prunefuse-bench core.";
  module.def("build_info", &build_info,
             "How this module was built: version, compiler, C++ standard, architecture, assertions, CUDA.");
}
