"""Peak memory of one head loss, forward and backward, above weights and gradients: `head_memory.py chunked|whole`.

Run alone, since a process's peak cannot be shared. Prints one line of JSON."""

from __future__ import annotations

import json
import sys

import torch
from figures import peak, reset_peak, resident

VOCABULARY, TOKENS, HIDDEN = 262_144, 2_048, 64


def main(kind: str) -> None:
    """Measure one kind. Weights, inputs and their gradients exist before the measurement begins."""
    from trainer.forward.head import Head, token_logprobs

    torch.manual_seed(0)
    hidden_nd = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    weight_vd = torch.nn.Parameter(torch.randn(VOCABULARY, HIDDEN) * HIDDEN**-0.5)
    target_n = torch.randint(VOCABULARY, (TOKENS,))
    hidden_nd.grad, weight_vd.grad = torch.zeros_like(hidden_nd).fill_(0), torch.zeros_like(weight_vd).fill_(0)
    reset_peak()
    before = resident()
    if kind == "chunked":
        loss = -token_logprobs(hidden_nd, Head(weight_vd), target_n).sum()
    else:
        logits_nv = hidden_nd @ weight_vd.T
        loss = -logits_nv.log_softmax(-1).gather(1, target_n[:, None]).sum()
    loss.backward()
    print(json.dumps({"bytes": peak() - before, "loss": loss.item(), "gradient": float(weight_vd.grad.norm())}))


if __name__ == "__main__":
    main(sys.argv[1])
