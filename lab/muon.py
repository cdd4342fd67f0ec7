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
    """Momentum, then the nearest (semi-)orthogonal matrix as the update. Convolutions count as (outputs, everything else)."""

    def __init__(self, parameters, lr: float, momentum=0.95, dtype=torch.float32):
        super().__init__(parameters, dict(lr=lr, momentum=momentum))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape, waiting = {}, []
            for p in group["params"]:
                by_shape.setdefault((len(p), p[0].numel()), []).append(p)
            for parameters in by_shape.values():
                gradients = torch.stack([p.grad.flatten(1) for p in parameters])         # (k, rows, columns)
                buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
                moment = torch.stack([b.flatten(1) for b in buffers]).lerp_(gradients, 1 - group["momentum"])
                for b, m in zip(buffers, moment):
                    b.copy_(m.view_as(b))
                mine = slice(rank(), None, world())                                      # every process has the same gradients
                update = torch.zeros_like(gradients, dtype=self.dtype)
                update[mine] = orthogonal(gradients[mine].lerp_(moment[mine], group["momentum"]).to(self.dtype))
                waiting.append((parameters, update, dist.all_reduce(update, async_op=True) if world() > 1 else None))
            for parameters, update, sent in waiting:
                if sent:
                    sent.wait()
                rows, columns = update.shape[1:]
                for p, u in zip(parameters, update.to(parameters[0].dtype)):
                    p.add_(u.view_as(p), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """(k, rows, columns) -> the nearest (semi-)orthogonal matrices, roughly: four Newton-Schulz steps (arXiv 2505.16932)."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046)):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x.mT if tall else x
