"""Models of images: convolutional networks and a vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.saving import lightning, safetensors, state_dict, training_state
from tests.zoo.tasks import CLASSES, SIDE, blobs, cross_entropy, gratings, squared_error
from tests.zoo.training import Run, fit, healthy


@healthy(training_state)
def cnn_batch_norm() -> Run:
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


@healthy(safetensors, suffix=".safetensors")
def cnn_group_norm() -> Run:
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1)),
        *(nn.GroupNorm(4, 16), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


class BasicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = nn.Sequential()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(hidden + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16, 1))
        self.fc = nn.Linear(16, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


@healthy(lightning, suffix=".ckpt")
def resnet() -> Run:
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return fit(model, optimizer, cross_entropy(model, gratings(3)), steps=120)


@healthy(training_state)
def depthwise_cnn() -> Run:
    def separable(before: int, after: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(before, before, 3, stride, padding=1, groups=before, bias=False)
        pointwise = nn.Conv2d(before, after, 1, bias=False)
        return [depthwise, nn.BatchNorm2d(before), nn.ReLU6(), pointwise, nn.BatchNorm2d(after), nn.ReLU6()]

    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU6()),
        *separable(12, 24, 2),
        *separable(24, 24, 1),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(24, CLASSES)),
    )
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, momentum=0.9)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.block(1, 8), self.block(8, 16)
        self.middle = self.block(16, 16)
        self.up2 = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.merge2 = self.block(32, 8)
        self.up1 = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.merge1 = self.block(16, 8)
        self.output = nn.Conv2d(8, 1, 1)

    @staticmethod
    def block(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        coarse = self.down2(nn.functional.max_pool2d(fine, 2))
        middle = self.middle(nn.functional.max_pool2d(coarse, 2))
        coarse = self.merge2(torch.cat([self.up2(middle), coarse], 1))
        return self.output(self.merge1(torch.cat([self.up1(coarse), fine], 1)))


@healthy(training_state)
def u_net() -> Run:
    model = UNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, blobs()), steps=150)


@healthy(state_dict, suffix=".pth")
def autoencoder() -> Run:
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 12)),
        *(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, SIDE * SIDE), nn.Unflatten(1, (1, SIDE, SIDE))),
    )
    optimizer = torch.optim.NAdam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, blobs()), steps=500)


class VisionTransformer(nn.Module):
    def __init__(self, width: int = 32, patch: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, patch, stride=patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (SIDE // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


@healthy(safetensors, suffix=".safetensors")
def vision_transformer() -> Run:
    model = VisionTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    return fit(model, optimizer, cross_entropy(model, gratings(noise=0.3)), steps=300, largest_norm=1.0)
