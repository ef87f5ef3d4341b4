"""A Python toolchain for the tool: an interpreter of this machine, such as that of a virtual environment."""

# Name and version of every package, in an order that does not depend on the machine.
_PACKAGES = """
import importlib.metadata, platform
found = {f"{d.metadata['Name']}=={d.version}".lower() for d in importlib.metadata.distributions()}
print("\\n".join([f"python=={platform.python_version()}", *sorted(found)]))
"""

_BUILD = """
load("@rules_python//python:defs.bzl", "py_runtime", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

exports_files(["packages.txt"])

py_runtime(
    name = "runtime",
    interpreter_path = "{interpreter}",
    stub_shebang = "#!/usr/bin/env python3",
    python_version = "PY3",
)

py_runtime_pair(
    name = "runtime_pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtime_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _impl(repository_ctx):
    interpreter = repository_ctx.os.environ.get("TF_BNFOLD_PYTHON") or repository_ctx.attr.interpreter
    if not interpreter.startswith("/"):
        fail("interpreter = %r: give an absolute path, here or with --repo_env=TF_BNFOLD_PYTHON=..." % interpreter)
    listed = repository_ctx.execute([interpreter, "-c", _PACKAGES])
    if listed.return_code:
        fail("%s can not be run: %s" % (interpreter, listed.stderr))
    if "\ntensorflow" not in listed.stdout:
        fail("%s has no TensorFlow: run `%s -m pip install` with the folder of tf_bnfold" % (interpreter, interpreter))
    repository_ctx.file("packages.txt", listed.stdout)
    repository_ctx.file("BUILD", _BUILD.format(interpreter = interpreter))

tf_bnfold_python = repository_rule(
    implementation = _impl,
    doc = """A toolchain, :toolchain, for an interpreter of this machine, and a list of its packages, :packages.txt.

An interpreter that is named by its path is no input of an action. The list is: as data of a tf_bnfold_tool it makes
Bazel convert again when a version changes, and keeps apart in a shared cache what different versions made. On each
machine that executes actions the interpreter has to be at the same path, with the same packages.
""",
    attrs = {
        "interpreter": attr.string(doc = "Absolute path; the environment variable TF_BNFOLD_PYTHON wins over it."),
    },
    environ = ["TF_BNFOLD_PYTHON"],
    configure = True,
    local = True,  # packages change without a change of any file that Bazel knows: asked anew with each server
)
