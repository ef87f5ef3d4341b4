"""Compare the folded graph with the SavedModel or frozen graph that it came from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow as tf

from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import Model
from tf_bnfold.verify.decisions import Explain, Output, explaining
from tf_bnfold.verify.inner import Doubt, Plan, constant_differences, inner_differences, make_plan, results
from tf_bnfold.verify.original import Original, Run, frozen_graph, saved_model
from tf_bnfold.verify.rounding import Rounded, allowing, rounding
from tf_bnfold.verify.samples import Samples
from tf_bnfold.verify.session import TOO_MUCH, Inputs, Runner, feeds_of, fetches_of, opened, same_tensors
from tf_bnfold.verify.tally import Tally
from tf_bnfold.verify.values import Array, Comparison, LeftOut, NotVerified

INNER = "inner tensors with those before folding"


def verify_saved_model(
    path: str,
    tags: Sequence[str],
    frozen: Model,
    folded: Model,
    samples: Samples | NotVerified,
    *,
    rtol: float = 1e-3,
    name: str = "the SavedModel",
) -> tuple[Comparison | NotVerified, Comparison | NotVerified]:
    """Compare the folded graph with the SavedModel on disk, and all surviving inner tensors with those before folding.

    An error is max|a-b| / max|b| over the values that are finite in the original. What lies behind a discontinuous op
    (comparisons, ArgMax, Round, FakeQuant, ...) is judged by its error too, unless that op decided otherwise in the two
    runs, or could not be watched: then the share that differs is told and does not fail. Of an output this holds only
    as far as a small error at that op moves it (see decisions.py). What is random is not compared. Variables that the
    signatures write start from their initial values, and each sample is a step from there.

    Args:
      path: The SavedModel that `frozen` was loaded from.
      tags: Its tags.
      frozen: The model before folding.
      folded: The model after folding.
      samples: Inputs, from `make_samples`.
      rtol: The error to accept in float32; for float16 and bfloat16 it is at least 16 roundings of the dtype.
      name: What the SavedModel is called.

    Returns:
      What was found for the outputs, and for the inner tensors.
    """
    return _verified(saved_model(path, tags, frozen, name), frozen, folded, samples, rtol)


def verify_frozen_graph(
    path: str, frozen: Model, folded: Model, samples: Samples | NotVerified, *, rtol: float = 1e-3
) -> tuple[Comparison | NotVerified, Comparison | NotVerified]:
    """Compare the folded graph with the frozen graph on disk, in the way in which `verify_saved_model` does.

    Args:
      path: The file that `frozen` was loaded from.
      frozen: The model before folding; inputs that it cuts out are fed in the graph on disk.
      folded: The model after folding.
      samples: Inputs, from `make_samples`.
      rtol: The error to accept in float32.

    Returns:
      What was found for the outputs, and for the inner tensors.
    """
    return _verified(frozen_graph(path, frozen), frozen, folded, samples, rtol)


def _verified(
    original: Original, frozen: Model, folded: Model, samples: Samples | NotVerified, rtol: float
) -> tuple[Comparison | NotVerified, Comparison | NotVerified]:
    compared = f"folded graph with {original.name}"
    if isinstance(samples, NotVerified):
        reason = f"{samples.compared}: {samples.reason}"
        return NotVerified(compared, reason), NotVerified(INNER, reason)
    outputs, inner = Tally(compared), Tally(INNER)
    inner.add(constant_differences(frozen.graph_def, folded.graph_def))
    try:
        for together in _opened_together(folded):
            with original.open() as run:
                for keys in together:
                    _Comparing(keys, frozen, folded, run, original.name, outputs, inner).run(samples[keys[0]], rtol)
    except TOO_MUCH as error:
        reason = f"memory or time do not suffice here: {one_line(error)}"
        return NotVerified(compared, reason), NotVerified(INNER, reason)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        reason = f"{original.name} can not run here: {one_line(error)}"
        return NotVerified(compared, reason), NotVerified(INNER, reason)
    found, tensors = outputs.finding(), inner.comparison()
    return found, NotVerified(INNER, found.reason) if isinstance(found, NotVerified) and not tensors.failed else tensors


def _opened_together(folded: Model) -> list[list[tuple[str, ...]]]:
    """List the signatures that run in one session: all, or where there is state each in its own, to start anew."""
    if folded.state:
        return [[(key,)] for key in folded.signatures]
    return [same_tensors(folded.signatures)]


@dataclasses.dataclass(frozen=True)
class _Sessions:
    """What is open for a signature.

    Attributes:
      plan: What to compare.
      frozen: The graph before folding.
      folded: The graph after folding, None where there can be none.
      inner: The same for inner tensors; with state, where every run is a step, in a session of its own.
      rounded: Gives what rounding changes in the graph before folding; None with state, where every run is a step.
      explain: Tells which differences decisions can explain.
    """

    plan: Plan
    frozen: Runner
    folded: Runner | None
    inner: Runner | None
    rounded: Rounded | None
    explain: Explain


@dataclasses.dataclass(frozen=True)
class _Comparing:
    """One signature, or several that share their tensors, and where its differences go."""

    keys: tuple[str, ...]
    frozen: Model
    folded: Model
    original: Run
    name: str
    outputs: Tally
    inner: Tally

    def run(self, samples: Iterable[Inputs], rtol: float) -> None:
        signature = self.folded.signatures[self.keys[0]]
        with self._opened(feeds_of(signature, next(iter(samples))), rtol) as sessions:
            plan = sessions.plan
            self.inner.left_out.update(plan.left_out)
            random = [name for name, tensor in fetches_of(signature).items() if tensor in plan.unrepeatable]
            self.outputs.leave_out(LeftOut.UNREPEATABLE, (f"{key}: {name}" for key in self.keys for name in random))
            for index, inputs in enumerate(samples):
                # Keys that share their tensors compute the same: all at first, then in turns.
                keys = self.keys if index == 0 else (self.keys[index % len(self.keys)],)
                self._run_sample(keys, inputs, sessions)

    @contextlib.contextmanager
    def _opened(self, feeds: Mapping[str, Array], rtol: float) -> Iterator[_Sessions]:
        with opened(self.frozen, feeds) as frozen, contextlib.ExitStack() as stack:
            try:
                folded = stack.enter_context(opened(self.folded, feeds))
            except (tf.errors.OpError, ValueError):  # an invalid graph
                folded = None
            inner = stack.enter_context(opened(self.folded, feeds)) if folded and self.folded.state else folded
            plan = make_plan(self.frozen, self.folded, self.folded.signatures[self.keys[0]], frozen, folded, rtol)
            explain = stack.enter_context(explaining(self.frozen, plan.limit))
            rounded = None if self.frozen.state else stack.enter_context(rounding(self.frozen))
            yield _Sessions(plan, frozen, folded, inner, rounded, explain)

    def _run_sample(self, keys: Sequence[str], inputs: Inputs, sessions: _Sessions) -> None:
        signature = self.folded.signatures[self.keys[0]]
        fetches, feeds, plan = fetches_of(signature), feeds_of(signature, inputs), sessions.plan
        try:
            expected = {key: self.original(key, inputs) for key in keys}
        except tf.errors.OpError as error:  # it may refuse an input, say an index out of range
            self.outputs.refusal = self.inner.refusal = f"{self.name} can not take the inputs: {one_line(error)}"
            return
        self.outputs.samples += 1
        self.inner.samples += 1
        values: dict[str, Array] = {}
        doubt = Doubt()
        if sessions.folded is not None and sessions.inner is not None:
            wanted = set(fetches.values()) if sessions.inner is sessions.folded else set[str]()
            differences, doubt, values = inner_differences(
                plan, sessions.frozen, sessions.inner, sessions.rounded, feeds, wanted
            )
            self.inner.add(differences)
            missing = list(dict.fromkeys(tensor for tensor in fetches.values() if tensor not in values))
            if missing:
                found = results(sessions.folded, missing, feeds)
                values |= {name: value for name, value in zip(missing, found, strict=True) if value is not None}
        outputs = {
            f"{key}: {name}": Output(tensor, expected[key][name], values.get(tensor), plan.limit(tensor))
            for key in keys
            for name, tensor in fetches.items()
            if tensor not in plan.unrepeatable
        }
        differences = {name: doubt.judged(each.tensor, each.difference) for name, each in outputs.items()}
        differences |= sessions.explain(feeds, outputs, doubt.tipped)
        pairs = {name: each.pair for name, each in outputs.items()}
        self.outputs.add(
            allowing(differences, pairs, sessions.rounded, feeds) if sessions.rounded is not None else differences
        )
