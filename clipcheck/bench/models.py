"""Models whose training steps are measured: their parameters and their shapes of computation count, not their data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Training(NamedTuple):
    """A model, and the loss of one batch of random data."""

    model: nn.Module
    loss: Callable[[], Tensor]


class Policy(nn.Module):
    """An actor and a critic of two layers of 64, as PPO trains for simple control (Schulman et al. 2017)."""

    def __init__(self, observations: int = 8, actions: int = 4) -> None:
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
            for outputs in (actions, 1)
        )

    def forward(self, observed: Tensor) -> Tensor:
        loss: Tensor = -self.actor(observed).log_softmax(-1).amax(-1).mean() + self.critic(observed).square().mean()
        return loss


class Bottleneck(nn.Module):
    """A residual block of ResNet-50: 1×1, 3×3 and 1×1 convolutions around a shortcut (He et al. 2015)."""

    def __init__(self, incoming: int, width: int, stride: int) -> None:
        super().__init__()
        outgoing = 4 * width
        self.inner = nn.Sequential(
            *(nn.Conv2d(incoming, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, outgoing, 1, bias=False), nn.BatchNorm2d(outgoing)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if incoming != outgoing:
            convolution = nn.Conv2d(incoming, outgoing, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outgoing))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.inner(x) + self.shortcut(x))


def resnet50() -> nn.Sequential:
    """Returns a ResNet-50 of 161 parameters for 1,000 classes."""
    blocks: list[nn.Module] = []
    incoming = 64
    for stage, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(count):
            blocks.append(Bottleneck(incoming, width, 2 if stage and not block else 1))
            incoming = 4 * width
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class Block(nn.Module):
    """A block of GPT-2: attention and a perceptron, each after a norm and beside a shortcut (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attention(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        out: Tensor = x + self.perceptron(self.before_perceptron(x))
        return out


class GPT(nn.Module):
    """GPT-2 with as many layers and as wide as is asked; embedding and output share their weight."""

    def __init__(self, layers: int, width: int, words: int = 50257, length: int = 1024) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, max(1, width // 64)) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places.weight[: tokens.size(1)]
        for block in self.blocks:
            x = block(x)
        scores = functional.linear(self.norm(x), self.words.weight)
        return functional.cross_entropy(scores[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def policy(device: torch.device) -> Training:
    model = Policy().to(device)
    observed = torch.randn(64, 8, device=device)
    return Training(model, lambda: model(observed))


def image_classifier(device: torch.device) -> Training:
    count, size = (64, 224) if device.type == "cuda" else (4, 64)
    model = resnet50().to(device)
    images = torch.randn(count, 3, size, size, device=device)
    classes = torch.randint(1000, (count,), device=device)
    return Training(model, lambda: functional.cross_entropy(model(images), classes))


def language_model(device: torch.device, layers: int, width: int, words: int, count: int) -> Training:
    count, length = (count, 1024) if device.type == "cuda" else (1, 64)
    model = GPT(layers, width, words).to(device)
    tokens = torch.randint(words, (count, length), device=device)
    return Training(model, lambda: model(tokens))


TRAININGS: dict[str, Callable[[torch.device], Training]] = {
    "ppo-policy": policy,
    "resnet50": image_classifier,
    "gpt2": functools.partial(language_model, layers=12, width=768, words=50257, count=8),
    "deep-narrow-gpt": functools.partial(language_model, layers=48, width=128, words=4096, count=4),
}
