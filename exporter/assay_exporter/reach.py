"""python -m assay_exporter reach [NAMES…]: which weights no output of a program's golden run depends on.

Writes docs/inputs_reach.md from the programs as they are committed. A weight counts as out of reach where the
gradient of a random projection of all outputs with respect to it is zero in every element: no fault in it could
show, whatever the tolerance. Rounding, comparisons and choices pass no gradient: REASONS says why a
parameter may stay out of reach.
"""

import argparse
import dataclasses
import multiprocessing
import pathlib
import re
import statistics

import torch

from . import catalogue, export, mock, replay, tensors

TABLE = catalogue.ROOT / "docs" / "inputs_reach.md"


# Below this share of the median weight's influence a gradient is rounding: of softmax, which takes no notice of a
# shift of all its inputs, and of norms that undo a scale.
_ROUNDING = 1e-5


def _with_gradient(op, arguments: dict):
    """As replay.call, for copies, which have no derivative, and views, which with one may want other strides."""
    if op.name == "aten::copy":
        return arguments["src"].to(arguments["self"].dtype).expand_as(arguments["self"])
    if op.name == "aten::view" and "size" in arguments:
        return arguments["self"].reshape(arguments["size"])
    return replay.call(op, arguments)


@dataclasses.dataclass
class Reach:
    name: str
    weights: int  # parameters of floating point
    without: list[str]  # those that no output depends on, in the program's order
    rounding: list[str]  # those whose influence is nothing but rounding


def reach(program) -> Reach:
    """Runs the program once, forwards and backwards."""
    runner = replay.Runner(program)
    runner.call = _with_gradient
    leaves = {
        spec.name: runner.weights[spec.name].detach().clone().requires_grad_(True)
        for spec in program.manifest.weights
        if not spec.buffer
        and runner.weights[spec.name].is_floating_point()
        and runner.weights[spec.name].numel()
    }
    runner.weights = {**runner.weights, **leaves}
    with torch.enable_grad():
        total = torch.zeros(())
        for name, value in runner.compute(runner.golden_inputs()).items():
            if value.is_floating_point():
                # A factor of its own for each element, so that nothing cancels.
                factor = tensors.from_rule(
                    mock.normal(1.0), f"reach.{name}", 0, tuple(value.shape), value.dtype
                )
                total = total + (value * factor).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    influence = {
        name: 0.0
        if gradient is None or not value.numel()
        else float(gradient.abs().max() * value.detach().abs().max())
        for (name, value), gradient in zip(leaves.items(), found, strict=True)
    }
    some = [value for value in influence.values() if value > 0]
    least = _ROUNDING * statistics.median(some) if some else 0.0
    return Reach(
        program.manifest.model,
        len(leaves),
        [name for name, value in influence.items() if value == 0],
        [name for name, value in influence.items() if 0 < value < least],
    )


# Why a parameter may have no influence: (models, parameter, cause). What matches none is shown as not explained.
_EVERY = r".*"
REASONS = [
    (_EVERY, r"masked_spec_embed|mask_token|mask_emb|prompt_embeddings\.mask",
     "takes the place of what pretraining hides; nothing is hidden from a model in use"),
    (r"beit3", r"\.B\.|text_embed|embed_positions\.B",
     "of the language side; image classification runs the vision side alone"),
    (_EVERY, r"(^|\.)pooler\.", "pools the sequence; this head reads every position instead"),
    (r"esm", r"contact_head", "predicts contacts from attention maps, which are no output of the language model"),
    (r"llava.*", r"vision_tower\.vision_model\.(encoder\.layers\.1|post_layernorm)",
     "image features are taken from the last layer but one"),
    (r"llava_next_video", r"image_newline", "separates rows of a tiled picture; a video has none"),
    (r"idefics", r"vision_model\.post_layernorm", "norms the pooled image, which the resampler does not read"),
    (r"instructblip|blip_2", r"qformer\.encoder\.layer\.1\.(intermediate|output)\.",
     "serves the Q-Former's text, of which the last layer's output goes nowhere"),
    (r"lilt", r"layer\.1\..*layout", "the last layer's layout stream has no reader"),
    (r"depth_anything|dpt", r"fusion_stage\.layers\.0\.residual_layer1",
     "fuses with the layer before; the first one has none"),
    (r"luke", r"layer\.1\.attention\.self\.e2", "the last layer's entities have no reader but the entity head"),
    (r"markuplm", r"xpath_unitseq2_embeddings", "is made by the library and never used by it"),
    (r"owlvit", r"logit_scale|visual_projection", "serves contrastive training; detection has a head of its own"),
    (r"paligemma", r"vision_model\.head\.", "pools the image, whose patches are all read instead"),
    (r"detr|conditional_detr", r"decoder\.layers\.0\.(self_attn|sa_)",
     "queries start at zero, so in the first layer there is nothing to attend to"),
    (r"vits", r"duration_predictor", "one frame for every token, whatever is predicted: see the patch"),
    (r"vits", r"posterior_encoder", "serves training alone"),
    (r"xclip", r"layers\.0\.message_attn\.[kq]_proj",
     "in the first layer the messages of all frames are alike, so it does not matter which is attended to"),
    (r"bridgetower", r"cross_modal_image_layers\.1\.|cross_modal_(image|text)_pooler",
     "serves the pooled pair; words are filled in from the text side alone"),
    (r"clipseg", r"logit_scale|visual_projection|vision_model\.post_layernorm",
     "serves CLIP's own similarities; segmentation reads the layers' activations"),
    (r"cvt", r"stages\.2\..*projection_query\.",
     "the head reads the class token alone, so nobody reads what the last layer's patches ask for"),
    (r"decision_transformer", r"encoder\.wte", "embeds words; states, actions and returns have embeddings of their own"),
    (r"dpt", r"dpt\.layernorm", "norms the last layer for a head that segmentation and depth do not use"),
    (r"flava", r"logit_scale|(image|text)_projection", "serves contrastive training"),
    (r"groupvit", r"downsample\.assign\.[qk]_proj", "decides which group a patch joins; a choice passes no gradient"),
    (r"swiftformer", r"\.w_g$", "the library takes the softmax of what it weighs over a dimension of one"),
    (r"van", r"van\.layernorm", "is made by the library and never used by it"),
    (r"wav2vec2_conformer", r"pos_conv_embed", "is made by the library; rotary or relative positions take its place"),
]  # fmt: skip


