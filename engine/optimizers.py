"""The optimizers: AdamW, and Muon for hidden matrices (kellerjordan.github.io/posts/muon).

torch.optim.Muon takes the matrices one by one and in bf16, which took four times as long on a CPU
without bf16 instructions (ten matrices of 128 x 384, one thread: 77 ms against 21). Here all
matrices of one shape pass together, in a dtype of choice, and several processes share them.

Axis letters: K matrices of one shape, R rows, C columns.
"""
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.processes import rank, world

NARROW = 48                     # a matrix with a shorter side than this is left to AdamW
# Layers that AdamW gets whatever their size: outputs, and what only an auxiliary loss reads.
NOT_HIDDEN = ("regressors", "ctc_head", "out")


def optimizers(model: nn.Module, config, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices, AdamW (and its weight decay) for the rest: narrow inputs and
    outputs, embeddings, norms, biases, and the layers that only an auxiliary loss reads.

    config: learning_rate and weight_decay of AdamW, muon_rate (0: AdamW everywhere).
    dtype: in which Muon computes.
    """
    matrices = []
    others = []
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if config.muon_rate and is_hidden_matrix(name, module, parameter):
                matrices.append(parameter)
            else:
                others.append(parameter)

    adamw = torch.optim.AdamW(others, config.learning_rate, (0.9, 0.95),
                              weight_decay=config.weight_decay, fused=True)
    if not matrices:
        return [adamw]
    return [adamw, Muon(matrices, config.muon_rate, dtype=dtype)]


def is_hidden_matrix(name: str, module: nn.Module, parameter: Tensor) -> bool:
    """Whether a parameter of the module of that name is the weight of a hidden layer."""
    if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) or name.startswith(NOT_HIDDEN):
        return False
    return parameter.ndim > 1 and min(parameter.shape[:2]) >= NARROW


class Muon(torch.optim.Optimizer):
    """Muon: momentum whose update is orthogonalised, to the nearest (semi-)orthogonal matrix.
    The weight of a convolution counts as a matrix (outputs, everything else).

    Each step updates every second matrix, with twice the learning rate. With this momentum
    the direction hardly changes from one step to the next, and the orthogonalisation of all
    matrices would be a quarter of a training step.
    """

    def __init__(self, parameters, lr: float, momentum=0.95, dtype=torch.float32):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, turn=0))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            parameters = group["params"]
            momentum = group["momentum"]

            # Momentum: a running mean of the gradients, of all matrices at once.
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum"] for p in parameters]
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)

            # Matrices of one shape are orthogonalised together.
            by_shape = {}
            for p, gradient, buffer in zip(parameters, gradients, buffers):
                shape = (len(p), p[0].numel())
                by_shape.setdefault(shape, []).append((p, gradient, buffer))

            updates = []
            for place, same in enumerate(by_shape.values()):
                # Every second one has its turn. Shapes start with the first and with the second in
                # alternation, so that both turns are equally long.
                same = [entry for i, entry in enumerate(same) if (i + place) % 2 == group["turn"]]
                if same:
                    updates.append(self.start_update(same, momentum, place))

            # Move. By then the processes have exchanged most of the updates.
            for same, update, exchange in updates:
                if exchange:
                    exchange.wait()
                rows, columns = update.shape[1:]
                rate = 2 * group["lr"] * max(1, rows / columns) ** 0.5
                for p, u in zip(same, update):
                    p.add_(u.view_as(p), alpha=-rate)
            group["turn"] = 1 - group["turn"]

    def start_update(self, same: list[tuple], momentum: float, place: int) -> tuple:
        """(parameter, gradient, momentum buffer) of matrices of one shape -> the parameters, their
        updates (K, R, C), and the exchange between processes that completes these, or None."""
        # Nesterov's momentum: the buffer, one step ahead.
        ahead = [gradient.lerp(buffer, momentum).flatten(1).to(self.dtype)
                 for _, gradient, buffer in same]
        ahead = torch.stack(ahead)                                            # (K, R, C)

        # Every process has the same gradients. Each computes a share of the updates and leaves
        # zeros for the others; the sum over all processes is complete.
        update = torch.zeros_like(ahead)
        mine = slice((rank() + place) % world(), None, world())
        update[mine] = orthogonalise(ahead[mine])
        exchange = dist.all_reduce(update, async_op=True) if world() > 1 else None
        return [p for p, _, _ in same], update, exchange


# Coefficients of the Newton-Schulz steps (Polar Express, arXiv 2505.16932).
NEWTON_SCHULZ = ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377),
                 (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046))


def orthogonalise(x: Tensor) -> Tensor:
    """(K, R, C) -> roughly the nearest (semi-)orthogonal matrices (K, R, C), by four Newton-Schulz
    steps: odd polynomials that bring all singular values near 1.

    The steps need singular values of at most 1. The largest row sum of (x x')^2, which the first
    step computes anyway, bounds their fourth powers. It does so more tightly than the usual sum of
    squares, so that small singular values come closer to 1.
    """
    # x x' is smallest if the rows are the shorter side.
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x                                                   # (K, R, C), R <= C
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)

    for i, (a, b, c) in enumerate(NEWTON_SCHULZ):
        gram = x @ x.mT                                                       # (K, R, R)
        square = gram @ gram                                                  # (K, R, R)
        if i == 0:
            # Dividing x by its norm is the same as dividing the coefficients by powers of it.
            norm = square.abs().sum(2, keepdim=True).amax(1, keepdim=True) ** 0.25     # (K, 1, 1)
            norm = norm * 1.01 + 1e-7
            a = a / norm
            b = b / norm ** 3
            c = c / norm ** 5
        x = (a * identity + b * gram + c * square) @ x
    return x.mT if tall else x
