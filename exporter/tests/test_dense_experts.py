"""dense_experts gives what the library's loop over the chosen experts gives, for any routing."""

import torch
from assay_exporter import export, wrapper
from assay_exporter.patches import dense_experts

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
