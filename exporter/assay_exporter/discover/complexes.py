"""Complex constants of a graph, which a program has no type for, as pairs of real numbers and the operator over them."""

import torch
from torch.export.graph_signature import InputKind


def as_pairs(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program, changed in place: each complex constant is a real one, viewed as complex where it was read."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    last = list(nodes.values())[-1]
    for spec in program.graph_signature.input_specs:
        constant = spec.kind is InputKind.CONSTANT_TENSOR or (
            spec.kind is InputKind.BUFFER and not spec.persistent
        )
        value = program.constants.get(spec.target) if constant else None
        if not isinstance(value, torch.Tensor) or not value.is_complex():
            continue
        placeholder = nodes[spec.arg.name]
        program.constants[spec.target] = torch.view_as_real(value.resolve_conj()).contiguous()
        with program.graph.inserting_after(last):
            made = program.graph.call_function(torch.ops.aten.view_as_complex.default, (placeholder,))
        made.meta["val"] = placeholder.meta["val"]
        placeholder.meta["val"] = torch.view_as_real(placeholder.meta["val"])
        placeholder.replace_all_uses_with(made, delete_user_cb=lambda user, made=made: user is not made)
    program.graph_module.recompile()
    return program
