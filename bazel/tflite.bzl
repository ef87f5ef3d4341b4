"""Convert models to .tflite files in a build: tf_bnfold_tflite, and tf_bnfold_tool for a Python of one's own."""

load("@rules_python//python:defs.bzl", "py_binary")

# What the rule itself gives: another value would write what Bazel does not see.
_OWN_FLAGS = [
    "saved_model",
    "keras_model",
    "frozen_graph",
    "tflite",
    "report",
    "onnx",
    "output_saved_model",
    "output_graph",
    "dry_run",
]

# A conversion depends on its inputs alone, not on the PATH of who runs it; without any, `env` would not find python3.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}

def tf_bnfold_tool(name, deps = [], **kwargs):
    """Defines the command as a py_binary.

    Args:
      name: Name of the target.
      deps: py_library targets of tensorflow, absl-py, numpy, ml-dtypes, protobuf and ai-edge-litert. None where the
        interpreter of the Python toolchain has them itself.
      **kwargs: Further attributes of py_binary, for instance data: files that the result depends on, such as a list of
        the interpreter's packages.
    """
    py_binary(
        name = name,
        srcs = [Label("//bazel:main.py")],
        main = Label("//bazel:main.py"),
        deps = [Label("//:tf_bnfold")] + deps,
        python_version = "PY3",
        # The folder of this repository has the name of its package: with an __init__.py it would hide it.
        legacy_create_init = 0,
        **kwargs
    )

def tf_bnfold_tflite(
        name,
        saved_model = None,
        flags = [],
        flagfiles = [],
        data = [],
        report = False,
        **kwargs):
    """Folds every batch norm of a model into the linear op beside it, and converts it to NAME.tflite.

    The target gives the .tflite, as an asset of android_library or a resource of java_library wants it. The build fails
    where the command does, with its message.

    Args:
      name: Name of the target; the file is NAME.tflite in its package. It may have slashes, as in "assets/detector".
      saved_model: Target of the files of one SavedModel, or of one folder that holds it. Instead of it keras_model or
        frozen_graph name a file.
      flags: Flags of the command, such as "--quantize=float16"; $(location TARGET) is the path of a target of data.
      flagfiles: Files of flags. Those in `flags` win over these.
      data: Files that flags name.
      report: Whether to write NAME.report.json too; it is in the output group "report".
      **kwargs: Also tool, a tf_bnfold_tool to run instead of @tf_bnfold//:tf_bnfold_cli, and the attributes that every
        rule has, such as visibility and tags.
    """
    _tf_bnfold_tflite(
        name = name,
        saved_model = saved_model,
        flags = flags,
        flagfiles = flagfiles,
        data = data,
        tflite = name + ".tflite",
        report = name + ".report.json" if report else None,
        **kwargs
    )

def _impl(ctx):
    _check_flags(ctx)
    inputs, source = _source(ctx)
    outputs = [ctx.outputs.tflite] + ([ctx.outputs.report] if ctx.outputs.report else [])
    arguments = ctx.actions.args()
    arguments.add_all(ctx.files.flagfiles, before_each = "--flagfile")
    arguments.add("--verbosity=-1")  # of hundreds of models only errors are of interest; flags may say otherwise
    arguments.add_all([ctx.expand_location(flag, ctx.attr.data) for flag in ctx.attr.flags])
    arguments.add_all(source)
    arguments.add("--tflite", ctx.outputs.tflite)
    if ctx.outputs.report:
        arguments.add("--report", ctx.outputs.report)
    ctx.actions.run(
        executable = ctx.executable.tool,
        arguments = [arguments],
        inputs = inputs + ctx.files.flagfiles + ctx.files.data,
        outputs = outputs,
        env = _ENVIRONMENT,
        mnemonic = "TfBnfold",
        progress_message = "Folding and converting %s" % ctx.label,
    )
    return [
        DefaultInfo(files = depset([ctx.outputs.tflite]), runfiles = ctx.runfiles([ctx.outputs.tflite])),
        OutputGroupInfo(report = depset(outputs[1:])),
    ]

def _check_flags(ctx):
    for flag in ctx.attr.flags:
        flag_name = flag.lstrip("-").partition("=")[0]
        if flag_name in _OWN_FLAGS:
            fail("flags: %s is given by the rule itself; drop it" % flag)

def _source(ctx):
    """Returns the files of the model, and the flag and the path that name it."""
    given = [kind for kind in ["saved_model", "keras_model", "frozen_graph"] if getattr(ctx.files, kind)]
    if len(given) != 1:
        fail("give one of saved_model, keras_model and frozen_graph, with files in it; %s do" % (given or "none"))
    files = getattr(ctx.files, given[0])
    path = _folder(files) if given[0] == "saved_model" else files[0].path
    return files, ["--" + given[0], path]

def _folder(files):
    """Returns the folder of a SavedModel."""
    if len(files) == 1 and files[0].is_directory:
        return files[0].path
    folders = [file.dirname for file in files if file.basename in ["saved_model.pb", "saved_model.pbtxt"]]
    if len(folders) != 1:
        fail("saved_model: give the files of one SavedModel, with its saved_model.pb: there are %d among %d files" %
             (len(folders), len(files)))
    for file in files:
        if not file.path.startswith(folders[0] + "/"):
            fail("saved_model: %s is not in the folder of saved_model.pb, %s" % (file.path, folders[0]))
    return folders[0]

_tf_bnfold_tflite = rule(
    implementation = _impl,
    attrs = {
        "data": attr.label_list(allow_files = True),
        "flagfiles": attr.label_list(allow_files = True),
        "flags": attr.string_list(),
        "frozen_graph": attr.label(allow_single_file = [".pb", ".pbtxt"]),
        "keras_model": attr.label(allow_single_file = [".keras", ".h5", ".hdf5"]),
        "report": attr.output(),
        "saved_model": attr.label(allow_files = True),
        "tflite": attr.output(mandatory = True),
        "tool": attr.label(default = Label("//:tf_bnfold_cli"), executable = True, cfg = "exec"),
    },
)
