"""Dinat's neighbourhood attention in plain torch is NATTEN's, and the repaired model is the real one."""

import pytest
import torch
from torch.export import Dim, export
from transformers import DinatConfig, DinatForImageClassification
from transformers.models.dinat import modeling_dinat

from assay_exporter.patches import dinat

torch.set_num_threads(1)


def neighbourhood(position, length, kernel_size, dilation):
    """The neighbours along one axis, by search: of all windows of kernel_size members of the position's
    group, the one whose middle lies nearest to it."""
    group = [p for p in range(length) if p % dilation == position % dilation]
    windows = [group[i : i + kernel_size] for i in range(len(group) - kernel_size + 1)]
    return min(windows, key=lambda window: abs(window[kernel_size // 2] - position))


def loops_qkrpb(query, key, rpb, kernel_size, dilation):
    batch, heads, height, width, _ = query.shape
    out = torch.zeros(batch, heads, height, width, kernel_size * kernel_size, dtype=query.dtype)
    for y in range(height):
        for x in range(width):
            n = 0
            for ny in neighbourhood(y, height, kernel_size, dilation):
                for nx in neighbourhood(x, width, kernel_size, dilation):
                    dy, dx = (ny - y) // dilation, (nx - x) // dilation
                    for h in range(heads):
                        bias = rpb[h, dy + kernel_size - 1, dx + kernel_size - 1]
                        for b in range(batch):
                            out[b, h, y, x, n] = torch.dot(query[b, h, y, x], key[b, h, ny, nx]) + bias
                    n += 1
    return out


def loops_av(attention, value, kernel_size, dilation):
    batch, heads, height, width, _ = value.shape
    out = torch.zeros_like(value)
    for y in range(height):
        for x in range(width):
            n = 0
            for ny in neighbourhood(y, height, kernel_size, dilation):
                for nx in neighbourhood(x, width, kernel_size, dilation):
                    for b in range(batch):
                        for h in range(heads):
                            out[b, h, y, x] += attention[b, h, y, x, n] * value[b, h, ny, nx]
                    n += 1
    return out


@pytest.mark.parametrize(
    "height,width,kernel_size,dilation,batch,heads",
    [
        (5, 5, 3, 1, 1, 2),
        (3, 3, 3, 1, 3, 1),  # the window is the whole image
        (7, 9, 5, 1, 2, 1),
        (7, 6, 3, 2, 2, 2),  # groups of different length
        (11, 13, 3, 3, 1, 1),
        (12, 10, 5, 2, 2, 1),
        (8, 15, 7, 1, 1, 1),
        (17, 16, 3, 5, 1, 1),
    ],
)
def test_attention_equals_loops_over_every_pixel(height, width, kernel_size, dilation, batch, heads):
    g = torch.Generator().manual_seed(height * 100 + width)
    size = 4
    query, key, value = (torch.randn(batch, heads, height, width, size, generator=g) for _ in range(3))
    rpb = torch.randn(heads, 2 * kernel_size - 1, 2 * kernel_size - 1, generator=g)

    scores = dinat.natten2dqkrpb(query, key, rpb, kernel_size, dilation)
    torch.testing.assert_close(
        scores, loops_qkrpb(query, key, rpb, kernel_size, dilation), atol=1e-5, rtol=1e-5
    )
    attention = torch.softmax(scores, dim=-1)
    context = dinat.natten2dav(attention, value, kernel_size, dilation)
    torch.testing.assert_close(
        context, loops_av(attention, value, kernel_size, dilation), atol=1e-5, rtol=1e-5
    )


def test_a_window_over_everything_is_plain_attention():
    g = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 5, 5, 4, generator=g) for _ in range(3))
    scores = dinat.natten2dqkrpb(query, key, torch.zeros(2, 9, 9), 5, 1)
    context = dinat.natten2dav(torch.softmax(scores, dim=-1), value, 5, 1)
    flat = [t.flatten(2, 3) for t in (query, key, value)]
    plain = torch.nn.functional.scaled_dot_product_attention(*flat, scale=1.0)
    torch.testing.assert_close(context.flatten(2, 3), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("height,width,kernel_size,dilation", [(5, 6, 3, 2), (6, 5, 3, 2), (2, 9, 3, 1)])
def test_an_image_smaller_than_the_window_is_refused(height, width, kernel_size, dilation):
    tensor = torch.zeros(1, 1, height, width, 4)
    rpb = torch.zeros(1, 2 * kernel_size - 1, 2 * kernel_size - 1)
    with pytest.raises(ValueError, match="too short"):
        dinat.natten2dqkrpb(tensor, tensor, rpb, kernel_size, dilation)


def test_an_even_kernel_is_refused():
    tensor = torch.zeros(1, 1, 8, 8, 4)
    with pytest.raises(ValueError, match="odd kernel size, not 4"):
        dinat.natten2dqkrpb(tensor, tensor, torch.zeros(1, 7, 7), 4, 1)


def tiny_model(**overrides):
    torch.manual_seed(0)
    model = DinatForImageClassification(DinatConfig(**{**dinat.TINY_CONFIG, **overrides})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the bias tables start at zero: give them something to say
            parameter.normal_(0, 0.3)
    return model


def images(batch, size, seed):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_whole_model_equals_itself_on_loops(monkeypatch):
    # 36 pixels: 9 x 9, then 5 x 5, which the model pads to the 6 x 6 that kernel 3 and dilation 2 want.
    pixels = images(2, 36, seed=1)
    with dinat.apply():
        model = tiny_model(dilations=[[1, 3], [1, 2]])
        ours = model(pixel_values=pixels).logits
        monkeypatch.setattr(modeling_dinat, "natten2dqkrpb", loops_qkrpb)
        monkeypatch.setattr(modeling_dinat, "natten2dav", loops_av)
        loops = model(pixel_values=pixels).logits
    torch.testing.assert_close(ours, loops, atol=1e-4, rtol=1e-4)
    assert ours.std() > 0.1


@torch.no_grad()
def test_the_repaired_module_lays_out_heads_and_pixels_as_written_by_hand():
    """NeighborhoodAttention.forward on (batch, height, width, channels), against projections cut by hand."""
    with dinat.apply():
        layer = tiny_model().dinat.encoder.levels[0].layers[1].attention.self
        hidden = torch.randn(2, 13, 12, 16, generator=torch.Generator().manual_seed(2))
        ours = layer(hidden)[0]
    context = torch.zeros_like(hidden)
    for h in range(layer.num_attention_heads):
        cut = slice(h * layer.attention_head_size, (h + 1) * layer.attention_head_size)
        q, k, v = (
            (hidden @ linear.weight[cut].T + linear.bias[cut])[:, None]
            for linear in (layer.query, layer.key, layer.value)
        )
        scores = loops_qkrpb(q / layer.attention_head_size**0.5, k, layer.rpb[h : h + 1], 3, 4)
        context[..., cut] = loops_av(torch.softmax(scores, dim=-1), v, 3, 4)[:, 0]
    torch.testing.assert_close(ours, context, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_without_the_patch_the_model_does_not_run_and_the_patch_undoes_itself():
    owners = [(modeling_dinat, n) for n in ("natten2dqkrpb", "natten2dav", "requires_backends")]
    owners.append((modeling_dinat.NeighborhoodAttention, "forward"))
    before = [getattr(owner, name) for owner, name in owners]
    with pytest.raises(ImportError, match="natten"):
        tiny_model()
    with dinat.apply():
        model = tiny_model()
        assert [getattr(owner, name) for owner, name in owners] != before
    assert [getattr(owner, name) for owner, name in owners] == before
    with pytest.raises(ValueError, match="too many values to unpack"):
        model(pixel_values=images(1, 64, seed=0))


def test_another_version_of_the_library_is_refused(monkeypatch):
    def forward(self, hidden_states):
        return hidden_states

    monkeypatch.setattr(modeling_dinat.NeighborhoodAttention, "forward", forward)
    with pytest.raises(RuntimeError, match="not the version"):
        with dinat.apply():
            pass


@torch.no_grad()
def test_exports_with_a_dynamic_batch_and_equals_eager():
    with dinat.apply():
        model = tiny_model()
        shapes = {"pixel_values": {0: Dim("batch", min=1, max=64)}}
        program = export(model, (), {"pixel_values": images(2, 64, 0)}, dynamic_shapes=shapes, strict=False)
        program = program.run_decompositions({})
        outputs = []
        for size in (1, 2, 5):
            pixels = images(size, 64, seed=10 + size)
            eager = model(pixel_values=pixels).logits
            torch.testing.assert_close(
                program.module()(pixel_values=pixels).logits, eager, atol=1e-5, rtol=1e-5
            )
            outputs.append(eager)
        assert torch.cat(outputs).std(dim=0).min() > 1e-3  # they move with the input