def cause(model: str, weight: str) -> str:
    """Empty where none is known."""
    for models, pattern, why in REASONS:
        if re.fullmatch(models, model) and re.search(pattern, weight):
            return why
    return ""


def unexplained(found: Reach) -> list[str]:
    return [name for name in found.without if not cause(found.name, name)]


def _family(name: str) -> str:
    """A weight's name without the numbers of its layers: one line of the table for all of them."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", name)


def table(all_found: list[Reach]) -> str:
    lines = [
        "# What the inputs reach",
        "",
        "Written by `python -m assay_exporter reach` from the committed programs: the parameters on which no output of the",
        "golden's run depends (the gradient of a random projection of all outputs with respect to them is zero in every",
        "element). With these inputs a fault in one of them can show only where it turns a choice. Layer numbers are shown",
        "as N.",
        "",
        f"{len(all_found)} programs, {sum(f.weights for f in all_found)} parameters: "
        f"{sum(len(f.without) for f in all_found)} out of reach in "
        f"{sum(bool(f.without) for f in all_found)} programs, "
        f"{sum(len(unexplained(f)) for f in all_found)} of them not explained. "
        f"Of {sum(len(f.rounding) for f in all_found)} more the influence is nothing but rounding: biases of attention keys",
        "(softmax takes no notice of a shift of all its inputs) and what a norm or an inactive branch undoes.",
        "",
        "| model | parameters | out of reach | cause |",
        "|---|---|---|---|",
    ]
    for found in all_found:
        groups: dict[tuple[str, str], int] = {}
        for name in found.without:
            key = (_family(name), cause(found.name, name) or "**not explained**")
            groups[key] = groups.get(key, 0) + 1
        by_cause: dict[str, list[str]] = {}
        for (family, why), count in groups.items():
            by_cause.setdefault(why, []).append(f"`{family}`" + (f" × {count}" if count > 1 else ""))
        for why, families in by_cause.items():
            shown = ", ".join(families[:4]) + (f" and {len(families) - 4} more" if len(families) > 4 else "")
            lines.append(f"| {found.name} | {found.weights} | {shown} | {why} |")
    return "\n".join(lines) + "\n"


def _of_file(path: pathlib.Path) -> Reach:
    torch.set_num_threads(1)
    return reach(export.unpack(path.read_bytes()))


def command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m assay_exporter reach", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAMES", help="print these; without names, write the table"
    )
    parser.add_argument("-j", type=int, default=multiprocessing.cpu_count(), metavar="N")
    options = parser.parse_args(argv)
    paths = [catalogue.PROGRAMS / f"{name}.assay" for name in options.names or catalogue.names()]
    with multiprocessing.get_context("fork").Pool(options.j) as pool:
        found = pool.map(_of_file, paths, chunksize=1)
    for one in found:
        for name in unexplained(one):
            print(f"{one.name}: no output depends on {name}")
    if not options.names:
        TABLE.write_text(table(found))
        print(f"wrote {TABLE.name}: {len(found)} programs")
    return 0
