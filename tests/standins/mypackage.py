"""Classes of a project's own, with the names of Lightning's."""

from torch import nn

LightningModule = nn.Module


class Callback:
    pass
