"""dense_experts gives what the library's loop over the chosen experts gives, for any routing."""

import pytest
import torch
from assay_exporter import export, wrapper
from assay_exporter.patches import dense_experts, recorded_values

TOKENS, EXPERTS, WIDTH = 6, 4, 5


class Experts(torch.nn.Module):
    """The loop of the library's sparse blocks, as Mixtral has it."""

    def __init__(self):
        super().__init__()
        self.experts = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def forward(self, tokens, chosen, weights):
        mixed = torch.zeros_like(tokens)
        mask = torch.nn.functional.one_hot(chosen, num_classes=EXPERTS).permute(2, 1, 0)
        for expert in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
            which, token = torch.where(mask[expert].squeeze(0))
            found = self.experts[expert](tokens[None, token].reshape(-1, WIDTH)) * weights[token, which, None]
            mixed.index_add_(0, token, found)
        return {"logits": mixed}


def routed(*experts: int) -> dict:
    torch.manual_seed(3)
    return {
        "tokens": torch.randn(TOKENS, WIDTH),
        "chosen": torch.tensor(experts).reshape(TOKENS, 2),
        "weights": torch.rand(TOKENS, 2),
    }


def test_it_agrees_with_the_loop_also_where_an_expert_is_not_chosen():
    torch.manual_seed(1)
    wrapped = wrapper.wrap(Experts(), ["tokens", "chosen", "weights"], {}, [])
    samples = [routed(*[0, 1] * TOKENS), routed(0, 1, 2, 3, 1, 0, 3, 2, 2, 0, 1, 3)]
    with torch.no_grad():
        before = [wrapped(**sample)[0] for sample in samples]
        with dense_experts.apply():
            program = export.export_module(wrapped, samples[0], {"tokens": 0, "chosen": 0, "weights": 0})
        for sample, expected in zip(samples, before, strict=True):
            (found,) = program.module()(**sample)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        # And the patch is gone with its block: the loop skips an expert that nobody chose.
        torch.testing.assert_close(wrapped(**samples[0])[0], before[0], rtol=0, atol=0)


class Groups(torch.nn.Module):
    """Rows sorted by expert, in the three ways in which the library cuts them into groups."""

    def __init__(self, way: str):
        super().__init__()
        self.way = way
        self.experts = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def split(self, rows, counts):  # as JetMoE and Granite
        parts = rows.split(counts.tolist(), dim=0)
        return torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)], dim=0)

    def written(self, rows, counts):  # as Aria
        ends = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        out = torch.zeros(rows.shape[0], WIDTH)
        for number, expert in enumerate(self.experts):
            out[ends[number] : ends[number + 1]] = torch.tanh(expert(rows[ends[number] : ends[number + 1]]))
        return out

    def skipped(self, rows, counts):  # as DeepSeek V2
        found, start = [], 0
        for expert, count in zip(self.experts, counts, strict=True):
            if count == 0:
                continue
            end = start + count
            found.append(expert(rows[start:end]) * 2)
            start = end
        return torch.cat(found, dim=0)

    def forward(self, tokens, chosen):
        order = chosen.reshape(-1).argsort(stable=True)
        counts = torch.nn.functional.one_hot(chosen.reshape(-1), EXPERTS).sum(0)
        mixed = getattr(self, self.way)(tokens[order // 2], counts)
        return {"logits": torch.zeros_like(tokens).index_add(0, order // 2, mixed)}


@pytest.mark.parametrize("way", ["split", "written", "skipped"])
def test_groups_of_sorted_rows_agree_with_the_loop_over_them(way):
    torch.manual_seed(1)
    wrapped = wrapper.wrap(Groups(way), ["tokens", "chosen"], {}, [])
    samples = [routed(*[0, 3] * TOKENS), routed(0, 1, 2, 3, 1, 0, 3, 2, 2, 0, 1, 3), routed(*[2, 1] * TOKENS)]
    for sample in samples:
        del sample["weights"]
    with torch.no_grad():
        before = [wrapped(**sample)[0] for sample in samples]
        with wrapper.around(dense_experts.Groups), recorded_values.whole_lists():
            program = export.export_module(wrapped, samples[0], {"tokens": 0, "chosen": 0})
        for sample, expected in zip(samples, before, strict=True):
            torch.testing.assert_close(program.module()(**sample)[0], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(wrapped(**samples[0])[0], before[0], rtol=0, atol=0)
