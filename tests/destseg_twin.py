"""DeSTSeg (Zhang et al., CVPR 2023) as published, for one view: an independent implementation of what its code does.

That is apple/ml-destseg, commit 25b7eef: ``model/destseg.py``, ``model/model_utils.py``, ``train.py``. The benchmarks use it as the reference for time, so it computes all that the published steps compute, unused parts included;
the tests compare it with our network at one view without multi-view modules.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class Block(nn.Module):
    def __init__(self, i, o, s=1):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, s, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        if s != 1 or i != o:
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        short = self.downsample(x) if hasattr(self, "downsample") else x
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + short)


class Encoder(nn.Module):
    """ResNet-18; ``deep`` includes block4."""

    def __init__(self, deep):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64), Block(64, 64))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256))
        if deep:
            self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512))

    def forward(self, x):
        mean = torch.tensor([0.485, 0.456, 0.406], device=x.device)[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225], device=x.device)[:, None, None]
        x = F.max_pool2d(F.relu(self.bn1(self.conv1((x / 255 - mean) / std))), 3, 2, 1)
        one = self.layer1(x)
        two = self.layer2(one)
        three = self.layer3(two)
        return (one, two, three, self.layer4(three)) if hasattr(self, "layer4") else (one, two, three)


def fan_out(module):
    """Draw convolutions as published: normal, by the number of outputs."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return module


class StudentNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = fan_out(Encoder(deep=True))
        for block in (part for part in self.encoder.modules() if isinstance(part, Block)):
            nn.init.zeros_(block.bn2.weight)  # as timm, which makes it
        self.decoder4 = nn.Sequential(Block(512, 512), Block(512, 512))
        self.decoder3 = nn.Sequential(Block(512, 256), Block(256, 256))
        self.decoder2 = nn.Sequential(Block(256, 128), Block(128, 128))
        self.decoder1 = nn.Sequential(Block(128, 64), Block(64, 64))
        for decoder in (self.decoder4, self.decoder3, self.decoder2, self.decoder1):
            fan_out(decoder)

    def forward(self, x):
        up = lambda y: F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)  # noqa: E731
        x = self.decoder4(self.encoder(x)[3])
        three = self.decoder3(up(x))
        two = self.decoder2(up(three))
        return self.decoder1(up(two)), two, three


def cbr(i, o, k, d=1):
    return nn.Sequential(nn.Conv2d(i, o, k, padding=d * (k // 2), dilation=d, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class SegmentationNet(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.residual = fan_out(nn.Sequential(Block(448, width), Block(width, width)))
        self.rates = nn.ModuleList([cbr(width, width, 3, r) for r in (6, 12, 18)])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *cbr(width, width, 1))
        self.project, self.refine = cbr(4 * width, width, 3), cbr(width, width, 3)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = self.residual(x)
        pooled = F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = self.project(torch.cat([*(rate(x) for rate in self.rates), pooled], 1))
        return torch.sigmoid(self.out(self.refine(x)))


class DeSTSeg(nn.Module):
    def __init__(self, teacher=None):
        super().__init__()
        self.teacher = (teacher or Encoder(deep=False)).eval().requires_grad_(False)
        self.student, self.head = StudentNet(), SegmentationNet()

    def forward(self, corrupted, clean):
        """Compute all that a published step computes, in either phase."""
        with torch.no_grad():
            of_hurt = [F.normalize(f, dim=1) for f in self.teacher(corrupted)]
            of_clean = [F.normalize(f, dim=1) for f in self.teacher(clean)]
        student = [F.normalize(f, dim=1) for f in self.student(corrupted)]
        parts = [-t * s for t, s in zip(of_hurt, student, strict=True)]
        size = parts[0].shape[-2:]
        joined = torch.cat([F.interpolate(p, size=size, mode="bilinear", align_corners=False) for p in parts], 1)
        return self.head(joined), student, of_clean


def distill(student, clean):
    """Return 1 - cos of three levels, summed over batch and pixels, divided by the number of pixels."""
    return sum((1 - (t * s).sum(1)).sum() / (s.shape[-1] * s.shape[-2]) for s, t in zip(student, clean, strict=True))


def segmentation(probability, mask):
    """Return the means of focal loss (gamma 4) and L1 on the mask resized to 64 x 64."""
    covered = F.interpolate(mask, size=probability.shape[-2:], mode="bilinear", align_corners=False)
    target = torch.where(covered < 0.5, 0.0, 1.0)
    p = torch.where(target > 0, probability, 1 - probability)
    return ((1 - p) ** 4 * -torch.log(p)).mean() + (probability - target).abs().mean()


def student_optimizer(model, lr=0.4):
    return torch.optim.SGD(model.student.parameters(), lr, momentum=0.9, weight_decay=1e-4)


def head_optimizer(model, lr_residual=0.1, lr=0.01):
    residual = set(model.head.residual.parameters())
    rest = [p for p in model.head.parameters() if p not in residual]
    groups = [{"params": list(residual), "lr": lr_residual}, {"params": rest, "lr": lr}]
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)


def student_step(model, optimizer, corrupted, clean, mask):
    """Perform a student step as published, which computes head and teacher on the corrupted image without using them."""
    model.student.train(), model.head.eval()
    _, student, of_clean = model(corrupted, clean)
    loss = distill(student, of_clean)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def head_step(model, optimizer, corrupted, clean, mask):
    """Perform a head step as published, which computes the clean teacher and the student's gradients without using them."""
    model.student.eval(), model.head.train()
    probability, student, of_clean = model(corrupted, clean)
    distill(student, of_clean)
    loss = segmentation(probability, mask)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
