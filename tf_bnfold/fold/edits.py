"""Apply what a search found. Everything was decided before; nothing here can fail half-way.

A node whose value changes loses its name (it gets a new one when the graph is written), and the node that now carries
a batch norm's value gets the batch norm's name, so that fetches and signatures stay true.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tf_bnfold.algebra.affine import Affine, Vector
from tf_bnfold.algebra.linear import Array
from tf_bnfold.fold.elements import Element, Role, read_element
from tf_bnfold.fold.route import AdaptConstant, After, Before, Edit, Merge, Scene, SetFill, Touch
from tf_bnfold.fold.sinks import Sink
from tf_bnfold.fold.sites import Site
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Graph, Node, Tensor, Use, controls_of_constant, new_node

_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


def apply(scene: Scene, edits: Iterable[Edit]) -> None:
    """Change the graph as the edits say."""
    pending = list(edits)
    for edit in pending:
        if isinstance(edit, Touch):
            edit.node.carries = None
    for edit in pending:
        if isinstance(edit, Before):
            _before(scene, edit)
        elif isinstance(edit, AdaptConstant):
            _adapt_constant(scene, edit)
        elif isinstance(edit, SetFill):
            _set_fill(scene, edit)
        elif isinstance(edit, Merge):
            _merge(edit)
    for after in _one_per_sink(pending):
        scene.ledger.take_after(after.sink, after.affine)
        if not after.affine.has_zero_offset:
            _insert_bias(scene, after.sink, after.affine.offset)


def _one_per_sink(edits: Iterable[Edit]) -> Iterable[After]:
    """The affines behind sinks; one that a route reaches several times, with different channels, gets one bias."""
    whole: dict[tuple[Node, int], After] = {}
    for edit in edits:
        if isinstance(edit, After):
            key = (edit.sink.node, edit.sink.axis_out)
            whole[key] = After(edit.sink, whole[key].affine.then(edit.affine)) if key in whole else edit
    return whole.values()


def _merge(edit: Merge) -> None:
    edit.site.affine = edit.affine.affine.then(edit.site.affine)
    edit.site.axis = edit.site.axis if edit.site.axis is not None else edit.affine.axis
    edit.site.is_merged = True


def bypass(scene: Scene, site: Site, *, carries_value: bool) -> None:
    """Take the site out: its readers read what it read.

    Args:
      scene: The graph.
      site: The site.
      carries_value: Whether what the site read has now the value that the site had, and so takes its name. Where no
        node can take a name that must survive, an Identity keeps it.
    """
    graph = scene.view.graph
    output, source = site.output, site.first.data
    controls = own_controls(scene, site)
    single = source.index == 0 and source.node.readers.keys() <= {0}
    takes_name = carries_value and single and source.node.carries is None and not graph.is_fetched(source.node)
    if controls or (graph.is_fetched(output) and not takes_name):
        _leave_identity(scene, site, source, controls)
        return
    graph.redirect(Tensor(output, 0), source)
    if takes_name:
        graph.hand_over(output, source.node)
    _remove(graph, site, source.node)


def own_controls(scene: Scene, site: Site) -> list[Node]:
    """What the site waits for and the op that it reads does not."""
    source = site.first.data.node
    return [control for control in _controls(site) if not scene.view.graph.waits_for(source, control)]


def rewrite(scene: Scene, site: Site) -> Node:
    """Write a site that stays with what has been merged into it, in no more ops than it had.

    Returns:
      The node that computes the value now.
    """
    node = site.first.node
    if node.op not in _NORMS:
        return replace(scene, site, site.affine, changes_value=False)
    # A mean of zero, and gamma and beta that make the affine: nothing cancels.
    variance = scene.view.constants.value(node.inputs[4])
    assert variance is not None, node.name
    root = np.sqrt(variance + attributes.value(node, "epsilon"))
    scale, offset = (np.broadcast_to(v, root.shape) for v in (site.affine.scale, site.affine.offset))
    for port, array in ((1, scale * root), (2, offset), (3, np.zeros_like(root))):
        _set_constant(scene, Use(node, port), array)
    return node


def replace(scene: Scene, site: Site, affine: Affine, *, changes_value: bool) -> Node:
    """Put one Add or Mul (or both) in the site's place.

    Args:
      scene: The graph.
      site: The site.
      affine: What stays of it.
      changes_value: Whether the value that the readers see changes, so that the site's name must go.

    Returns:
      The node that computes the value now.
    """
    graph, output, source = scene.view.graph, site.output, site.first.data
    node, stays = output, source
    parts = [("Mul", affine.scale)] if not affine.has_unit_scale else []
    parts += [("AddV2", affine.offset)] if not affine.has_zero_offset or not parts else []
    for op, vector in parts:
        dtype = attributes.dtype(output)
        constant = graph.constant(
            f"{output.name}/{'scale' if op == 'Mul' else 'offset'}",
            _shaped(scene, Tensor(output, 0), site.axis, vector),
            dtype,
            output,
            like=_operand(site),
        )
        node = new_node(f"{output.name}/{op}", op, None, T=dtype)
        graph.add(node, (stays, constant), near=output)
        scene.elements[node] = _element(node, op, site.axis, vector)
        stays = Tensor(node, 0)
    graph.redirect(Tensor(output, 0), stays)
    if not changes_value:
        graph.hand_over(output, node)
    for control in _controls(site):
        if not graph.waits_for(node, control):
            graph.add_control(node, control)
    _remove(graph, site, node)
    return node


def _adapt_constant(scene: Scene, edit: AdaptConstant) -> None:
    value = scene.view.constants.value(edit.node.inputs[edit.port])
    assert value is not None, edit.node.name
    _set_constant(scene, Use(edit.node, edit.port), value * edit.scale + edit.offset)


def _set_constant(scene: Scene, use: Use, array: Array) -> None:
    """Let an edge read a new constant; the old one goes when nobody reads it."""
    graph, old = scene.view.graph, use.node.inputs[use.port]
    dtype = attributes.dtype(old.node, old.index)
    graph.set_input(use.node, use.port, graph.constant(f"{use.node.name}/constant", array, dtype, use.node, like=old))
    graph.drop_unread(old.node)
    if use.node in scene.elements:
        element = read_element(scene.view, use.node)
        assert element is not None, use.node.name
        scene.elements[use.node] = element


def _controls(site: Site) -> list[Node]:
    """What the site, or a constant that it reads, waits for."""
    controls = [control for node in site.nodes for control in node.controls]
    for element in site.elements:
        for port, tensor in enumerate(element.node.inputs):
            if port != element.port and tensor.node.op != "Placeholder":
                controls.extend(controls_of_constant(tensor.node))
    return controls


def _operand(site: Site) -> Tensor:
    """A constant that the site reads."""
    return site.first.node.inputs[1 - site.first.port]


def _remove(graph: Graph, site: Site, heir: Node) -> None:
    """Take out the site's nodes, and the constants that only they read."""
    constants = [
        tensor.node
        for element in site.elements
        for port, tensor in enumerate(element.node.inputs)
        if port != element.port
    ]
    for node in reversed(site.nodes):
        graph.remove(node, heir)
    for constant in constants:
        graph.drop_unread(constant)


