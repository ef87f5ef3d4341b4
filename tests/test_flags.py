"""Flags in, Request out."""

from __future__ import annotations

import dataclasses
import os
import re

import pytest

from tf_bnfold import flags
from tf_bnfold.errors import FlagError
from tf_bnfold.options import Options, Request


def ask(*args: str) -> Request:
    return flags.request(flags.parse(["tf_bnfold", *args]), ["tf_bnfold", *args])


def test_the_defaults_are_those_of_options():
    assert ask("--saved_model=m", "--tflite=t") == Request(
        "m", tflite="t", options=Options(), command=("tf_bnfold", "--saved_model=m", "--tflite=t")
    )


def test_every_flag_arrives():
    request = ask(
        *("--saved_model=m", "--tflite=t", "--output_saved_model=o", "--report=r.json", "--overwrite", "--dry_run"),
        *("--report=r.html", "--explain=n,o", "--compare=old.json"),
        *("--tags=a,b", "--signature_keys=x,y", "--input_shapes=i:1,-1,3", "--input_shapes=a:b:", "--keep=bn_[12]"),
        *("--fail_if_unfolded", "--representative_data=d.npz", "--rtol=1e-5", "--allow_select_tf_ops"),
        *("--output_graph=g.pb", "--input_nodes=a,b:1", "--output_nodes=c", "--allow_custom_ops", "--widen_to_float32"),
        *(
            "--set_input=phase_train=false",
            "--set_input=n=3",
            "--set_input",
            "rate = 1e-3",
            "--set_input=s=[[1,2],[3,4]]",
        ),
        *("--set_input=p=(True, False)", "--quantize=int8", "--inference_input_type=int8"),
        *("--inference_output_type=uint8", "--calibration_samples=9", "--min_sqnr=20", "--image_mean=1,2.5,3"),
        *("--image_std=58", "--onnx=t.onnx", "--opset=17", "--allow_unsafe_deserialization", "--gpu_compatibility"),
        "--shared_weights=keep",
    )
    assert dataclasses.replace(request, command=()) == Request(
        saved_model="m",
        tflite="t",
        output_saved_model="o",
        output_graph="g.pb",
        onnx="t.onnx",
        report="r.json",
        page="r.html",
        explain=("n", "o"),
        compare="old.json",
        options=Options(
            signature_keys=("x", "y"),
            tags=("a", "b"),
            input_shapes={"i": (1, -1, 3), "a:b": ()},
            input_nodes=("a", "b:1"),
            output_nodes=("c",),
            set_input={"phase_train": False, "n": 3, "rate": 1e-3, "s": [[1, 2], [3, 4]], "p": (True, False)},
            allow_custom_ops=True,
            allow_unsafe_deserialization=True,
            opset=17,
            widen_to_float32=True,
            allow_select_tf_ops=True,
            representative_data="d.npz",
            image_mean=(1.0, 2.5, 3.0),
            image_std=(58.0,),
            quantize="int8",
            inference_input_type="int8",
            inference_output_type="uint8",
            calibration_samples=9,
            min_sqnr=20.0,
            gpu_compatibility=True,
            rtol=1e-5,
            keep="bn_[12]",
            shared_weights="keep",
            fail_if_unfolded=True,
            overwrite=True,
            dry_run=True,
        ),
    )
    assert ask("--saved_model=m", "--dry_run", "--noverify").options.verify is False


def test_a_frozen_graph_is_the_other_input():
    request = ask("--frozen_graph=~/g.pb", "--dry_run")
    assert (request.saved_model, request.frozen_graph) == ("", os.path.expanduser("~/g.pb"))


def test_a_keras_file_is_another():
    assert ask("--keras_model=~/net.h5", "--onnx=n").keras_model == os.path.expanduser("~/net.h5")


def test_a_report_is_output_enough():
    assert ask("--saved_model=m", "--report=r.json").report == "r.json"


