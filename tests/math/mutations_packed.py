"""Mistakes of the packed row, its attention in blocks, its mask on CUDA, and the one-pass head (MATH §2)."""

from __future__ import annotations

from mutation import Mutation, named

HEAD, KERNEL, ROWS = "trainer/forward/head.py", "trainer/forward/kernel.py", "trainer/forward/rows.py"
SPLIT, FLEX = "trainer/forward/split.py", "trainer/forward/flex.py"
HEADS, KERNELS = named("tests/trainer/forward/test_head.py"), named("tests/trainer/forward/test_kernel.py")
SPLITS = named("tests/trainer/forward/test_split.py")
FLEXES = named(
    "tests/trainer/forward/test_flex.py",
    "test_the_mask_is_the_definition_and_padding_sees_itself",
    "test_a_soft_cap_is_a_tanh_of_the_scores",
)
LLAMA = named(
    "tests/trainer/forward/test_pack.py",
    "test_logprobs_and_gradients_equal_those_of_rows_run_alone[llama-split]",
)

# fmt: off
MUTATIONS = [
    Mutation(HEAD, "-factor_nk.sum(1, keepdim=True)", "-factor_nk[:, :1]", "head: softmax's share of the first id alone", HEADS),
    # the one-pass head
    Mutation(KERNEL, "logits_nv.div_(temperature)", "logits_nv.mul_(temperature)", "kernel: temperature turned", KERNELS),
    Mutation(KERNEL, "picked_n - (top_n + self._total_n.log())", "picked_n - top_n", "kernel: no normalisation", KERNELS),
    Mutation(KERNEL, "logits_nv.sub_(top_n[:, None])", "logits_nv.sub_(0 * top_n[:, None])", "kernel: overflows", KERNELS),
    Mutation(KERNEL, "loss -= (weight_n", "loss += (weight_n", "kernel: sign of the loss", KERNELS),
    Mutation(KERNEL, "head.scale / temperature", "head.scale", "kernel: no 1/T in the gradient", KERNELS),
    Mutation(KERNEL, "head.scale / temperature", "1.0 / temperature", "kernel: no scale in the gradient", KERNELS),
    Mutation(KERNEL, "(factor_n / total_n)[:, None]", "factor_n[:, None]", "kernel: exp that is no softmax", KERNELS),
    Mutation(KERNEL, "target_n1, -factor_n", "target_n1, factor_n", "kernel: sign of the target's gradient", KERNELS),
    Mutation(KERNEL, "grad_nv.mul_(slope_nv)", "grad_nv", "kernel: no chain through the soft cap", KERNELS),
    Mutation(KERNEL, "slope_nv[kept], kept + start", "slope_nv[kept], kept", "kernel: kept rows of the first chunk", KERNELS),
    Mutation(KERNEL, "slice(start, start + len(weight_n))", "slice(0, len(weight_n))", "kernel: rows of the first chunk", KERNELS),
    Mutation(KERNEL, "grad.mul_(grad_loss)", "grad", "kernel: factor of the loss", KERNELS),
    Mutation(KERNEL, "weigh(chunk.logprob_n, part)", "weigh(chunk.logprob_n, slice(0, len(chunk.logprob_n)))",
             "kernel: weights of the first chunk", KERNELS),
    # the packed row and its attention by blocks
    Mutation(ROWS, "self.positions += range(len(group.prompt), len(group.prompt) + len(tail))",
             "self.positions += range(len(tail))", "rows: positions of the completions", LLAMA),
    Mutation(ROWS, "self.parts[-1].start + len(group.prompt) - 1", "self.parts[-1].start", "rows: first token's source", LLAMA),
    Mutation(ROWS, "start + len(group.prompt))", "start + len(group.prompt) - 1)", "rows: a token late", LLAMA),
    Mutation(SPLIT, "(part.start, prompt_stop), False, second=True)", "(part.start, prompt_stop), True, second=True)",
             "split: completions see a triangle of the prompt", SPLITS),
    Mutation(SPLIT, "lengths[i] != lengths[first]", "False", "split: unequal lengths in one call", SPLITS),
    Mutation(SPLIT, "prompt_stop - window + 1)", "prompt_stop - window + 2)", "split: keys of the prompt one too few", SPLITS),
    Mutation(SPLIT, "first - window + 1)", "first - window + 2)", "split: a band one too short", SPLITS),
    Mutation(SPLIT, "min(length, window - 1)", "length", "split: rows that see nothing of the prompt", SPLITS),
    Mutation(SPLIT, "(distance >= window)", "(distance > window)", "split: mask one too long", SPLITS),
    Mutation(SPLIT, "(distance < 0) | (", "(", "split: mask without order", SPLITS),
    Mutation(SPLIT, "share = (new_lse - total)", "share = (new_lse - lse)", "split: share in the merge", SPLITS),
    Mutation(SPLIT, "lse.copy_(total)", "lse.copy_(new_lse)", "split: merged log-sum-exp", SPLITS),
    Mutation(SPLIT, "if whole and not block.second", "if whole", "split: gradient of one block alone", SPLITS),
    Mutation(SPLIT, "mask, scale=ctx.scale)", "mask, scale=1.0)", "split: scale of the gradient", SPLITS),
    Mutation(FLEX, "(tail_n[k] == tail_n[q])", "(tail_n[k] <= tail_n[q])", "flex: other samples seen", FLEXES),
    Mutation(FLEX, "distance >= 0", "distance > 0", "flex: not itself", FLEXES),
    Mutation(FLEX, "near & (distance < window)", "near & (distance <= window)", "flex: window one too long", FLEXES),
    Mutation(FLEX, "(group_n[q] == group_n[k]) & (", "(", "flex: other groups seen", FLEXES),
    Mutation(FLEX, "soft_cap * torch.tanh(score / soft_cap)", "torch.tanh(score / soft_cap)", "flex: soft cap", FLEXES),
]
# fmt: on
