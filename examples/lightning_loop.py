"""One of normface's losses in PyTorch Lightning (pip install lightning), and a callback for the progress."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from normface import losses


class Progress(pl.Callback):
    """Begin a step of the loss: scales and margins that grow, and moving averages once a step."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if index % trainer.accumulate_grad_batches == 0:
            losses.progress(module.loss, (trainer.global_step + 1) / trainer.estimated_stepping_batches)


class Encoder(pl.LightningModule):
    def __init__(self, classes, dim):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, dim))
        margin = {"name": "Gradual", "of": "ArcFace"}
        self.loss = losses.CosineSoftmax(classes, dim, scale=32.0, learn_scale=False, growth=1.0, margin=margin)

    def training_step(self, batch, index):
        inputs, labels = batch
        return self.loss(self.network(inputs), labels)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


if __name__ == "__main__":
    torch.manual_seed(0)
    centers, labels = torch.randn(50, 64), torch.randint(50, (4000,))
    data = TensorDataset(centers[labels] + 0.7 * torch.randn(4000, 64), labels)
    model = Encoder(50, 32)
    trainer = pl.Trainer(
        max_epochs=6, accumulate_grad_batches=2, accelerator="cpu", callbacks=[Progress()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=64, shuffle=True, drop_last=True))
    print(f"scale {model.loss.scale.item():.1f}, margin grown to {model.loss.margin.grown:.0%}")
    assert model.loss.margin.grown == 1
    model.eval()
    with torch.no_grad():
        print(f"accuracy {model.loss.accuracy(model.network(data.tensors[0]), labels):.1%}")
