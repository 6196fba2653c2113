"""Build of the C++/CUDA core; everything else is in pyproject.toml.

Three modules: ``_host`` (pybind11: how the core was built), ``_C`` (the operators, CPU kernels) and ``_C_cuda`` (their
CUDA kernels). ``_C_cuda`` is built where torch sees a GPU and a CUDA toolkit of torch's own version is found, or if
PRUNEFUSE_BENCH_CUDA=1 asks for it; PRUNEFUSE_BENCH_CUDA=0 leaves it out.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "prunefuse_bench/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)


def cuda_toolkit() -> Path | None:
    """The folder that holds nvcc and its headers: CUDA_HOME, the usual place, or the compiler's Python packages."""
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    candidates += [str(Path(folder) / "nvidia/cu13") for folder in sys.path]
    for candidate in filter(None, candidates):
        if (Path(candidate) / "bin/nvcc").exists() and (Path(candidate) / "include/cuda_runtime.h").exists():
            return Path(candidate)
    return None


TOOLKIT = cuda_toolkit()
if TOOLKIT is not None:  # torch looks for it when it is imported
    os.environ["CUDA_HOME"] = str(TOOLKIT)

import torch  # noqa: E402
from pybind11.setup_helpers import Pybind11Extension  # noqa: E402
from setuptools import setup  # noqa: E402
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


def builds_cuda() -> bool:
    wanted = os.environ.get("PRUNEFUSE_BENCH_CUDA", "auto")
    if wanted not in {"auto", "0", "1"}:
        sys.exit(f"PRUNEFUSE_BENCH_CUDA: expected auto, 0 or 1, got {wanted!r}")
    if wanted == "1" and (TOOLKIT is None or torch.version.cuda is None):
        sys.exit(
            f"PRUNEFUSE_BENCH_CUDA=1: expected nvcc (found in {TOOLKIT}) and a torch built for CUDA "
            f"(its version: {torch.version.cuda}); set CUDA_HOME to the toolkit's folder"
        )
    return wanted == "1" or (wanted == "auto" and TOOLKIT is not None and torch.cuda.is_available())


# The stable ABI of torch 2.10 and of Python 3.10: one build serves all later ones.
STABLE = ["-DPy_LIMITED_API=0x030A0000", "-DTORCH_TARGET_VERSION=0x020a000000000000"]

HOST_FLAGS = ["-O3", "-g0", "-Wall", "-Wno-maybe-uninitialized", "-fvisibility=hidden"]

sources = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc/cpu").glob("*.cpp"))]
headers = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").glob("*/*.h*"))]
CUDA = builds_cuda()

extensions = [
    Pybind11Extension(
        "prunefuse_bench._host",
        ["csrc/bindings/host.cpp"],
        cxx_std=17,
        define_macros=[
            ("PRUNEFUSE_BENCH_VERSION", f'"{VERSION}"'),
            ("PRUNEFUSE_BENCH_CUDA", "true" if CUDA else "false"),
        ],
    ),
    CppExtension(
        "prunefuse_bench._C",
        ["csrc/bindings/ops.cpp", *sources],
        depends=headers,
        py_limited_api=True,
        extra_compile_args={"cxx": HOST_FLAGS + STABLE},
    ),
]
if CUDA:
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0;12.0+PTX")
    extensions.append(
        CUDAExtension(
            "prunefuse_bench._C_cuda",
            ["csrc/cuda/ops.cu"],
            depends=headers + [str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc/cuda").glob("*.cuh"))],
            py_limited_api=True,
            extra_compile_args={"cxx": HOST_FLAGS + STABLE, "nvcc": ["-O3", "-DUSE_CUDA", *STABLE]},
        )
    )

setup(
    version=VERSION,
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExtension},
)
