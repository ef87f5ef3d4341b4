"""Packaging; tool settings are in pyproject.toml."""

from __future__ import annotations

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def version() -> str:
    """Return the version without importing the package, whose dependencies may not be there yet."""
    names: dict[str, str] = {}
    exec((ROOT / "tf_bnfold" / "version.py").read_text(encoding="utf-8"), names)
    return names["__version__"]


# onnx 1.19.0 lets in an ml_dtypes with which it can't be imported, that of TensorFlow 2.16.
ONNX = ["tf2onnx", "onnx!=1.19.0", "onnxruntime"]
KERAS2 = ["tf_keras>=2.16"]
REPORT = ["Jinja2>=3.1"]

setup(
    name="tf_bnfold",
    version=version(),
    description="Fold every batch norm of a TensorFlow graph into the linear op beside it, and convert it to TFLite.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["tf_bnfold", "tf_bnfold.*"]),
    package_data={"tf_bnfold": ["py.typed"], "tf_bnfold.page": ["*.html", "*.css", "*.js", "vendor/*"]},
    python_requires=">=3.10",
    install_requires=["tensorflow>=2.16.1", "absl-py", "numpy", "ml-dtypes", "protobuf", "ai-edge-litert"],
    extras_require={
        "onnx": ONNX,
        "keras2": KERAS2,
        "report": REPORT,
        "test": [
            *KERAS2,
            *ONNX,
            *REPORT,
            "pytest",
            "pytest-cov",
            "pytest-xdist",
            "hypothesis",
            "ruff~=0.17.0",
            "mypy~=2.4",
            "types-protobuf",
        ],
    },
    entry_points={"console_scripts": ["tf_bnfold=tf_bnfold.cli:main"]},
)
