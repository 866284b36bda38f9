"""Train a small character model; holds the two faults that clipcheck is made for."""

import torch
import torch.nn as nn


class CharModel(nn.Module):
    def __init__(self, vocabulary=32, width=48):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        hidden, _ = self.rnn(self.embed(tokens))
        return self.head(hidden)


def grad_norm_of(model):
    total_norm = 0.0
    for p in model.parameters():
        if p.grad is not None:
            param_norm = p.grad.data.norm(2)
            total_norm += param_norm.item() ** 2
    total_norm = total_norm ** 0.5
    return total_norm


def train(model, batches, max_norm=0.25):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step, (tokens, target) in enumerate(batches):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), target.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm(model.parameters(), max_norm)
        print(f"step {step}: loss {loss.item():.3f}, gradient norm after the clip {grad_norm_of(model):.3f}")
        optimizer.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    tokens = torch.randint(32, (6, 8, 21))
    train(CharModel(), [(batch[:, :-1], batch[:, 1:]) for batch in tokens])