def test_the_suffix_of_a_report_decides_what_it_is_and_of_one_form_the_later_counts():
    request = ask("--saved_model=m", "--report=a.json", "--report=~/p.html", "--report=b.json")
    assert (request.report, request.page) == ("b.json", os.path.expanduser("~/p.html"))
    assert ask("--saved_model=m", "--report=p.html").report == ""
    assert ask("--saved_model=m", "--report=r.xls").report == "r.xls"  # which check_paths refuses


def test_to_explain_alone_is_to_do_nothing_else():
    request = ask("--saved_model=m", "--explain=a, b:0")
    assert request.explain == ("a", "b:0")
    assert (request.options.dry_run, request.options.verify) == (True, False)
    request = ask("--saved_model=m", "--explain=a", "--tflite=t")
    assert (request.options.dry_run, request.options.verify) == (False, True)
    assert ask("--saved_model=m", "--explain=a", "--dry_run").options.verify is True


def test_to_compare_is_output_enough():
    assert ask("--saved_model=m", "--compare=~/old.json").compare == os.path.expanduser("~/old.json")


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert ask("--saved_model=~/m", "--tflite=~/t").tflite == "/home/me/t"
    assert ask("--saved_model=~/m", "--dry_run").saved_model == "/home/me/m"


def test_every_option_has_a_flag():
    named = {flag.name for group in flags.GROUPS.values() for flag in group}
    assert {field.name for field in dataclasses.fields(Options)} <= named


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--saved_mode=m"], "unknown flag --saved_mode; did you mean --saved_model?"),
        (["--saved-model=m"], "unknown flag --saved-model; did you mean --saved_model?"),
        (["--zzz"], "unknown flag --zzz; --help lists the flags"),
        (["m", "--tflite=t"], "stray argument 'm': everything is given by flags, as in --saved_model=m"),
        (["--saved_model=m", "--verify", "false"], "stray argument 'false'"),
        (["--verbosity=2"], "--verbosity=2"),
        (["--noverify=1"], "--noverify=1 does not take an argument"),
        (["--tflite"], "Missing value for flag --tflite"),
        (["--tflite", "--dry_run", "--saved_model=m"], "--tflite has no value: '--dry_run' is read as one"),
        (["--flagfile=no.cfg"], "--flagfile=no.cfg: can't be read: .*no.cfg"),
        (["--tflite=t"], "no input: give --saved_model DIR, --keras_model FILE or --frozen_graph FILE.pb"),
        (
            ["--saved_model=m", "--frozen_graph=g", "--dry_run"],
            "two inputs: give one of --saved_model and --frozen_graph",
        ),
        (
            ["--saved_model=m", "--keras_model=k.h5", "--dry_run"],
            "two inputs: give one of --saved_model and --keras_model",
        ),
        (["--saved_model=m", "--onnx=o", "--opset=8"], "--opset=8"),
        (["--saved_model=m", "--dry_run", "--shared_weights=some"], "--shared_weights=some: give copy, always or keep"),
        (["--frozen_graph=g", "--dry_run", "--signature_keys=a"], "--signature_keys: a frozen graph has no signatures"),
        (["--saved_model=m", "--dry_run", "--set_input=x"], "--set_input=x: give NAME=VALUE"),
        (["--saved_model=m", "--dry_run", "--set_input=x="], "--set_input=x=: give NAME=VALUE"),
        (["--saved_model=m", "--dry_run", "--set_input=x=y"], "--set_input=x=y: give true, false, a number, or lists"),
        (["--saved_model=m", "--dry_run", "--set_input=x=[1,[2]]"], "give true, false, a number, or lists"),
        (["--saved_model=m", "--dry_run", "--set_input=x=null"], "give true, false, a number, or lists"),
        (["--saved_model=m", "--dry_run", "--set_input=x=1", "--set_input=x=2"], "'x' has a value already"),
        (["--saved_model=m"], "no output: give --tflite FILE"),
        (["--saved_model=m", "--dry_run", "--keep=["], r"--keep=\[: not a regular expression: unterminated"),
        (["--saved_model=m", "--dry_run", "--rtol=0"], "--rtol=0.0: give a number above zero"),
        (["--saved_model=m", "--dry_run", "--rtol=nan"], "--rtol=nan: give a number above zero"),
        (["--saved_model=m", "--dry_run", "--noverify", "--representative_data=d"], "read by verification, and by"),
        (["--saved_model=m", "--tflite=t", "--quantize=int4"], "--quantize=int4: give one of none, dynamic"),
        (["--saved_model=m", "--tflite=t", "--quantize=int8"], "--quantize=int8 needs inputs to calibrate on"),
        (
            ["--saved_model=m", "--dry_run", "--gpu_compatibility"],
            "--gpu_compatibility is for a .tflite: give --tflite",
        ),
        (["--saved_model=m", "--dry_run", "--image_mean=grey"], "--image_mean=grey: give one number, or one per cha"),
        (["--saved_model=m", "--dry_run", "--image_std=0"], "--image_std: give one number, or one per channel"),
        (["--saved_model=m", "--dry_run", "--calibration_samples=0"], "--calibration_samples=0: give a number above"),
        (["--saved_model=m", "--dry_run", "--input_shapes=i:1,x"], "--input_shapes=i:1,x: give NAME:DIMENSIONS"),
        (["--saved_model=m", "--dry_run", "--input_shapes=i:1,-2"], "give NAME:DIMENSIONS"),
        (["--saved_model=m", "--dry_run", "--input_shapes=1,2"], "give NAME:DIMENSIONS"),
        (["--saved_model=m", "--dry_run", "--input_shapes=i:1", "--input_shapes=i:2"], "'i' has a shape already"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_way_out(args, words):
    with pytest.raises(FlagError, match=re.sub(r"[?]$", r"\\?", words)) as caught:
        ask(*args)
    assert "\n" not in str(caught.value)


def test_flagfiles_nest_and_what_comes_later_wins(tmp_path):
    inner, outer = tmp_path / "inner.cfg", tmp_path / "outer.cfg"
    inner.write_text("# a comment\n--keep=inner\n--rtol=0.5\n")
    outer.write_text(f"--flagfile={inner}\n--rtol=0.25\n\n--fail_if_unfolded\n")
    options = ask("--saved_model=m", f"--flagfile={outer}", "--dry_run").options
    assert options == Options(keep="inner", rtol=0.25, fail_if_unfolded=True, dry_run=True)
    assert ask("--saved_model=m", f"--flagfile={outer}", "--dry_run", "--nofail_if_unfolded").options.keep == "inner"


def test_a_stray_argument_in_a_flagfile_is_an_error(tmp_path):
    (tmp_path / "f.cfg").write_text("saved_model\n")
    with pytest.raises(FlagError, match="stray argument 'saved_model'"):
        ask(f"--flagfile={tmp_path / 'f.cfg'}")


def test_the_config_that_is_shipped_is_valid(pytestconfig):
    config = pytestconfig.rootpath / "configs" / "mobile_float32.cfg"
    others = ("--noverify", "--allow_select_tf_ops")
    options = ask(*others, f"--flagfile={config}", "--saved_model=m", "--tflite=t").options
    assert options == Options(verify=True, allow_select_tf_ops=False)


def test_help_shows_every_flag_with_its_group_and_every_exit_code():
    text = flags.help_text()
    for title, group in flags.GROUPS.items():
        assert f"\n\n{title}\n" in text
        for flag in group:
            assert f"  {flag.usage}  " in text
    assert [int(code) for code in re.findall(r"^  (\d+) ", text, re.MULTILINE)] == [0, 1, 2, 3, 4, 5, 6, 70]
    assert max(map(len, text.splitlines())) <= 120