def _leave_identity(scene: Scene, site: Site, source: Tensor, controls: list[Node]) -> None:
    graph, output = scene.view.graph, site.output
    identity = new_node(output.name, "Identity", None, T=attributes.dtype(output))
    graph.add(identity, (source,), near=output)
    graph.redirect(Tensor(output, 0), Tensor(identity, 0))
    graph.hand_over(output, identity)
    for control in controls:
        graph.add_control(identity, control)
    _remove(graph, site, identity)


def _before(scene: Scene, edit: Before) -> None:
    added = scene.ledger.bias_of(edit.sink, edit.affine)
    scene.ledger.take_before(edit.sink, edit.affine)
    if edit.bias is not None:
        for node in edit.bias.between:
            node.carries = None
        _set_constant(scene, Use(edit.bias.node, edit.bias.port), edit.bias.array)
    elif not edit.affine.has_zero_offset:
        name_giver = edit.sink.node
        bias = _insert_bias(scene, edit.sink, added)
        scene.view.graph.hand_over(name_giver, bias)


def _insert_bias(scene: Scene, sink: Sink, offset: Vector) -> Node:
    """Put a bias behind the sink, in the form that the TFLite converter fuses."""
    graph, node, value = scene.view.graph, sink.node, Tensor(sink.node, 0)
    rank = scene.view.shapes.rank(value)
    dtype = attributes.dtype(node)
    channels = sink.linear.channels_out
    vector = offset if offset.size == channels else np.broadcast_to(offset, channels)
    last = rank is not None and sink.axis_out == rank - 1
    if last or (rank == 4 and sink.axis_out == 1):
        bias = new_node(f"{node.name}/bias", "BiasAdd", None, T=dtype, data_format=b"NHWC" if last else b"NCHW")
        array = vector
    else:
        bias = new_node(f"{node.name}/bias", "AddV2", None, T=dtype)
        array = _shaped(scene, value, sink.axis_out, vector)
    readers = tuple(node.readers.get(0, ()))
    constant = graph.constant(f"{node.name}/bias/constant", array, dtype, node, like=sink.weights)
    graph.add(bias, (value, constant), near=node, behind=True)
    for reader in readers:
        graph.set_input(reader.node, reader.port, Tensor(bias, 0))
    scene.elements[bias] = _element(bias, bias.op, sink.axis_out, vector)
    return bias


def _set_fill(scene: Scene, edit: SetFill) -> None:
    """A Pad becomes a PadV2, which writes another value than zero."""
    graph, node = scene.view.graph, edit.node
    dtype = attributes.dtype(node)
    if node.op == "PadV2":
        _set_constant(scene, Use(node, 2), np.array(edit.value))
        return
    pad = new_node(node.name, "PadV2", node.carries, T=dtype, Tpaddings=attributes.value(node, "Tpaddings"))
    fill = graph.constant(f"{node.name}/value", np.array(edit.value), dtype, node, like=node.inputs[1])
    graph.add(pad, (*node.inputs, fill), near=node)
    graph.redirect(Tensor(node, 0), Tensor(pad, 0))
    graph.hand_over(node, pad)
    graph.remove(node, pad)


def _shaped(scene: Scene, like: Tensor, axis: int | None, vector: Vector) -> Array:
    """The vector in the shape that broadcasts it along the axis of a value, whose rank is known where it has one."""
    if axis is None:
        return vector.reshape(())
    rank = scene.view.shapes.rank(like)
    assert rank is not None, like.node.name
    return vector.reshape((-1,) + (1,) * (rank - 1 - axis))


def _element(node: Node, op: str, axis: int | None, vector: Vector) -> Element:
    """An Add or Mul that an edit put in, as an element."""
    affine = Affine(vector, np.zeros(vector.size)) if op == "Mul" else Affine(np.ones(vector.size), vector)
    role = Role.SCALE if op == "Mul" else Role.OFFSET
    return Element(node, 0, role, axis if affine.channels > 1 else None, affine, affine.channels == 1)
