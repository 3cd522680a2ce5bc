"""Muon for matrices (batched over equal shapes), AdamW for embedding, head, router and norms."""
import torch


def orthogonal(x, steps=5):
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix; x is [batch, rows <= cols, cols]."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


class Muon:
    def __init__(self, params, momentum=0.95):
        self.params, self.momentum = params, momentum
        self.state = [torch.zeros_like(p) for p in params]
        self.groups = {}
        for i, p in enumerate(params):
            self.groups.setdefault(tuple(sorted(p.shape[-2:])), []).append(i)

    @torch.no_grad()
    def step(self, lr):
        for indices in self.groups.values():
            batch, shapes = [], []
            for i in indices:
                p, m = self.params[i], self.state[i]
                m.mul_(self.momentum).add_(p.grad)
                g = (p.grad + self.momentum * m).view(-1, *p.shape[-2:])
                flip = g.shape[1] > g.shape[2]
                batch.append(g.transpose(1, 2) if flip else g)
                shapes.append((i, g.shape[0], flip))
            update, at = orthogonal(torch.cat(batch)), 0
            for i, n, flip in shapes:
                part = update[at : at + n]
                at += n
                p = self.params[i]
                part = part.transpose(1, 2) if flip else part
                gain = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
                p.add_(part.reshape(p.shape), alpha=-lr * gain)


def split(model):
    """Parameters for Muon and for AdamW."""
    vector_names = ("embed", "head")
    matrices, others = [], []
    for name, p in model.named_parameters():
        is_matrix = p.dim() >= 2 and name not in vector_names and not name.endswith("router")
        (matrices if is_matrix else others).append(p)
    return matrices, others


class Optimizer:
    def __init__(self, model):
        matrices, others = split(model)
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.params = matrices + others

    def step(self, muon_lr, adam_lr, clip=1.0):
        norm = torch.nn.utils.clip_grad_norm_(self.params, clip)
        for group in self.adam.param_groups:
            group["lr"] = adam_lr
        self.adam.step()
        self.muon.step(muon_lr)
        for p in self.params:
            p.grad = None
        return float(norm)
