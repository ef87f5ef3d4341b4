"""Load what a request names, whatever its format."""

from __future__ import annotations

from tf_bnfold.formats.frozen_graph import load_frozen_graph
from tf_bnfold.formats.input_shapes import fix_input_shapes
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.surgery import Surgery
from tf_bnfold.options import Request


def load_model(request: Request) -> Model:
    """Load the input of a request, with its inputs, outputs and shapes as the options want them.

    Raises:
      InputError: If the input can't be used.
      FlagError: If an option names what is not there, or contradicts the model.
    """
    options = request.options
    surgery = Surgery.of(options)
    if request.frozen_graph:
        model = load_frozen_graph(request.frozen_graph, surgery)
    else:
        model = load_saved_model(
            request.saved_model, tags=options.tags, signature_keys=options.signature_keys, surgery=surgery
        )
    return fix_input_shapes(model, options.input_shapes)
