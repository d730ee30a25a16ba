"""One of normface's losses in Hugging Face's Trainer (pip install transformers[torch]), with such a callback."""

import tempfile

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from normface import losses


class Progress(TrainerCallback):
    """Begin a step of the loss: scales and margins that grow, and moving averages once a step."""

    def on_step_begin(self, args, state, control, model=None, **others):
        losses.progress(model.loss, (state.global_step + 1) / state.max_steps)


class Encoder(nn.Module):
    def __init__(self, classes, dim):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, dim))
        margin = {"name": "Gradual", "of": "ArcFace"}
        self.loss = losses.CosineSoftmax(classes, dim, scale=32.0, learn_scale=False, growth=1.0, margin=margin)

    def forward(self, inputs, labels):
        features = self.network(inputs)
        return {"loss": self.loss(features, labels), "features": features}


class Points(Dataset):
    def __init__(self):
        self.labels = torch.randint(50, (4000,))
        self.inputs = torch.randn(50, 64)[self.labels] + 0.7 * torch.randn(4000, 64)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


if __name__ == "__main__":
    torch.manual_seed(0)
    model, data = Encoder(50, 32), Points()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=6, per_device_train_batch_size=64, gradient_accumulation_steps=2,
            learning_rate=3e-3, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, callbacks=[Progress()]).train()
    print(f"scale {model.loss.scale.item():.1f}, margin grown to {model.loss.margin.grown:.0%}")
    assert model.loss.margin.grown == 1
    model.eval()
    with torch.no_grad():
        print(f"accuracy {model.loss.accuracy(model.network(data.inputs), data.labels):.1%}")
