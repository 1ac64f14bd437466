"""An optimizer of your own, as any torch.optim.Optimizer: SGD whose step is bounded per parameter tensor."""

import torch


class BoundedSGD(torch.optim.Optimizer):
    """SGD with momentum, whose step on each tensor is at most `bound` times the tensor's norm (as in LARS)."""

    def __init__(self, params, lr, momentum=0.9, bound=0.02):
        super().__init__(params, {"lr": lr, "momentum": momentum, "bound": bound})

    @torch.no_grad()
    def step(self, closure=None):
        """Update the parameters from their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(group["momentum"]).add_(p.grad)
                step = group["lr"] * velocity
                longest = group["bound"] * p.norm().clamp(min=1e-3)
                p.sub_(step * (longest / step.norm().clamp(min=1e-12)).clamp(max=1.0))
        return loss
