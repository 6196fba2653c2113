"""Build of the C++ core; everything else is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

VERSION = next(
    line.split('"')[1]
    for line in Path(__file__).with_name("prunefuse_bench").joinpath("__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    version=VERSION,
    ext_modules=[
        Pybind11Extension(
            "prunefuse_bench._host",
            ["csrc/bindings/host.cpp"],
            cxx_std=17,
            define_macros=[("PRUNEFUSE_BENCH_VERSION", f'"{VERSION}"')],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
