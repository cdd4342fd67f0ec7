"""The optimizers: AdamW, and Muon for hidden matrices (kellerjordan.github.io/posts/muon). A first reading can skip this file.

torch.optim.Muon takes the matrices one by one and in bf16, which took four times as long on a CPU without bf16 units (ten
matrices of 128 x 384, one thread: 77 ms against 21); here all matrices of one shape go through together, in a dtype of choice,
and several processes share them.
"""
import torch
import torch.distributed as dist

from lab.ranks import rank, world


def optimizers(model: torch.nn.Module, config, dtype) -> list[torch.optim.Optimizer]:
    """Muon on matrices whose sides are both at least 48, AdamW (and its weight decay) on the rest: narrow inputs and outputs,
    embeddings, norms, biases, and the layers that only an auxiliary loss reads."""
    matrices, others = [], []
    for name, m in model.named_modules():
        for key, p in m.named_parameters(recurse=False):
            if not p.requires_grad:
                continue
            hidden = isinstance(m, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)) and p.ndim > 1 and min(p.shape[:2]) >= 48
            hidden = hidden and not name.startswith(("regressors", "reader", "out"))
            (matrices if hidden and config.muon_rate else others).append(p)
    found = [torch.optim.AdamW(others, config.learning_rate, (0.9, 0.95), weight_decay=config.weight_decay, fused=True)]
    return found + ([Muon(matrices, config.muon_rate, dtype=dtype)] if matrices else [])


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest (semi-)orthogonal matrix as the update. Convolutions count as (outputs, everything else).

    Half of the matrices take a step of twice the rate, in turns: with this momentum the direction hardly changes from one step to
    the next, and finding it is a quarter of a training step.
    """

    def __init__(self, parameters, lr: float, momentum=0.95, dtype=torch.float32):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, turn=0))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            parameters, turn, waiting, by_shape = group["params"], group["turn"], [], {}
            gradients = [p.grad for p in parameters]
            buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            for p, gradient, buffer in zip(parameters, gradients, buffers):
                by_shape.setdefault((len(p), p[0].numel()), []).append((p, gradient, buffer))
            for place, found in enumerate(by_shape.values()):
                found = [f for i, f in enumerate(found) if (i + place) % 2 == turn]
                if not found:
                    continue
                moment = torch.stack([g.lerp(b, group["momentum"]).flatten(1).to(self.dtype) for _, g, b in found])  # (k, rows, columns)
                mine = slice((rank() + place) % world(), None, world())                  # every process has the same gradients
                update = torch.zeros_like(moment)
                update[mine] = orthogonal(moment[mine])
                waiting.append(([p for p, *_ in found], update, dist.all_reduce(update, async_op=True) if world() > 1 else None))
            for same, update, sent in waiting:
                if sent:
                    sent.wait()
                rows, columns = update.shape[1:]
                for p, u in zip(same, update):
                    p.add_(u.view_as(p), alpha=-2 * group["lr"] * max(1, rows / columns) ** 0.5)
            group["turn"] = 1 - turn


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """(k, rows, columns) -> the nearest (semi-)orthogonal matrices, roughly: four Newton-Schulz steps (arXiv 2505.16932).

    The steps need singular values of at most 1. The largest row sum of (x x') ** 2, which the first step has at hand, bounds their
    fourth powers, and more tightly than the usual sum of squares does, so that small ones come further.
    """
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    for i, (a, b, c) in enumerate(((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046))):
        gram = x @ x.mT
        square = gram @ gram
        if i == 0:
            largest = square.abs().sum(2, keepdim=True).amax(1, keepdim=True) ** 0.25 * 1.01 + 1e-7
            a, b, c = a / largest, b / largest ** 3, c / largest ** 5
        x = (a * one + b * gram + c * square) @ x
    return x.mT if tall else x
